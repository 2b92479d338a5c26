package registry

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/proa-dev/proa/apiserver/admission"
	"github.com/proa-dev/proa/store"
)

func success(code int32) *metav1.Status {
	return &metav1.Status{TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusSuccess, Code: code}
}

// bind gives a pod its node; asked is the request's own target. Nothing else of the pod changes, so it is neither
// validated anew nor are fields tracked, as upstream has it.
func (c *Core) bind(ctx context.Context, asked, t Target, b *corev1.Binding, opts *metav1.CreateOptions) (runtime.Object, error) {
	if err := matchNamespace(t, b); err != nil {
		return nil, err
	}
	r, err := c.resource(t.Kind)
	if err != nil {
		return nil, err
	}
	a := c.attributes(ctx, asked, admission.Create, b, nil, opts, dryRun(opts.DryRun))
	a.GVK = corev1.SchemeGroupVersion.WithKind("Binding")
	if err := c.admit(ctx, a); err != nil {
		return nil, err
	}
	if b.Name != "" && b.Name != t.Name {
		return nil, apierrors.NewBadRequest("name in URL does not match name in Binding object")
	}
	if errs := validateBinding(b); len(errs) > 0 {
		return nil, apierrors.NewInvalid(schema.GroupKind{Kind: "Binding"}, b.Name, errs)
	}
	if err := c.validate(ctx, a); err != nil {
		return nil, err
	}
	for range maxAttempts {
		e, err := r.store.Latest(ctx, t.key())
		if err != nil {
			return nil, storeError(err, t.Kind.GR(), "create")
		}
		if e == nil {
			return nil, apierrors.NewNotFound(schema.GroupResource{Resource: "pods/binding"}, t.Name)
		}
		pod, err := c.bound(t, e, b)
		if err != nil {
			return nil, err
		}
		if a.DryRun {
			return success(http.StatusCreated), nil
		}
		if _, err = r.store.Update(ctx, e, pod); err == nil {
			return success(http.StatusCreated), nil
		}
		if !errors.Is(err, store.ErrChanged) {
			return nil, storeError(err, t.Kind.GR(), "create")
		}
	}
	return nil, conflict(t, errors.New(modifiedText))
}

func validateBinding(b *corev1.Binding) field.ErrorList {
	var errs field.ErrorList
	if b.Target.Kind != "" && b.Target.Kind != "Node" {
		errs = append(errs, field.NotSupported(field.NewPath("target", "kind"), b.Target.Kind, []string{"Node", "<empty>"}))
	}
	if b.Target.Name == "" {
		errs = append(errs, field.Required(field.NewPath("target", "name"), ""))
	}
	return errs
}

func (c *Core) bound(t Target, e *store.Entry, b *corev1.Binding) (*corev1.Pod, error) {
	was, ok := e.Object.(*corev1.Pod)
	if !ok {
		return nil, apierrors.NewInternalError(fmt.Errorf("unexpected object: %T", e.Object))
	}
	refuse := func(format string, args ...any) error {
		return apierrors.NewConflict(schema.GroupResource{Resource: "pods/binding"}, t.Name, fmt.Errorf(format, args...))
	}
	switch {
	case b.UID != "" && b.UID != was.UID:
		return nil, refuse("Precondition failed: UID in precondition: %v, UID in object meta: %v", b.UID, was.UID)
	case b.ResourceVersion != "" && b.ResourceVersion != was.ResourceVersion:
		return nil, refuse("Precondition failed: ResourceVersion in precondition: %v, ResourceVersion in object meta: %v", b.ResourceVersion, was.ResourceVersion)
	case was.DeletionTimestamp != nil:
		return nil, refuse("pod %s is being deleted, cannot be assigned to a host", was.Name)
	case was.Spec.NodeName != "":
		return nil, refuse("pod %v is already assigned to node %q", was.Name, was.Spec.NodeName)
	case len(was.Spec.SchedulingGates) != 0:
		return nil, refuse("pod %v has non-empty .spec.schedulingGates", was.Name)
	}
	// Only what changes is copied; the rest is shared with the cache.
	pod := *was
	pod.Spec.NodeName = b.Target.Name
	pod.Status.NominatedNodeName = ""
	pod.Annotations = merged(was.Annotations, b.Annotations)
	pod.Labels = merged(was.Labels, b.Labels)
	pod.Status.Conditions = slices.Clone(was.Status.Conditions)
	scheduled := corev1.PodCondition{Type: corev1.PodScheduled, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Time{Time: c.cfg.Now().UTC().Truncate(time.Second)}}
	i := slices.IndexFunc(pod.Status.Conditions, func(p corev1.PodCondition) bool { return p.Type == corev1.PodScheduled })
	switch {
	case i < 0:
		pod.Status.Conditions = append(pod.Status.Conditions, scheduled)
	case pod.Status.Conditions[i].Status == corev1.ConditionTrue:
		scheduled.LastTransitionTime = pod.Status.Conditions[i].LastTransitionTime
		pod.Status.Conditions[i] = scheduled
	default:
		pod.Status.Conditions[i] = scheduled
	}
	return &pod, nil
}

func merged(have, more map[string]string) map[string]string {
	if len(more) == 0 {
		return have
	}
	out := make(map[string]string, len(have)+len(more))
	for k, v := range have {
		out[k] = v
	}
	for k, v := range more {
		out[k] = v
	}
	return out
}

// podUID is a precondition on a pod's identity.
func podUID(pod *corev1.Pod) *metav1.Preconditions {
	return &metav1.Preconditions{UID: &pod.UID}
}
