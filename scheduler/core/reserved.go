package core

import corev1 "k8s.io/api/core/v1"

// reserved is what the pods nominated to a node will need of it.
type reserved struct {
	pods, cpu, memory, ephemeral int64
	scalars                      map[corev1.ResourceName]int64
}

func (r *reserved) add(n *needs) {
	r.pods++
	r.cpu += n.cpu
	r.memory += n.memory
	r.ephemeral += n.ephemeral
	for _, x := range n.scalars {
		if r.scalars == nil {
			r.scalars = map[corev1.ResourceName]int64{}
		}
		r.scalars[x.name] += x.quantity
	}
}

// Unreserved returns whether pods have room on a node beside those that are
// nominated to it and that they may not push aside. It answers for the present
// moment, and of many pods fast: thousands may wait for one place.
func (s *Snapshot) Unreserved(node string) func(*Pod) bool {
	slot, ok := s.slots[node]
	if !ok || len(s.nodes[slot].nominated) == 0 {
		return func(*Pod) bool { return true }
	}
	byPriority := map[int32]*reserved{}
	return func(p *Pod) bool {
		r, known := byPriority[p.Priority]
		if !known {
			r = s.reservedFrom(p.Priority, slot)
			byPriority[p.Priority] = r
		}
		return s.hasRoom(p, slot, r)
	}
}

// reservedFrom sums up what is nominated to a slot, from a priority upwards.
func (s *Snapshot) reservedFrom(priority int32, slot int32) *reserved {
	r := &reserved{}
	for _, n := range s.nodes[slot].nominated {
		if n.pod.Priority >= priority {
			r.add(&n.pod.needs)
		}
	}
	return r
}

// hasRoom says whether the pod fits beside what is reserved for others.
func (s *Snapshot) hasRoom(p *Pod, slot int32, r *reserved) bool {
	if !p.rules.Filters.Has(NodeResourcesFit) {
		return true
	}
	var own needs
	others := r.pods
	if n, ok := s.nominated[p.UID()]; ok && n.slot == slot {
		own = n.pod.needs
		others--
	}
	fits := func(need, reserved, own, allocatable, requested int64) bool {
		return need == 0 || need+reserved-own <= allocatable-requested
	}
	n := &p.needs
	if int64(len(s.nodes[slot].pods))+others+1 > s.maxPods[slot] ||
		!fits(n.cpu, r.cpu, own.cpu, s.allocatable[cpu][slot], s.requested[cpu][slot]) ||
		!fits(n.memory, r.memory, own.memory, s.allocatable[memory][slot], s.requested[memory][slot]) ||
		!fits(n.ephemeral, r.ephemeral, own.ephemeral, s.allocatable[ephemeral][slot], s.requested[ephemeral][slot]) {
		return false
	}
	c := &class{rules: p.rules}
	for _, x := range n.scalars {
		mine := int64(0)
		for _, o := range own.scalars {
			if o.name == x.name {
				mine = o.quantity
			}
		}
		allocatable, requested := s.scalar(x.name, slot)
		if !c.ignores(s, x.name, allocatable) && !fits(x.quantity, r.scalars[x.name], mine, allocatable, requested) {
			return false
		}
	}
	return true
}
