package core

import "math"

// candidate is a feasible slot, or the best of a bucket of n alike ones.
type candidate struct {
	slot  int32
	n     int
	extra int64 // score of what a bucket knows nothing of
}

// totals returns the score of each candidate. Scores by labels are scaled by
// the extremes among the candidates.
func (g *group) totals(s *Snapshot, list []candidate) []int64 {
	out := make([]int64, len(list))
	for i, c := range list {
		if g.base != nil {
			out[i] = g.base[c.slot] + c.extra
		} else {
			out[i] = g.score(s, c.slot) + c.extra
		}
	}
	if len(list) > 1 {
		g.addPreferences(s, list, out)
		g.addDrawn(list, out)
		g.addSpread(list, out)
	}
	return out
}

func (g *group) addPreferences(s *Snapshot, list []candidate, out []int64) {
	var preference, disliked int64
	for _, c := range list {
		a := g.place.at(s, c.slot)
		preference, disliked = max(preference, int64(a.preference)), max(disliked, int64(a.disliked))
	}
	if preference == 0 && disliked == 0 {
		return
	}
	w := &g.rules.Weights
	for i, c := range list {
		a := g.place.at(s, c.slot)
		if preference > 0 {
			out[i] += w.NodeAffinity * (maxScore * int64(a.preference) / preference)
		}
		if disliked > 0 {
			out[i] += w.Taint * (maxScore - maxScore*int64(a.disliked)/disliked)
		}
	}
}

func (g *group) addDrawn(list []candidate, out []int64) {
	var raw []int64
	lowest, highest := int64(math.MaxInt64), int64(math.MinInt64)
	for _, r := range g.relations {
		if r.kind != drawn {
			continue
		}
		if raw == nil {
			raw = make([]int64, len(list))
		}
		for i, c := range list {
			n, _ := r.sum(c.slot, false)
			raw[i] += n
		}
	}
	for _, n := range raw {
		lowest, highest = min(lowest, n), max(highest, n)
	}
	if highest <= lowest {
		return
	}
	for i, n := range raw {
		// The order of the operations matters for the last digit.
		share := float64(n-lowest) / float64(highest-lowest)
		out[i] += g.rules.Weights.PodAffinity * int64(maxScore*share)
	}
}

// addSpread prefers domains with fewer matching pods. A topology with more
// domains weighs more, lest zones drown the spreading over nodes.
func (g *group) addSpread(list []candidate, out []int64) {
	var soft []*relation
	for _, r := range g.relations {
		if r.kind == spreadSoft || r.kind == spreadHost {
			soft = append(soft, r)
		}
	}
	if len(soft) == 0 {
		return
	}
	weights := make([]float64, len(soft))
	for i, r := range soft {
		weights[i] = math.Log(float64(g.domainsAmong(r, soft, list) + 2))
	}
	const ignored = -1
	raw := make([]int64, len(list))
	lowest, highest := int64(math.MaxInt64), int64(0)
	for i, c := range list {
		if !g.anyNode && !inAll(soft, c.slot) {
			raw[i] = ignored
			continue
		}
		sum := 0.0
		for j, r := range soft {
			n, ok := r.sum(c.slot, false)
			if !ok {
				continue
			}
			if r.kind == spreadHost {
				n = r.read(c.slot)
			}
			sum += float64(n)*weights[j] + float64(r.spread.maxSkew-1)
		}
		raw[i] = int64(math.Round(sum))
		lowest, highest = min(lowest, raw[i]), max(highest, raw[i])
	}
	w := g.rules.Weights.Spread
	for i := range raw {
		switch {
		case raw[i] == ignored:
		case highest == 0:
			out[i] += w * maxScore
		default:
			out[i] += w * (maxScore * (highest + lowest - raw[i]) / highest)
		}
	}
}

// domainsAmong counts the domains of the candidates; where nodes may lack the
// label, those that do are one.
func (g *group) domainsAmong(r *relation, soft []*relation, list []candidate) (n int) {
	seen := map[int32]bool{}
	for _, c := range list {
		if !g.anyNode && !inAll(soft, c.slot) {
			continue
		}
		if r.kind == spreadHost {
			n += c.n
		} else if domain := r.at[c.slot]; !seen[domain] {
			seen[domain] = true
			n++
		}
	}
	return n
}

func inAll(soft []*relation, slot int32) bool {
	for _, r := range soft {
		if r.at[slot] < 0 {
			return false
		}
	}
	return true
}
