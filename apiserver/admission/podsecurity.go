package admission

import (
	"context"
	"fmt"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	psa "k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"
)

// maxPodsChecked bounds how many pods of a namespace are looked at when its
// level rises.
const maxPodsChecked = 3000

// PodSecurity holds pods to the standard that the labels
// pod-security.kubernetes.io/… of their namespace ask for. Without labels a
// namespace is privileged.
type PodSecurity struct {
	lookup    Lookup
	evaluator policy.Evaluator
	err       error // why there is no evaluator: pods of labelled namespaces are refused
}

var _ Validator = (*PodSecurity)(nil)

// NewPodSecurity reads namespaces and pods from l.
func NewPodSecurity(l Lookup) *PodSecurity {
	e, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	return &PodSecurity{lookup: l, evaluator: e, err: err}
}

// Name implements Plugin.
func (*PodSecurity) Name() string { return "PodSecurity" }

// Validate implements Validator.
func (p *PodSecurity) Validate(ctx context.Context, a *Attributes) error {
	if a.Operation != Create && a.Operation != Update {
		return nil
	}
	switch obj := a.Object.(type) {
	case *corev1.Namespace:
		return p.namespace(a, obj)
	case *corev1.Pod:
		if a.Subresource == "status" {
			return nil
		}
		if old, ok := a.OldObject.(*corev1.Pod); ok && a.Operation == Update && !runsOther(&obj.Spec, &old.Spec) {
			return nil
		}
		return p.judge(ctx, a, &obj.ObjectMeta, &obj.Spec, true)
	}
	if t := podTemplate(a.Object); t != nil && a.Subresource == "" {
		return p.judge(ctx, a, &t.ObjectMeta, &t.Spec, false)
	}
	return nil
}

// podTemplate is what a controller makes pods of. Its pods are refused one by
// one; the template is only warned of.
func podTemplate(obj runtime.Object) *corev1.PodTemplateSpec {
	switch o := obj.(type) {
	case *corev1.PodTemplate:
		return &o.Template
	case *corev1.ReplicationController:
		return o.Spec.Template
	case *appsv1.ReplicaSet:
		return &o.Spec.Template
	case *appsv1.Deployment:
		return &o.Spec.Template
	case *appsv1.DaemonSet:
		return &o.Spec.Template
	case *appsv1.StatefulSet:
		return &o.Spec.Template
	case *batchv1.Job:
		return &o.Spec.Template
	case *batchv1.CronJob:
		return &o.Spec.JobTemplate.Spec.Template
	}
	return nil
}

// runsOther says that an update makes a pod run something else: another image
// or another ephemeral container. Nothing else that matters can change.
func runsOther(spec, old *corev1.PodSpec) bool {
	same := func(a, b corev1.Container) bool { return a.Image == b.Image }
	return !slices.EqualFunc(spec.Containers, old.Containers, same) ||
		!slices.EqualFunc(spec.InitContainers, old.InitContainers, same) ||
		!equality.Semantic.DeepEqual(spec.EphemeralContainers, old.EphemeralContainers)
}

// labelled says that a namespace asks for anything, which most do not.
func labelled(ns metav1.Object) bool {
	for k := range ns.GetLabels() {
		if strings.HasPrefix(k, "pod-security.kubernetes.io/") {
			return true
		}
	}
	return false
}

// policyOf is what the labels ask for, the strictest where they make no sense.
func policyOf(ns *corev1.Namespace) (psa.Policy, error) {
	free := psa.LevelVersion{Level: psa.LevelPrivileged, Version: psa.LatestVersion()}
	found, errs := psa.PolicyToEvaluate(ns.Labels, psa.Policy{Enforce: free, Audit: free, Warn: free})
	if len(errs) > 0 {
		return found, apierrors.NewInvalid(schema.GroupKind{Kind: "Namespace"}, ns.Name, errs)
	}
	return found, nil
}

func (p *PodSecurity) judge(ctx context.Context, a *Attributes, meta *metav1.ObjectMeta, spec *corev1.PodSpec, enforce bool) error {
	obj, ok := p.lookup.Get(ctx, corev1.Resource("namespaces"), "", a.Namespace)
	ns, isNamespace := obj.(*corev1.Namespace)
	if !ok || !isNamespace {
		return apierrors.NewInternalError(fmt.Errorf("failed to lookup namespace %q", a.Namespace))
	}
	if !labelled(ns) {
		return nil
	}
	if p.err != nil {
		return apierrors.NewInternalError(p.err)
	}
	want, _ := policyOf(ns) // an error makes it strict
	if enforce {
		if detail := p.violations(want.Enforce, meta, spec); detail != "" {
			return Forbidden(a, fmt.Errorf("violates PodSecurity %q: %s", want.Enforce.String(), detail))
		}
	}
	if detail := p.violations(want.Warn, meta, spec); detail != "" {
		a.warn(fmt.Sprintf("would violate PodSecurity %q: %s", want.Warn.String(), detail))
	}
	return nil
}

// violations tells what a pod does that a level does not allow.
func (p *PodSecurity) violations(level psa.LevelVersion, meta *metav1.ObjectMeta, spec *corev1.PodSpec) string {
	if level.Level == psa.LevelPrivileged {
		return ""
	}
	if r := policy.AggregateCheckResults(p.evaluator.EvaluatePod(level, meta, spec)); !r.Allowed {
		return r.ForbiddenDetail()
	}
	return ""
}

// namespace refuses labels that make no sense, and warns of the pods that are
// there already when the level rises.
func (p *PodSecurity) namespace(a *Attributes, ns *corev1.Namespace) error {
	if a.Subresource != "" || !labelled(ns) {
		return nil
	}
	want, err := policyOf(ns)
	old, ok := a.OldObject.(*corev1.Namespace)
	if a.Operation == Create || !ok {
		return err
	}
	had, oldErr := policyOf(old)
	if err != nil && (oldErr == nil || err.Error() != oldErr.Error()) {
		return err
	}
	relaxed := want.Enforce.Version == had.Enforce.Version && psa.CompareLevels(want.Enforce.Level, had.Enforce.Level) < 1
	if want.Enforce == had.Enforce || want.Enforce.Level == psa.LevelPrivileged || relaxed {
		return nil
	}
	p.warnOfPods(a, ns.Name, want.Enforce)
	return nil
}

func (p *PodSecurity) warnOfPods(a *Attributes, namespace string, level psa.LevelVersion) {
	if p.err != nil {
		return // and every pod is refused
	}
	pods := p.lookup.Source.List(corev1.Resource("pods"), namespace)
	if total := len(pods); total > maxPodsChecked {
		pods = pods[:maxPodsChecked]
		a.warn(fmt.Sprintf("new PodSecurity enforce level only checked against the first %d of %d existing pods", len(pods), total))
	}
	byReason := map[string][]string{}
	for _, obj := range pods {
		pod, ok := obj.(*corev1.Pod)
		if !ok {
			continue
		}
		if r := policy.AggregateCheckResults(p.evaluator.EvaluatePod(level, &pod.ObjectMeta, &pod.Spec)); !r.Allowed {
			byReason[r.ForbiddenReason()] = append(byReason[r.ForbiddenReason()], pod.Name)
		}
	}
	if len(byReason) == 0 {
		return
	}
	a.warn(fmt.Sprintf("existing pods in namespace %q violate the new PodSecurity enforce level %q", namespace, level.String()))
	lines := make([]string, 0, len(byReason))
	for reason, names := range byReason {
		who := slices.Min(names)
		switch n := len(names) - 1; n {
		case 0:
		case 1:
			who += " (and 1 other pod)"
		default:
			who += fmt.Sprintf(" (and %d other pods)", n)
		}
		lines = append(lines, who+": "+reason)
	}
	slices.Sort(lines)
	for _, l := range lines {
		a.warn(l)
	}
}

// warn tells the client, if there is one.
func (a *Attributes) warn(text string) {
	if a.Warn != nil {
		a.Warn(text)
	}
}
