package core

import (
	"fmt"
	"slices"
	"strings"
)

// Diagnosis is why a pod fits no node.
type Diagnosis struct {
	// Failed are the filters that kept it off some node.
	Failed FilterSet

	message    string
	candidates []int32 // slots where other pods' leaving might help
}

// Message is upstream's text: how many nodes failed for which reason.
func (d *Diagnosis) Message() string { return d.message }

// NoNodes is the message while the cluster has no node at all.
const NoNodes = "no nodes available to schedule pods"

// pinLimit is the number of named nodes up to which they are looked at one by
// one, without a class.
const pinLimit = 8

// Schedule picks the best node for a pod, or says why there is none. It
// changes nothing: PutPod makes the choice count.
func (s *Snapshot) Schedule(p *Pod) (node string, why *Diagnosis) {
	if s.live == 0 {
		return "", &Diagnosis{Failed: ^FilterSet(0), message: NoNodes}
	}
	k := p.classify()
	if k.isPinned && len(k.pinned) <= pinLimit {
		return s.schedulePinned(p, k)
	}
	c := s.classOf(p)
	v, refusal := s.viewOf(p, c.place)
	if refusal != "" {
		return "", s.refuse(refusal)
	}
	if n, ok := s.nominated[p.UID()]; ok && s.passes(c, v, p, n.slot) {
		return s.nodes[n.slot].name, nil
	}
	var slot int32
	if v == nil {
		slot = s.best(c, p)
	} else {
		slot = s.bestNear(c, v, p)
	}
	if slot >= 0 {
		return s.nodes[slot].name, nil
	}
	return "", s.diagnose(c, v, p)
}

// refuse is the diagnosis of a pod whose volumes keep it off every node.
func (s *Snapshot) refuse(reason string) *Diagnosis {
	return &Diagnosis{
		Failed:  FilterSet(0).With(VolumeBinding),
		message: fmt.Sprintf("0/%d nodes are available: %s.", s.live, reason),
	}
}

// best returns the feasible slot with the highest score, -1 when none is.
func (s *Snapshot) best(c *class, p *Pod) int32 {
	if len(c.heap) == 0 {
		return -1
	}
	if s.hasRoom(c, p, c.heap[0]) {
		return c.heap[0]
	}
	found := int32(-1)
	for _, slot := range c.heap {
		if (found < 0 || c.better(slot, found)) && s.hasRoom(c, p, slot) {
			found = slot
		}
	}
	return found
}

// maxScored bounds the nodes that are compared for a pod to which others
// matter. In larger clusters each such pod sees others of them: always the
// best of the heap would let the rest lie idle.
const maxScored = 1000

// bestNear is best for a pod to which other pods matter.
func (s *Snapshot) bestNear(c *class, v *view, p *Pod) int32 {
	feasible := make([]int32, 0, min(len(c.heap), maxScored))
	start := 0
	if len(c.heap) > maxScored {
		start = s.rand.IntN(len(c.heap))
	}
	for i := range c.heap {
		if len(feasible) == maxScored {
			break
		}
		slot := c.heap[(start+i)%len(c.heap)]
		if f, _, _ := v.check(slot); f == Fits && s.hasRoom(c, p, slot) {
			feasible = append(feasible, slot)
		}
	}
	found, top := int32(-1), int64(0)
	for i, extra := range v.scores(feasible) {
		slot := feasible[i]
		total := c.total[slot] + extra
		if found < 0 || total > top || total == top && c.tie[slot] > c.tie[found] {
			found, top = slot, total
		}
	}
	return found
}

// schedulePinned looks at the named nodes only.
func (s *Snapshot) schedulePinned(p *Pod, k *classKeys) (string, *Diagnosis) {
	c := newClass(p, newPlacement(p.Object))
	c.found, _ = s.imagesOf(c.images)
	v, refusal := s.viewOf(p, c.place)
	if refusal != "" {
		return "", s.refuse(refusal)
	}
	found, top := "", int64(-1)
	for _, name := range k.pinned {
		slot, ok := s.slots[name]
		if !ok || !s.passes(c, v, p, slot) {
			continue
		}
		if total := c.scoreAnswer(s, slot, &answer{}); total > top {
			found, top = name, total
		}
	}
	if found != "" {
		return found, nil
	}
	return "", s.diagnose(c, v, p)
}

// passes applies every filter to one slot, whatever the class remembers.
func (s *Snapshot) passes(c *class, v *view, p *Pod, slot int32) bool {
	a := s.answerOf(c, slot)
	if c.judgeAnswer(s, slot, &a) != Fits {
		return false
	}
	if v != nil {
		if f, _, _ := v.check(slot); f != Fits {
			return false
		}
	}
	return s.hasRoom(c, p, slot)
}

// answerOf asks the node object; classes that are built remember the answer.
func (s *Snapshot) answerOf(c *class, slot int32) answer {
	if c.built {
		return *c.place.at(s, slot)
	}
	return c.place.ask(s.nodes[slot].node)
}

// hasRoom says whether the pod fits beside the pods that are nominated to the
// node and that it may not push aside.
func (s *Snapshot) hasRoom(c *class, p *Pod, slot int32) bool {
	if len(s.nodes[slot].nominated) == 0 {
		return true
	}
	fits := true
	s.besideNominated(p, slot, func() { fits = !c.portsTaken(s, slot) && c.resourcesFit(s, slot) })
	return fits
}

// besideNominated runs f while the node is charged for nominated pods of the
// pod's priority or above.
func (s *Snapshot) besideNominated(p *Pod, slot int32, f func()) {
	row := &s.nodes[slot]
	ports := row.ports
	var charged []*Pod
	for _, n := range row.nominated {
		if n.pod.UID() != p.UID() && n.pod.Priority >= p.Priority {
			charged = append(charged, n.pod)
			s.charge(slot, n.pod, 1)
			row.ports = append(slices.Clip(row.ports), n.pod.ports...)
		}
	}
	s.maxPods[slot] -= int64(len(charged))
	f()
	s.maxPods[slot] += int64(len(charged))
	for _, pod := range charged {
		s.charge(slot, pod, -1)
	}
	row.ports = ports
}

// diagnose counts the reasons.
func (s *Snapshot) diagnose(c *class, v *view, p *Pod) *Diagnosis {
	shared := (v == nil || v.onlyScores()) && c.built && len(s.nominated) == 0
	if shared && c.diagnosis != nil {
		return c.diagnosis
	}
	d := &Diagnosis{}
	counts := map[string]int{}
	pinned := p.classify()
	for i := range s.nodes {
		if s.nodes[i].node == nil {
			continue
		}
		slot := int32(i)
		if pinned.isPinned {
			if _, named := slices.BinarySearch(pinned.pinned, s.nodes[i].name); !named {
				counts["node(s) didn't satisfy plugin(s) [NodeAffinity]"]++
				d.Failed = d.Failed.With(NodeAffinity)
				continue
			}
		}
		f, reasons, hopeless := s.explain(c, v, p, slot)
		for _, r := range reasons {
			counts[r]++
		}
		d.Failed = d.Failed.With(f)
		if !hopeless {
			d.candidates = append(d.candidates, slot)
		}
	}
	d.message = tell(s.live, counts)
	if shared {
		c.diagnosis = d
	}
	return d
}

// explain says which filter a slot fails, in upstream's words.
func (s *Snapshot) explain(c *class, v *view, p *Pod, slot int32) (f Filter, reasons []string, hopeless bool) {
	a := s.answerOf(c, slot)
	resources := func() {
		if c.portsTaken(s, slot) {
			f, reasons = NodePorts, []string{"node(s) didn't have free ports for the requested pod ports"}
			return
		}
		f = NodeResourcesFit
		reasons, hopeless = c.shortages(s, slot)
	}
	switch f = c.judgeAnswer(s, slot, &a); f {
	case NodePorts, NodeResourcesFit:
		resources()
		return f, reasons, hopeless
	case Fits:
	default:
		return f, []string{reasonOf(f)}, true
	}
	if v != nil {
		if f, reason, hopeless := v.check(slot); f != Fits {
			return f, []string{reason}, hopeless
		}
	}
	s.besideNominated(p, slot, resources)
	return f, reasons, hopeless
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

// MightFit says whether the node could ever take the pod: its object and its
// size allow it, whatever runs there.
func (s *Snapshot) MightFit(p *Pod, node string) bool {
	slot, ok := s.slots[node]
	if !ok {
		return false
	}
	if s.ask(p, slot).verdict != Fits {
		return false
	}
	n := &p.needs
	if n.cpu > s.allocatable[cpu][slot] || n.memory > s.allocatable[memory][slot] || n.ephemeral > s.allocatable[ephemeral][slot] {
		return false
	}
	for _, x := range n.scalars {
		if x.quantity > s.scalar(x.name).allocatable[slot] {
			return false
		}
	}
	return s.maxPods[slot] > 0
}

// FitsNow says whether the node can take the pod, affinity between pods and
// spreading aside.
func (s *Snapshot) FitsNow(p *Pod, node string) bool {
	slot, ok := s.slots[node]
	if !ok {
		return false
	}
	a := s.ask(p, slot)
	c := &class{needs: p.needs, ports: p.ports}
	return c.judgeAnswer(s, slot, &a) == Fits
}

// ask puts a pod's placement to one node. Pinned pods share theirs with
// nobody, so nothing is remembered for them.
func (s *Snapshot) ask(p *Pod, slot int32) answer {
	k := p.classify()
	if !k.isPinned || len(k.pinned) > pinLimit {
		return *s.placementOf(p).at(s, slot)
	}
	if _, named := slices.BinarySearch(k.pinned, s.nodes[slot].name); !named {
		return answer{verdict: NodeAffinity}
	}
	return newPlacement(p.Object).ask(s.nodes[slot].node)
}
