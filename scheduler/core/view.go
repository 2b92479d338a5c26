package core

import "math"

// view is what other pods and volumes mean for one pending pod: built for a
// decision and thrown away.
type view struct {
	snapshot   *Snapshot
	claims     *claimsView
	hard, soft []spreadRule
	softAll    bool // a node without all the keys of soft gets no score for them

	near      []sums
	nearFree  bool // nobody matches yet and the pod matches itself: it may be the first
	apart     []sums
	refusedBy []sums
	drawn     []sums // what preferences add, by domain
}

// sums is a number for each domain of one topology key.
type sums struct {
	domains *domains
	by      []int64
}

func (s *sums) at(slot int32) (n int64, ok bool) {
	id := s.domains.at(slot)
	if id < 0 {
		return 0, false
	}
	return s.by[id], true
}

type spreadRule struct {
	sums
	present []bool // domains with an eligible node
	least   int64
	self    int64
	maxSkew int64
	node    bool // every node is a domain of its own
}

// viewOf returns nil when nothing but nodes matters to the pod. refusal says
// why no node will do.
func (s *Snapshot) viewOf(p *Pod, place *placement) (v *view, refusal string) {
	v = &view{snapshot: s}
	if v.claims, refusal = s.claimsOf(p.Object); refusal != "" {
		return nil, refusal
	}
	any := v.claims != nil
	if len(p.Object.Spec.TopologySpreadConstraints) > 0 {
		hard, soft := spreadTermsOf(p.Object)
		v.hard = s.spreadRules(p, place, hard, true)
		v.soft = s.spreadRules(p, place, soft, true)
		v.softAll, any = true, true
	} else if soft := s.defaultSpread(p.Object); soft != nil {
		v.soft = s.spreadRules(p, place, soft, false)
		any = true
	}
	if a := p.affinity; a != nil {
		any = true
		s.viewAffinity(v, p, a)
	}
	s.topology.carried.each(p.Object.Namespace, func(c *carried) {
		if !c.term.matches(s.namespaces, p.Object) {
			return
		}
		any = true
		d := s.topology.domainsOf(c.term.topologyKey)
		if c.nApart > 0 {
			v.refusedBy = append(v.refusedBy, sums{d, d.sum(c.apart)})
		}
		if c.users > c.nApart {
			v.drawn = append(v.drawn, sums{d, d.sum(c.weight)})
		}
	})
	if !any {
		return nil, ""
	}
	return v, ""
}

func (s *Snapshot) viewAffinity(v *view, p *Pod, a *podTerms) {
	if len(a.near) > 0 {
		t := s.tallyOf(false, a.near...)
		matches := false
		for _, x := range a.near {
			d := s.topology.domainsOf(x.topologyKey)
			by := d.sum(t.count)
			for _, n := range by {
				matches = matches || n > 0
			}
			v.near = append(v.near, sums{d, by})
		}
		v.nearFree = !matches && matchesAll(a.near, s.namespaces, p.Object)
	}
	for _, x := range a.apart {
		d := s.topology.domainsOf(x.topologyKey)
		v.apart = append(v.apart, sums{d, d.sum(s.tallyOf(false, x).count)})
	}
	for _, w := range a.preferred {
		d := s.topology.domainsOf(w.term.topologyKey)
		by := d.sum(s.tallyOf(false, w.term).count)
		for i := range by {
			by[i] *= w.weight
		}
		v.drawn = append(v.drawn, sums{d, by})
	}
}

// spreadRules sums, for each constraint, the matching pods on eligible nodes:
// those that have the topology key (with all, every one), and that selector
// and taints allow where the constraint says so.
func (s *Snapshot) spreadRules(p *Pod, place *placement, terms []*spreadTerm, all bool) []spreadRule {
	if len(terms) == 0 {
		return nil
	}
	rules := make([]spreadRule, len(terms))
	tallies := make([]*tally, len(terms))
	for i, t := range terms {
		d := s.topology.domainsOf(t.topologyKey)
		tallies[i] = s.tallyOf(true, &t.term)
		rules[i] = spreadRule{
			sums:    sums{d, make([]int64, len(d.values))},
			present: make([]bool, len(d.values)),
			maxSkew: int64(t.maxSkew),
			node:    t.topologyKey == "kubernetes.io/hostname",
		}
		if t.matches(s.namespaces, p.Object) {
			rules[i].self = 1
		}
	}
	for i := range s.nodes {
		slot := int32(i)
		if s.nodes[i].node == nil || all && !hasAll(rules, slot) {
			continue
		}
		a := place.at(s, slot)
		for r, t := range terms {
			if t.honorAffinity && !a.selected || t.honorTaints && !a.tolerated {
				continue
			}
			id := rules[r].domains.at(slot)
			if id < 0 {
				continue
			}
			rules[r].present[id] = true
			rules[r].by[id] += tallies[r].count.at(slot)
		}
	}
	for r, t := range terms {
		rules[r].settle(t.minDomains)
	}
	return rules
}

// settle finds the emptiest domain; too few domains count as an empty one.
func (r *spreadRule) settle(minDomains int32) {
	r.least = math.MaxInt64
	var domains int32
	for id, present := range r.present {
		if present {
			domains++
			r.least = min(r.least, r.by[id])
		}
	}
	if domains == 0 || domains < minDomains {
		r.least = 0
	}
}

func hasAll(rules []spreadRule, slot int32) bool {
	for i := range rules {
		if rules[i].domains.at(slot) < 0 {
			return false
		}
	}
	return true
}

// check applies volumes, spreading and affinity between pods to one node. hopeless
// says that no pod's leaving would help.
func (v *view) check(slot int32) (f Filter, reason string, hopeless bool) {
	if v.claims != nil {
		if reason, hopeless := v.claims.check(v.snapshot, v.snapshot.nodes[slot].node); reason != "" {
			return VolumeBinding, reason, hopeless
		}
	}
	for i := range v.hard {
		r := &v.hard[i]
		n, ok := r.at(slot)
		if !ok {
			return PodTopologySpread, "node(s) didn't match pod topology spread constraints (missing required label)", true
		}
		if n+r.self-r.least > r.maxSkew {
			return PodTopologySpread, "node(s) didn't match pod topology spread constraints", false
		}
	}
	for i := range v.near {
		if n, ok := v.near[i].at(slot); !ok || n <= 0 && !v.nearFree {
			return InterPodAffinity, "node(s) didn't match pod affinity rules", true
		}
	}
	for i := range v.apart {
		if n, _ := v.apart[i].at(slot); n > 0 {
			return InterPodAffinity, "node(s) didn't match pod anti-affinity rules", false
		}
	}
	for i := range v.refusedBy {
		if n, _ := v.refusedBy[i].at(slot); n > 0 {
			return InterPodAffinity, "node(s) didn't satisfy existing pods anti-affinity rules", false
		}
	}
	return Fits, "", false
}

// onlyScores says that check passes everywhere.
func (v *view) onlyScores() bool {
	return v.claims == nil && len(v.hard)+len(v.near)+len(v.apart)+len(v.refusedBy) == 0
}

// scores returns what to add to the score of each feasible slot.
func (v *view) scores(feasible []int32) []int64 {
	out := make([]int64, len(feasible))
	v.addAffinity(feasible, out)
	v.addSpread(feasible, out)
	return out
}

func (v *view) addAffinity(feasible []int32, out []int64) {
	if len(v.drawn) == 0 {
		return
	}
	raw := make([]int64, len(feasible))
	lowest, highest := int64(math.MaxInt64), int64(math.MinInt64)
	for i, slot := range feasible {
		for j := range v.drawn {
			n, _ := v.drawn[j].at(slot)
			raw[i] += n
		}
		lowest, highest = min(lowest, raw[i]), max(highest, raw[i])
	}
	if highest == lowest {
		return
	}
	for i := range raw {
		out[i] += weightInterPod * int64(maxScore*float64(raw[i]-lowest)/float64(highest-lowest))
	}
}

// addSpread prefers domains with fewer matching pods. A topology with more
// domains weighs more, lest zones drown the spreading over nodes.
func (v *view) addSpread(feasible []int32, out []int64) {
	if len(v.soft) == 0 {
		return
	}
	weights := make([]float64, len(v.soft))
	for i := range v.soft {
		seen := make([]bool, len(v.soft[i].by))
		size := 0
		for _, slot := range feasible {
			if id := v.soft[i].domains.at(slot); id >= 0 && !seen[id] && (!v.softAll || hasAll(v.soft, slot)) {
				seen[id] = true
				size++
			}
		}
		weights[i] = math.Log(float64(size + 2))
	}
	const ignored = -1
	raw := make([]int64, len(feasible))
	lowest, highest := int64(math.MaxInt64), int64(0)
	for i, slot := range feasible {
		if v.softAll && !hasAll(v.soft, slot) {
			raw[i] = ignored
			continue
		}
		sum := 0.0
		for j := range v.soft {
			if n, ok := v.soft[j].at(slot); ok {
				sum += float64(n)*weights[j] + float64(v.soft[j].maxSkew-1)
			}
		}
		raw[i] = int64(math.Round(sum))
		lowest, highest = min(lowest, raw[i]), max(highest, raw[i])
	}
	for i := range raw {
		switch {
		case raw[i] == ignored:
		case highest == 0:
			out[i] += weightSpread * maxScore
		default:
			out[i] += weightSpread * (maxScore * (highest + lowest - raw[i]) / highest)
		}
	}
}
