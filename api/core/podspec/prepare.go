package podspec

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// AppArmorFields writes the profile that a container's deprecated annotation
// names into the field that replaced it, where that is empty.
func AppArmorFields(p *corev1.Pod) {
	if p.Spec.OS != nil && p.Spec.OS.Name == corev1.Windows {
		return
	}
	visitContainers(&p.Spec, nil, func(c *corev1.Container, _ *field.Path) {
		annotation, ok := p.Annotations[corev1.DeprecatedAppArmorBetaContainerAnnotationKeyPrefix+c.Name]
		if !ok || c.SecurityContext != nil && c.SecurityContext.AppArmorProfile != nil {
			return
		}
		profile := annotatedProfile(annotation)
		if profile == nil || p.Spec.SecurityContext != nil && equality.Semantic.DeepEqual(profile, p.Spec.SecurityContext.AppArmorProfile) {
			return
		}
		if c.SecurityContext == nil {
			c.SecurityContext = &corev1.SecurityContext{}
		}
		c.SecurityContext.AppArmorProfile = profile
	})
}

// annotatedProfile is the field's form of an AppArmor annotation, nil for one
// that means nothing.
func annotatedProfile(annotation string) *corev1.AppArmorProfile {
	if name, ok := strings.CutPrefix(annotation, localhost); ok && name != "" && trimmed(name) {
		return &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeLocalhost, LocalhostProfile: &name}
	}
	switch annotation {
	case unconfined:
		return &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeUnconfined}
	case corev1.DeprecatedAppArmorBetaProfileRuntimeDefault:
		return &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeRuntimeDefault}
	}
	return nil
}

// MergeLabelKeys writes what matchLabelKeys and mismatchLabelKeys mean for
// this very pod into the label selectors beside them: so the scheduler need
// not know the pod that a term came from.
func MergeLabelKeys(p *corev1.Pod) {
	merge := func(s *metav1.LabelSelector, op metav1.LabelSelectorOperator, keys []string) {
		if s == nil {
			return
		}
		for _, k := range keys {
			if v, ok := p.Labels[k]; ok {
				s.MatchExpressions = append(s.MatchExpressions, metav1.LabelSelectorRequirement{
					Key: k, Operator: op, Values: []string{v},
				})
			}
		}
	}
	terms := func(required []corev1.PodAffinityTerm, preferred []corev1.WeightedPodAffinityTerm) {
		one := func(t *corev1.PodAffinityTerm) {
			merge(t.LabelSelector, metav1.LabelSelectorOpIn, t.MatchLabelKeys)
			merge(t.LabelSelector, metav1.LabelSelectorOpNotIn, t.MismatchLabelKeys)
		}
		for i := range required {
			one(&required[i])
		}
		for i := range preferred {
			one(&preferred[i].PodAffinityTerm)
		}
	}
	if a := p.Spec.Affinity; a != nil {
		if a.PodAffinity != nil {
			terms(a.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution, a.PodAffinity.PreferredDuringSchedulingIgnoredDuringExecution)
		}
		if a.PodAntiAffinity != nil {
			terms(a.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution, a.PodAntiAffinity.PreferredDuringSchedulingIgnoredDuringExecution)
		}
	}
	for i := range p.Spec.TopologySpreadConstraints {
		t := &p.Spec.TopologySpreadConstraints[i]
		merge(t.LabelSelector, metav1.LabelSelectorOpIn, t.MatchLabelKeys)
	}
}
