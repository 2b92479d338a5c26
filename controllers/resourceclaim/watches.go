package resourceclaim

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/dynamic-resource-allocation/resourceclaim"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/proa-dev/proa/controllers/internal/index"
	"github.com/proa-dev/proa/controllers/internal/loop"
	"github.com/proa-dev/proa/internal/podrefs"
)

// pods queues pods that may want claims made or reserved.
func (c *controller) pods() source.Source {
	return loop.Watch(c.env.Cluster, &corev1.Pod{}, loop.On[*corev1.Pod]{
		Created: func(_ context.Context, q loop.Queue, p *corev1.Pod) {
			if len(p.Spec.ResourceClaims) > 0 {
				q.Add(loop.Key(p.Namespace, p.Name))
			}
		},
		Updated: func(_ context.Context, q loop.Queue, old, p *corev1.Pod) {
			if len(p.Spec.ResourceClaims) > 0 && (old.UID != p.UID || old.Spec.NodeName != p.Spec.NodeName ||
				!resourceclaim.PodStatusEqual(old.Status.ResourceClaimStatuses, p.Status.ResourceClaimStatuses)) {
				q.Add(loop.Key(p.Namespace, p.Name))
			}
		},
		Deleted: func(_ context.Context, q loop.Queue, p *corev1.Pod) {
			if len(p.Spec.ResourceClaims) > 0 {
				q.Add(loop.Key(p.Namespace, p.Name))
			}
		},
	})
}

// templates queues the pods that waited for one.
func (c *controller) templates() source.Source {
	return loop.Watch(c.env.Cluster, &resourcev1.ResourceClaimTemplate{}, loop.On[*resourcev1.ResourceClaimTemplate]{
		Created: func(ctx context.Context, q loop.Queue, t *resourcev1.ResourceClaimTemplate) {
			c.queue(ctx, q, t, index.PodClaimTemplate)
		},
	})
}

// claimsOfPods queues the pods of a claim that was given devices, or that was
// deleted while it is wanted.
func (c *controller) claimsOfPods() source.Source {
	return loop.Watch(c.env.Cluster, &resourcev1.ResourceClaim{}, loop.On[*resourcev1.ResourceClaim]{
		Updated: func(ctx context.Context, q loop.Queue, old, claim *resourcev1.ResourceClaim) {
			if old.UID != claim.UID || claim.Status.Allocation != nil && (old.Status.Allocation == nil || len(old.Status.ReservedFor) > len(claim.Status.ReservedFor)) {
				c.queue(ctx, q, claim, index.PodResourceClaim)
			}
		},
		Deleted: func(ctx context.Context, q loop.Queue, claim *resourcev1.ResourceClaim) {
			c.queue(ctx, q, claim, index.PodResourceClaim)
		},
	})
}

// queue queues the pods that an index finds for an object's name.
func (c *controller) queue(ctx context.Context, q loop.Queue, obj client.Object, by string) {
	var users corev1.PodList
	if err := c.env.Cluster.Client().List(ctx, &users, index.By(obj.GetNamespace(), by, obj.GetName())...); err != nil {
		c.env.Logger.Warn("list pods", "of", obj.GetNamespace()+"/"+obj.GetName(), "err", err)
		return
	}
	for i := range users.Items {
		q.Add(loop.Key(users.Items[i].Namespace, users.Items[i].Name))
	}
}

// claims queues every claim that there is or that changes: who it is reserved
// for may be gone already.
func (c *controller) claims() source.Source {
	add := func(_ context.Context, q loop.Queue, claim *resourcev1.ResourceClaim) {
		q.Add(loop.Key(claim.Namespace, claim.Name))
	}
	return loop.Watch(c.env.Cluster, &resourcev1.ResourceClaim{}, loop.On[*resourcev1.ResourceClaim]{
		Created: add,
		Updated: func(ctx context.Context, q loop.Queue, _, claim *resourcev1.ResourceClaim) { add(ctx, q, claim) },
	})
}

// podsThatEnd queues the claims of pods that need none any more.
func (c *controller) podsThatEnd() source.Source {
	add := func(q loop.Queue, p *corev1.Pod) {
		for name := range podrefs.ResourceClaims(p) {
			q.Add(loop.Key(p.Namespace, name))
		}
	}
	return loop.Watch(c.env.Cluster, &corev1.Pod{}, loop.On[*corev1.Pod]{
		Updated: func(_ context.Context, q loop.Queue, old, p *corev1.Pod) {
			if old.UID != p.UID {
				add(q, old)
			}
			if done(p) && !done(old) {
				add(q, p)
			}
		},
		Deleted: func(_ context.Context, q loop.Queue, p *corev1.Pod) { add(q, p) },
	})
}
