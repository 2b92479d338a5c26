// Package ttlafterfinished is the TTL-after-finished controller: it deletes
// jobs some time after their end.
package ttlafterfinished

import (
	"context"
	"fmt"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proa-dev/proa/api/batch"
	"github.com/proa-dev/proa/controllers/internal/loop"
)

// Name is the controller's name in logs and events.
const Name = "ttl-after-finished-controller"

const workers = 5

type controller struct{ env loop.Env }

// New makes the controller.
func New(env loop.Env) (loop.Loop, error) {
	env = env.Named(Name)
	c := &controller{env}
	see := func(_ context.Context, q loop.Queue, j *batchv1.Job) {
		if _, ok := expiry(j); ok {
			q.Add(loop.Key(j.Namespace, j.Name))
		}
	}
	return loop.New(env, Name, workers, c.reconcile, loop.Watch(env.Cluster, &batchv1.Job{}, loop.On[*batchv1.Job]{
		Created: see,
		Updated: func(ctx context.Context, q loop.Queue, _, j *batchv1.Job) { see(ctx, q, j) },
	}))
}

// expiry is when a job is to be deleted, if at all.
func expiry(j *batchv1.Job) (time.Time, bool) {
	end := batch.FinishedCondition(j)
	if end == nil || end.LastTransitionTime.IsZero() || j.Spec.TTLSecondsAfterFinished == nil || j.DeletionTimestamp != nil {
		return time.Time{}, false
	}
	return end.LastTransitionTime.Add(time.Duration(*j.Spec.TTLSecondsAfterFinished) * time.Second), true
}

// reconcile deletes a job that has expired. The API is asked too, for the time
// may have been extended a moment ago.
func (c *controller) reconcile(ctx context.Context, key types.NamespacedName) (time.Duration, error) {
	var job batchv1.Job
	for _, r := range []client.Reader{c.env.Cluster.Client(), c.env.Cluster.Reader()} {
		job = batchv1.Job{}
		if err := r.Get(ctx, key, &job); err != nil {
			return 0, client.IgnoreNotFound(err)
		}
		at, ok := expiry(&job)
		if !ok {
			return 0, nil
		}
		if left := at.Sub(c.env.Clock.Now()); left > 0 {
			return left, nil
		}
	}
	err := c.env.Cluster.Client().Delete(ctx, &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Namespace: key.Namespace, Name: key.Name}},
		client.PropagationPolicy(metav1.DeletePropagationForeground), client.Preconditions{UID: &job.UID})
	if client.IgnoreNotFound(err) != nil {
		return 0, fmt.Errorf("delete finished job: %w", err)
	}
	return 0, nil
}
