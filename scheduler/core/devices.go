package core

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// Devices allocates what pods ask for by resource claims, and by the names of
// extended resources that devices stand for.
type Devices interface {
	// For looks up what a pod asks for; nil when that is nothing. refusal says in
	// upstream's words why no node at all will do.
	For(pod *corev1.Pod) (view DeviceView, refusal string)
	// Backs says whether devices stand for an extended resource on nodes that
	// have none of it.
	Backs(name corev1.ResourceName) bool
}

// DeviceView is what a pod's wishes for devices mean for nodes.
type DeviceView interface {
	// Check says why a node cannot meet them, "" if it can.
	Check(node *corev1.Node) string
	// Score says how well a node that passed Check meets them.
	Score(node string) int64
	// Err is why a Check came to nothing, and no other would come to more: they
	// cannot be judged, or not in time.
	Err() error
	// Room is how many devices a node has that stand for a resource, and how many
	// of them are taken.
	Room(node *corev1.Node, name corev1.ResourceName) (have, taken int64)
}

// SetDevices tells who allocates devices; without, claims do not matter.
func (s *Snapshot) SetDevices(d Devices) { s.devices = d }

// WantsDevices says whether the allocator of devices has a say about the pod.
func (s *Snapshot) WantsDevices(p *Pod) bool {
	return s.devices != nil && p.rules.Filters.Has(DynamicResources) &&
		(len(p.Object.Spec.ResourceClaims) > 0 || slices.ContainsFunc(p.needs.scalars, func(x scalar) bool { return s.devices.Backs(x.name) }))
}

// Remapped says that devices stand for other resources than before: no verdict
// holds.
func (s *Snapshot) Remapped() {
	for slot := range s.nodes {
		s.changed(int32(slot))
	}
}

// roomScore is by how much the room on a node scores higher when devices count as
// the resources that they stand for. Profiles seldom name any.
func (a *attempt) roomScore(slot int32) int64 {
	g, s := a.group, a.s
	node := s.nodes[slot].node
	for _, x := range g.needs.scalars {
		if allocatable, _ := s.scalar(x.name, slot); allocatable == 0 && g.rules.scores(x.name) && s.devices.Backs(x.name) {
			with := g.class
			with.devices = func(name corev1.ResourceName) (have, taken int64) { return a.devices.Room(node, name) }
			return with.score(s, slot) - g.score(s, slot)
		}
	}
	return 0
}

// addDevices prefers nodes whose devices are what claims name first.
func (g *group) addDevices(list []candidate, out []int64) {
	var highest int64
	for _, c := range list {
		highest = max(highest, c.devices)
	}
	if highest == 0 {
		return
	}
	for i, c := range list {
		out[i] += g.rules.Weights.Devices * (maxScore * c.devices / highest)
	}
}
