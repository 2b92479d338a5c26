package resourcequota

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/controllers/internal/loop"
	"github.com/proa-dev/proa/internal/quota"
)

// refresh is how often kinds that came or went are looked for.
const refresh = 5 * time.Second

// watchQuotas looks at a quota at once when its limits are new, and a little
// later when it was charged.
func (c *controller) watchQuotas() source.Source {
	return loop.Watch(c.env.Cluster, &corev1.ResourceQuota{}, loop.On[*corev1.ResourceQuota]{
		Created: func(_ context.Context, q loop.Queue, obj *corev1.ResourceQuota) {
			c.learn(obj, false)
			q.Add(loop.Key(obj.Namespace, obj.Name))
		},
		Updated: func(_ context.Context, q loop.Queue, old, obj *corev1.ResourceQuota) {
			charged := !quota.Same(old.Status.Used, obj.Status.Used)
			c.learn(obj, charged)
			switch {
			case !quota.Same(obj.Spec.Hard, obj.Status.Hard):
				q.Add(loop.Key(obj.Namespace, obj.Name))
			case charged:
				q.AddAfter(loop.Key(obj.Namespace, obj.Name), recheck)
			}
		},
		Deleted: func(_ context.Context, _ loop.Queue, obj *corev1.ResourceQuota) { c.forget(obj) },
	})
}

func (c *controller) learn(q *corev1.ResourceQuota, charged bool) {
	key := types.NamespacedName{Namespace: q.Namespace, Name: q.Name}
	c.mu.Lock()
	defer c.mu.Unlock()
	t := c.quotas[key]
	if t == nil {
		t = &tracked{}
		c.quotas[key] = t
		if c.namespaces[q.Namespace] == nil {
			c.namespaces[q.Namespace] = map[types.NamespacedName]struct{}{}
		}
		c.namespaces[q.Namespace][key] = struct{}{}
	}
	t.hard = q.Spec.Hard
	if charged {
		t.changed = c.env.Clock.Now()
	}
	if t.version == "" || loop.Older(t.version, q.ResourceVersion) {
		t.version = q.ResourceVersion
	}
}

func (c *controller) forget(q *corev1.ResourceQuota) {
	key := types.NamespacedName{Namespace: q.Namespace, Name: q.Name}
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.quotas, key)
	if delete(c.namespaces[q.Namespace], key); len(c.namespaces[q.Namespace]) == 0 {
		delete(c.namespaces, q.Namespace)
	}
}

// concerned are the quotas of a namespace that bound what e measures.
func (c *controller) concerned(namespace string, e quota.Evaluator) []types.NamespacedName {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []types.NamespacedName
	for key := range c.namespaces[namespace] {
		if len(quota.Tracked(e, c.quotas[key].hard)) > 0 {
			out = append(out, key)
		}
	}
	return out
}

// watches tells of the objects of every kind that quotas may count.
type watches struct {
	*controller
	ready chan struct{} // closed when the first handlers are added
	sync  []toolscache.DoneChecker
}

func newWatches(c *controller) *watches { return &watches{controller: c, ready: make(chan struct{})} }

// Start adds the handlers in the background: reading a kind takes time.
func (w *watches) Start(ctx context.Context, q loop.Queue) error {
	go func() {
		watched := map[schema.GroupVersionResource]cache.Informer{}
		for _, k := range countable(w.kinds()) {
			informer, synced, err := w.watch(ctx, q, k)
			if err != nil { // it may have gone since
				w.env.Logger.Error("kind is not counted yet", "err", err)
				continue
			}
			watched[k.GVR()] = informer
			w.sync = append(w.sync, synced)
		}
		close(w.ready)
		w.follow(ctx, q, watched)
	}()
	return nil
}

// follow takes up kinds that come. The watches of those that go are ended by
// the garbage collector, which watches them all; such a kind may be back before
// it was missed here.
func (w *watches) follow(ctx context.Context, q loop.Queue, watched map[schema.GroupVersionResource]cache.Informer) {
	ticker := w.env.Clock.NewTicker(refresh)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C():
		}
		served := map[schema.GroupVersionResource]bool{}
		for _, k := range countable(w.kinds()) {
			served[k.GVR()] = true
			if i := watched[k.GVR()]; i != nil && !i.IsStopped() {
				continue
			}
			informer, _, err := w.watch(ctx, q, k)
			if err != nil {
				w.env.Logger.Error("kind is not counted yet", "err", err)
				continue
			}
			watched[k.GVR()] = informer
			w.countAll(ctx, q, k)
		}
		for gvr := range watched {
			if !served[gvr] {
				delete(watched, gvr)
			}
		}
	}
}

// countAll looks at the quotas that waited for a kind.
func (w *watches) countAll(ctx context.Context, q loop.Queue, k *api.Kind) {
	e := quota.For(k.GR(), view{ctx, w.controller})
	w.mu.Lock()
	defer w.mu.Unlock()
	for key, t := range w.quotas {
		if len(quota.Tracked(e, t.hard)) > 0 {
			q.Add(loop.Request{NamespacedName: key})
		}
	}
}

func (w *watches) watch(ctx context.Context, q loop.Queue, k *api.Kind) (cache.Informer, toolscache.DoneChecker, error) {
	o := k.New()
	o.GetObjectKind().SetGroupVersionKind(k.GVK)
	informer, err := w.env.Cluster.Cache().GetInformer(ctx, o, cache.BlockUntilSynced(false))
	if err != nil {
		return nil, nil, fmt.Errorf("watch %s: %w", k.GR(), err)
	}
	e := quota.For(k.GR(), view{ctx, w.controller})
	notify := func(o any, after time.Duration) {
		m, err := meta.Accessor(o)
		if err != nil {
			return
		}
		for _, key := range w.concerned(m.GetNamespace(), e) {
			q.AddAfter(loop.Request{NamespacedName: key}, after)
		}
	}
	reg, err := informer.AddEventHandler(toolscache.ResourceEventHandlerDetailedFuncs{
		AddFunc: func(o any, initial bool) {
			if !initial {
				notify(o, recheck)
			}
		},
		UpdateFunc: func(old, o any) {
			if w.matters(e, old, o) {
				notify(o, 0)
			}
		},
		DeleteFunc: func(o any) {
			if gone, ok := o.(toolscache.DeletedFinalStateUnknown); ok {
				o = gone.Obj
			}
			notify(o, 0)
		},
	})
	if err != nil {
		return nil, nil, fmt.Errorf("watch %s: %w", k.GR(), err)
	}
	return informer, reg.HasSyncedChecker(), nil
}

// matters says that an update may have changed what an object uses, or the
// scopes that it is in. Objects that are only counted never do.
func (w *watches) matters(e quota.Evaluator, old, o any) bool {
	before, ok := old.(runtime.Object)
	after, is := o.(runtime.Object)
	if !ok || !is {
		return false
	}
	m, err := meta.Accessor(o)
	if err != nil || len(w.concerned(m.GetNamespace(), e)) == 0 {
		return false
	}
	now := w.env.Clock.Now()
	if !quota.Same(e.Usage(before, now), e.Usage(after, now)) {
		return true
	}
	write := quota.Write{Update: true, Object: after, Old: before}
	if _, pod := o.(*corev1.Pod); pod {
		return e.Charged(write)
	}
	write.Subresource = "status"
	return e.Charged(write)
}

// readPatience is how long work waits at the start for kinds that cannot be read.
const readPatience = time.Minute

// WaitForSync makes the loop wait until every kind can be counted, if not for
// ever.
func (w *watches) WaitForSync(ctx context.Context) error {
	select {
	case <-w.ready:
	case <-ctx.Done():
		return ctx.Err()
	}
	limited, cancel := context.WithTimeout(ctx, readPatience)
	defer cancel()
	if !toolscache.WaitFor(limited, "", w.sync...) {
		if ctx.Err() != nil {
			return fmt.Errorf("resource quota: %w", context.Cause(ctx))
		}
		w.env.Logger.Warn("not every kind has been read, counting all the same")
	}
	return nil
}
