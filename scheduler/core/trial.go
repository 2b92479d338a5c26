package core

import "slices"

// trial puts pods on one slot and takes them off, to see whether another pod
// would fit then. Only what that pod is compared with is kept right; end puts
// everything back. There is one trial at a time.
type trial struct {
	*attempt
	slot    int32
	before  []*placed // the row's pods
	ports   []hostPort
	tallies []*tally
	refusal int // added pods that refuse the pod's company, beyond the relations
	done    []change
}

type change struct {
	pod  *Pod
	sign int64
}

func (a *attempt) try(slot int32) *trial {
	row := &a.s.nodes[slot]
	t := &trial{attempt: a, slot: slot, before: row.pods, ports: row.ports}
	row.pods, row.ports = slices.Clone(row.pods), slices.Clone(row.ports)
	for _, r := range a.group.relations {
		if r.tally != nil && !slices.Contains(t.tallies, r.tally) {
			t.tallies = append(t.tallies, r.tally)
		}
	}
	return t
}

// removeLower takes off the pods of lower priority.
func (t *trial) removeLower() (out []*Pod) {
	row := &t.s.nodes[t.slot]
	row.pods = slices.DeleteFunc(row.pods, func(at *placed) bool {
		if at.pod.Priority >= t.pod.Priority {
			return false
		}
		out = append(out, at.pod)
		return true
	})
	for _, pod := range out {
		t.apply(pod, -1)
	}
	return out
}

func (t *trial) add(pod *Pod) {
	row := &t.s.nodes[t.slot]
	row.pods = append(row.pods, &placed{pod: pod, slot: t.slot})
	t.apply(pod, 1)
}

// undo takes off the pod that was added last.
func (t *trial) undo() {
	row := &t.s.nodes[t.slot]
	last := row.pods[len(row.pods)-1]
	row.pods = row.pods[:len(row.pods)-1]
	t.apply(last.pod, -1)
}

func (t *trial) apply(pod *Pod, sign int64) {
	t.done = append(t.done, change{pod, sign})
	t.charge(pod, sign)
}

func (t *trial) charge(pod *Pod, sign int64) {
	s := t.s
	s.charge(t.slot, pod, sign)
	row := &s.nodes[t.slot]
	for _, port := range pod.ports {
		if sign > 0 {
			row.ports = append(row.ports, port)
		} else if i := slices.Index(row.ports, port); i >= 0 {
			row.ports = slices.Delete(row.ports, i, i+1)
		}
	}
	s.useClaims(pod, int(sign))
	for _, tally := range t.tallies {
		if tally.counts(s.namespaces, pod) {
			tally.count.add(t.slot, sign)
		}
	}
	if pod.affinity == nil {
		return
	}
	for _, term := range pod.affinity.apart {
		i := slices.IndexFunc(t.group.relations, func(r *relation) bool { return r.kind == refused && r.carried.term.key == term.key })
		if i >= 0 {
			t.group.relations[i].carried.apart.add(t.slot, sign)
		} else if t.refuses(term) {
			t.refusal += int(sign)
		}
	}
}

func (t *trial) refuses(term *term) bool {
	_, labelled := t.s.nodes[t.slot].node.Labels[term.topologyKey]
	return labelled && t.pod.rules.Filters.Has(InterPodAffinity) && term.matches(t.s.namespaces, t.pod.Object)
}

// check applies the filters to the slot as it is in the trial.
func (t *trial) check() (f Filter, reasons []string, hopeless bool) {
	f, reasons, hopeless = t.now(t.slot, true)
	if f == Fits && t.refusal > 0 {
		return InterPodAffinity, []string{"node(s) didn't satisfy existing pods anti-affinity rules"}, false
	}
	return f, reasons, hopeless
}

// checkAll does so with the pods that are nominated to the slot, and without.
func (t *trial) checkAll() (f Filter, reasons []string, hopeless bool) {
	row := &t.s.nodes[t.slot]
	added := 0
	for _, n := range row.nominated {
		if n.pod.UID() != t.pod.UID() && n.pod.Priority >= t.pod.Priority {
			t.add(n.pod)
			added++
		}
	}
	if added > 0 {
		f, reasons, hopeless = t.check()
		for range added {
			t.undo()
		}
		if f != Fits {
			return f, reasons, hopeless
		}
	}
	return t.check()
}

func (t *trial) end() {
	for _, c := range slices.Backward(t.done) {
		t.charge(c.pod, -c.sign)
	}
	row := &t.s.nodes[t.slot]
	row.pods, row.ports = t.before, t.ports
}
