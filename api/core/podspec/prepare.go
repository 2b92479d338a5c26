package podspec

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

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
