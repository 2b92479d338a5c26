// Package core decides where pods go. It has no goroutine, no clock and no
// I/O: a Snapshot is told of nodes and pods, and answers Schedule and Preempt.
//
// Terms. A slot is the number of a node: what is known of nodes stands in
// columns indexed by it. A placement is what pods ask of a node object
// (selector, affinity, tolerations); a class is a placement with requests,
// ports and images; a relation is what pods ask of other pods (affinity,
// spreading), counted by slot and summed by topology domain; a group is a
// class with its relations. Every pod of a group gets the same verdict and
// score on a node, so a group keeps its feasible slots in buckets: within one
// all labels mean the same, and the best slot lies on top of a heap. A change
// of a node is noted in a log; a group reads the log from where it stopped and
// judges those slots only. The decision for the next pod of a group therefore
// costs what changed since its last one and the number of buckets, not the
// number of nodes.
//
// Volumes and extenders have a say on each node by itself: for pods that have
// those, nodes are looked at one by one, in large clusters a sample.
//
// To add a filter: name it among the Filters in the order in which it applies;
// judge by it in placement.ask (the node object alone), class.judge (what the
// node has left), group.check (other pods) or claimsView.check (volumes); say
// why in upstream's words; put what it compares into the class key; wake those
// that it rejected where the scheduler observes the cause; add cases to
// testdata.
//
// A Snapshot is not safe for concurrent use.
package core

import (
	"math/rand/v2"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
)

// logSize bounds how far a class may fall behind before it starts afresh.
const logSize = 1 << 13

// Snapshot is the cluster as the scheduler believes it to be, binds that are
// still being written included.
type Snapshot struct {
	slots map[string]int32
	free  []int32
	nodes []nodeRow
	live  int // rows with a node object

	// One element a slot each.
	allocatable [3][]int64 // cpu in millis, memory, ephemeral storage
	requested   [3][]int64
	nonzero     [2][]int64 // cpu, memory
	maxPods     []int64
	scalars     map[corev1.ResourceName]*scalarColumn

	pods       map[types.UID]*placed
	priorities map[int32]int // pods on nodes
	nominated  map[types.UID]*nomination
	namespaces map[string]labels.Set
	images     map[string]*imageState

	changes [logSize]int32
	seq     uint64 // changes ever logged

	placements cacheOf[placement]
	groups     cacheOf[group]
	topology   topologyIndex
	storage    volumeIndex
	devices    Devices
	siblings   siblingIndex
	rand       *rand.Rand
}

const (
	cpu = iota
	memory
	ephemeral
)

type nodeRow struct {
	name string
	node *corev1.Node // nil while only its pods are known
	// generation grows when the node object changes: placements compare it.
	generation uint32
	pods       []*placed
	ports      []hostPort
	nominated  []*nomination
}

// placed is a pod on a node, bound or about to be.
type placed struct {
	pod   *Pod
	slot  int32
	index int // in the row's pods
	// leaving says that it is to be deleted, even if that is not seen yet.
	leaving bool
}

type nomination struct {
	pod  *Pod
	slot int32
}

// scalarColumn is an extended resource that some node has or some pod on a node
// wants. used is how many numbers are not zero: when none is, the column goes,
// for pods and nodes may name what they like.
type scalarColumn struct {
	allocatable, requested []int64
	used                   int
}

// NewSnapshot returns an empty cluster. Ties between nodes are broken by seed.
func NewSnapshot(seed uint64) *Snapshot {
	return &Snapshot{
		slots:      map[string]int32{},
		scalars:    map[corev1.ResourceName]*scalarColumn{},
		pods:       map[types.UID]*placed{},
		priorities: map[int32]int{},
		nominated:  map[types.UID]*nomination{},
		namespaces: map[string]labels.Set{},
		images:     map[string]*imageState{},
		placements: newCacheOf[placement](256),
		groups:     newCacheOf[group](128),
		topology:   newTopologyIndex(),
		storage:    newVolumeIndex(),
		siblings:   newSiblingIndex(),
		rand:       rand.New(rand.NewPCG(seed, seed^0x9e3779b97f4a7c15)),
	}
}

// Nodes returns how many nodes there are.
func (s *Snapshot) Nodes() int { return s.live }

// Node returns the node of this name, nil when there is none.
func (s *Snapshot) Node(name string) *corev1.Node {
	if slot, ok := s.slots[name]; ok {
		return s.nodes[slot].node
	}
	return nil
}

// Pod returns the pod on a node with this uid and the node's name.
func (s *Snapshot) Pod(uid types.UID) (pod *Pod, node string, ok bool) {
	at, ok := s.pods[uid]
	if !ok {
		return nil, "", false
	}
	return at.pod, s.nodes[at.slot].name, true
}

// slotOf returns the row of a node, made when there is none.
func (s *Snapshot) slotOf(name string) int32 {
	if slot, ok := s.slots[name]; ok {
		return slot
	}
	var slot int32
	if n := len(s.free); n > 0 {
		slot, s.free = s.free[n-1], s.free[:n-1]
	} else {
		slot = int32(len(s.nodes))
		s.nodes = append(s.nodes, nodeRow{})
		for r := range s.allocatable {
			s.allocatable[r] = append(s.allocatable[r], 0)
			s.requested[r] = append(s.requested[r], 0)
		}
		for r := range s.nonzero {
			s.nonzero[r] = append(s.nonzero[r], 0)
		}
		s.maxPods = append(s.maxPods, 0)
		for _, c := range s.scalars {
			c.allocatable, c.requested = append(c.allocatable, 0), append(c.requested, 0)
		}
	}
	s.nodes[slot].name = name
	s.nodes[slot].generation++
	s.slots[name] = slot
	return slot
}

// release gives a row back once neither node nor pods use it.
func (s *Snapshot) release(slot int32) {
	row := &s.nodes[slot]
	if row.node != nil || len(row.pods) > 0 || len(row.nominated) > 0 {
		return
	}
	delete(s.slots, row.name)
	s.nodes[slot] = nodeRow{generation: row.generation + 1}
	s.free = append(s.free, slot)
}

// changed notes that verdicts and scores of the slot are out of date.
func (s *Snapshot) changed(slot int32) {
	s.changes[s.seq%logSize] = slot
	s.seq++
}

// scalar is what a node has of an extended resource, and what is requested of it.
func (s *Snapshot) scalar(name corev1.ResourceName, slot int32) (allocatable, requested int64) {
	if c, ok := s.scalars[name]; ok {
		return c.allocatable[slot], c.requested[slot]
	}
	return 0, 0
}

// setScalar replaces both.
func (s *Snapshot) setScalar(name corev1.ResourceName, slot int32, allocatable, requested int64) {
	c, ok := s.scalars[name]
	if !ok {
		if allocatable == 0 && requested == 0 {
			return
		}
		c = &scalarColumn{allocatable: make([]int64, len(s.nodes)), requested: make([]int64, len(s.nodes))}
		s.scalars[name] = c
	}
	set := func(at *int64, v int64) {
		if *at != 0 {
			c.used--
		}
		if *at = v; v != 0 {
			c.used++
		}
	}
	set(&c.allocatable[slot], allocatable)
	set(&c.requested[slot], requested)
	if c.used == 0 {
		delete(s.scalars, name)
	}
}

// NodeChange says what is new about a node, as far as it matters to pods.
type NodeChange uint8

// The ways in which a node may have become more attractive.
const (
	NodeAdded NodeChange = 1 << iota
	NodeAllocatable
	NodeLabels
	NodeTaints // or cordoned, or uncordoned
	NodeFeatures
)

// SetNode adds or replaces a node. Zero means that nothing relevant changed,
// as with a heartbeat.
func (s *Snapshot) SetNode(node *corev1.Node) NodeChange {
	slot := s.slotOf(node.Name)
	row := &s.nodes[slot]
	old := row.node
	row.node = node
	var change NodeChange
	if old == nil {
		s.live++
		change = NodeAdded
	}
	if s.setAllocatable(slot, node.Status.Allocatable) {
		change |= NodeAllocatable
	}
	if old == nil || !sameLabels(old.Labels, node.Labels) {
		change |= NodeLabels
		s.topology.setLabels(slot, node.Labels)
	}
	if old == nil || old.Spec.Unschedulable != node.Spec.Unschedulable || !sameTaints(old.Spec.Taints, node.Spec.Taints) {
		change |= NodeTaints
	}
	if old == nil || !slices.Equal(old.Status.DeclaredFeatures, node.Status.DeclaredFeatures) {
		change |= NodeFeatures
	}
	if change&^NodeAllocatable != 0 {
		row.generation++
	}
	images := s.setImages(slot, old, node)
	if change != 0 || images {
		s.changed(slot)
	}
	return change
}

// RemoveNode forgets a node; its pods stay until they are removed themselves.
func (s *Snapshot) RemoveNode(name string) {
	slot, ok := s.slots[name]
	if !ok || s.nodes[slot].node == nil {
		return
	}
	row := &s.nodes[slot]
	s.setImages(slot, row.node, nil)
	row.node = nil
	row.generation++
	s.live--
	s.setAllocatable(slot, nil)
	s.topology.setLabels(slot, nil)
	s.changed(slot)
	s.release(slot)
}

func (s *Snapshot) setAllocatable(slot int32, list corev1.ResourceList) bool {
	differs := false
	set := func(column []int64, v int64) {
		v = clamp(v)
		if column[slot] != v {
			column[slot], differs = v, true
		}
	}
	set(s.allocatable[cpu], list.Cpu().MilliValue())
	set(s.allocatable[memory], list.Memory().Value())
	set(s.allocatable[ephemeral], list.StorageEphemeral().Value())
	set(s.maxPods, list.Pods().Value())
	have := func(name corev1.ResourceName, v int64) {
		if old, requested := s.scalar(name, slot); old != v {
			s.setScalar(name, slot, v, requested)
			differs = true
		}
	}
	for name := range s.scalars {
		if _, listed := list[name]; !listed {
			have(name, 0)
		}
	}
	for name, q := range list {
		switch name {
		case corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage, corev1.ResourcePods:
		default:
			have(name, clamp(q.Value()))
		}
	}
	return differs
}

// PutPod puts a pod on a node, or replaces what is known of it there. An
// assumed pod and its confirmation are the same to the snapshot.
func (s *Snapshot) PutPod(pod *Pod, node string) {
	if at, ok := s.pods[pod.UID()]; ok {
		if s.nodes[at.slot].name == node && at.pod.SameFootprint(pod) {
			at.pod = pod // Pods are immutable: writers read them without a lock
			return
		}
		s.RemovePod(pod.UID())
	}
	slot := s.slotOf(node)
	row := &s.nodes[slot]
	at := &placed{pod: pod, slot: slot, index: len(row.pods)}
	row.pods = append(row.pods, at)
	row.ports = append(row.ports, pod.ports...)
	s.pods[pod.UID()] = at
	s.priorities[pod.Priority]++
	s.charge(slot, pod, 1)
	s.topology.podChanged(s.namespaces, pod, slot, 1)
	s.useClaims(pod, 1)
	s.changed(slot)
	s.Denominate(pod.UID())
}

// Leaves notes that a pod is to be deleted, or is not to be any more.
func (s *Snapshot) Leaves(uid types.UID, leaves bool) {
	if at, ok := s.pods[uid]; ok {
		at.leaving = leaves
	}
}

// RemovePod takes a pod off its node.
func (s *Snapshot) RemovePod(uid types.UID) {
	at, ok := s.pods[uid]
	if !ok {
		return
	}
	delete(s.pods, uid)
	if s.priorities[at.pod.Priority]--; s.priorities[at.pod.Priority] == 0 {
		delete(s.priorities, at.pod.Priority)
	}
	row := &s.nodes[at.slot]
	last := len(row.pods) - 1
	row.pods[at.index] = row.pods[last]
	row.pods[at.index].index = at.index
	row.pods[last] = nil
	row.pods = row.pods[:last]
	for _, port := range at.pod.ports {
		if i := slices.Index(row.ports, port); i >= 0 {
			row.ports = slices.Delete(row.ports, i, i+1)
		}
	}
	s.charge(at.slot, at.pod, -1)
	s.topology.podChanged(s.namespaces, at.pod, at.slot, -1)
	s.useClaims(at.pod, -1)
	s.changed(at.slot)
	s.release(at.slot)
}

func (s *Snapshot) charge(slot int32, pod *Pod, sign int64) {
	n := &pod.needs
	s.requested[cpu][slot] += sign * n.cpu
	s.requested[memory][slot] += sign * n.memory
	s.requested[ephemeral][slot] += sign * n.ephemeral
	s.nonzero[cpu][slot] += sign * n.nonzeroCPU
	s.nonzero[memory][slot] += sign * n.nonzeroMemory
	for _, x := range n.scalars {
		allocatable, requested := s.scalar(x.name, slot)
		s.setScalar(x.name, slot, allocatable, requested+sign*x.quantity)
	}
}

// useClaims counts a pod's claims as used (1) or not any more (-1).
func (s *Snapshot) useClaims(pod *Pod, n int) {
	if len(pod.Object.Spec.Volumes) == 0 {
		return
	}
	for _, name := range claimNames(pod.Object) {
		if s.storage.users[name] += n; s.storage.users[name] == 0 {
			delete(s.storage.users, name)
		}
	}
}

// SetNamespace tells the labels of a namespace, for namespace selectors.
func (s *Snapshot) SetNamespace(name string, set map[string]string) (differs bool) {
	if old, ok := s.namespaces[name]; ok && sameLabels(old, set) {
		return false
	}
	s.namespaces[name] = set
	s.topology.forgetSelected()
	return true
}

// RemoveNamespace forgets a namespace's labels.
func (s *Snapshot) RemoveNamespace(name string) {
	if _, ok := s.namespaces[name]; ok {
		delete(s.namespaces, name)
		s.topology.forgetSelected()
	}
}

// Nominate reserves room on a node for a pod that is expected there: pods of
// lower priority may not take the room meanwhile. The node may be still to come.
func (s *Snapshot) Nominate(pod *Pod, node string) {
	s.Denominate(pod.UID())
	slot := s.slotOf(node)
	n := &nomination{pod: pod, slot: slot}
	s.nominated[pod.UID()] = n
	s.nodes[slot].nominated = append(s.nodes[slot].nominated, n)
}

// Denominate gives the reserved room of a pod back.
func (s *Snapshot) Denominate(uid types.UID) {
	n, ok := s.nominated[uid]
	if !ok {
		return
	}
	delete(s.nominated, uid)
	row := &s.nodes[n.slot]
	row.nominated = slices.DeleteFunc(row.nominated, func(o *nomination) bool { return o == n })
	s.release(n.slot)
}

// Nomination returns the pod and the node of a nomination, "" without one.
func (s *Snapshot) Nomination(uid types.UID) (pod *Pod, node string) {
	if n, ok := s.nominated[uid]; ok {
		return n.pod, s.nodes[n.slot].name
	}
	return nil, ""
}

// Nominated returns the node that a pod is nominated to, or "".
func (s *Snapshot) Nominated(uid types.UID) string {
	if n, ok := s.nominated[uid]; ok {
		return s.nodes[n.slot].name
	}
	return ""
}

func sameLabels(a, b map[string]string) bool {
	if len(a) != len(b) {
		return false
	}
	for k, v := range a {
		if w, ok := b[k]; !ok || v != w {
			return false
		}
	}
	return true
}

func sameTaints(a, b []corev1.Taint) bool {
	return slices.EqualFunc(a, b, func(x, y corev1.Taint) bool {
		return x.Key == y.Key && x.Value == y.Value && x.Effect == y.Effect
	})
}
