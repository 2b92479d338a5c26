package pods

import (
	"cmp"
	"math"
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Victims returns the n pods to delete first. related are the pods of the same
// workload, those of other ReplicaSets included: of two equal pods the one
// whose node carries more of them goes first.
//
// In order: unassigned, then Pending before Unknown before Running, not ready,
// lower deletion cost, more company on the node, ready for a shorter time,
// more restarts, younger. Times count by their order of magnitude, so that
// pods of about one age are not always given up newest first, which would
// empty the newest nodes.
func Victims(candidates, related []*corev1.Pod, n int, now time.Time) []*corev1.Pod {
	if n >= len(candidates) {
		return candidates
	}
	company := map[string]int{}
	for _, p := range related {
		if Active(p) {
			company[p.Spec.NodeName]++
		}
	}
	ranked := slices.Clone(candidates)
	slices.SortStableFunc(ranked, func(a, b *corev1.Pod) int {
		return compareVictims(a, b, company, now)
	})
	return ranked[:n]
}

var phaseRank = map[corev1.PodPhase]int{corev1.PodPending: 0, corev1.PodUnknown: 1, corev1.PodRunning: 2}

// compareVictims is negative when a is to be deleted before b.
func compareVictims(a, b *corev1.Pod, company map[string]int, now time.Time) int {
	readyA, readyB := Ready(a), Ready(b)
	order := cmp.Or(
		compareBool(a.Spec.NodeName != "", b.Spec.NodeName != ""),
		cmp.Compare(phaseRank[a.Status.Phase], phaseRank[b.Status.Phase]),
		compareBool(readyA, readyB),
		cmp.Compare(DeletionCost(a), DeletionCost(b)),
		cmp.Compare(company[b.Spec.NodeName], company[a.Spec.NodeName]),
	)
	if order != 0 {
		return order
	}
	if readyA && readyB {
		if order = compareAge(readySince(a), readySince(b), a, b, now); order != 0 {
			return order
		}
	}
	if order = compareRestarts(a, b); order != 0 {
		return order
	}
	return compareAge(a.CreationTimestamp, b.CreationTimestamp, a, b, now)
}

// DeletionCost is what an annotation says a pod is worth; 0 if nothing valid.
func DeletionCost(p *corev1.Pod) int32 {
	v := p.Annotations[corev1.PodDeletionCost]
	if v == "" || v[0] == '+' || (v[0] == '0' && v != "0") {
		return 0
	}
	n, err := strconv.ParseInt(v, 10, 32)
	if err != nil {
		return 0
	}
	return int32(n)
}

// CompareStage puts the pod first that has come less far: unassigned, then
// Pending before Unknown before Running, not ready, ready for a shorter time,
// more restarts, younger.
func CompareStage(a, b *corev1.Pod) int {
	order := cmp.Or(
		compareBool(a.Spec.NodeName != "", b.Spec.NodeName != ""),
		cmp.Compare(phaseRank[a.Status.Phase], phaseRank[b.Status.Phase]),
		compareBool(Ready(a), Ready(b)),
	)
	if order == 0 && Ready(a) {
		order = laterFirst(readySince(a), readySince(b))
	}
	return cmp.Or(order, compareRestarts(a, b), laterFirst(a.CreationTimestamp, b.CreationTimestamp))
}

// laterFirst puts the later time first; an unset one is latest.
func laterFirst(a, b metav1.Time) int {
	if a.IsZero() || b.IsZero() {
		return compareBool(!a.IsZero(), !b.IsZero())
	}
	return b.Compare(a.Time)
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

func readySince(p *corev1.Pod) metav1.Time {
	if c := Condition(&p.Status, corev1.PodReady); c != nil {
		return c.LastTransitionTime
	}
	return metav1.Time{}
}

// compareAge puts the younger first; an unset time is youngest. Ages of one
// order of magnitude are decided by UID.
func compareAge(ta, tb metav1.Time, a, b *corev1.Pod, now time.Time) int {
	if ta.Equal(&tb) {
		return 0
	}
	if ta.IsZero() || tb.IsZero() {
		return compareBool(!ta.IsZero(), !tb.IsZero())
	}
	return cmp.Or(
		cmp.Compare(magnitude(now.Sub(ta.Time)), magnitude(now.Sub(tb.Time))),
		cmp.Compare(a.UID, b.UID),
	)
}

func magnitude(age time.Duration) int64 {
	if age <= 0 {
		return -1
	}
	return int64(math.Log2(float64(age)))
}

// compareRestarts puts the pod with the container that restarted most first;
// sidecars count when the others are equal.
func compareRestarts(a, b *corev1.Pod) int {
	mainA, sideA := maxRestarts(a)
	mainB, sideB := maxRestarts(b)
	return cmp.Or(cmp.Compare(mainB, mainA), cmp.Compare(sideB, sideA))
}

func maxRestarts(p *corev1.Pod) (main, sidecar int32) {
	for i := range p.Status.ContainerStatuses {
		main = max(main, p.Status.ContainerStatuses[i].RestartCount)
	}
	restartable := map[string]bool{}
	for i := range p.Spec.InitContainers {
		c := &p.Spec.InitContainers[i]
		restartable[c.Name] = c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways
	}
	for i := range p.Status.InitContainerStatuses {
		if s := &p.Status.InitContainerStatuses[i]; restartable[s.Name] {
			sidecar = max(sidecar, s.RestartCount)
		}
	}
	return main, sidecar
}
