package core

import (
	"cmp"
	"math"
	"slices"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// Preemption is the way to make room for a pod.
type Preemption struct {
	// Node is where the pod will fit once the victims are gone.
	Node string
	// Victims are the pods to evict, the most important first. They may be
	// terminating already.
	Victims []*Pod
	// Displaced are pods of lower priority that were nominated to the node.
	Displaced []*Pod

	// Violations is how many of them a disruption budget protects.
	Violations int
}

// Preempt looks for pods of lower priority whose eviction makes the pod fit.
// d is the diagnosis of the very same state. Without a way it returns nil and
// the reason in upstream's words; settled then says that the pod's nomination
// stays: nobody found that it is in vain.
func (s *Snapshot) Preempt(p *Pod, d *Diagnosis, budgets []*policyv1.PodDisruptionBudget) (way *Preemption, reason string, settled bool) {
	ways, reason, settled := s.Ways(p, d, budgets)
	if len(ways) == 0 {
		return nil, reason, settled
	}
	return s.Choose(p, ways), "", false
}

const noVictims = "No preemption victims found for incoming pod"

// anyBelow says whether any pod on a node has a lower priority.
func (s *Snapshot) anyBelow(priority int32) bool {
	for p := range s.priorities {
		if p < priority {
			return true
		}
	}
	return false
}

// Ways is Preempt without the choice: there may be several nodes.
func (s *Snapshot) Ways(p *Pod, d *Diagnosis, budgets []*policyv1.PodDisruptionBudget) (ways []*Preemption, reason string, settled bool) {
	if policy := p.Object.Spec.PreemptionPolicy; policy != nil && *policy == corev1.PreemptNever {
		return nil, "not eligible due to preemptionPolicy=Never.", true
	}
	if n, ok := s.nominated[p.UID()]; ok && slices.Contains(d.candidates, n.slot) && s.clearing(p, n.slot) {
		return nil, "not eligible due to a terminating pod on the nominated node.", true
	}
	counts := map[string]int{}
	a, refused := s.attemptOf(p)
	switch n := len(d.candidates); {
	case n == 0 || refused != nil:
	case !s.anyBelow(p.Priority):
		counts[noVictims] = n
	default:
		shields := shieldsOf(budgets)
		limit := min(max(n*p.rules.CandidatesPercent/100, p.rules.CandidatesAtLeast), n)
		offset := s.rand.IntN(n)
		harmless := false // one way at least that breaks no budget
		for i := 0; i < n && (!harmless || len(ways) < limit); i++ {
			slot := d.candidates[(offset+i)%n]
			way, reasons := a.victims(slot, shields)
			if way == nil {
				for _, r := range reasons {
					counts[r]++
				}
				continue
			}
			harmless = harmless || way.Violations == 0
			ways = append(ways, way)
		}
	}
	if len(ways) == 0 {
		if rest := s.live - len(d.candidates); rest > 0 {
			counts["Preemption is not helpful for scheduling"] += rest
		}
		return nil, tell(s.live, counts), false
	}
	return ways, "", false
}

// Choose returns the way by which the least is lost.
func (s *Snapshot) Choose(p *Pod, ways []*Preemption) *Preemption {
	var best *Preemption
	for _, way := range ways {
		if best == nil || way.betterThan(best) {
			best = way
		}
	}
	slot, ok := s.slots[best.Node]
	if !ok {
		return best
	}
	for _, n := range s.nodes[slot].nominated {
		if n.pod.Priority < p.Priority {
			best.Displaced = append(best.Displaced, n.pod)
		}
	}
	return best
}

// clearing says whether a pod of lower priority that was preempted is on its
// way out of the slot.
func (s *Snapshot) clearing(p *Pod, slot int32) bool {
	return slices.ContainsFunc(s.nodes[slot].pods, func(at *placed) bool {
		return at.pod.Priority < p.Priority && (at.leaving || at.pod.preempted())
	})
}

// preempted says that the pod ends because of another.
func (p *Pod) preempted() bool {
	return p.Object.DeletionTimestamp != nil && slices.ContainsFunc(p.Object.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.DisruptionTarget && c.Status == corev1.ConditionTrue && c.Reason == corev1.PodReasonPreemptionByScheduler
	})
}

// victims finds the fewest pods that must leave a slot.
func (a *attempt) victims(slot int32, shields []shield) (*Preemption, []string) {
	if a.s.nodes[slot].node == nil { // gone since the diagnosis
		return nil, nil
	}
	if !slices.ContainsFunc(a.s.nodes[slot].pods, func(at *placed) bool { return at.pod.Priority < a.pod.Priority }) {
		return nil, []string{noVictims}
	}
	t := a.try(slot)
	defer t.end()
	lower := t.removeLower()
	slices.SortStableFunc(lower, moreImportant)
	if f, reasons, _ := t.checkAll(); f != Fits {
		return nil, reasons
	}
	protected, others := splitByBudget(lower, shields)
	way := &Preemption{Node: a.s.nodes[slot].name}
	spare := func(pods []*Pod) (evicted int) {
		for _, pod := range pods {
			t.add(pod)
			if f, _, _ := t.checkAll(); f == Fits {
				continue
			}
			t.undo()
			way.Victims = append(way.Victims, pod)
			evicted++
		}
		return evicted
	}
	// Until a pod has been tried it is off the node, so that the ones whose
	// budgets would be broken are the first to be spared.
	way.Violations = spare(protected)
	spare(others)
	if len(way.Victims) == 0 {
		return nil, nil
	}
	slices.SortStableFunc(way.Victims, moreImportant)
	return way, nil
}

func moreImportant(a, b *Pod) int {
	return cmp.Or(cmp.Compare(b.Priority, a.Priority), cmp.Compare(startOf(a), startOf(b)))
}

// startOf orders pods by age; one that has not started is the youngest.
func startOf(p *Pod) int64 {
	if t := p.Object.Status.StartTime; t != nil {
		return t.UnixNano()
	}
	return math.MaxInt64
}

// shield is a disruption budget.
type shield struct {
	budget   *policyv1.PodDisruptionBudget
	selector labels.Selector
}

func shieldsOf(budgets []*policyv1.PodDisruptionBudget) (out []shield) {
	for _, b := range budgets {
		selector, err := metav1.LabelSelectorAsSelector(b.Spec.Selector)
		if err == nil && !selector.Empty() {
			out = append(out, shield{b, selector})
		}
	}
	return out
}

// splitByBudget separates the pods whose eviction a disruption budget does not
// allow, in the given order.
func splitByBudget(pods []*Pod, shields []shield) (protected, others []*Pod) {
	allowed := make([]int32, len(shields))
	for i := range shields {
		allowed[i] = shields[i].budget.Status.DisruptionsAllowed
	}
	breaks := func(pod *corev1.Pod) bool {
		for i, s := range shields {
			if s.budget.Namespace != pod.Namespace || len(pod.Labels) == 0 || !s.selector.Matches(labels.Set(pod.Labels)) {
				continue
			}
			if _, counted := s.budget.Status.DisruptedPods[pod.Name]; counted {
				continue
			}
			if allowed[i]--; allowed[i] < 0 {
				return true
			}
		}
		return false
	}
	for _, pod := range pods {
		if breaks(pod.Object) {
			protected = append(protected, pod)
		} else {
			others = append(others, pod)
		}
	}
	return protected, others
}

// betterThan compares by what is lost: broken budgets, the highest priority,
// the sum of priorities, the number of pods; then younger pods go first.
func (a *Preemption) betterThan(b *Preemption) bool {
	return cmp.Or(
		cmp.Compare(a.Violations, b.Violations),
		cmp.Compare(a.highest(), b.highest()),
		cmp.Compare(a.sum(), b.sum()),
		cmp.Compare(len(a.Victims), len(b.Victims)),
		cmp.Compare(b.earliest(), a.earliest()),
	) < 0
}

func (a *Preemption) highest() int32 {
	if len(a.Victims) == 0 {
		return math.MinInt32
	}
	return a.Victims[0].Priority
}

// sum lifts priorities above zero, so that one more victim always costs.
func (a *Preemption) sum() (n int64) {
	for _, v := range a.Victims {
		n += int64(v.Priority) + math.MaxInt32 + 1
	}
	return n
}

// earliest is when the first of the most important victims started.
func (a *Preemption) earliest() int64 {
	first := int64(math.MaxInt64)
	for _, v := range a.Victims {
		if v.Priority == a.Victims[0].Priority {
			first = min(first, startOf(v))
		}
	}
	return first
}

// trial puts pods on one slot and takes them off, to see whether another pod
// would fit then. Only what filters compare that pod with is kept right, since
// trials are most of a preemption; end puts everything back. There is one trial
// at a time.
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
	row.pods = slices.Clone(row.pods)
	if len(a.pod.ports) > 0 {
		row.ports = slices.Clone(row.ports)
	}
	for _, r := range a.group.relations {
		if r.tally != nil && r.kind.filters() && !slices.Contains(t.tallies, r.tally) {
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
	if len(t.pod.ports) > 0 {
		for _, port := range pod.ports {
			if sign > 0 {
				row.ports = append(row.ports, port)
			} else if i := slices.Index(row.ports, port); i >= 0 {
				row.ports = slices.Delete(row.ports, i, i+1)
			}
		}
	}
	if t.claims != nil {
		s.useClaims(pod, int(sign))
	}
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
