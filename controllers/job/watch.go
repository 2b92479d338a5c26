package job

import (
	"context"
	"fmt"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/proa-dev/proa/api/batch"
	"github.com/proa-dev/proa/controllers/internal/index"
	"github.com/proa-dev/proa/controllers/internal/loop"
	"github.com/proa-dev/proa/controllers/internal/pods"
)

// watchJobs queues jobs that change: at once when their spec does, else paced.
func (c *Controller) watchJobs() source.Source {
	return loop.Watch(c.env.Cluster, &batchv1.Job{}, c.owners.Fed(loop.On[*batchv1.Job]{
		Created: func(_ context.Context, q loop.Queue, j *batchv1.Job) { q.Add(loop.Key(j.Namespace, j.Name)) },
		Updated: func(_ context.Context, q loop.Queue, old, j *batchv1.Job) {
			switch {
			case old.ResourceVersion == j.ResourceVersion: // a resync
			case batch.Finished(j):
				c.forget(types.NamespacedName{Namespace: j.Namespace, Name: j.Name})
			case old.Generation != j.Generation:
				q.Add(loop.Key(j.Namespace, j.Name))
			default:
				c.queue(q, j.Namespace, j.Name)
			}
		},
		Deleted: func(_ context.Context, q loop.Queue, j *batchv1.Job) { q.Add(loop.Key(j.Namespace, j.Name)) },
	}))
}

// queue asks for a pass, which may have to wait.
func (c *Controller) queue(q loop.Queue, namespace, name string) {
	if wait := c.pace(types.NamespacedName{Namespace: namespace, Name: name}); wait > 0 {
		q.AddAfter(loop.Key(namespace, name), wait)
		return
	}
	q.Add(loop.Key(namespace, name))
}

// watchPods queues the jobs of pods that change in a way that counts.
func (c *Controller) watchPods() source.Source {
	return loop.Watch(c.env.Cluster, &corev1.Pod{}, loop.On[*corev1.Pod]{
		Created: func(ctx context.Context, q loop.Queue, pod *corev1.Pod) {
			ref := jobOf(pod)
			switch {
			case pod.DeletionTimestamp != nil:
				c.podGone(q, pod, ref, false) // after a restart it may be seen so first
			case ref != nil:
				c.expect.Created(ref.UID, 1)
				c.queue(q, pod.Namespace, ref.Name)
			case metav1.GetControllerOfNoCopy(pod) == nil:
				c.queueMatching(q, pod)
			}
		},
		Updated: c.podUpdated,
		Deleted: func(_ context.Context, q loop.Queue, pod *corev1.Pod) { c.podGone(q, pod, jobOf(pod), true) },
	})
}

// jobOf returns the reference to the job that controls a pod, or nil.
func jobOf(pod *corev1.Pod) *metav1.OwnerReference {
	ref := metav1.GetControllerOfNoCopy(pod)
	if ref == nil || ref.Kind != kind.Kind {
		return nil
	}
	if gv, err := schema.ParseGroupVersion(ref.APIVersion); err != nil || gv.Group != kind.Group {
		return nil
	}
	return ref
}

func (c *Controller) podUpdated(ctx context.Context, q loop.Queue, old, pod *corev1.Pod) {
	if old.ResourceVersion == pod.ResourceVersion {
		return // a resync
	}
	oldRef, ref := jobOf(old), jobOf(pod)
	moved := oldRef != nil && (ref == nil || oldRef.UID != ref.UID)
	if moved {
		if !tracked(pod) {
			c.rel.seen(oldRef.UID, pod.UID)
		}
		c.queue(q, old.Namespace, oldRef.Name)
	}
	switch {
	case pod.DeletionTimestamp != nil:
		if old.DeletionTimestamp == nil || standing(old) != standing(pod) || tracked(old) {
			c.podGone(q, pod, ref, false)
		}
	case ref != nil:
		ours := !tracked(pod) && c.rel.seen(ref.UID, pod.UID)
		lost := tracked(old) && !tracked(pod) && !ours
		if moved || oldRef == nil || lost || standing(old) != standing(pod) || !labels.Equals(old.Labels, pod.Labels) {
			c.queue(q, pod.Namespace, ref.Name)
		}
	case metav1.GetControllerOfNoCopy(pod) == nil && (moved || !labels.Equals(old.Labels, pod.Labels)):
		c.queueMatching(q, pod)
	}
}

// state is what of a pod's status makes a difference to its job.
type state struct {
	phase    corev1.PodPhase
	ready    bool
	restarts int32
}

func standing(pod *corev1.Pod) state {
	return state{pod.Status.Phase, pods.Ready(pod), restarts(pod)}
}

// podGone is for pods that are being deleted, or at last are.
func (c *Controller) podGone(q loop.Queue, pod *corev1.Pod, ref *metav1.OwnerReference, final bool) {
	if ref == nil {
		return
	}
	c.expect.Deleted(ref.UID, pod.UID)
	if final || !tracked(pod) {
		c.rel.seen(ref.UID, pod.UID)
	}
	c.queue(q, pod.Namespace, ref.Name)
}

// queueMatching queues every job that could adopt an orphan.
func (c *Controller) queueMatching(q loop.Queue, pod *corev1.Pod) {
	if len(pod.Labels) == 0 {
		return
	}
	for _, name := range c.owners.Names(pod.Namespace, pod.Labels) {
		c.queue(q, pod.Namespace, name)
	}
}

// watchOwners queues the pods that a job leaves behind with their finalizer,
// when it has finished or is gone.
func (c *Controller) watchOwners() source.Source {
	left := func(ctx context.Context, q loop.Queue, j *batchv1.Job) {
		var list corev1.PodList
		if err := c.env.Cluster.Client().List(ctx, &list, index.By(j.Namespace, index.Controller, string(j.UID))...); err != nil {
			c.env.Logger.Error("finding the pods of a job", "job", j.Namespace+"/"+j.Name, "err", err)
			return
		}
		for i := range list.Items {
			if p := &list.Items[i]; tracked(p) {
				q.Add(loop.Key(p.Namespace, p.Name))
			}
		}
	}
	return loop.Watch(c.env.Cluster, &batchv1.Job{}, loop.On[*batchv1.Job]{
		Created: func(ctx context.Context, q loop.Queue, j *batchv1.Job) {
			if batch.Finished(j) {
				left(ctx, q, j)
			}
		},
		Updated: func(ctx context.Context, q loop.Queue, old, j *batchv1.Job) {
			if batch.Finished(j) && !batch.Finished(old) {
				left(ctx, q, j)
			}
		},
		Deleted: left,
	})
}

// watchOrphans queues pods with the finalizer that may have no job any more.
func (c *Controller) watchOrphans() source.Source {
	see := func(_ context.Context, q loop.Queue, pod *corev1.Pod) {
		if tracked(pod) && (metav1.GetControllerOfNoCopy(pod) == nil || pod.DeletionTimestamp != nil) {
			q.Add(loop.Key(pod.Namespace, pod.Name))
		}
	}
	return loop.Watch(c.env.Cluster, &corev1.Pod{}, loop.On[*corev1.Pod]{
		Created: see,
		Updated: func(ctx context.Context, q loop.Queue, _, pod *corev1.Pod) { see(ctx, q, pod) },
	})
}

// freeOrphan takes the finalizer off a pod that no job will ever count.
func (c *Controller) freeOrphan(ctx context.Context, key types.NamespacedName) (time.Duration, error) {
	pod := &corev1.Pod{}
	if err := c.env.Cluster.Client().Get(ctx, key, pod, client.UnsafeDisableDeepCopy); err != nil {
		return 0, client.IgnoreNotFound(err)
	}
	if !tracked(pod) {
		return 0, nil
	}
	if ref := metav1.GetControllerOfNoCopy(pod); ref != nil {
		if ref = jobOf(pod); ref == nil {
			return 0, nil // another kind's
		}
		owned, err := c.counted(ctx, key.Namespace, ref)
		if owned || err != nil {
			return 0, err
		}
	}
	if err := c.dropFinalizer(ctx, pod); client.IgnoreNotFound(err) != nil {
		return 0, fmt.Errorf("free orphan: %w", err)
	}
	return 0, nil
}

// counted reports whether the job of a pod is there and will count the pod.
func (c *Controller) counted(ctx context.Context, namespace string, ref *metav1.OwnerReference) (bool, error) {
	key := types.NamespacedName{Namespace: namespace, Name: ref.Name}
	// The cache may not have the job yet: that it is gone is asked twice.
	for _, r := range []client.Reader{c.env.Cluster.Client(), c.env.Cluster.Reader()} {
		job := &batchv1.Job{}
		err := r.Get(ctx, key, job)
		if err != nil && !apierrors.IsNotFound(err) {
			return false, fmt.Errorf("get job of pod: %w", err)
		}
		if err == nil && job.UID == ref.UID {
			return managedElsewhere(job) || !batch.Finished(job), nil
		}
	}
	return false, nil
}
