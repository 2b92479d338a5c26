package core

import (
	"slices"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/nodedeclaredfeatures"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"

	"github.com/proa-dev/proa/internal/target"
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
	NodeDeclaredFeatures
	NodePorts
	NodeResourcesFit
	VolumeRestrictions
	NodeVolumeLimits
	VolumeBinding
	VolumeZone
	PodTopologySpread
	InterPodAffinity
	DynamicResources
	Extenders
	endOfFilters
)

// FilterSet is a set of filters, one bit each.
type FilterSet uint32

// Has says whether f is in the set.
func (s FilterSet) Has(f Filter) bool { return s&(1<<f) != 0 }

// With returns the set with f.
func (s FilterSet) With(f Filter) FilterSet { return s | 1<<f }

// Without returns the set without f.
func (s FilterSet) Without(f Filter) FilterSet { return s &^ (1 << f) }

// placement is what pods ask of a node object, with the answers so far.
type placement struct {
	rules       *Profile
	tolerations []corev1.Toleration
	required    nodeaffinity.RequiredNodeAffinity
	preferred   *nodeaffinity.PreferredSchedulingTerms
	features    nodedeclaredfeatures.FeatureSet
	answers     []answer
	fleeting    bool // for a few nodes only: nothing is kept
	last        answer
}

// answer is how a placement and a node object go together.
type answer struct {
	generation uint32
	verdict    Filter
	tolerated  bool // no taint keeps the pods off
	selected   bool // selector and required affinity match
	enforced   bool // so does what the profile requires
	preference int32
	disliked   int32 // PreferNoSchedule taints without a toleration
}

func newPlacement(p *Pod) *placement {
	a := &placement{
		rules:       p.rules,
		tolerations: p.Object.Spec.Tolerations,
		required:    nodeaffinity.GetRequiredNodeAffinity(p.Object),
		features:    featuresOf(p.Object),
	}
	if affinity := p.Object.Spec.Affinity; affinity != nil && affinity.NodeAffinity != nil {
		// A preference that cannot be parsed is no preference.
		a.preferred, _ = nodeaffinity.NewPreferredSchedulingTerms(affinity.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution)
	}
	return a
}

// featuresOf are those that a kubelet must have to run the pod.
func featuresOf(obj *corev1.Pod) nodedeclaredfeatures.FeatureSet {
	set, err := nodedeclaredfeatures.DefaultFramework.InferForPodScheduling(
		&nodedeclaredfeatures.PodInfo{Spec: &obj.Spec}, target.Version())
	if err != nil { // only without a version
		return nodedeclaredfeatures.DefaultFramework.NewFeatureSet()
	}
	return set
}

// at returns the answer for a slot, computed anew if the node changed.
func (p *placement) at(s *Snapshot, slot int32) *answer {
	if p.fleeting {
		p.last = p.ask(s.nodes[slot].node)
		return &p.last
	}
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
	a.enforced = p.rules.Enforced == nil || p.rules.Enforced.Match(node)
	var preference int64
	if p.preferred != nil {
		preference = p.preferred.Score(node)
	}
	if p.rules.EnforcedPreferred != nil {
		preference += p.rules.EnforcedPreferred.Score(node)
	}
	a.preference = int32(min(preference, 1<<30))
	for i := range node.Spec.Taints {
		t := &node.Spec.Taints[i]
		if t.Effect == corev1.TaintEffectPreferNoSchedule && !p.tolerates(t) {
			a.disliked++
		}
	}
	a.verdict = p.verdict(node, &a)
	return a
}

func (p *placement) verdict(node *corev1.Node, a *answer) Filter {
	on := p.rules.Filters
	switch {
	case node.Spec.Unschedulable && on.Has(NodeUnschedulable) &&
		!p.tolerates(&corev1.Taint{Key: corev1.TaintNodeUnschedulable, Effect: corev1.TaintEffectNoSchedule}):
		return NodeUnschedulable
	case !a.tolerated && on.Has(TaintToleration):
		return TaintToleration
	case (!a.selected || !a.enforced) && on.Has(NodeAffinity):
		return NodeAffinity
	case !p.features.IsEmpty() && on.Has(NodeDeclaredFeatures) && !p.has(node):
		return NodeDeclaredFeatures
	}
	return Fits
}

func (p *placement) has(node *corev1.Node) bool {
	declared := slices.Sorted(slices.Values(node.Status.DeclaredFeatures))
	match, err := p.features.IsSubset(nodedeclaredfeatures.DefaultFramework.TryMap(declared))
	return err == nil && match
}

func (p *placement) tolerates(taint *corev1.Taint) bool {
	for i := range p.tolerations {
		if p.tolerations[i].ToleratesTaint(logr.Discard(), taint, false) {
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

// reason says in upstream's words why the verdict of a node object is so.
func (a *answer) reason() string {
	switch {
	case a.verdict == NodeUnschedulable:
		return "node(s) were unschedulable"
	case a.verdict == TaintToleration:
		return "node(s) had untolerated taint(s)"
	case a.verdict == NodeDeclaredFeatures:
		return "node(s) didn't match Pod's required features"
	case !a.enforced:
		return "node(s) didn't match scheduler-enforced node affinity"
	default:
		return "node(s) didn't match Pod's node affinity/selector"
	}
}
