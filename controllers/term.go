package controllers

import (
	"context"
	"errors"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	ctrl "sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proa-dev/proa/client"
)

// term is the cluster for one run of the controllers. The caches stay when a
// run ends, so whatever it hung on them is taken off: controller-runtime never
// does.
type term struct {
	client.Cluster
	cache *termCache
}

func newTerm(c client.Cluster) *term { return &term{c, &termCache{Cache: c.Cache()}} }

// Cache implements client.Cluster.
func (t *term) Cache() cache.Cache { return t.cache }

type termCache struct {
	cache.Cache
	mu    sync.Mutex
	hung  map[toolscache.ResourceEventHandlerRegistration]cache.Informer
	ended bool
}

// GetInformer implements cache.Cache.
func (c *termCache) GetInformer(ctx context.Context, obj ctrl.Object, opts ...cache.InformerGetOption) (cache.Informer, error) {
	i, err := c.Cache.GetInformer(ctx, obj, opts...)
	return c.watched(i, err)
}

// GetInformerForKind implements cache.Cache.
func (c *termCache) GetInformerForKind(ctx context.Context, gvk schema.GroupVersionKind, opts ...cache.InformerGetOption) (cache.Informer, error) {
	i, err := c.Cache.GetInformerForKind(ctx, gvk, opts...)
	return c.watched(i, err)
}

func (c *termCache) watched(i cache.Informer, err error) (cache.Informer, error) {
	if err != nil {
		return nil, err
	}
	return termInformer{i, c}, nil
}

// hang adds a handler, and remembers it.
func (c *termCache) hang(i cache.Informer, add func() (toolscache.ResourceEventHandlerRegistration, error)) (toolscache.ResourceEventHandlerRegistration, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended {
		return nil, errors.New("the controllers have stopped")
	}
	r, err := add()
	if err != nil {
		return nil, err
	}
	if c.hung == nil {
		c.hung = map[toolscache.ResourceEventHandlerRegistration]cache.Informer{}
	}
	c.hung[r] = i
	return r, nil
}

// end takes everything off.
func (c *termCache) end() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = true
	var errs []error
	for r, i := range c.hung {
		errs = append(errs, i.RemoveEventHandler(r))
	}
	c.hung = nil
	return errors.Join(errs...)
}

type termInformer struct {
	cache.Informer
	cache *termCache
}

// AddEventHandler implements cache.Informer.
func (i termInformer) AddEventHandler(h toolscache.ResourceEventHandler) (toolscache.ResourceEventHandlerRegistration, error) {
	return i.cache.hang(i.Informer, func() (toolscache.ResourceEventHandlerRegistration, error) { return i.Informer.AddEventHandler(h) })
}

// AddEventHandlerWithResyncPeriod implements cache.Informer.
func (i termInformer) AddEventHandlerWithResyncPeriod(h toolscache.ResourceEventHandler, every time.Duration) (toolscache.ResourceEventHandlerRegistration, error) {
	return i.cache.hang(i.Informer, func() (toolscache.ResourceEventHandlerRegistration, error) {
		return i.Informer.AddEventHandlerWithResyncPeriod(h, every)
	})
}

// AddEventHandlerWithOptions implements cache.Informer.
func (i termInformer) AddEventHandlerWithOptions(h toolscache.ResourceEventHandler, o toolscache.HandlerOptions) (toolscache.ResourceEventHandlerRegistration, error) {
	return i.cache.hang(i.Informer, func() (toolscache.ResourceEventHandlerRegistration, error) {
		return i.Informer.AddEventHandlerWithOptions(h, o)
	})
}

// RemoveEventHandler implements cache.Informer.
func (i termInformer) RemoveEventHandler(r toolscache.ResourceEventHandlerRegistration) error {
	i.cache.mu.Lock()
	delete(i.cache.hung, r)
	i.cache.mu.Unlock()
	return i.Informer.RemoveEventHandler(r)
}
