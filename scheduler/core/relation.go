package core

import (
	"encoding/binary"
	"maps"
	"math"
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// relationKind is a way in which other pods matter to a pod.
type relationKind uint8

const (
	spreadHard relationKind = iota
	spreadSoft
	spreadHost // soft, and each node counts for itself
	nearby     // required affinity
	apart      // required anti-affinity
	refused    // that of pods on nodes
	drawn      // preferences, its own and others'
)

// filters says that it keeps pods off nodes; the others are scores.
func (k relationKind) filters() bool {
	return k == spreadHard || k == nearby || k == apart || k == refused
}

// relation sums by domain what a tally or a carried term counts by slot. It
// is part of a group, which tells it of slots that changed.
type relation struct {
	kind        relationKind
	topologyKey string
	domains     *domains
	spread      *spreadTerm // of the spreading kinds
	tally       *tally      // or else carried
	carried     *carried
	weight      int64 // of a count in drawn; of carried requirements there
	self        int64 // the pod would count itself

	// wide says that there are many domains, so that slots are told apart by
	// the domain's sum, not by the domain.
	wide bool

	at      []int32         // domain by slot, -1 without the label
	counted []bool          // by slot: its pods are in the sums
	seen    []int64         // by slot: the count that is
	by      []int64         // sum by domain
	nodes   []int32         // counted slots by domain
	members []int32         // slots by domain
	present map[int64]int32 // spreadHard: domains with counted slots, by sum
	total   int64
}

// manyDomains is the number from which on a relation is wide.
const manyDomains = 32

func (s *Snapshot) newRelation(kind relationKind, topologyKey string) *relation {
	r := &relation{kind: kind, topologyKey: topologyKey, domains: s.topology.domainsOf(topologyKey)}
	r.wide = len(r.domains.values) > manyDomains && kind != spreadSoft
	if kind == spreadHard {
		r.present = map[int64]int32{}
	}
	return r
}

// read is the present count of a slot.
func (r *relation) read(slot int32) int64 {
	switch {
	case r.kind == refused:
		return r.carried.apart.at(slot)
	case r.carried != nil:
		return r.carried.weight.at(slot) + r.weight*r.carried.near.at(slot)
	case r.kind == drawn:
		return r.weight * r.tally.count.at(slot)
	default:
		return r.tally.count.at(slot)
	}
}

func (r *relation) grow(slots int) {
	for len(r.at) < slots {
		r.at = append(r.at, -1)
	}
	r.counted = append(r.counted, make([]bool, slots-len(r.counted))...)
	r.seen = append(r.seen, make([]int64, slots-len(r.seen))...)
	if more := len(r.domains.values) - len(r.by); more > 0 {
		r.by = append(r.by, make([]int64, more)...)
		r.nodes = append(r.nodes, make([]int32, more)...)
		r.members = append(r.members, make([]int32, more)...)
	}
}

// update reads a slot again. It returns the domains whose sums are others now,
// -1 for none.
func (r *relation) update(slot int32, eligible bool) (left, joined int32) {
	r.grow(max(len(r.at), int(slot)+1))
	was, is := r.at[slot], r.domains.at(slot)
	n := r.read(slot)
	counts := eligible && is >= 0
	if was == is && counts == r.counted[slot] && (n == r.seen[slot] || !counts) {
		return -1, -1
	}
	left, joined = -1, -1
	if r.counted[slot] {
		r.move(was, -r.seen[slot], -1)
		left = was
	}
	if was != is {
		if was >= 0 {
			r.members[was]--
		}
		if is >= 0 {
			r.members[is]++
		}
	}
	r.at[slot], r.counted[slot], r.seen[slot] = is, counts, 0
	if counts {
		r.seen[slot] = n
		r.move(is, n, 1)
		joined = is
	}
	if left == joined {
		left = -1
	}
	return left, joined
}

func (r *relation) move(domain int32, n int64, nodes int32) {
	if r.present != nil && r.nodes[domain] > 0 {
		if r.present[r.by[domain]]--; r.present[r.by[domain]] == 0 {
			delete(r.present, r.by[domain])
		}
	}
	r.by[domain] += n
	r.nodes[domain] += nodes
	r.total += n
	if r.present != nil && r.nodes[domain] > 0 {
		r.present[r.by[domain]]++
	}
}

// sum is that of the slot's domain. Live takes the slot's present count for
// the one that was read, so that pods can be put on it and off it on trial.
func (r *relation) sum(slot int32, live bool) (n int64, ok bool) {
	domain := r.at[slot]
	if domain < 0 {
		return 0, false
	}
	if live {
		return r.by[domain] + r.drift(slot), true
	}
	return r.by[domain], true
}

func (r *relation) drift(slot int32) int64 {
	if !r.counted[slot] {
		return 0
	}
	return r.read(slot) - r.seen[slot]
}

// least is the sum of the emptiest domain; too few domains count as an empty
// one.
func (r *relation) least(slot int32, live bool) int64 {
	drift, at := int64(0), int64(0)
	if live {
		if drift = r.drift(slot); drift != 0 {
			at = r.by[r.at[slot]]
		}
	}
	lowest := int64(math.MaxInt64)
	var domains int32
	for sum, n := range r.present {
		domains += n
		if drift != 0 && sum == at {
			n--
			lowest = min(lowest, at+drift)
		}
		if n > 0 {
			lowest = min(lowest, sum)
		}
	}
	if domains == 0 || domains < r.spread.minDomains {
		return 0
	}
	return lowest
}

// key tells apart the slots for which the relation differs.
func (r *relation) key(b []byte, slot int32) []byte {
	domain := r.at[slot]
	switch {
	case domain < 0:
		return append(b, 0)
	case r.kind == spreadHost:
		b = binary.AppendVarint(append(b, 1), r.seen[slot])
	case !r.wide:
		b = binary.AppendVarint(append(b, 1), int64(domain))
	case r.kind == nearby || r.kind == apart || r.kind == refused:
		b = append(b, 1+byte(min(max(r.by[domain], 0), 1)))
	default:
		b = binary.AppendVarint(append(b, 1), r.by[domain])
	}
	return b
}

// outdated says that the relation must be made anew.
func (r *relation) outdated(s *Snapshot) bool {
	return r.tally != nil && r.tally.stale ||
		s.topology.domains[r.topologyKey] != r.domains ||
		!r.wide && r.kind != spreadSoft && len(r.domains.values) > 2*manyDomains
}

// asks is what a pod asks of others and they of it, at this moment.
type asks struct {
	hard, soft []*spreadTerm
	anyNode    bool // nodes may lack keys of soft
	carried    []*carried
	key        []byte
}

// asksOf returns nil when nothing but nodes matters to the pod.
func (s *Snapshot) asksOf(p *Pod, k *classKeys) *asks {
	a := &asks{}
	rules := p.rules
	switch {
	case !rules.Filters.Has(PodTopologySpread) && rules.Weights.Spread == 0:
	case len(p.Object.Spec.TopologySpreadConstraints) > 0:
		a.hard, a.soft = k.hard, k.soft
	default:
		a.hard, a.soft = s.defaultSpread(p.Object, rules)
		a.anyNode = rules.SystemSpread
	}
	if !rules.Filters.Has(PodTopologySpread) {
		a.hard = nil
	}
	if rules.Weights.Spread == 0 {
		a.soft = nil
	}
	if rules.Filters.Has(InterPodAffinity) || rules.Weights.PodAffinity != 0 {
		s.topology.carried.each(p.Object.Namespace, func(c *carried) {
			if c.term.matches(s.namespaces, p.Object) {
				a.carried = append(a.carried, c)
			}
		})
	}
	if len(a.hard)+len(a.soft)+len(a.carried) == 0 && p.affinity == nil {
		return nil
	}
	s.keyOf(a, p, k)
	return a
}

func (s *Snapshot) keyOf(a *asks, p *Pod, k *classKeys) {
	b := append(make([]byte, 0, len(k.class)+len(k.terms)+64), k.class...)
	b = appendString(b, k.terms)
	self := func(t *term) { b = append(b, '0'+byte(bit(t.matches(s.namespaces, p.Object)))) }
	if p.affinity != nil {
		for _, t := range slices.Concat(p.affinity.near, p.affinity.apart) {
			self(t)
		}
	}
	for _, t := range a.hard {
		self(&t.term)
	}
	if len(k.hard)+len(k.soft) == 0 {
		for _, t := range slices.Concat(a.hard, a.soft) {
			b = appendString(b, t.key)
		}
	}
	slices.SortFunc(a.carried, func(x, y *carried) int { return int(int64(x.id) - int64(y.id)) })
	for _, c := range a.carried {
		b = appendInts(b, int64(c.id), bit(c.nApart > 0), bit(c.nNear > 0), bit(c.nWeight > 0))
	}
	a.key = b
}

// relate makes the relations of a group. Without scores only those that keep
// pods off nodes.
func (s *Snapshot) relate(p *Pod, a *asks, scores bool) (out []*relation) {
	if a == nil {
		return nil
	}
	rules := p.rules
	spread := func(kind relationKind, t *spreadTerm) {
		r := s.newRelation(kind, t.topologyKey)
		r.spread, r.tally, r.self = t, s.tallyOf(true, &t.term), bit(t.matches(s.namespaces, p.Object))
		out = append(out, r)
	}
	for _, t := range a.hard {
		spread(spreadHard, t)
	}
	if scores {
		for _, t := range a.soft {
			if t.topologyKey == corev1.LabelHostname {
				spread(spreadHost, t)
			} else {
				spread(spreadSoft, t)
			}
		}
	}
	if p.affinity != nil && rules.Filters.Has(InterPodAffinity) {
		out = append(out, s.relateRequired(p, p.affinity)...)
	}
	own := p.affinity != nil && len(p.affinity.preferred) > 0
	for _, c := range a.carried {
		if c.nApart > 0 && rules.Filters.Has(InterPodAffinity) {
			r := s.newRelation(refused, c.term.topologyKey)
			r.carried = c
			out = append(out, r)
		}
		if scores && rules.Weights.PodAffinity != 0 && (own || !rules.IgnoreOthersPreferences) &&
			(c.nWeight > 0 || c.nNear > 0 && rules.RequiredAffinityWeight > 0) {
			r := s.newRelation(drawn, c.term.topologyKey)
			r.carried, r.weight = c, rules.RequiredAffinityWeight
			out = append(out, r)
		}
	}
	if own && scores && rules.Weights.PodAffinity != 0 {
		for _, w := range p.affinity.preferred {
			r := s.newRelation(drawn, w.term.topologyKey)
			r.tally, r.weight = s.tallyOf(false, w.term), w.weight
			out = append(out, r)
		}
	}
	return out
}

func (s *Snapshot) relateRequired(p *Pod, a *podTerms) (out []*relation) {
	keys := map[string]bool{}
	for _, t := range a.near {
		keys[t.topologyKey] = true
	}
	for _, key := range slices.Sorted(maps.Keys(keys)) {
		r := s.newRelation(nearby, key)
		r.tally, r.self = s.tallyOf(false, a.near...), bit(matchesAll(a.near, s.namespaces, p.Object))
		out = append(out, r)
	}
	for _, t := range a.apart {
		r := s.newRelation(apart, t.topologyKey)
		r.tally = s.tallyOf(false, t)
		out = append(out, r)
	}
	return out
}
