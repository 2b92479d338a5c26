package core

import (
	"encoding/binary"
	"slices"
)

// group is the pods that get the same answers: they ask the same of nodes and
// of other pods. Slots that can take a pod of the group lie in buckets; in a
// bucket all that depends on labels is equal, so that its best slot is the one
// with the best score for room and images, on top of a heap. A decision looks
// at the tops only.
type group struct {
	class

	built  bool
	cursor uint64 // what of the log has been read
	spread int    // of the images, see imagesOf

	relations []*relation
	anyNode   bool // soft constraints: nodes may lack keys

	verdict []Filter
	base    []int64 // score for room and images, of a feasible slot
	tie     []uint32
	of      []*bucket // nil is none
	pos     []int32   // in the bucket's heap

	buckets map[string]*bucket
	list    []*bucket
	scratch []byte

	diagnosis *Diagnosis // until something changes
}

// bucket is feasible slots that differ only in room and images.
type bucket struct {
	key  string
	at   int     // in the group's list
	heap []int32 // best first
}

// groupOf returns the pod's group, up to date.
func (s *Snapshot) groupOf(p *Pod) *group {
	k := p.classify()
	a := s.asksOf(p, k)
	key := k.class
	if a != nil {
		key = string(a.key)
	}
	g := s.groups.get(key, func() *group {
		return &group{class: *newClass(p, s.placementOf(p)), buckets: map[string]*bucket{}}
	})
	g.sync(s, p, a)
	return g
}

// probeOf is a group that is for looking at single slots: it costs nothing
// to make where other pods do not matter.
func (s *Snapshot) probeOf(p *Pod) *group {
	place := newPlacement(p)
	place.fleeting = true
	g := &group{class: *newClass(p, place)}
	g.found, _ = s.imagesOf(g.images)
	g.relations = s.relate(p, s.asksOf(p, p.classify()), false)
	if len(g.relations) > 0 {
		for i := range s.nodes {
			g.readRelations(s, int32(i), nil)
		}
	}
	return g
}

func (s *Snapshot) placementOf(p *Pod) *placement {
	return s.placements.get(p.classify().placement, func() *placement { return newPlacement(p) })
}

// sync reads the log; it starts afresh when that is cheaper, or when what it
// is made of is gone.
func (g *group) sync(s *Snapshot, p *Pod, a *asks) {
	found, spread := s.imagesOf(g.images)
	g.found = found
	behind := s.seq - g.cursor
	if !g.built || spread != g.spread || behind > logSize || behind > uint64(2*len(s.nodes)+16) || g.outdated(s) {
		g.spread = spread
		g.rebuild(s, p, a)
		return
	}
	for _, r := range g.relations {
		if r.tally != nil {
			r.tally.used = s.topology.tick
		}
	}
	if behind == 0 {
		return
	}
	g.diagnosis = nil
	g.grow(len(s.nodes))
	for ; g.cursor < s.seq; g.cursor++ {
		g.refresh(s, s.changes[g.cursor%logSize])
	}
}

func (g *group) outdated(s *Snapshot) bool {
	return slices.ContainsFunc(g.relations, func(r *relation) bool { return r.outdated(s) })
}

func (g *group) grow(n int) {
	more := n - len(g.verdict)
	if more <= 0 {
		return
	}
	g.verdict = append(g.verdict, make([]Filter, more)...)
	g.base = append(g.base, make([]int64, more)...)
	g.tie = append(g.tie, make([]uint32, more)...)
	g.of = append(g.of, make([]*bucket, more)...)
	g.pos = append(g.pos, make([]int32, more)...)
	for i := n - more; i < n; i++ {
		g.verdict[i] = NodeAbsent
	}
}

func (g *group) rebuild(s *Snapshot, p *Pod, a *asks) {
	g.built, g.cursor, g.diagnosis = true, s.seq, nil
	g.relations = s.relate(p, a, true)
	g.anyNode = a != nil && a.anyNode
	g.grow(len(s.nodes))
	clear(g.buckets)
	clear(g.of)
	g.list = g.list[:0]
	for i := range s.nodes {
		g.readRelations(s, int32(i), nil)
	}
	for i := range s.nodes {
		slot := int32(i)
		if g.verdict[slot] = g.judge(s, slot, g.place.at(s, slot)); g.verdict[slot] != Fits {
			continue
		}
		g.base[slot] = g.score(s, slot)
		g.tie[slot] = s.rand.Uint32()
		b := g.bucketOf(s, slot)
		g.of[slot], g.pos[slot] = b, int32(len(b.heap))
		b.heap = append(b.heap, slot)
	}
	for _, b := range g.list {
		for i := len(b.heap)/2 - 1; i >= 0; i-- {
			g.down(b, i)
		}
	}
}

// readRelations tells the relations of a slot that changed. Where sums tell
// slots apart, moved gets the domains whose sums are others now.
func (g *group) readRelations(s *Snapshot, slot int32, moved func(r *relation, domain int32)) {
	if len(g.relations) == 0 {
		return
	}
	allHard, allSoft := g.hasKeys(slot, spreadHard), g.anyNode || g.hasKeys(slot, spreadSoft)
	for _, r := range g.relations {
		eligible := true
		switch r.kind {
		case spreadHard:
			eligible = allHard && g.honors(s, r.spread, slot)
		case spreadSoft:
			eligible = allSoft && g.honors(s, r.spread, slot)
		}
		left, joined := r.update(slot, eligible)
		if moved != nil && r.wide && r.kind != spreadHost {
			moved(r, left)
			moved(r, joined)
		}
	}
}

// moveOthers puts the other slots of a domain into their buckets.
func (g *group) moveOthers(s *Snapshot, r *relation, slot, domain int32) {
	if domain < 0 || r.members[domain] == 0 || r.members[domain] == 1 && r.at[slot] == domain {
		return
	}
	for i, at := range r.at {
		if other := int32(i); at == domain && other != slot && g.of[other] != nil {
			g.put(s, other)
		}
	}
}

// hasKeys says whether the node has the topology keys of all hard, or all soft
// constraints.
func (g *group) hasKeys(slot int32, kind relationKind) bool {
	for _, r := range g.relations {
		if r.spread != nil && (r.kind == spreadHard) == (kind == spreadHard) && r.domains.at(slot) < 0 {
			return false
		}
	}
	return true
}

func (g *group) honors(s *Snapshot, t *spreadTerm, slot int32) bool {
	if !t.honorAffinity && !t.honorTaints {
		return true
	}
	a := g.place.at(s, slot)
	return (a.selected || !t.honorAffinity) && (a.tolerated || !t.honorTaints)
}

// refresh judges one slot again.
func (g *group) refresh(s *Snapshot, slot int32) {
	g.readRelations(s, slot, func(r *relation, domain int32) { g.moveOthers(s, r, slot, domain) })
	g.verdict[slot] = g.judge(s, slot, g.place.at(s, slot))
	if g.verdict[slot] != Fits {
		g.take(slot)
		return
	}
	g.base[slot] = g.score(s, slot)
	g.tie[slot] = s.rand.Uint32()
	g.put(s, slot)
}

// put brings a feasible slot to its place.
func (g *group) put(s *Snapshot, slot int32) {
	b := g.bucketOf(s, slot)
	if g.of[slot] != b {
		g.take(slot)
		g.of[slot], g.pos[slot] = b, int32(len(b.heap))
		b.heap = append(b.heap, slot)
	}
	g.fix(b, int(g.pos[slot]))
}

// bucketOf finds or makes the bucket in which a slot belongs.
func (g *group) bucketOf(s *Snapshot, slot int32) *bucket {
	a := g.place.at(s, slot)
	k := binary.AppendVarint(g.scratch[:0], int64(a.preference))
	k = binary.AppendVarint(k, int64(a.disliked))
	for _, r := range g.relations {
		k = r.key(k, slot)
	}
	g.scratch = k
	if b, ok := g.buckets[string(k)]; ok {
		return b
	}
	b := &bucket{key: string(k), at: len(g.list)}
	g.buckets[b.key] = b
	g.list = append(g.list, b)
	return b
}

// take removes a slot from its bucket.
func (g *group) take(slot int32) {
	b := g.of[slot]
	if b == nil {
		return
	}
	g.of[slot] = nil
	i, last := int(g.pos[slot]), len(b.heap)-1
	g.swap(b, i, last)
	b.heap = b.heap[:last]
	if i < last {
		g.fix(b, i)
	}
	if last > 0 {
		return
	}
	delete(g.buckets, b.key)
	end := len(g.list) - 1
	g.list[b.at] = g.list[end]
	g.list[b.at].at = b.at
	g.list[end] = nil
	g.list = g.list[:end]
}

// check applies spreading and affinity between pods to one slot. hopeless says
// that no pod's leaving would help. See relation.sum for live.
func (g *group) check(slot int32, live bool) (f Filter, reason string, hopeless bool) {
	for _, r := range g.relations {
		if r.kind != spreadHard {
			continue
		}
		n, ok := r.sum(slot, live)
		if !ok {
			return PodTopologySpread, "node(s) didn't match pod topology spread constraints (missing required label)", true
		}
		if n+r.self-r.least(slot, live) > int64(r.spread.maxSkew) {
			return PodTopologySpread, "node(s) didn't match pod topology spread constraints", false
		}
	}
	if !g.isNear(slot, live) {
		return InterPodAffinity, "node(s) didn't match pod affinity rules", true
	}
	for _, r := range g.relations {
		if r.kind == apart || r.kind == refused {
			if n, _ := r.sum(slot, live); n > 0 && r.kind == apart {
				return InterPodAffinity, "node(s) didn't match pod anti-affinity rules", false
			} else if n > 0 {
				f, reason = InterPodAffinity, "node(s) didn't satisfy existing pods anti-affinity rules"
			}
		}
	}
	return f, reason, false
}

// isNear says whether those are near whom the pod requires. While there are
// none at all, a pod that is one of them itself may be the first.
func (g *group) isNear(slot int32, live bool) bool {
	near, nobody, self := true, true, true
	for _, r := range g.relations {
		if r.kind != nearby {
			continue
		}
		n, ok := r.sum(slot, live)
		if !ok {
			return false
		}
		total := r.total
		if live {
			total += r.drift(slot)
		}
		near = near && n > 0
		nobody = nobody && total == 0
		self = self && r.self == 1
	}
	return near || nobody && self
}

// The heaps: best score first, equal ones in the order of their random ties.

func (g *group) better(a, b int32) bool {
	if g.base[a] != g.base[b] {
		return g.base[a] > g.base[b]
	}
	return g.tie[a] > g.tie[b]
}

func (g *group) swap(b *bucket, i, j int) {
	b.heap[i], b.heap[j] = b.heap[j], b.heap[i]
	g.pos[b.heap[i]], g.pos[b.heap[j]] = int32(i), int32(j)
}

func (g *group) down(b *bucket, i int) (moved bool) {
	for {
		best := 2*i + 1
		if best >= len(b.heap) {
			return moved
		}
		if right := best + 1; right < len(b.heap) && g.better(b.heap[right], b.heap[best]) {
			best = right
		}
		if !g.better(b.heap[best], b.heap[i]) {
			return moved
		}
		g.swap(b, i, best)
		i, moved = best, true
	}
}

func (g *group) fix(b *bucket, i int) {
	if g.down(b, i) {
		return
	}
	for i > 0 {
		parent := (i - 1) / 2
		if !g.better(b.heap[i], b.heap[parent]) {
			return
		}
		g.swap(b, i, parent)
		i = parent
	}
}

// cacheOf keeps what was computed for a key, for the keys used most lately.
// When full it drops the older half at once: eviction is then a rare sweep
// and use costs one map lookup.
type cacheOf[T any] struct {
	limit   int
	tick    uint64
	entries map[string]*cacheEntry[T]
}

type cacheEntry[T any] struct {
	value *T
	used  uint64
}

func newCacheOf[T any](limit int) cacheOf[T] {
	return cacheOf[T]{limit: limit, entries: map[string]*cacheEntry[T]{}}
}

// get returns the value of key, made by build when there is none.
func (c *cacheOf[T]) get(key string, build func() *T) *T {
	c.tick++
	if e, ok := c.entries[key]; ok {
		e.used = c.tick
		return e.value
	}
	if len(c.entries) >= c.limit {
		c.evict(c.tick - uint64(c.limit)/2)
	}
	e := &cacheEntry[T]{value: build(), used: c.tick}
	c.entries[key] = e
	return e.value
}

func (c *cacheOf[T]) evict(before uint64) {
	for key, e := range c.entries {
		if e.used < before {
			delete(c.entries, key)
		}
	}
}
