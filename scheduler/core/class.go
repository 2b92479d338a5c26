package core

import (
	"math"
	"slices"
)

const maxScore = 100

// Weights of the scores that are added up, as in upstream's default profile.
const (
	weightFit      = 1
	weightBalanced = 1
	weightImage    = 1
	weightAffinity = 2
	weightTaint    = 3
	weightSpread   = 2
	weightInterPod = 2
)

// class is the pods that get the same verdict and score on every node.
type class struct {
	place  *placement
	needs  needs
	ports  []hostPort
	images []string
	parts  int

	built  bool
	cursor uint64 // what of the log has been read
	found  []*imageState
	spread int // of the images, see imagesOf

	verdict []Filter
	total   []int64 // score of a feasible slot
	heap    []int32 // feasible slots, best first
	pos     []int32 // where in the heap, -1 is nowhere
	tie     []uint32

	// The largest raw values among feasible slots: others are scaled by them.
	maxPreference, maxDisliked int32
	stale                      bool // a slot that held a maximum left

	diagnosis *Diagnosis // of the pods that topology does not concern, until something changes
}

func newClass(p *Pod, place *placement) *class {
	k := p.classify()
	return &class{place: place, needs: p.needs, ports: p.ports, images: k.images, parts: k.parts}
}

// classOf returns the pod's class, up to date.
func (s *Snapshot) classOf(p *Pod) *class {
	k := p.classify()
	c := s.classes.get(k.class, func() *class { return newClass(p, s.placementOf(p)) })
	c.sync(s)
	return c
}

func (s *Snapshot) placementOf(p *Pod) *placement {
	return s.placements.get(p.classify().placement, func() *placement { return newPlacement(p.Object) })
}

// sync reads the log; it starts afresh when that is cheaper or when scores
// changed everywhere.
func (c *class) sync(s *Snapshot) {
	found, spread := s.imagesOf(c.images)
	c.found = found
	behind := s.seq - c.cursor
	if !c.built || spread != c.spread || behind > logSize || behind > uint64(2*len(s.nodes)+16) {
		c.spread = spread
		c.rebuild(s)
		return
	}
	if behind == 0 {
		return
	}
	c.diagnosis = nil
	c.grow(len(s.nodes))
	for ; c.cursor < s.seq; c.cursor++ {
		c.update(s, s.changes[c.cursor%logSize])
	}
	if c.stale {
		c.rescale(s)
	}
}

func (c *class) grow(n int) {
	more := n - len(c.verdict)
	if more <= 0 {
		return
	}
	c.verdict = append(c.verdict, make([]Filter, more)...)
	c.total = append(c.total, make([]int64, more)...)
	c.tie = append(c.tie, make([]uint32, more)...)
	c.pos = append(c.pos, make([]int32, more)...)
	for i := n - more; i < n; i++ {
		c.verdict[i], c.pos[i] = NodeAbsent, -1
	}
	c.heap = slices.Grow(c.heap, n-len(c.heap))
}

func (c *class) rebuild(s *Snapshot) {
	c.built, c.cursor, c.diagnosis = true, s.seq, nil
	c.grow(len(s.nodes))
	c.heap = c.heap[:0]
	for i := range s.nodes {
		slot := int32(i)
		c.pos[slot] = -1
		if c.verdict[slot] = c.judge(s, slot); c.verdict[slot] == Fits {
			c.pos[slot] = int32(len(c.heap))
			c.heap = append(c.heap, slot)
			c.tie[slot] = s.rand.Uint32()
		}
	}
	c.rescale(s)
}

// rescale finds the maxima anew and scores every feasible slot.
func (c *class) rescale(s *Snapshot) {
	c.stale, c.maxPreference, c.maxDisliked = false, 0, 0
	for _, slot := range c.heap {
		a := c.place.at(s, slot)
		c.maxPreference, c.maxDisliked = max(c.maxPreference, a.preference), max(c.maxDisliked, a.disliked)
	}
	for _, slot := range c.heap {
		c.total[slot] = c.score(s, slot)
	}
	for i := len(c.heap)/2 - 1; i >= 0; i-- {
		c.down(i)
	}
}

// update judges one slot again.
func (c *class) update(s *Snapshot, slot int32) {
	was := c.verdict[slot]
	now := c.judge(s, slot)
	c.verdict[slot] = now
	if was == Fits && c.maxPreference|c.maxDisliked != 0 {
		c.stale = true // it may have held a maximum; only classes with preferences pay for this
	}
	if now != Fits {
		if was == Fits {
			c.remove(slot)
		}
		return
	}
	a := c.place.at(s, slot)
	if a.preference > c.maxPreference || a.disliked > c.maxDisliked {
		c.stale = true
	}
	c.total[slot] = c.score(s, slot)
	c.tie[slot] = s.rand.Uint32()
	if was != Fits {
		c.pos[slot] = int32(len(c.heap))
		c.heap = append(c.heap, slot)
	}
	c.fix(int(c.pos[slot]))
}

// judge applies the filters that need no other pods' labels.
func (c *class) judge(s *Snapshot, slot int32) Filter {
	return c.judgeAnswer(s, slot, c.place.at(s, slot))
}

func (c *class) judgeAnswer(s *Snapshot, slot int32, a *answer) Filter {
	if a.verdict != Fits {
		return a.verdict
	}
	if c.portsTaken(s, slot) {
		return NodePorts
	}
	if !c.resourcesFit(s, slot) {
		return NodeResourcesFit
	}
	return Fits
}

func (c *class) portsTaken(s *Snapshot, slot int32) bool {
	for _, want := range c.ports {
		for _, used := range s.nodes[slot].ports {
			if want.conflicts(used) {
				return true
			}
		}
	}
	return false
}

func (c *class) resourcesFit(s *Snapshot, slot int32) bool {
	if int64(len(s.nodes[slot].pods))+1 > s.maxPods[slot] {
		return false
	}
	n := &c.needs
	if n.cpu > 0 && n.cpu > s.allocatable[cpu][slot]-s.requested[cpu][slot] ||
		n.memory > 0 && n.memory > s.allocatable[memory][slot]-s.requested[memory][slot] ||
		n.ephemeral > 0 && n.ephemeral > s.allocatable[ephemeral][slot]-s.requested[ephemeral][slot] {
		return false
	}
	for _, x := range n.scalars {
		column := s.scalar(x.name)
		if x.quantity > column.allocatable[slot]-column.requested[slot] {
			return false
		}
	}
	return true
}

// shortages lists what a node lacks, in upstream's words; hopeless says that
// an empty node would not be enough either.
func (c *class) shortages(s *Snapshot, slot int32) (reasons []string, hopeless bool) {
	if int64(len(s.nodes[slot].pods))+1 > s.maxPods[slot] {
		reasons = append(reasons, "Too many pods")
	}
	check := func(name string, need, allocatable, requested int64) {
		if need > 0 && need > allocatable-requested {
			reasons = append(reasons, "Insufficient "+name)
			hopeless = hopeless || need > allocatable
		}
	}
	n := &c.needs
	check("cpu", n.cpu, s.allocatable[cpu][slot], s.requested[cpu][slot])
	check("memory", n.memory, s.allocatable[memory][slot], s.requested[memory][slot])
	check("ephemeral-storage", n.ephemeral, s.allocatable[ephemeral][slot], s.requested[ephemeral][slot])
	for _, x := range n.scalars {
		column := s.scalar(x.name)
		check(string(x.name), x.quantity, column.allocatable[slot], column.requested[slot])
	}
	return reasons, hopeless
}

// score adds up what does not depend on other pods' labels.
func (c *class) score(s *Snapshot, slot int32) int64 {
	return c.scoreAnswer(s, slot, c.place.at(s, slot))
}

func (c *class) scoreAnswer(s *Snapshot, slot int32, a *answer) int64 {
	total := weightFit*c.leastAllocated(s, slot) + weightBalanced*c.balanced(s, slot)
	if len(c.found) > 0 {
		total += weightImage * s.imageScore(c.found, c.parts, slot)
	}
	if c.maxPreference > 0 {
		total += weightAffinity * (maxScore * int64(a.preference) / int64(c.maxPreference))
	}
	if c.maxDisliked > 0 {
		total += weightTaint * (maxScore - maxScore*int64(a.disliked)/int64(c.maxDisliked))
	}
	return total
}

// leastAllocated prefers nodes with the larger share of cpu and memory left.
func (c *class) leastAllocated(s *Snapshot, slot int32) int64 {
	var sum, parts int64
	add := func(have, used, need int64) {
		if have == 0 {
			return
		}
		parts++
		if used += need; used < have {
			sum += (have - used) * maxScore / have
		}
	}
	add(s.allocatable[cpu][slot], s.nonzero[cpu][slot], c.needs.nonzeroCPU)
	add(s.allocatable[memory][slot], s.nonzero[memory][slot], c.needs.nonzeroMemory)
	if parts == 0 {
		return 0
	}
	return sum / parts
}

// balanced prefers nodes whose cpu and memory would be used to like shares.
// Pods that request neither are left out: they would all land on one node.
func (c *class) balanced(s *Snapshot, slot int32) int64 {
	if c.needs.cpu == 0 && c.needs.memory == 0 {
		return 0
	}
	cpuHave, memoryHave := s.allocatable[cpu][slot], s.allocatable[memory][slot]
	if cpuHave == 0 || memoryHave == 0 {
		return maxScore
	}
	share := func(used, have int64) float64 { return min(float64(used)/float64(have), 1) }
	deviation := math.Abs(share(s.requested[cpu][slot]+c.needs.cpu, cpuHave)-
		share(s.requested[memory][slot]+c.needs.memory, memoryHave)) / 2
	return int64((1 - deviation) * maxScore)
}

// The heap: best score first, equal ones in the order of their random ties.

func (c *class) better(a, b int32) bool {
	if c.total[a] != c.total[b] {
		return c.total[a] > c.total[b]
	}
	return c.tie[a] > c.tie[b]
}

func (c *class) swap(i, j int) {
	c.heap[i], c.heap[j] = c.heap[j], c.heap[i]
	c.pos[c.heap[i]], c.pos[c.heap[j]] = int32(i), int32(j)
}

func (c *class) down(i int) (moved bool) {
	for {
		best := 2*i + 1
		if best >= len(c.heap) {
			return moved
		}
		if right := best + 1; right < len(c.heap) && c.better(c.heap[right], c.heap[best]) {
			best = right
		}
		if !c.better(c.heap[best], c.heap[i]) {
			return moved
		}
		c.swap(i, best)
		i, moved = best, true
	}
}

func (c *class) fix(i int) {
	if c.down(i) {
		return
	}
	for i > 0 {
		parent := (i - 1) / 2
		if !c.better(c.heap[i], c.heap[parent]) {
			return
		}
		c.swap(i, parent)
		i = parent
	}
}

func (c *class) remove(slot int32) {
	i := int(c.pos[slot])
	last := len(c.heap) - 1
	c.swap(i, last)
	c.heap = c.heap[:last]
	c.pos[slot] = -1
	if i < last {
		c.fix(i)
	}
}
