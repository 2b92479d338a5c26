// Package resourcequota counts what the objects of a namespace use and writes
// it into the status of its quotas.
//
// The API server charges a quota before it writes an object. This controller
// takes off what deleted objects used, and what was charged for writes that
// failed; it also counts for the first time and after the limits changed.
package resourcequota

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/controllers/internal/loop"
	"github.com/proa-dev/proa/internal/quota"
)

// Name is the controller's name in logs and events.
const Name = "resourcequota-controller"

const (
	workers = 5
	// resync is how often everything is counted again in any case.
	resync = 5 * time.Minute
	// recheck is how long after a charge it is looked whether the object came
	// to be.
	recheck = time.Second
	// settle is how long a quota must have been left alone before its usage
	// is lowered: a charge comes shortly before its object.
	settle = 50 * time.Millisecond
	// patience bounds how long a busy quota may put that off.
	patience = time.Second
)

type controller struct {
	env   loop.Env
	kinds func() []*api.Kind

	mu     sync.Mutex
	quotas map[types.NamespacedName]*tracked
	// namespaces counts the quotas of each.
	namespaces map[string]map[types.NamespacedName]struct{}
}

// tracked is what the watches know of one quota.
type tracked struct {
	hard corev1.ResourceList
	// version is the newest that a watch told of.
	version string
	// changed is when its status changed last; lowering is since when there is
	// something to take off, zero for not at all.
	changed, lowering time.Time
}

// New makes the controller; kinds returns every kind there is at the moment.
func New(env loop.Env, kinds func() []*api.Kind) (loop.Loop, error) {
	env = env.Named(Name)
	c := &controller{
		env: env, kinds: kinds,
		quotas: map[types.NamespacedName]*tracked{}, namespaces: map[string]map[types.NamespacedName]struct{}{},
	}
	return loop.New(env, Name, workers, c.reconcile, c.watchQuotas(), c.watchClasses(), newWatches(c))
}

func (c *controller) reconcile(ctx context.Context, key types.NamespacedName) (time.Duration, error) {
	var q corev1.ResourceQuota
	if err := c.env.Cluster.Client().Get(ctx, key, &q); err != nil {
		return 0, client.IgnoreNotFound(err)
	}
	now := c.env.Clock.Now()
	used, next, err := c.count(ctx, &q, now)
	status := corev1.ResourceQuotaStatus{Hard: quota.Add(nil, q.Spec.Hard), Used: used}
	if q.Status.Hard != nil && q.Status.Used != nil && quota.Same(status.Hard, q.Status.Hard) && quota.Same(status.Used, q.Status.Used) {
		c.settled(&q, now, false)
		return next, err
	}
	if wait := c.settled(&q, now, lower(used, q.Status.Used)); wait > 0 {
		return wait, err
	}
	q.Status = status
	if failed := c.env.Cluster.Client().Status().Update(ctx, &q); client.IgnoreNotFound(failed) != nil {
		if apierrors.IsConflict(failed) && err == nil {
			return 0, failed // by itself, so that it is known for one
		}
		err = errors.Join(err, fmt.Errorf("write status: %w", failed))
	}
	return next, err
}

// lower says that less of something is used than the status says.
func lower(used, was corev1.ResourceList) bool {
	for name, q := range used {
		if had, ok := was[name]; ok && q.Cmp(had) < 0 {
			return true
		}
	}
	return false
}

// settled says how long to wait before the usage of a quota may be lowered. A
// version that no watch has told of is from a moment ago.
func (c *controller) settled(q *corev1.ResourceQuota, now time.Time, lowering bool) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	t := c.quotas[client.ObjectKeyFromObject(q)]
	if t == nil {
		return 0
	}
	if !lowering {
		t.lowering = time.Time{}
		return 0
	}
	if t.lowering.IsZero() {
		t.lowering = now
	}
	if loop.Older(t.version, q.ResourceVersion) {
		t.changed, t.version = now, q.ResourceVersion
	}
	if wait := t.changed.Add(settle).Sub(now); wait > 0 && now.Sub(t.lowering) < patience {
		return wait
	}
	t.lowering = time.Time{}
	return 0
}

// count measures what q bounds. What no kind is known for keeps the amount
// that it had; next is when to count again without a change.
func (c *controller) count(ctx context.Context, q *corev1.ResourceQuota, now time.Time) (used corev1.ResourceList, next time.Duration, err error) {
	used = quota.Only(q.Status.Used, quota.Names(q.Spec.Hard))
	fresh, next := corev1.ResourceList{}, resync
	var failed []error
	for _, k := range countable(c.kinds()) {
		e := quota.For(k.GR(), view{ctx, c})
		names := quota.Tracked(e, q.Spec.Hard)
		if len(names) == 0 {
			continue
		}
		sum := corev1.ResourceList{}
		err := c.each(ctx, q.Namespace, k, func(o runtime.Object) {
			if pod, ok := o.(*corev1.Pod); ok {
				if gone, ok := quota.Expiry(pod); ok && !now.After(gone) {
					next = min(next, gone.Sub(now)+time.Millisecond)
				}
			}
			if quota.Selects(e, &q.Spec, o) {
				sum = quota.Add(sum, quota.Only(e.Usage(o, now), names))
			}
		})
		if err != nil {
			failed = append(failed, fmt.Errorf("count %s: %w", k.GR(), err))
			continue
		}
		for _, name := range names {
			if _, ok := sum[name]; !ok {
				sum[name] = resource.Quantity{Format: resource.DecimalSI}
			}
		}
		fresh = quota.Add(fresh, sum)
	}
	for name, amount := range fresh {
		used[name] = amount
	}
	return used, next, errors.Join(failed...)
}

// each reads the objects of a kind, which are shared, from the cache.
func (c *controller) each(ctx context.Context, namespace string, k *api.Kind, fn func(runtime.Object)) error {
	list, ok := k.NewList().(client.ObjectList)
	if !ok {
		return fmt.Errorf("%T is not a list", k.NewList())
	}
	list.GetObjectKind().SetGroupVersionKind(k.GVK.GroupVersion().WithKind(k.GVK.Kind + "List"))
	if err := c.env.Cluster.Client().List(ctx, list, client.InNamespace(namespace), client.UnsafeDisableDeepCopy); err != nil {
		return err
	}
	return meta.EachListItem(list, func(o runtime.Object) error {
		fn(o)
		return nil
	})
}

// countable are the kinds whose objects quotas may count, one for each
// storage.
func countable(kinds []*api.Kind) []*api.Kind {
	var out []*api.Kind
	for _, k := range loop.Stored(kinds) {
		if k.Namespaced && !quota.Ignored(k.GR()) && loop.Serves(k, "create") && loop.Serves(k, "list") && loop.Serves(k, "watch") && loop.Serves(k, "delete") {
			out = append(out, k)
		}
	}
	return out
}
