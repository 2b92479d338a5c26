package core

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/api/core/podspec"
	"github.com/proa-dev/proa/api/validate"
)

// updatablePodFields is what an update that changes another field is told.
const updatablePodFields = "pod updates may not change fields other than " +
	"`spec.containers[*].image`," +
	"`spec.initContainers[*].image`," +
	"`spec.activeDeadlineSeconds`," +
	"`spec.tolerations` (only additions to existing tolerations)," +
	"`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)"

func validatePodUpdate(p, old *corev1.Pod) field.ErrorList {
	path := field.NewPath("spec")
	errs := podspec.ValidatePodAfter(p, old)
	errs = append(errs, validatePodAnnotationsUpdate(p, old)...)
	for _, l := range []struct {
		name string
		n, o []corev1.Container
	}{{"containers", p.Spec.Containers, old.Spec.Containers}, {"initContainers", p.Spec.InitContainers, old.Spec.InitContainers}} {
		if len(l.n) != len(l.o) {
			return append(errs, field.Forbidden(path.Child(l.name), "pod updates may not add or remove containers"))
		}
	}
	deadline := validateDeadlineUpdate(path.Child("activeDeadlineSeconds"), p.Spec.ActiveDeadlineSeconds, old.Spec.ActiveDeadlineSeconds)
	errs = append(errs, deadline...)
	if len(deadline) > 0 && p.Spec.ActiveDeadlineSeconds != nil {
		return errs
	}
	errs = append(errs, validateTolerationsUpdate(path.Child("tolerations"), p.Spec.Tolerations, old.Spec.Tolerations)...)
	errs = append(errs, validateGatesUpdate(path.Child("schedulingGates"), p.Spec.SchedulingGates, old.Spec.SchedulingGates)...)
	if api.Equal(&p.Spec, &old.Spec) {
		return errs
	}
	rest := p.Spec.DeepCopy()
	for i := range rest.Containers {
		rest.Containers[i].Image = old.Spec.Containers[i].Image
	}
	for i := range rest.InitContainers {
		rest.InitContainers[i].Image = old.Spec.InitContainers[i].Image
	}
	rest.ActiveDeadlineSeconds = old.Spec.ActiveDeadlineSeconds
	rest.SchedulingGates = old.Spec.SchedulingGates
	rest.Tolerations = old.Spec.Tolerations
	if g := old.Spec.TerminationGracePeriodSeconds; g != nil && *g < 0 && ptr.Deref(rest.TerminationGracePeriodSeconds, 0) == 1 {
		rest.TerminationGracePeriodSeconds = g
	}
	if len(old.Spec.SchedulingGates) > 0 {
		errs = append(errs, validateGatedUpdate(path, rest, &old.Spec)...)
	}
	if !api.Equal(rest, &old.Spec) {
		errs = append(errs, field.Forbidden(path, updatablePodFields+"\n"+cmp.Diff(old.Spec, *rest)))
	}
	return errs
}

// validatePodAnnotationsUpdate keeps the annotations that took effect when the
// pod was made.
func validatePodAnnotationsUpdate(p, old *corev1.Pod) field.ErrorList {
	var errs field.ErrorList
	path := field.NewPath("metadata", "annotations")
	fixed := func(key, verb string) {
		if strings.HasPrefix(key, corev1.DeprecatedAppArmorBetaContainerAnnotationKeyPrefix) {
			errs = append(errs, field.Forbidden(path.Key(key), "may not "+verb+" AppArmor annotations"))
		}
		if key == corev1.MirrorPodAnnotationKey {
			errs = append(errs, field.Forbidden(path.Key(key), "may not "+verb+" mirror pod annotation"))
		}
	}
	for _, k := range slices.Sorted(maps.Keys(old.Annotations)) {
		if v, ok := p.Annotations[k]; !ok || v != old.Annotations[k] {
			fixed(k, "remove or update")
		}
	}
	for _, k := range slices.Sorted(maps.Keys(p.Annotations)) {
		if _, ok := old.Annotations[k]; !ok {
			fixed(k, "add")
		}
	}
	return errs
}

// validateDeadlineUpdate allows a deadline to come, or to come nearer.
func validateDeadlineUpdate(path *field.Path, d, old *int64) field.ErrorList {
	switch {
	case d == nil && old != nil:
		return field.ErrorList{field.Invalid(path, d, "must not update from a positive integer to nil value")}
	case d == nil:
		return nil
	case *d < 0 || *d > math.MaxInt32:
		return field.ErrorList{field.Invalid(path, *d, validation.InclusiveRangeError(0, math.MaxInt32))}
	case old != nil && *old < *d:
		return field.ErrorList{field.Invalid(path, *d, "must be less than or equal to previous value")}
	}
	return nil
}

func validateTolerationsUpdate(path *field.Path, list, old []corev1.Toleration) field.ErrorList {
	for _, o := range old {
		if !slices.ContainsFunc(list, func(t corev1.Toleration) bool {
			t.TolerationSeconds = o.TolerationSeconds
			return t == o
		}) {
			return field.ErrorList{field.Forbidden(path, "existing toleration can not be modified except its tolerationSeconds")}
		}
	}
	return nil
}

func validateGatesUpdate(path *field.Path, gates, old []corev1.PodSchedulingGate) field.ErrorList {
	var errs field.ErrorList
	for i, g := range gates {
		if !slices.Contains(old, g) {
			errs = append(errs, field.Forbidden(path.Index(i).Child("name"),
				fmt.Sprintf("only deletion is allowed, but found new scheduling gate '%s'", g.Name)))
		}
	}
	return errs
}

// validateGatedUpdate allows a pod that waits at a gate to narrow the nodes it
// may go to. It puts the old choice back into rest.
func validateGatedUpdate(path *field.Path, rest, old *corev1.PodSpec) field.ErrorList {
	var errs field.ErrorList
	for k, v := range old.NodeSelector {
		if now, ok := rest.NodeSelector[k]; !ok || now != v {
			errs = append(errs, field.Invalid(path.Child("nodeSelector"), rest.NodeSelector,
				"only additions to spec.nodeSelector are allowed (no mutations or deletions)"))
			break
		}
	}
	rest.NodeSelector = old.NodeSelector
	var was, is *corev1.NodeAffinity
	if old.Affinity != nil {
		was = old.Affinity.NodeAffinity
	}
	if rest.Affinity != nil {
		is = rest.Affinity.NodeAffinity
	}
	if equality.Semantic.DeepEqual(was, is) {
		return errs
	}
	errs = append(errs, validateNodeAffinityUpdate(path.Child("affinity", "nodeAffinity"), is, was)...)
	if rest.Affinity == nil {
		rest.Affinity = &corev1.Affinity{}
	}
	rest.Affinity.NodeAffinity = was
	if old.Affinity == nil && *rest.Affinity == (corev1.Affinity{}) {
		rest.Affinity = nil
	}
	return errs
}

func validateNodeAffinityUpdate(path *field.Path, a, old *corev1.NodeAffinity) field.ErrorList {
	if old == nil || old.RequiredDuringSchedulingIgnoredDuringExecution == nil {
		return nil
	}
	was := old.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms
	var terms []corev1.NodeSelectorTerm
	if a != nil && a.RequiredDuringSchedulingIgnoredDuringExecution != nil {
		terms = a.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms
	}
	at := path.Child("requiredDuringSchedulingIgnoredDuringExecution", "nodeSelectorTerms")
	if len(was) > 0 && len(was) != len(terms) {
		return field.ErrorList{field.Invalid(at, terms, "no additions/deletions to non-empty NodeSelectorTerms list are allowed")}
	}
	var errs field.ErrorList
	for i := range was {
		if !extends(terms[i], was[i]) {
			errs = append(errs, field.Invalid(at.Index(i), terms[i], "only additions are allowed (no mutations or deletions)"))
		}
	}
	return errs
}

// extends says that a term asks for all that old asks for, in front. An empty
// term matches nothing, so what extends it would match more.
func extends(t, old corev1.NodeSelectorTerm) bool {
	if len(old.MatchExpressions)+len(old.MatchFields) == 0 && len(t.MatchExpressions)+len(t.MatchFields) > 0 {
		return false
	}
	prefix := func(list, old []corev1.NodeSelectorRequirement) bool {
		return len(list) >= len(old) && (len(old) == 0 || equality.Semantic.DeepEqual(list[:len(old)], old))
	}
	return prefix(t.MatchExpressions, old.MatchExpressions) && prefix(t.MatchFields, old.MatchFields)
}

func validateEphemeralContainersUpdate(p, old *corev1.Pod) field.ErrorList {
	if _, ok := old.Annotations[corev1.MirrorPodAnnotationKey]; ok {
		return field.ErrorList{field.Forbidden(field.NewPath(""), "static pods do not support ephemeral containers")}
	}
	errs := podspec.ValidatePodAfter(p, old)
	errs = append(errs, validatePodAnnotationsUpdate(p, old)...)
	path := field.NewPath("spec", "ephemeralContainers")
	for _, o := range old.Spec.EphemeralContainers {
		i := slices.IndexFunc(p.Spec.EphemeralContainers, func(c corev1.EphemeralContainer) bool { return c.Name == o.Name })
		if i < 0 {
			errs = append(errs, field.Forbidden(path, fmt.Sprintf("existing ephemeral containers %q may not be removed\n", o.Name)))
		} else if c := p.Spec.EphemeralContainers[i]; !equality.Semantic.DeepEqual(o, c) {
			errs = append(errs, field.Forbidden(path, fmt.Sprintf("existing ephemeral containers %q may not be changed\n%v", o.Name, cmp.Diff(o, c))))
		}
	}
	return errs
}

func validateBinding(b *corev1.Binding) field.ErrorList {
	var errs field.ErrorList
	if k := b.Target.Kind; k != "" && k != "Node" {
		errs = append(errs, field.NotSupported(field.NewPath("target", "kind"), k, []string{"Node", "<empty>"}))
	}
	return append(errs, validate.Required(field.NewPath("target", "name"), b.Target.Name)...)
}
