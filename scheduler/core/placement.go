package core

import (
	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
)

// Filter names the rule that keeps a pod off a node.
type Filter uint8

// The filters in the order in which they are applied: a node counts for the
// first that it fails. (A pod that names its node is never scheduled, so there
// is no filter for that.)
const (
	Fits Filter = iota
	NodeAbsent
	NodeUnschedulable
	TaintToleration
	NodeAffinity
	NodePorts
	NodeResourcesFit
	VolumeBinding
	PodTopologySpread
	InterPodAffinity
)

// FilterSet is a set of filters, one bit each.
type FilterSet uint16

// Has says whether f is in the set.
func (s FilterSet) Has(f Filter) bool { return s&(1<<f) != 0 }

// With returns the set with f.
func (s FilterSet) With(f Filter) FilterSet { return s | 1<<f }

// placement is what pods ask of a node object, with the answers so far.
type placement struct {
	tolerations []corev1.Toleration
	required    nodeaffinity.RequiredNodeAffinity
	preferred   *nodeaffinity.PreferredSchedulingTerms
	answers     []answer
}

// answer is how a placement and a node object go together.
type answer struct {
	generation uint32
	verdict    Filter
	tolerated  bool // no taint keeps the pods off
	selected   bool // selector and required affinity match
	preference int32
	disliked   int32 // PreferNoSchedule taints without a toleration
}

func newPlacement(obj *corev1.Pod) *placement {
	p := &placement{
		tolerations: obj.Spec.Tolerations,
		required:    nodeaffinity.GetRequiredNodeAffinity(obj),
	}
	if a := obj.Spec.Affinity; a != nil && a.NodeAffinity != nil {
		// A preference that cannot be parsed is no preference.
		p.preferred, _ = nodeaffinity.NewPreferredSchedulingTerms(a.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution)
	}
	return p
}

// at returns the answer for a slot, computed anew if the node changed.
func (p *placement) at(s *Snapshot, slot int32) *answer {
	if more := len(s.nodes) - len(p.answers); more > 0 {
		p.answers = append(p.answers, make([]answer, more)...)
	}
	row := &s.nodes[slot]
	a := &p.answers[slot]
	if a.generation != row.generation {
		*a = p.ask(row.node)
		a.generation = row.generation
	}
	return a
}

func (p *placement) ask(node *corev1.Node) answer {
	if node == nil {
		return answer{verdict: NodeAbsent}
	}
	var a answer
	a.tolerated = !p.untolerated(node)
	matches, err := p.required.Match(node)
	a.selected = err == nil && matches
	if p.preferred != nil {
		a.preference = int32(min(p.preferred.Score(node), 1<<30))
	}
	for i := range node.Spec.Taints {
		t := &node.Spec.Taints[i]
		if t.Effect == corev1.TaintEffectPreferNoSchedule && !p.tolerates(t) {
			a.disliked++
		}
	}
	switch {
	case node.Spec.Unschedulable && !p.tolerates(&corev1.Taint{Key: corev1.TaintNodeUnschedulable, Effect: corev1.TaintEffectNoSchedule}):
		a.verdict = NodeUnschedulable
	case !a.tolerated:
		a.verdict = TaintToleration
	case !a.selected:
		a.verdict = NodeAffinity
	}
	return a
}

func (p *placement) tolerates(taint *corev1.Taint) bool {
	for i := range p.tolerations {
		if p.tolerations[i].ToleratesTaint(logr.Discard(), taint, true) {
			return true
		}
	}
	return false
}

func (p *placement) untolerated(node *corev1.Node) bool {
	for i := range node.Spec.Taints {
		t := &node.Spec.Taints[i]
		if (t.Effect == corev1.TaintEffectNoSchedule || t.Effect == corev1.TaintEffectNoExecute) && !p.tolerates(t) {
			return true
		}
	}
	return false
}

// reasonOf says in upstream's words why the verdict of a node object is so.
func reasonOf(verdict Filter) string {
	switch verdict {
	case NodeUnschedulable:
		return "node(s) were unschedulable"
	case TaintToleration:
		return "node(s) had untolerated taint(s)"
	default:
		return "node(s) didn't match Pod's node affinity/selector"
	}
}
