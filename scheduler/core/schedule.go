package core

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// attempt is one decision: what the pod's group knows, and what its volumes
// ask for.
type attempt struct {
	s      *Snapshot
	pod    *Pod
	group  *group
	claims *claimsView
	// devices is nil for pods that want none.
	devices DeviceView
}

// attemptOf prepares a decision; a diagnosis says that no node will do.
func (s *Snapshot) attemptOf(p *Pod) (*attempt, *Diagnosis) {
	if s.live == 0 {
		return nil, &Diagnosis{Failed: ^FilterSet(0), refusal: noNodes}
	}
	k := p.classify()
	if k.isPinned && len(k.pinned) == 0 {
		return nil, s.refuse(NodeAffinity, "pod affinity terms conflict")
	}
	claims, f, refusal := s.claimsOf(p)
	if refusal != "" {
		return nil, s.refuse(f, refusal)
	}
	a := &attempt{s: s, pod: p, claims: claims}
	if s.WantsDevices(p) {
		if a.devices, refusal = s.devices.For(p.Object); refusal != "" {
			return nil, s.refuse(DynamicResources, refusal)
		}
	}
	if k.isPinned && len(k.pinned) == 1 {
		a.group = s.probeOf(p)
	} else {
		a.group = s.groupOf(p)
	}
	return a, nil
}

// Schedule picks the best node for a pod, or says why there is none. It
// changes nothing: PutPod makes the choice count.
func (s *Snapshot) Schedule(p *Pod) (node string, why *Diagnosis) {
	a, why := s.attemptOf(p)
	if why != nil {
		return "", why
	}
	list := a.nominated()
	if len(list) == 0 {
		list = a.candidates(false)
	}
	if why := a.failed(); why != nil {
		return "", why
	}
	if len(list) == 0 {
		return "", a.diagnose()
	}
	return s.nodes[a.best(list)].name, nil
}

// Feasible is a node that can take a pod.
type Feasible struct {
	Node  *corev1.Node
	Score int64
}

// Feasible returns the nodes that can take a pod, with their scores, for those
// who have a say in the choice; in large clusters not all of them. With none
// it says why.
func (s *Snapshot) Feasible(p *Pod) ([]Feasible, *Diagnosis) {
	a, why := s.attemptOf(p)
	if why != nil {
		return nil, why
	}
	list := a.candidates(true)
	if why := a.failed(); why != nil {
		return nil, why
	}
	if len(list) == 0 {
		return nil, a.diagnose()
	}
	out := make([]Feasible, len(list))
	for i, total := range a.group.totals(s, list) {
		out[i] = Feasible{s.nodes[list[i].slot].node, total}
	}
	return out, nil
}

// Nominee returns the node that a pod is nominated to, if it can take the pod:
// it is asked for before others are looked at.
func (s *Snapshot) Nominee(p *Pod) []Feasible {
	n, ok := s.nominated[p.UID()]
	if !ok || !s.Passes(p, s.nodes[n.slot].name) {
		return nil
	}
	return []Feasible{{Node: s.nodes[n.slot].node}}
}

// Passes says whether a node can take a pod now.
func (s *Snapshot) Passes(p *Pod, node string) bool {
	slot, ok := s.slots[node]
	a, why := s.attemptOf(p)
	return ok && why == nil && a.allows(slot) && a.passes(slot)
}

func (a *attempt) nominated() []candidate {
	if n, ok := a.s.nominated[a.pod.UID()]; ok && a.passes(n.slot) {
		return []candidate{{slot: n.slot, n: 1}}
	}
	return nil
}

// candidates lists feasible slots: the best of each bucket, or, when each
// slot has to be looked at or all are wanted, so many as the profile samples.
func (a *attempt) candidates(all bool) []candidate {
	switch k := a.pod.classify(); {
	case !a.group.built:
		if slot, ok := a.s.slots[k.pinned[0]]; ok && a.passes(slot) {
			return []candidate{{slot: slot, n: 1}}
		}
		return nil
	case all || a.claims != nil || a.devices != nil:
		return a.each()
	}
	list := make([]candidate, 0, len(a.group.list))
	for _, b := range a.group.list {
		if f, _, _ := a.group.check(b.heap[0], false); f != Fits {
			continue
		}
		if slot := a.roomIn(b); slot >= 0 {
			list = append(list, candidate{slot: slot, n: len(b.heap)})
		}
	}
	return list
}

func (a *attempt) each() (list []candidate) {
	s, g := a.s, a.group
	enough := a.pod.rules.sample(s.live)
	start := s.rand.IntN(len(s.nodes))
	for i := range s.nodes {
		slot := int32((start + i) % len(s.nodes))
		if g.verdict[slot] != Fits || !a.allows(slot) || !a.passes(slot) {
			continue
		}
		c := candidate{slot: slot, n: 1}
		if a.claims != nil {
			c.extra = a.claims.score(s, slot)
		}
		if a.devices != nil {
			c.devices = a.devices.Score(s.nodes[slot].name)
			c.extra += a.roomScore(slot)
		}
		if list = append(list, c); len(list) == enough {
			break
		}
	}
	return list
}

// allows says whether the pod is not pinned to other nodes.
func (a *attempt) allows(slot int32) bool {
	k := a.pod.classify()
	return !k.isPinned || k.names(a.s.nodes[slot].name)
}

// best is the candidate with the highest score.
func (a *attempt) best(list []candidate) int32 {
	if len(list) == 1 {
		return list[0].slot
	}
	best, top := list[0].slot, int64(0)
	for i, total := range a.group.totals(a.s, list) {
		slot := list[i].slot
		if i == 0 || total > top || total == top && a.group.tie[slot] > a.group.tie[best] {
			best, top = slot, total
		}
	}
	return best
}

// roomIn returns the best slot of a bucket that has room beside the pods that
// are nominated to it, -1 for none. It walks the heap from the top.
func (a *attempt) roomIn(b *bucket) int32 {
	open := []int{0}
	for len(open) > 0 {
		next := 0
		for i := range open {
			if a.group.better(b.heap[open[i]], b.heap[open[next]]) {
				next = i
			}
		}
		at := open[next]
		if a.fitsBesideNominated(b.heap[at]) {
			return b.heap[at]
		}
		open[next] = open[len(open)-1]
		open = open[:len(open)-1]
		for child := 2*at + 1; child <= 2*at+2 && child < len(b.heap); child++ {
			open = append(open, child)
		}
	}
	return -1
}

// passes applies every filter to one slot, whatever the group remembers.
func (a *attempt) passes(slot int32) bool {
	f, _, _ := a.now(slot, false)
	return f == Fits && a.fitsBesideNominated(slot)
}

// now applies the filters to a slot as it is. Live is for the time of a trial.
func (a *attempt) now(slot int32, live bool) (f Filter, reasons []string, hopeless bool) {
	g, s := a.group, a.s
	if s.nodes[slot].node == nil {
		return NodeAbsent, nil, true
	}
	answer := g.place.at(s, slot)
	switch f = g.judge(s, slot, answer); f {
	case Fits:
	case NodePorts:
		return f, []string{"node(s) didn't have free ports for the requested pod ports"}, false
	case NodeResourcesFit:
		reasons, hopeless = g.shortages(s, slot)
		return f, reasons, hopeless
	default:
		return f, []string{answer.reason()}, true
	}
	if a.claims != nil {
		if f, reasons, hopeless = a.claims.check(s, slot); f != Fits {
			return f, reasons, hopeless
		}
	}
	f, reason, hopeless := g.check(slot, live)
	if f == Fits && a.devices != nil {
		if reason = a.devices.Check(s.nodes[slot].node); reason != "" {
			f, hopeless = DynamicResources, true
		}
	}
	if f != Fits {
		reasons = []string{reason}
	}
	return f, reasons, hopeless
}

// fitsBesideNominated says whether the pod fits beside the pods that are
// nominated to the slot and that it may not push aside. Most often the room
// alone tells that it does not.
func (a *attempt) fitsBesideNominated(slot int32) bool {
	if len(a.s.nodes[slot].nominated) == 0 {
		return true
	}
	if !a.s.hasRoom(a.pod, slot, a.s.reservedFrom(a.pod.Priority, slot)) {
		return false
	}
	f, _, _, _ := a.besideNominated(slot)
	return f == Fits
}

// besideNominated applies the filters as though those pods were there; any
// says whether there are any.
func (a *attempt) besideNominated(slot int32) (f Filter, reasons []string, hopeless, any bool) {
	row := &a.s.nodes[slot]
	if len(row.nominated) == 0 {
		return Fits, nil, false, false
	}
	t := a.try(slot)
	defer t.end()
	for _, n := range row.nominated {
		if n.pod.UID() != a.pod.UID() && n.pod.Priority >= a.pod.Priority {
			t.add(n.pod)
			any = true
		}
	}
	if !any {
		return Fits, nil, false, false
	}
	f, reasons, hopeless = t.check()
	return f, reasons, hopeless, true
}

// MightFit says whether the node could ever take the pod: its object and its
// size allow it, whatever runs there.
func (s *Snapshot) MightFit(p *Pod, node string) bool {
	slot, ok := s.slots[node]
	if !ok || s.ask(p, slot).verdict != Fits {
		return false
	}
	if !p.rules.Filters.Has(NodeResourcesFit) {
		return true
	}
	c := &class{rules: p.rules}
	n := &p.needs
	if n.cpu > s.allocatable[cpu][slot] || n.memory > s.allocatable[memory][slot] || n.ephemeral > s.allocatable[ephemeral][slot] {
		return false
	}
	for _, x := range n.scalars {
		if allocatable, _ := s.scalar(x.name, slot); x.quantity > allocatable && !c.ignores(s, x.name, allocatable) {
			return false
		}
	}
	return s.maxPods[slot] > 0
}

// FitsNow says whether the node can take the pod, affinity between pods,
// spreading and volumes aside.
func (s *Snapshot) FitsNow(p *Pod, node string) bool {
	slot, ok := s.slots[node]
	if !ok {
		return false
	}
	a := s.ask(p, slot)
	c := &class{rules: p.rules, needs: p.needs, ports: p.ports}
	return c.judge(s, slot, &a) == Fits
}

// ask puts a pod's placement to one node. Pinned pods share theirs with
// nobody, so nothing is remembered for them.
func (s *Snapshot) ask(p *Pod, slot int32) answer {
	k := p.classify()
	if !k.isPinned {
		return *s.placementOf(p).at(s, slot)
	}
	if !k.names(s.nodes[slot].name) {
		return answer{verdict: NodeAffinity}
	}
	return newPlacement(p).ask(s.nodes[slot].node)
}

// Concerns says whether the coming or going of other may change what the pod
// is told about the company on nodes.
func (s *Snapshot) Concerns(p, other *Pod) bool {
	k := p.classify()
	hard := k.hard
	if len(p.Object.Spec.TopologySpreadConstraints) == 0 {
		hard, _ = s.defaultSpread(p.Object, p.rules)
	}
	for _, t := range hard {
		if t.matches(s.namespaces, other.Object) {
			return true
		}
	}
	if p.affinity != nil {
		for _, t := range slices.Concat(p.affinity.near, p.affinity.apart) {
			if t.matches(s.namespaces, other.Object) {
				return true
			}
		}
	}
	return other.affinity != nil &&
		slices.ContainsFunc(other.affinity.apart, func(t *term) bool { return t.matches(s.namespaces, p.Object) })
}

// Claims says whether the pod uses a claim.
func (p *Pod) Claims(name types.NamespacedName) bool {
	return slices.Contains(claimNames(p.Object), name)
}

// Diagnosis is why a pod fits no node.
type Diagnosis struct {
	// Failed are the filters that kept it off some node.
	Failed FilterSet
	// Err says that nothing was decided: the pod is to be tried again.
	Err error

	refusal    string // that holds for all nodes
	nodes      int
	counts     map[string]int
	candidates []int32 // slots where other pods' leaving might help
}

// noNodes is the message while the cluster has no node at all.
const noNodes = "no nodes available to schedule pods"

// NoNodes says that there is none, and so nobody to drive out.
func (d *Diagnosis) NoNodes() bool { return d.nodes == 0 }

// Message is upstream's text: how many nodes failed for which reason.
func (d *Diagnosis) Message() string {
	switch {
	case d.refusal == noNodes:
		return noNodes
	case d.refusal != "":
		return fmt.Sprintf("0/%d nodes are available: %s.", d.nodes, d.refusal)
	}
	return tell(d.nodes, d.counts)
}

// Rejected is a node that fits but for somebody outside who turned it down.
type Rejected struct {
	Node, Reason string
	// Hopeless says that driving pods out would not change that.
	Hopeless bool
}

// Reject makes the diagnosis of a pod whose feasible nodes were all turned
// down by extenders.
func (s *Snapshot) Reject(p *Pod, rejected []Rejected) *Diagnosis {
	a, d := s.attemptOf(p)
	if d != nil {
		return d
	}
	d = a.diagnose()
	d = &Diagnosis{Failed: d.Failed.With(Extenders), nodes: d.nodes, counts: maps.Clone(d.counts), candidates: slices.Clone(d.candidates)}
	for _, r := range rejected {
		slot, ok := s.slots[r.Node]
		if !ok {
			continue
		}
		d.counts[r.Reason]++
		if r.Hopeless {
			d.candidates = slices.DeleteFunc(d.candidates, func(c int32) bool { return c == slot })
		} else if !slices.Contains(d.candidates, slot) {
			d.candidates = append(d.candidates, slot)
		}
	}
	return d
}

// failed is the diagnosis of a pod for which a filter broke off, nil if none
// did. Nodes that were found before that do not count, as upstream's do not.
func (a *attempt) failed() *Diagnosis {
	if a.devices == nil || a.devices.Err() == nil {
		return nil
	}
	d := a.s.refuse(DynamicResources, a.devices.Err().Error())
	d.Err = fmt.Errorf("running %q filter plugin: %w", "DynamicResources", a.devices.Err())
	return d
}

// refuse is the diagnosis of a pod that something keeps off every node.
func (s *Snapshot) refuse(f Filter, reason string) *Diagnosis {
	return &Diagnosis{Failed: FilterSet(0).With(f), nodes: s.live, refusal: reason}
}

// diagnose counts the reasons. Pods of a group share it until something
// changes.
func (a *attempt) diagnose() *Diagnosis {
	s, g := a.s, a.group
	shared := a.claims == nil && a.devices == nil && g.built && len(s.nominated) == 0
	if shared && g.diagnosis != nil {
		return g.diagnosis
	}
	d := &Diagnosis{nodes: s.live, counts: map[string]int{}}
	for i := range s.nodes {
		if s.nodes[i].node == nil {
			continue
		}
		slot := int32(i)
		if !a.allows(slot) {
			d.counts["node(s) didn't satisfy plugin(s) [NodeAffinity]"]++
			d.Failed = d.Failed.With(NodeAffinity)
			continue
		}
		f, reasons, hopeless := a.explain(slot)
		if f == Fits {
			continue
		}
		for _, r := range reasons {
			d.counts[r]++
		}
		d.Failed = d.Failed.With(f)
		if !hopeless {
			d.candidates = append(d.candidates, slot)
		}
	}
	if shared {
		g.diagnosis = d
	}
	return d
}

// explain says which filter a slot fails, in upstream's words: with the pods
// that are nominated to it first.
func (a *attempt) explain(slot int32) (f Filter, reasons []string, hopeless bool) {
	if f, reasons, hopeless, any := a.besideNominated(slot); any && f != Fits {
		return f, reasons, hopeless
	}
	return a.now(slot, false)
}

// tell makes the message: the counted reasons in alphabetical order.
func tell(nodes int, counts map[string]int) string {
	parts := make([]string, 0, len(counts))
	for reason, n := range counts {
		parts = append(parts, fmt.Sprintf("%d %s", n, reason))
	}
	slices.Sort(parts)
	out := fmt.Sprintf("0/%d nodes are available:", nodes)
	if len(parts) > 0 {
		out += " " + strings.Join(parts, ", ") + "."
	}
	return out
}
