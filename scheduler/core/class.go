package core

import (
	"math"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

const maxScore = 100

// class is what of a pod is compared with the node and what runs there,
// labels aside.
type class struct {
	rules  *Profile
	place  *placement
	needs  needs
	ports  []hostPort
	images []string
	parts  int
	found  []*imageState
	// devices counts them as a resource that the node has none of; nil for not.
	devices func(corev1.ResourceName) (have, taken int64)
}

func newClass(p *Pod, place *placement) *class {
	k := p.classify()
	return &class{rules: p.rules, place: place, needs: p.needs, ports: p.ports, images: k.images, parts: k.parts}
}

// judge applies the filters that need no other pods' labels.
func (c *class) judge(s *Snapshot, slot int32, a *answer) Filter {
	switch {
	case a.verdict != Fits:
		return a.verdict
	case c.portsTaken(s, slot):
		return NodePorts
	case !c.resourcesFit(s, slot):
		return NodeResourcesFit
	}
	return Fits
}

func (c *class) portsTaken(s *Snapshot, slot int32) bool {
	if len(c.ports) == 0 || !c.rules.Filters.Has(NodePorts) {
		return false
	}
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
	if !c.rules.Filters.Has(NodeResourcesFit) {
		return true
	}
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
		allocatable, requested := s.scalar(x.name, slot)
		if x.quantity > allocatable-requested && !c.ignores(s, x.name, allocatable) {
			return false
		}
	}
	return true
}

// ignores says that somebody else accounts for a resource: the allocator of
// devices does where a node has none of what they stand for.
func (c *class) ignores(s *Snapshot, name corev1.ResourceName, allocatable int64) bool {
	if allocatable == 0 && s.devices != nil && c.rules.Filters.Has(DynamicResources) && s.devices.Backs(name) {
		return true
	}
	fit := &c.rules.Fit
	if len(fit.Ignored)+len(fit.IgnoredGroups) == 0 {
		return false
	}
	group, _, _ := strings.Cut(string(name), "/")
	return isExtended(name) && (fit.Ignored[string(name)] || fit.IgnoredGroups[group])
}

// isExtended says that a resource is none of Kubernetes' own.
func isExtended(name corev1.ResourceName) bool {
	return strings.Contains(string(name), "/") && !strings.Contains(string(name), "kubernetes.io/")
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
		if allocatable, requested := s.scalar(x.name, slot); !c.ignores(s, x.name, allocatable) {
			check(string(x.name), x.quantity, allocatable, requested)
		}
	}
	return reasons, hopeless
}

// score adds up what does not depend on labels.
func (c *class) score(s *Snapshot, slot int32) (total int64) {
	w := &c.rules.Weights
	if w.Fit != 0 {
		total += w.Fit * c.room(s, slot)
	}
	if w.Balanced != 0 {
		total += w.Balanced * c.balanced(s, slot)
	}
	if w.Image != 0 && len(c.found) > 0 {
		total += w.Image * s.imageScore(c.found, c.parts, slot)
	}
	return total
}

// use is what a node has of a resource and what is requested of it, without
// the pod and with it. Nonzero counts something for containers that request
// no cpu or memory.
func (c *class) use(s *Snapshot, slot int32, name corev1.ResourceName, nonzero bool) (have, before, after int64) {
	n := &c.needs
	switch {
	case name == corev1.ResourceCPU && nonzero:
		have, before, after = s.allocatable[cpu][slot], s.nonzero[cpu][slot], n.nonzeroCPU
	case name == corev1.ResourceMemory && nonzero:
		have, before, after = s.allocatable[memory][slot], s.nonzero[memory][slot], n.nonzeroMemory
	case name == corev1.ResourceCPU:
		have, before, after = s.allocatable[cpu][slot], s.requested[cpu][slot], n.cpu
	case name == corev1.ResourceMemory:
		have, before, after = s.allocatable[memory][slot], s.requested[memory][slot], n.memory
	case name == corev1.ResourceEphemeralStorage:
		have, before, after = s.allocatable[ephemeral][slot], s.requested[ephemeral][slot], n.ephemeral
	default:
		i := slices.IndexFunc(n.scalars, func(x scalar) bool { return x.name == name })
		if i < 0 { // a resource that only some pods want says nothing about the others
			return 0, 0, 0
		}
		if have, before = s.scalar(name, slot); have == 0 && c.devices != nil {
			have, before = c.devices(name)
		}
		after = n.scalars[i].quantity
	}
	return have, before, before + after
}

// room scores what is left of the resources that the profile names.
func (c *class) room(s *Snapshot, slot int32) int64 {
	fit := &c.rules.Fit
	var sum, weights int64
	for _, r := range fit.Resources {
		have, _, used := c.use(s, slot, r.Name, true)
		if have == 0 {
			continue
		}
		var score int64
		switch fit.Strategy {
		case LeastAllocated:
			score = max(have-used, 0) * maxScore / have
		case MostAllocated:
			score = min(used, have) * maxScore / have
		case RequestedToCapacityRatio:
			if score = ratio(fit.Shape, used, have); score <= 0 {
				continue
			}
		}
		sum += score * r.Weight
		weights += r.Weight
	}
	switch {
	case weights == 0:
		return 0
	case fit.Strategy == RequestedToCapacityRatio:
		return int64(math.Round(float64(sum) / float64(weights)))
	default:
		return sum / weights
	}
}

// balanced prefers nodes whose resources would be used to shares that are
// more alike with the pod than without. Pods that request none of them are
// left out: they would all land on one node.
func (c *class) balanced(s *Snapshot, slot int32) int64 {
	before, after := make([]float64, 0, 4), make([]float64, 0, 4)
	wants := false
	for _, name := range c.rules.Balanced {
		have, without, with := c.use(s, slot, name, false)
		wants = wants || c.wants(name)
		if have == 0 {
			continue
		}
		before = append(before, min(float64(without)/float64(have), 1))
		after = append(after, min(float64(with)/float64(have), 1))
	}
	if !wants {
		return 0
	}
	const half = maxScore / 2
	return half + (half+alike(after)-alike(before))/2
}

func (c *class) wants(name corev1.ResourceName) bool {
	switch name {
	case corev1.ResourceCPU:
		return c.needs.cpu > 0
	case corev1.ResourceMemory:
		return c.needs.memory > 0
	case corev1.ResourceEphemeralStorage:
		return c.needs.ephemeral > 0
	}
	return slices.ContainsFunc(c.needs.scalars, func(x scalar) bool { return x.name == name })
}

// alike is the higher the smaller the standard deviation of the shares is.
func alike(shares []float64) int64 {
	deviation := 0.0
	switch len(shares) {
	case 0, 1:
	case 2:
		deviation = math.Abs((shares[0] - shares[1]) / 2)
	default:
		sum := 0.0
		for _, x := range shares {
			sum += x
		}
		mean := sum / float64(len(shares))
		sum = 0
		for _, x := range shares {
			sum += (x - mean) * (x - mean)
		}
		deviation = math.Sqrt(sum / float64(len(shares)))
	}
	return int64((1 - deviation) * maxScore)
}

// candidate is a feasible slot, or the best of a bucket of n alike ones.
type candidate struct {
	slot  int32
	n     int
	extra int64 // score of what a bucket knows nothing of

	devices int64 // how well they meet claims, to be scaled
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
		g.addDevices(list, out)
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
