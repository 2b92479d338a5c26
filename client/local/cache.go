package local

import (
	"context"
	"fmt"
	"reflect"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/selection"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	ctrl "sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proa-dev/proa/api"
)

// informers implements cache.Cache.
type informers struct {
	access *access
	reader *localClient // cached reads

	mu      sync.Mutex
	ctx     context.Context // of Start, nil before
	started chan struct{}
	byKey   map[informerKey]*informer
	wg      sync.WaitGroup
	// followed are the kinds of which all objects may be seen: somebody has an
	// informer of them. By *api.Kind.
	followed sync.Map
}

// informerKey tells informers of one kind apart that hand out different Go
// types: the kind's own, unstructured, metadata only.
type informerKey struct {
	gvk schema.GroupVersionKind
	typ reflect.Type
}

func newInformers(a *access) *informers {
	return &informers{access: a, started: make(chan struct{}), byKey: map[informerKey]*informer{}}
}

// Start implements cache.Cache.
func (c *informers) Start(ctx context.Context) error {
	c.mu.Lock()
	if c.ctx != nil {
		c.mu.Unlock()
		return fmt.Errorf("the cache was started already")
	}
	c.ctx = ctx
	for _, i := range c.byKey {
		c.startLocked(i)
	}
	close(c.started)
	c.mu.Unlock()
	<-ctx.Done()
	c.wg.Wait()
	return nil
}

func (c *informers) startLocked(i *informer) {
	if c.ctx.Err() == nil {
		c.wg.Go(func() { i.run(c.ctx) })
	}
}

// WaitForCacheSync implements cache.Cache.
func (c *informers) WaitForCacheSync(ctx context.Context) bool {
	select {
	case <-c.started:
	case <-ctx.Done():
		return false
	}
	c.mu.Lock()
	list := make([]*informer, 0, len(c.byKey))
	for _, i := range c.byKey {
		list = append(list, i)
	}
	c.mu.Unlock()
	for _, i := range list {
		// One that was removed meanwhile is not missed: its kind may be gone.
		if !i.awaitSync(ctx) && (ctx.Err() != nil || c.ctx.Err() != nil) {
			return false
		}
	}
	return true
}

// GetInformer implements cache.Cache.
func (c *informers) GetInformer(ctx context.Context, obj ctrl.Object, opts ...cache.InformerGetOption) (cache.Informer, error) {
	k, err := c.access.kindOf(obj)
	if err != nil {
		return nil, err
	}
	return c.informer(ctx, k, obj, opts...)
}

// GetInformerForKind implements cache.Cache.
func (c *informers) GetInformerForKind(ctx context.Context, gvk schema.GroupVersionKind, opts ...cache.InformerGetOption) (cache.Informer, error) {
	k, err := c.access.kindFor(gvk)
	if err != nil {
		return nil, err
	}
	var obj runtime.Object = k.New()
	if typed, err := c.access.Scheme.New(gvk); err == nil {
		obj = typed
	}
	return c.informer(ctx, k, obj, opts...)
}

func (c *informers) informer(ctx context.Context, k *api.Kind, obj runtime.Object, opts ...cache.InformerGetOption) (*informer, error) {
	o := cache.InformerGetOptions{}
	for _, opt := range opts {
		opt(&o)
	}
	key := informerKey{k.GVK, reflect.TypeOf(obj)}
	c.mu.Lock()
	i := c.byKey[key]
	if i == nil {
		i = newInformer(c.access, k.GVK, viewAs(k, obj))
		c.byKey[key] = i
		if c.access.Only[k.GVK] == nil && k.Storage == nil {
			c.followed.Store(k, i)
		}
		if c.ctx != nil {
			c.startLocked(i)
		}
	}
	running := c.ctx != nil
	c.mu.Unlock()
	if running && (o.BlockUntilSynced == nil || *o.BlockUntilSynced) && !i.awaitSync(ctx) {
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("cache of %s: %w", k.GVK.Kind, err)
		}
		return nil, &cache.ErrCacheNotStarted{}
	}
	return i, nil
}

// RemoveInformer implements cache.Cache.
func (c *informers) RemoveInformer(_ context.Context, obj ctrl.Object) error {
	gvk, err := c.reader.GroupVersionKindFor(obj)
	if err != nil {
		return err
	}
	key := informerKey{gvk, reflect.TypeOf(obj)}
	c.mu.Lock()
	defer c.mu.Unlock()
	if i := c.byKey[key]; i != nil {
		i.stop()
		delete(c.byKey, key)
	}
	return nil
}

// Get implements ctrl.Reader.
func (c *informers) Get(ctx context.Context, key ctrl.ObjectKey, obj ctrl.Object, opts ...ctrl.GetOption) error {
	return c.reader.Get(ctx, key, obj, opts...)
}

// List implements ctrl.Reader.
func (c *informers) List(ctx context.Context, list ctrl.ObjectList, opts ...ctrl.ListOption) error {
	return c.reader.List(ctx, list, opts...)
}

// follows says whether an informer follows all objects of a kind; reads of others
// are authorized one by one.
func (c *informers) follows(k *api.Kind) bool {
	i, ok := c.followed.Load(k)
	if !ok || i.(*informer).IsStopped() {
		return false
	}
	select {
	case <-i.(*informer).synced:
		return true
	default:
		return false
	}
}

const allNamespaces = "\x00all"

func indexName(field string) string { return "field:" + field }

func indexKey(namespace, value string) string {
	if namespace == "" {
		namespace = allNamespaces
	}
	return namespace + "/" + value
}

// IndexField implements ctrl.FieldIndexer. Lists by the field are then served
// from the index.
func (c *informers) IndexField(ctx context.Context, obj ctrl.Object, field string, extract ctrl.IndexerFunc) error {
	k, err := c.access.kindOf(obj)
	if err != nil {
		return err
	}
	i, err := c.informer(ctx, k, obj, cache.BlockUntilSynced(false))
	if err != nil {
		return err
	}
	return i.AddIndexers(toolscache.Indexers{indexName(field): func(o any) ([]string, error) {
		object, ok := o.(ctrl.Object)
		if !ok {
			return nil, fmt.Errorf("%T is not an object", o)
		}
		values := extract(object)
		keys := make([]string, 0, 2*len(values))
		for _, v := range values {
			if ns := object.GetNamespace(); ns != "" {
				keys = append(keys, indexKey(ns, v))
			}
			keys = append(keys, indexKey("", v))
		}
		return keys, nil
	}})
}

// byField lists from an index. done is false when no field of the selector is
// indexed: the API server knows some fields itself.
func (c *informers) byField(ctx context.Context, k *api.Kind, o *ctrl.ListOptions) (objs []api.Object, rev string, done bool, err error) {
	var i *informer
	c.mu.Lock()
	for key, candidate := range c.byKey {
		if key.gvk == k.GVK && candidate.indexed(o.FieldSelector) {
			i = candidate
			break
		}
	}
	running := c.ctx != nil
	c.mu.Unlock()
	switch {
	case i == nil:
		return nil, "", false, nil
	case !running, !i.awaitSync(ctx):
		if ctx.Err() != nil {
			return nil, "", true, ctx.Err()
		}
		return nil, "", true, &cache.ErrCacheNotStarted{}
	}
	for _, r := range o.FieldSelector.Requirements() {
		if r.Operator != selection.Equals && r.Operator != selection.DoubleEquals {
			return nil, "", true, fmt.Errorf("non-exact field matches are not supported by the cache")
		}
	}
	// The index is filled by the same events as handlers are; it may be a
	// moment behind the cache that other reads see.
	i.awaitRevision(ctx, c.latestChange(k))
	objs, rev, err = i.byIndexes(o.FieldSelector.Requirements(), o.Namespace)
	if err != nil || o.LabelSelector == nil {
		return objs, rev, true, err
	}
	kept := objs[:0]
	for _, obj := range objs {
		if o.LabelSelector.Matches(labels.Set(obj.GetLabels())) {
			kept = append(kept, obj)
		}
	}
	return kept, rev, true, nil
}

// latestChange is the revision of the newest change in the store's cache.
func (c *informers) latestChange(k *api.Kind) int64 {
	stored := c.access.Kinds.Set().Stored(k)
	if stored == nil {
		return 0
	}
	return c.access.Store.Revision(stored.GR())
}

// viewAs returns how an informer makes its objects of those of the kind, nil
// when they are the same.
func viewAs(k *api.Kind, obj runtime.Object) func(api.Object) (api.Object, error) {
	want, have := reflect.TypeOf(obj), reflect.TypeOf(k.New())
	if want == have {
		return nil
	}
	return func(src api.Object) (api.Object, error) {
		var dst api.Object
		switch obj.(type) {
		case *metav1.PartialObjectMetadata:
			dst = &metav1.PartialObjectMetadata{}
		case *unstructured.Unstructured:
			dst = &unstructured.Unstructured{}
		default:
			dst = reflect.New(want.Elem()).Interface().(api.Object)
		}
		// What metadata is made of stays shared with the store's object.
		if err := into(dst, src, true); err != nil {
			return nil, err
		}
		return dst, nil
	}
}

func (i *informer) indexed(s fields.Selector) bool {
	have := i.indexer.GetIndexers()
	for _, r := range s.Requirements() {
		if have[indexName(r.Field)] != nil {
			return true
		}
	}
	return false
}

// byIndexes intersects the indexes.
func (i *informer) byIndexes(reqs fields.Requirements, namespace string) ([]api.Object, string, error) {
	i.mu.RLock()
	rev := i.revision
	i.mu.RUnlock()
	var objs []any
	indexers := i.indexer.GetIndexers()
	for n, r := range reqs {
		name, key := indexName(r.Field), indexKey(namespace, r.Value)
		index := indexers[name]
		if index == nil {
			return nil, "", fmt.Errorf("there is no index of field %q", r.Field)
		}
		if n == 0 {
			var err error
			if objs, err = i.indexer.ByIndex(name, key); err != nil {
				return nil, "", err
			}
			continue
		}
		kept := objs[:0]
		for _, o := range objs {
			keys, err := index(o)
			if err != nil {
				return nil, "", err
			}
			for _, have := range keys {
				if have == key {
					kept = append(kept, o)
					break
				}
			}
		}
		objs = kept
	}
	out := make([]api.Object, len(objs))
	for n, o := range objs {
		out[n] = o.(api.Object)
	}
	return out, formatRevision(rev), nil
}
