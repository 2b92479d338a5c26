package replica

import (
	"context"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"

	"github.com/proa-dev/proa/controllers/internal/index"
	"github.com/proa-dev/proa/controllers/internal/owner"
	"github.com/proa-dev/proa/controllers/internal/pods"
)

// manage creates or deletes pods, at most burst of them; the watch events of
// those call for the next pass.
func (c *Controller) manage(ctx context.Context, set *Set, active []*corev1.Pod) error {
	diff := len(active) - int(set.Replicas)
	switch {
	case diff < 0:
		return c.create(ctx, set, min(-diff, burst))
	case diff > 0:
		return c.delete(ctx, set, active, min(diff, burst))
	}
	return nil
}

// create adds n pods in batches that double while all goes well, so that a
// template which cannot work (a quota, a missing account) costs one request
// and not hundreds. After a full burst that went well the next starts in full.
func (c *Controller) create(ctx context.Context, set *Set, n int) error {
	uid := set.Object.GetUID()
	c.expect.ExpectCreations(uid, n)
	ref := owner.Ref(set.Object, c.adapter.Kind())
	first := 1
	if _, proven := c.proven.LoadAndDelete(uid); proven {
		first = n
	}
	created, err := pods.StartAt(first, n, func(int) error {
		return c.pods.Create(ctx, set.Object, pods.FromTemplate(set.Template, set.Object, ref))
	})
	if created == n && n == burst {
		c.proven.Store(uid, struct{}{})
	}
	if missing := n - created; missing > 0 {
		c.expect.Created(uid, missing)
	}
	if pods.NamespaceTerminating(err) {
		return nil // never going to work: stay quiet until the set goes too
	}
	return err
}

// delete removes n pods, the least valuable first.
func (c *Controller) delete(ctx context.Context, set *Set, active []*corev1.Pod, n int) error {
	victims := active
	if n < len(active) {
		related, err := c.related(ctx, set)
		if err != nil {
			return err
		}
		victims = pods.Victims(active, related, n, c.env.Clock.Now())
	}
	uid := set.Object.GetUID()
	gone := make([]types.UID, len(victims))
	for i, p := range victims {
		gone[i] = p.UID
	}
	c.expect.ExpectDeletions(uid, gone)

	var wg sync.WaitGroup
	errs := make(chan error, len(victims))
	for _, p := range victims {
		wg.Go(func() {
			if err := c.pods.Delete(ctx, set.Object, p); err != nil {
				c.expect.Deleted(uid, p.UID) // no event will come of it
				if !apierrors.IsNotFound(err) {
					errs <- err
				}
			}
		})
	}
	wg.Wait()
	if len(errs) > 0 {
		return <-errs
	}
	return nil
}

// related returns the pods of the set and of its siblings.
func (c *Controller) related(ctx context.Context, set *Set) ([]*corev1.Pod, error) {
	siblings, err := c.adapter.Siblings(ctx, set)
	if err != nil {
		return nil, err
	}
	var all []*corev1.Pod
	for _, s := range siblings {
		var list corev1.PodList
		opts := index.By(s.Object.GetNamespace(), index.Controller, string(s.Object.GetUID()))
		if err := c.env.Cluster.Client().List(ctx, &list, opts...); err != nil {
			return nil, err
		}
		for i := range list.Items {
			all = append(all, &list.Items[i])
		}
	}
	return all, nil
}
