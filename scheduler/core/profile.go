package core

import (
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
)

// Profile is the rules by which the pods that name it are placed. It is made
// once and never changes; profiles of one Snapshot differ in name.
type Profile struct {
	// Name is the spec.schedulerName of its pods.
	Name string
	// Filters are the rules that keep pods off nodes.
	Filters FilterSet
	// Weights of the scores that are added up; zero leaves one out.
	Weights Weights
	// Fit says how the room on a node is judged and scored.
	Fit Fit
	// Balanced are the resources whose shares should be alike.
	Balanced []corev1.ResourceName
	// Spread are the constraints of pods that name none themselves; selectors
	// are those of the pod's Services and controller. SystemSpread says that
	// they are the built-in ones: a node may then lack a topology key.
	Spread       []corev1.TopologySpreadConstraint
	SystemSpread bool
	// RequiredAffinityWeight is how much a pod on a node draws those that match
	// its required affinity. IgnoreOthersPreferences leaves out what pods on
	// nodes prefer, for a pod that has no such preferences itself.
	RequiredAffinityWeight  int64
	IgnoreOthersPreferences bool
	// Enforced and EnforcedPreferred are asked of nodes for every pod.
	Enforced          *nodeaffinity.NodeSelector
	EnforcedPreferred *nodeaffinity.PreferredSchedulingTerms
	// Preempts lets pods drive out others. A share of the nodes is tried, in
	// percent, and at least so many.
	Preempts                             bool
	CandidatesPercent, CandidatesAtLeast int
	// Percentage of the nodes are looked at one by one where that is needed;
	// zero adapts to the size of the cluster.
	Percentage int
	// Capacity scores the storage that is left where volumes are made.
	Capacity []Point
	// BindTimeout is how long a pod with a node waits for its volumes.
	BindTimeout time.Duration
	// FilterTimeout is how long devices are searched on one node; zero is for
	// ever. BindingTimeout is how long allocated ones may take to be ready.
	FilterTimeout, BindingTimeout time.Duration
	// Gates says that scheduling gates hold pods back.
	Gates bool
}

// Weights of the scores.
type Weights struct {
	Fit, Balanced, Image, NodeAffinity, Taint, Spread, PodAffinity, Volumes, Devices int64
}

// Strategy says how the room that is left on a node is scored.
type Strategy uint8

// The strategies of the rule NodeResourcesFit.
const (
	LeastAllocated Strategy = iota
	MostAllocated
	RequestedToCapacityRatio
)

// Fit configures the rule NodeResourcesFit.
type Fit struct {
	Strategy  Strategy
	Resources []WeightedResource
	Shape     []Point
	// Ignored are extended resources, and IgnoredGroups their prefixes, that
	// somebody else accounts for.
	Ignored, IgnoredGroups map[string]bool
}

// WeightedResource is a resource and how much it counts.
type WeightedResource struct {
	Name   corev1.ResourceName
	Weight int64
}

// Point of a function: at this percentage of use it has this score (to 100).
type Point struct{ Use, Score int64 }

// AllFilters are the rules of upstream's default profile.
const AllFilters FilterSet = 1<<endOfFilters - 1

// DefaultProfile is upstream's.
func DefaultProfile() *Profile {
	constraint := func(key string, maxSkew int32) corev1.TopologySpreadConstraint {
		return corev1.TopologySpreadConstraint{TopologyKey: key, MaxSkew: maxSkew, WhenUnsatisfiable: corev1.ScheduleAnyway}
	}
	return &Profile{
		Name:    corev1.DefaultSchedulerName,
		Filters: AllFilters,
		Weights: Weights{Fit: 1, Balanced: 1, Image: 1, NodeAffinity: 2, Taint: 3, Spread: 2, PodAffinity: 2, Volumes: 1, Devices: 2},
		Fit:     Fit{Resources: []WeightedResource{{corev1.ResourceCPU, 1}, {corev1.ResourceMemory, 1}}},

		Balanced:               []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory},
		Spread:                 []corev1.TopologySpreadConstraint{constraint(corev1.LabelHostname, 3), constraint(corev1.LabelTopologyZone, 5)},
		SystemSpread:           true,
		RequiredAffinityWeight: 1,
		Preempts:               true,
		CandidatesPercent:      10,
		CandidatesAtLeast:      100,
		Capacity:               []Point{{0, 100}, {100, 0}},
		BindTimeout:            10 * time.Minute,
		FilterTimeout:          10 * time.Second,
		BindingTimeout:         10 * time.Minute,
		Gates:                  true,
	}
}

// scores says that what is left of a resource counts.
func (r *Profile) scores(name corev1.ResourceName) bool {
	return slices.Contains(r.Balanced, name) || slices.ContainsFunc(r.Fit.Resources, func(w WeightedResource) bool { return w.Name == name })
}

// sample is how many feasible nodes are enough when each has to be looked at:
// in a large cluster a share of it gives as good a choice.
func (r *Profile) sample(nodes int) int {
	const few, least = 100, 5
	if nodes < few || r.Percentage >= 100 {
		return nodes
	}
	percent := r.Percentage
	if percent == 0 {
		percent = max(50-nodes/125, least)
	}
	return max(nodes*percent/100, few)
}

// interpolate is the function of the points at x.
func interpolate(points []Point, x int64) int64 {
	for i, p := range points {
		if x > p.Use {
			continue
		}
		if i == 0 {
			return p.Score
		}
		before := points[i-1]
		return before.Score + (p.Score-before.Score)*(x-before.Use)/(p.Use-before.Use)
	}
	return points[len(points)-1].Score
}

// ratio is the function of the points at the share of have that is used.
func ratio(points []Point, used, have int64) int64 {
	if have == 0 || used > have {
		return interpolate(points, 100)
	}
	return interpolate(points, used*100/have)
}
