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

	violations int // of disruption budgets
}

// The number of candidate nodes that are tried: a tenth, but enough of them.
const (
	minCandidates     = 100
	candidatesPercent = 10
)

// Preempt looks for pods of lower priority whose eviction makes the pod fit.
// d is the diagnosis of the very same state. Without a way it returns nil and
// the reason in upstream's words; settled then says that the pod's nomination
// still stands.
func (s *Snapshot) Preempt(p *Pod, d *Diagnosis, budgets []*policyv1.PodDisruptionBudget) (way *Preemption, reason string, settled bool) {
	if policy := p.Object.Spec.PreemptionPolicy; policy != nil && *policy == corev1.PreemptNever {
		return nil, "not eligible due to preemptionPolicy=Never.", false
	}
	if n, ok := s.nominated[p.UID()]; ok && slices.Contains(d.candidates, n.slot) && s.clearing(p, n.slot) {
		return nil, "not eligible due to a terminating pod on the nominated node.", true
	}
	counts := map[string]int{}
	var best *Preemption
	if n := len(d.candidates); n > 0 {
		limit := min(max(n*candidatesPercent/100, minCandidates), n)
		offset := s.rand.IntN(n)
		found := 0
		for i := 0; i < n && found < limit; i++ {
			slot := d.candidates[(offset+i)%n]
			way, reasons := s.victims(p, slot, budgets)
			if way == nil {
				for _, r := range reasons {
					counts[r]++
				}
				continue
			}
			found++
			if best == nil || way.betterThan(best) {
				best = way
			}
		}
	}
	if best == nil {
		if rest := s.live - len(d.candidates); rest > 0 {
			counts["Preemption is not helpful for scheduling"] += rest
		}
		return nil, tell(s.live, counts), false
	}
	for _, n := range s.nodes[s.slots[best.Node]].nominated {
		if n.pod.Priority < p.Priority {
			best.Displaced = append(best.Displaced, n.pod)
		}
	}
	return best, "", false
}

// clearing says whether a pod of lower priority that was preempted is on its
// way out of the slot.
func (s *Snapshot) clearing(p *Pod, slot int32) bool {
	return slices.ContainsFunc(s.nodes[slot].pods, func(at *placed) bool {
		return at.pod.Priority < p.Priority && at.pod.Object.DeletionTimestamp != nil &&
			slices.ContainsFunc(at.pod.Object.Status.Conditions, func(c corev1.PodCondition) bool {
				return c.Type == corev1.DisruptionTarget && c.Status == corev1.ConditionTrue && c.Reason == corev1.PodReasonPreemptionByScheduler
			})
	})
}

// victims finds the fewest pods that must leave a slot. It tries on the
// snapshot itself and puts everything back.
func (s *Snapshot) victims(p *Pod, slot int32, budgets []*policyv1.PodDisruptionBudget) (*Preemption, []string) {
	name := s.nodes[slot].name
	var lower []*Pod
	for _, at := range s.nodes[slot].pods {
		if at.pod.Priority < p.Priority {
			lower = append(lower, at.pod)
		}
	}
	if len(lower) == 0 {
		return nil, []string{"No preemption victims found for incoming pod"}
	}
	slices.SortFunc(lower, moreImportant)
	for _, pod := range lower {
		s.RemovePod(pod.UID())
	}
	out := lower // not on the node at this moment
	defer func() {
		for _, pod := range out {
			s.PutPod(pod, name)
		}
	}()

	c := newClass(p, newPlacement(p.Object))
	fits := func() bool {
		v, refusal := s.viewOf(p, c.place)
		return refusal == "" && s.passes(c, v, p, slot)
	}
	if !fits() {
		v, _ := s.viewOf(p, c.place)
		_, reasons, _ := s.explain(c, v, p, slot)
		return nil, reasons
	}
	protected, others := splitByBudget(lower, budgets)
	way := &Preemption{Node: name}
	out = nil
	spare := func(pods []*Pod) (evicted int) {
		for _, pod := range pods {
			s.PutPod(pod, name)
			if fits() {
				continue
			}
			s.RemovePod(pod.UID())
			out = append(out, pod)
			evicted++
		}
		return evicted
	}
	// Until a pod has been tried it is off the node, so that the ones whose
	// budgets would be broken are the first to be spared.
	way.violations = spare(protected)
	spare(others)
	slices.SortFunc(out, moreImportant)
	way.Victims = slices.Clone(out)
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

// splitByBudget separates the pods whose eviction a disruption budget does not
// allow, in the given order.
func splitByBudget(pods []*Pod, budgets []*policyv1.PodDisruptionBudget) (protected, others []*Pod) {
	allowed := make([]int32, len(budgets))
	selectors := make([]labels.Selector, len(budgets))
	for i := range budgets {
		allowed[i] = budgets[i].Status.DisruptionsAllowed
		s, err := metav1.LabelSelectorAsSelector(budgets[i].Spec.Selector)
		if err != nil || s.Empty() {
			s = labels.Nothing()
		}
		selectors[i] = s
	}
	for _, pod := range pods {
		broken := false
		for i := range budgets {
			b := budgets[i]
			if b.Namespace != pod.Object.Namespace || len(pod.Object.Labels) == 0 || !selectors[i].Matches(labels.Set(pod.Object.Labels)) {
				continue
			}
			if _, counted := b.Status.DisruptedPods[pod.Object.Name]; counted {
				continue
			}
			allowed[i]--
			broken = broken || allowed[i] < 0
		}
		if broken {
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
		cmp.Compare(a.violations, b.violations),
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
