package disruption

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proa-dev/proa/controllers/internal/loop"
	"github.com/proa-dev/proa/controllers/internal/pods"
)

// staleTimeout is how long a pod may be marked for disruption without being
// deleted. After that the mark is taken back: whoever set it has given up.
const staleTimeout = 2 * time.Minute

func (c *controller) newStale() (loop.Loop, error) {
	add := func(_ context.Context, q loop.Queue, p *corev1.Pod) {
		if marked(p) {
			q.Add(loop.Key(p.Namespace, p.Name))
		}
	}
	return loop.New(c.env, Name+" stale marks", 1, c.unmark, loop.Watch(c.env.Cluster, &corev1.Pod{}, loop.On[*corev1.Pod]{
		Created: add,
		Updated: func(ctx context.Context, q loop.Queue, old, p *corev1.Pod) {
			if !marked(old) {
				add(ctx, q, p)
			}
		},
	}))
}

// marked reports whether a pod is marked for disruption but stays. A kubelet
// that marks a pod ends it itself, in its own time.
func marked(p *corev1.Pod) bool {
	cond := pods.Condition(&p.Status, corev1.DisruptionTarget)
	return cond != nil && cond.Status == corev1.ConditionTrue && cond.Reason != corev1.PodReasonTerminationByKubelet &&
		p.DeletionTimestamp == nil && !pods.Finished(p)
}

func (c *controller) unmark(ctx context.Context, key types.NamespacedName) (time.Duration, error) {
	p := &corev1.Pod{}
	if err := c.env.Cluster.Client().Get(ctx, key, p); err != nil {
		return 0, client.IgnoreNotFound(err)
	}
	if !marked(p) {
		return 0, nil
	}
	now := c.env.Clock.Now()
	if wait := pods.Condition(&p.Status, corev1.DisruptionTarget).LastTransitionTime.Add(staleTimeout).Sub(now); wait > 0 {
		return wait, nil
	}
	pods.SetCondition(&p.Status, corev1.PodCondition{
		Type: corev1.DisruptionTarget, Status: corev1.ConditionFalse,
		LastTransitionTime: metav1.NewTime(now), ObservedGeneration: p.Generation,
	})
	return 0, client.IgnoreNotFound(c.env.Cluster.Client().Status().Update(ctx, p))
}
