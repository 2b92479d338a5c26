package statefulset

import (
	"context"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// roll deletes pods of old revisions, from the highest ordinal down to the
// partition, for as many as may be unavailable at a time. What it deletes is
// created anew at the update revision.
func (p *pass) roll(ctx context.Context) error {
	victims, err := p.outdated()
	if err != nil {
		return err
	}
	for _, pod := range victims {
		if err := p.delete(ctx, pod); err != nil {
			return err
		}
		if revisionOf(pod) == p.current.name {
			p.status.CurrentReplicas--
		}
	}
	return nil
}

// outdated returns the pods to delete for the rollout now.
//
// A parallel set gives up all old pods that do not serve, whatever the limit:
// they cost nothing, and may be why the new template was made. Good pods then
// get what is left of the limit.
func (p *pass) outdated() ([]*corev1.Pod, error) {
	limit, err := p.maxUnavailable()
	if err != nil {
		return nil, err
	}
	serving := 0
	var broken, good []*corev1.Pod
	for _, n := range slices.Backward(slices.Sorted(maps.Keys(p.replicas))) {
		pod := p.replicas[n]
		serves := p.serves(pod)
		if serves {
			serving++
		}
		switch {
		case n-p.start < p.partition(), revisionOf(pod) == p.update.name, terminating(pod):
		case serves || p.ordered():
			good = append(good, pod)
		default:
			broken = append(broken, pod)
		}
	}
	budget := max(0, limit-(p.end-p.start-serving))
	return append(broken, good[:min(budget, len(good))]...), nil
}

func (p *pass) partition() int {
	if r := p.set.Spec.UpdateStrategy.RollingUpdate; r != nil && r.Partition != nil {
		return int(*r.Partition)
	}
	return 0
}

// maxUnavailable is rounded down, but never to less than one.
func (p *pass) maxUnavailable() (int, error) {
	limit := intstr.FromInt32(1)
	if r := p.set.Spec.UpdateStrategy.RollingUpdate; r != nil && r.MaxUnavailable != nil {
		limit = *r.MaxUnavailable
	}
	n, err := intstr.GetScaledValueFromIntOrPercent(&limit, p.end-p.start, false)
	return max(n, 1), err
}
