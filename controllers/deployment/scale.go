package deployment

import (
	"cmp"
	"context"
	"math"
	"slices"
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// roll moves replicas from old ReplicaSets to the new one, a step at a time:
// never more than maxSurge above the wanted number, never more than
// maxUnavailable below it available.
func (r *rollout) roll(ctx context.Context) error {
	newSet, old, err := r.split(ctx, true)
	if err != nil {
		return err
	}
	size := *r.d.Spec.Replicas
	if replicas(newSet) < size {
		size = newSetSize(r.d, append(slices.Clone(old), newSet), newSet)
	}
	scaled, err := r.resize(ctx, newSet, size)
	if err != nil {
		return err
	}
	if !scaled {
		if scaled, err = r.shrinkOld(ctx, newSet, old); err != nil {
			return err
		}
	}
	if !scaled && finished(r.d, &r.d.Status) {
		if err := r.cleanUp(ctx, old); err != nil {
			return err
		}
	}
	return r.syncProgress(ctx, newSet, old)
}

// shrinkOld takes replicas from old ReplicaSets: first those that are not
// healthy anyway, then as many as availability allows.
func (r *rollout) shrinkOld(ctx context.Context, newSet *appsv1.ReplicaSet, old []*appsv1.ReplicaSet) (bool, error) {
	old = active(old)
	if sum(old, replicas) == 0 {
		return false, nil
	}
	all := append(slices.Clone(old), newSet)
	minAvailable := *r.d.Spec.Replicas - maxUnavailable(r.d)
	// Pods of the new set that are not up yet must not count as a reason to
	// give up old ones that are.
	starting := replicas(newSet) - newSet.Status.AvailableReplicas
	budget := sum(all, replicas) - minAvailable - starting
	if budget <= 0 {
		return false, nil
	}
	slices.SortFunc(old, compareAge)
	var unhealthy, healthy int32
	for i, rs := range old {
		n := min(budget-unhealthy, replicas(rs)-rs.Status.AvailableReplicas)
		if unhealthy >= budget || n <= 0 {
			continue
		}
		resized, err := r.resizeTo(ctx, rs, replicas(rs)-n)
		if err != nil {
			return false, err
		}
		old[i] = resized
		unhealthy += n
	}
	// A status that lags still counts pods which a smaller size gave up.
	available := sum(append(slices.Clone(old), newSet), func(rs *appsv1.ReplicaSet) int32 { return min(replicas(rs), rs.Status.AvailableReplicas) })
	surplus := available - minAvailable
	for _, rs := range old {
		n := min(surplus-healthy, replicas(rs))
		if n <= 0 {
			continue
		}
		if _, err := r.resizeTo(ctx, rs, replicas(rs)-n); err != nil {
			return false, err
		}
		healthy += n
	}
	return unhealthy+healthy > 0, nil
}

// newSetSize is how large the new ReplicaSet may be next to all others: those
// count with the pods that they still have, not only with those that they
// shall. A set that has not seen its size yet may be at any former one.
func newSetSize(d *appsv1.Deployment, all []*appsv1.ReplicaSet, newSet *appsv1.ReplicaSet) int32 {
	want, have := *d.Spec.Replicas, replicas(newSet)
	if d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType {
		return want
	}
	if slices.ContainsFunc(all, func(rs *appsv1.ReplicaSet) bool { return rs != nil && rs.Status.ObservedGeneration < rs.Generation }) {
		return have // its status calls for the next pass
	}
	surge := int32(0)
	if u := d.Spec.Strategy.RollingUpdate; u != nil {
		surge = scaled(u.MaxSurge, want, true)
	}
	room := want + surge - sum(all, func(rs *appsv1.ReplicaSet) int32 { return max(replicas(rs), rs.Status.Replicas) })
	if room <= 0 {
		return have
	}
	return have + min(room, want-have)
}

// resized reports whether spec.replicas changed since the ReplicaSets were
// last scaled.
func (r *rollout) resized(ctx context.Context) (bool, error) {
	newSet, old, err := r.split(ctx, false)
	if err != nil {
		return false, err
	}
	for _, rs := range active(append(slices.Clone(old), newSet)) {
		if desired, ok := number(rs, desiredAnnotation); ok && desired != *r.d.Spec.Replicas {
			return true, nil
		}
	}
	return false, nil
}

// scale brings the ReplicaSets to a changed size without going on with a
// rollout: the only active one gets all of it, several share the difference in
// proportion to their sizes, which spreads the risk of a bad template.
func (r *rollout) scale(ctx context.Context, newSet *appsv1.ReplicaSet, old []*appsv1.ReplicaSet) error {
	if rs := activeOrLatest(newSet, old); rs != nil {
		_, err := r.resize(ctx, rs, *r.d.Spec.Replicas)
		return err
	}
	if saturated(r.d, newSet) {
		for _, rs := range active(old) {
			if _, err := r.resize(ctx, rs, 0); err != nil {
				return err
			}
		}
		return nil
	}
	if r.d.Spec.Strategy.Type != appsv1.RollingUpdateDeploymentStrategyType {
		return nil
	}
	all := active(append(slices.Clone(old), newSet))
	sizes := proportion(r.d, all)
	for _, rs := range all {
		if _, err := r.resizeTo(ctx, rs, sizes[rs]); err != nil {
			return err
		}
	}
	return nil
}

// proportion shares a changed size among active ReplicaSets, which it sorts.
// What rounding leaves over goes to the largest.
func proportion(d *appsv1.Deployment, all []*appsv1.ReplicaSet) map[*appsv1.ReplicaSet]int32 {
	allowed := int32(0)
	if *d.Spec.Replicas > 0 {
		allowed = *d.Spec.Replicas + maxSurge(d)
	}
	toAdd := allowed - sum(all, replicas)
	// The largest first; of equals the newest grows and the oldest shrinks first.
	slices.SortFunc(all, func(a, b *appsv1.ReplicaSet) int {
		if toAdd > 0 {
			return cmp.Or(cmp.Compare(replicas(b), replicas(a)), compareAge(b, a))
		}
		return cmp.Or(cmp.Compare(replicas(b), replicas(a)), compareAge(a, b))
	})
	sizes := make(map[*appsv1.ReplicaSet]int32, len(all))
	added := int32(0)
	for _, rs := range all {
		share := int32(0)
		if left := toAdd - added; replicas(rs) != 0 && left != 0 {
			share = fraction(d, rs)
			if toAdd > 0 {
				share = min(share, left)
			} else {
				share = max(share, left)
			}
		}
		sizes[rs] = replicas(rs) + share
		added += share
	}
	if len(all) > 0 {
		sizes[all[0]] = max(0, sizes[all[0]]+toAdd-added)
	}
	return sizes
}

// fraction is by how much rs changes when the Deployment grows from the size
// noted on rs to its size now.
func fraction(d *appsv1.Deployment, rs *appsv1.ReplicaSet) int32 {
	if *d.Spec.Replicas == 0 {
		return -replicas(rs)
	}
	before, ok := number(rs, maxAnnotation)
	if !ok || before == 0 {
		if before = d.Status.Replicas; before == 0 {
			return 0
		}
	}
	most := *d.Spec.Replicas + maxSurge(d)
	size := float64(replicas(rs)) * float64(most) / float64(before)
	return int32(math.Round(size)) - replicas(rs)
}

// activeOrLatest returns the one active ReplicaSet; with none, the newest; with
// several, nil.
func activeOrLatest(newSet *appsv1.ReplicaSet, old []*appsv1.ReplicaSet) *appsv1.ReplicaSet {
	switch live := active(append(slices.Clone(old), newSet)); {
	case len(live) == 1:
		return live[0]
	case len(live) > 1:
		return nil
	case newSet != nil:
		return newSet
	case len(old) > 0:
		return slices.MaxFunc(old, compareAge)
	}
	return nil
}

// saturated reports whether the new ReplicaSet alone is all that is wanted.
func saturated(d *appsv1.Deployment, rs *appsv1.ReplicaSet) bool {
	if rs == nil {
		return false
	}
	want := *d.Spec.Replicas
	desired, ok := number(rs, desiredAnnotation)
	return ok && desired == want && replicas(rs) == want && rs.Status.AvailableReplicas == want
}

// resize scales rs to n, if that is a change.
func (r *rollout) resize(ctx context.Context, rs *appsv1.ReplicaSet, n int32) (bool, error) {
	if replicas(rs) == n {
		return false, nil
	}
	_, err := r.resizeTo(ctx, rs, n)
	return err == nil, err
}

// resizeTo scales rs to n and notes the Deployment's size on it. It returns
// what was written.
func (r *rollout) resizeTo(ctx context.Context, rs *appsv1.ReplicaSet, n int32) (*appsv1.ReplicaSet, error) {
	before := replicas(rs)
	out := rs.DeepCopy()
	noted := setSizes(out, *r.d.Spec.Replicas, *r.d.Spec.Replicas+maxSurge(r.d))
	if before == n && !noted {
		return rs, nil
	}
	out.Spec.Replicas = &n
	if err := r.env.Cluster.Client().Update(ctx, out); err != nil {
		return nil, err
	}
	if before != n {
		direction := "up"
		if n < before {
			direction = "down"
		}
		r.events.Eventf(r.d, corev1.EventTypeNormal, "ScalingReplicaSet", "Scaled %s replica set %s from %d to %d", direction, rs.Name, before, n)
	}
	return out, nil
}

func replicas(rs *appsv1.ReplicaSet) int32 {
	if rs.Spec.Replicas == nil {
		return 1
	}
	return *rs.Spec.Replicas
}

func sum(sets []*appsv1.ReplicaSet, of func(*appsv1.ReplicaSet) int32) int32 {
	n := int32(0)
	for _, rs := range sets {
		if rs != nil {
			n += of(rs)
		}
	}
	return n
}

// active returns the sets that want pods; nil ones are left out.
func active(sets []*appsv1.ReplicaSet) []*appsv1.ReplicaSet {
	return slices.DeleteFunc(slices.Clone(sets), func(rs *appsv1.ReplicaSet) bool { return rs == nil || replicas(rs) == 0 })
}

func number(rs *appsv1.ReplicaSet, annotation string) (int32, bool) {
	n, err := strconv.ParseInt(rs.Annotations[annotation], 10, 32)
	return int32(n), err == nil
}

// scaled resolves a number or percentage of total; one that is not valid
// counts as 0.
func scaled(v *intstr.IntOrString, total int32, roundUp bool) int32 {
	n, err := intstr.GetScaledValueFromIntOrPercent(intstr.ValueOrDefault(v, intstr.FromInt32(0)), int(total), roundUp)
	if err != nil {
		return 0
	}
	return int32(n)
}

// maxSurge rounds up, maxUnavailable down; both zero would never move, so one
// may then be unavailable.
func maxSurge(d *appsv1.Deployment) int32 {
	u := d.Spec.Strategy.RollingUpdate
	if d.Spec.Strategy.Type != appsv1.RollingUpdateDeploymentStrategyType || u == nil {
		return 0
	}
	return scaled(u.MaxSurge, *d.Spec.Replicas, true)
}

func maxUnavailable(d *appsv1.Deployment) int32 {
	u, want := d.Spec.Strategy.RollingUpdate, *d.Spec.Replicas
	if d.Spec.Strategy.Type != appsv1.RollingUpdateDeploymentStrategyType || u == nil || want == 0 {
		return 0
	}
	n := scaled(u.MaxUnavailable, want, false)
	if n == 0 && maxSurge(d) == 0 {
		n = 1
	}
	return min(n, want)
}
