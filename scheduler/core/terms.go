package core

import (
	"cmp"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"
)

// term says which pods are meant, and what counts as being near them.
type term struct {
	key         string // equal for equal terms
	namespaces  []string
	nsSelector  labels.Selector // nil selects no namespace
	selector    labels.Selector
	topologyKey string
}

type weighted struct {
	term   *term
	weight int64
}

// podTerms are the affinity terms of one pod.
type podTerms struct {
	near, apart []*term
	preferred   []weighted // negative weights push apart
}

func termsOf(obj *corev1.Pod) *podTerms {
	a := obj.Spec.Affinity
	if a == nil || a.PodAffinity == nil && a.PodAntiAffinity == nil {
		return nil
	}
	t := &podTerms{}
	if pa := a.PodAffinity; pa != nil {
		for i := range pa.RequiredDuringSchedulingIgnoredDuringExecution {
			t.near = append(t.near, newTerm(obj, &pa.RequiredDuringSchedulingIgnoredDuringExecution[i]))
		}
		for i := range pa.PreferredDuringSchedulingIgnoredDuringExecution {
			w := &pa.PreferredDuringSchedulingIgnoredDuringExecution[i]
			t.preferred = append(t.preferred, weighted{newTerm(obj, &w.PodAffinityTerm), int64(w.Weight)})
		}
	}
	if pa := a.PodAntiAffinity; pa != nil {
		for i := range pa.RequiredDuringSchedulingIgnoredDuringExecution {
			t.apart = append(t.apart, newTerm(obj, &pa.RequiredDuringSchedulingIgnoredDuringExecution[i]))
		}
		for i := range pa.PreferredDuringSchedulingIgnoredDuringExecution {
			w := &pa.PreferredDuringSchedulingIgnoredDuringExecution[i]
			t.preferred = append(t.preferred, weighted{newTerm(obj, &w.PodAffinityTerm), -int64(w.Weight)})
		}
	}
	return t
}

func newTerm(obj *corev1.Pod, in *corev1.PodAffinityTerm) *term {
	t := &term{topologyKey: in.TopologyKey, namespaces: slices.Sorted(slices.Values(in.Namespaces))}
	if len(t.namespaces) == 0 && in.NamespaceSelector == nil {
		t.namespaces = []string{obj.Namespace}
	}
	var nsKey string
	if in.NamespaceSelector != nil {
		t.nsSelector, nsKey = parseSelector(in.NamespaceSelector)
	}
	t.selector, _ = parseSelector(in.LabelSelector) // holds matchLabelKeys since the pod was made
	t.key = strings.Join([]string{t.topologyKey, strings.Join(t.namespaces, ","), nsKey, selectorKey(t.selector)}, "\x00")
	return t
}

// parseSelector reads a selector; nil and what cannot be read select nothing.
func parseSelector(in *metav1.LabelSelector) (labels.Selector, string) {
	out, err := metav1.LabelSelectorAsSelector(in)
	if err != nil {
		out = labels.Nothing()
	}
	return out, selectorKey(out)
}

// selectorKey tells "everything" from "nothing", which print alike.
func selectorKey(s labels.Selector) string {
	if text := s.String(); text != "" {
		return text
	}
	if s.Empty() {
		return "*"
	}
	return "!"
}

// narrow adds the pod's own values of some labels to a selector.
func narrow(s labels.Selector, own map[string]string, keys []string) labels.Selector {
	for _, key := range keys {
		value, ok := own[key]
		if !ok {
			continue
		}
		if r, err := labels.NewRequirement(key, selection.In, []string{value}); err == nil && selectorKey(s) != "!" {
			s = s.Add(*r)
		}
	}
	return s
}

// matches says whether the term means a pod with these labels.
func (t *term) matches(namespaces map[string]labels.Set, obj *corev1.Pod) bool {
	if _, named := slices.BinarySearch(t.namespaces, obj.Namespace); !named {
		if t.nsSelector == nil || !t.nsSelector.Matches(namespaces[obj.Namespace]) {
			return false
		}
	}
	return t.selector.Matches(labels.Set(obj.Labels))
}

func matchesAll(terms []*term, namespaces map[string]labels.Set, obj *corev1.Pod) bool {
	for _, t := range terms {
		if !t.matches(namespaces, obj) {
			return false
		}
	}
	return true
}

// spreadTerm is one topology spread constraint.
type spreadTerm struct {
	term
	hard                       bool
	maxSkew, minDomains        int32
	honorAffinity, honorTaints bool
}

func spreadTermsOf(obj *corev1.Pod) (hard, soft []*spreadTerm) {
	for i := range obj.Spec.TopologySpreadConstraints {
		in := &obj.Spec.TopologySpreadConstraints[i]
		t := newSpreadTerm(obj, in)
		selector, _ := parseSelector(in.LabelSelector)
		t.selector = narrow(selector, obj.Labels, in.MatchLabelKeys)
		t.key = strings.Join([]string{obj.Namespace, selectorKey(t.selector)}, "\x00")
		if t.hard {
			hard = append(hard, t)
		} else {
			soft = append(soft, t)
		}
	}
	return hard, soft
}

func newSpreadTerm(obj *corev1.Pod, in *corev1.TopologySpreadConstraint) *spreadTerm {
	t := &spreadTerm{
		term:          term{topologyKey: in.TopologyKey, namespaces: []string{obj.Namespace}},
		hard:          cmp.Or(in.WhenUnsatisfiable, corev1.DoNotSchedule) == corev1.DoNotSchedule,
		maxSkew:       in.MaxSkew,
		minDomains:    1,
		honorAffinity: in.NodeAffinityPolicy == nil || *in.NodeAffinityPolicy == corev1.NodeInclusionPolicyHonor,
		honorTaints:   in.NodeTaintsPolicy != nil && *in.NodeTaintsPolicy == corev1.NodeInclusionPolicyHonor,
	}
	if in.MinDomains != nil {
		t.minDomains = *in.MinDomains
	}
	return t
}
