package registry

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"strings"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/apiserver/admission"
)

var scaleGVK = schema.GroupVersionKind{Group: "autoscaling", Version: "v1", Kind: "Scale"}

// scaleKind is the kind that the scale subresource speaks.
func scaleKind() *api.Kind {
	return &api.Kind{GVK: scaleGVK, Resource: "scales", Namespaced: true, New: func() api.Object { return &autoscalingv1.Scale{} }}
}

// scaleOf makes the Scale of an object.
func (r *resource) scaleOf(obj api.Object) (*autoscalingv1.Scale, error) {
	s := r.kind.Scale.Get(obj)
	s.SetGroupVersionKind(scaleGVK)
	s.ObjectMeta = metav1.ObjectMeta{
		Name: obj.GetName(), Namespace: obj.GetNamespace(), UID: obj.GetUID(),
		ResourceVersion: obj.GetResourceVersion(), CreationTimestamp: obj.GetCreationTimestamp(),
	}
	fields, err := r.scaleFields(obj).ToSubresource()
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	s.ManagedFields = fields
	return s, nil
}

// unscaled reports whether an object names no number of replicas: it has no
// Scale until one is written.
func (r *resource) unscaled(obj api.Object) bool {
	return r.kind.Scale.Unset != nil && r.kind.Scale.Unset(obj)
}

// noReplicas stands for no number where a patch begins.
const noReplicas = math.MinInt32

// replicasPath is where a kind has its number of replicas, as JSON path.
func (r *resource) replicasPath() string { return "." + strings.Join(r.kind.Scale.ReplicasPath, ".") }

func (r *resource) scaleFields(obj api.Object) *managedfields.ScaleHandler {
	gv := r.kind.GVK.GroupVersion()
	paths := managedfields.ResourcePathMappings{gv.String(): fieldPath(r.kind.Scale.ReplicasPath)}
	for version, path := range r.kind.Scale.OtherPaths {
		paths[schema.GroupVersion{Group: gv.Group, Version: version}.String()] = fieldPath(path)
	}
	return managedfields.NewScaleHandler(obj.GetManagedFields(), gv, paths)
}

// fieldPath is nil for no names at all.
func fieldPath(names []string) fieldpath.Path {
	var parts []any
	for _, name := range names {
		parts = append(parts, name)
	}
	return fieldpath.MakePathOrDie(parts...)
}

// scaleWrite is the part in which ways to write a Scale differ: next makes the
// new Scale of the current one; managed says that it also tracked the fields.
type scaleWrite struct {
	next    func(now *autoscalingv1.Scale) (*autoscalingv1.Scale, error)
	managed bool
	manager string
	dryRun  bool
	options runtime.Object
}

func (c *Core) updateScale(ctx context.Context, t Target, obj runtime.Object, opts *metav1.UpdateOptions) (runtime.Object, error) {
	s, ok := obj.(*autoscalingv1.Scale)
	if !ok {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("wrong object passed to Scale update: %T", obj))
	}
	if err := matchName(t, s); err != nil {
		return nil, err
	}
	return c.writeScale(ctx, t, scaleWrite{
		next:    func(*autoscalingv1.Scale) (*autoscalingv1.Scale, error) { return s.DeepCopy(), nil },
		manager: opts.FieldManager, dryRun: dryRun(opts.DryRun), options: opts,
	})
}

func (c *Core) patchScale(ctx context.Context, t Target, pt types.PatchType, data []byte, opts *metav1.PatchOptions) (runtime.Object, error) {
	w := scaleWrite{manager: opts.FieldManager, dryRun: dryRun(opts.DryRun),
		options: &metav1.UpdateOptions{DryRun: opts.DryRun, FieldManager: opts.FieldManager, FieldValidation: opts.FieldValidation}}
	reporter := &faults{ctx: ctx, mode: opts.FieldValidation}
	if pt != types.ApplyPatchType {
		w.next = func(now *autoscalingv1.Scale) (*autoscalingv1.Scale, error) {
			doc, err := json.Marshal(now)
			if err != nil {
				return nil, apierrors.NewInternalError(err)
			}
			obj, err := patchDocument(scaleKind(), pt, doc, data, reporter)
			if err != nil {
				return nil, err
			}
			return obj.(*autoscalingv1.Scale), nil
		}
		return c.writeScale(ctx, t, w)
	}
	applied, err := decodeApplied(t, data, reporter)
	if err != nil {
		return nil, err
	}
	r := c.scaleResource(t)
	w.managed = true
	w.next = func(now *autoscalingv1.Scale) (*autoscalingv1.Scale, error) {
		obj, err := c.applyTo(r, Target{Kind: r.kind, Namespace: t.Namespace, Name: t.Name, Subresource: "scale"}, &state{Object: now}, applied.DeepCopy(), opts)
		if err != nil {
			return nil, err
		}
		return obj.(*autoscalingv1.Scale), nil
	}
	return c.writeScale(ctx, t, w)
}

// scaleResource has the field manager of Scales.
func (c *Core) scaleResource(t Target) *resource {
	if r, ok := c.resources.Load(scaleKey{t.Kind}); ok {
		return r.(*resource)
	}
	r, _ := c.resources.LoadOrStore(scaleKey{t.Kind}, &resource{kind: scaleKind()})
	return r.(*resource)
}

func (c *Core) writeScale(ctx context.Context, t Target, w scaleWrite) (runtime.Object, error) {
	r, err := c.resource(t.Kind)
	if err != nil {
		return nil, err
	}
	scales := c.scaleResource(t)
	ch := change{rules: mainRules(t.Kind), tracked: true, dryRun: w.dryRun, options: w.options, view: r.viewScale}
	ch.make = func(live *state) (api.Object, error) {
		now, err := r.scaleOf(live.Object)
		if err != nil {
			return nil, err
		}
		base := now.DeepCopy()
		if r.unscaled(live.Object) {
			base.Spec.Replicas = noReplicas
		}
		next, err := w.next(base)
		if err != nil {
			return nil, err
		}
		if next.Spec.Replicas == noReplicas {
			return nil, apierrors.NewBadRequest(fmt.Sprintf("the spec replicas field %q cannot be empty", r.replicasPath()))
		}
		if !w.managed {
			c.manageUpdate(scales, "scale", now, next, w.manager)
		}
		a := c.attributes(ctx, t, admission.Update, next, now, w.options, w.dryRun)
		a.GVK = scaleGVK
		if err := c.admit(ctx, a); err != nil {
			return nil, err
		}
		if errs := validateScale(next); len(errs) > 0 {
			return nil, apierrors.NewInvalid(scaleGVK.GroupKind(), t.Name, errs)
		}
		obj := live.DeepCopyObject().(api.Object)
		obj.SetResourceVersion(next.ResourceVersion)
		obj.SetUID(next.UID)
		r.kind.Scale.Set(obj, next.Spec.Replicas)
		fields, err := r.scaleFields(live.Object).ToParent(next.ManagedFields)
		if err != nil {
			return nil, apierrors.NewInternalError(err)
		}
		obj.SetManagedFields(fields)
		return obj, nil
	}
	obj, _, err := c.write(ctx, t, ch)
	if err != nil {
		return nil, err
	}
	return r.scaleOf(obj)
}

// viewScale shows a write to an object as one to its Scale.
func (r *resource) viewScale(a *admission.Attributes) error {
	obj, err := r.scaleOf(a.Object.(api.Object))
	if err != nil {
		return err
	}
	old, err := r.scaleOf(a.OldObject.(api.Object))
	if err != nil {
		return err
	}
	a.GVK, a.Object, a.OldObject = scaleGVK, obj, old
	return nil
}

func validateScale(s *autoscalingv1.Scale) field.ErrorList {
	errs := validation.ValidateObjectMeta(&s.ObjectMeta, true, validation.NameIsDNSSubdomain, field.NewPath("metadata"))
	return append(errs, validation.ValidateNonnegativeField(int64(s.Spec.Replicas), field.NewPath("spec", "replicas"))...)
}
