// Package live reads objects for those who decide on requests (authn, authz,
// admission): from the store's cache, or as new as every acknowledged write.
package live

import (
	"context"
	"errors"
	"maps"
	"sync"
	"sync/atomic"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/apiserver/admission"
	"github.com/proa-dev/proa/apiserver/kinds"
	"github.com/proa-dev/proa/store"
)

// Reader reads the store. Unlike the store itself it starts the cache of a
// resource that nobody has asked for yet: after a restart the first request
// must find the roles that were there before. Safe for concurrent use.
type Reader struct {
	store *store.Store
	kinds *kinds.Set
	// custom has the kinds that come and go, if they are followed.
	custom atomic.Pointer[kinds.Table]

	mu      sync.Mutex
	started atomic.Pointer[map[schema.GroupResource]*store.Resource] // replaced, never changed
}

var _ admission.Source = (*Reader)(nil)

// New reads objects of the built-in kinds in st.
func New(st *store.Store, builtin []*api.Kind) *Reader {
	r := &Reader{store: st, kinds: kinds.New(builtin).Set()}
	r.started.Store(&map[schema.GroupResource]*store.Resource{})
	return r
}

// Follow makes the reader find custom resources too, as long as table has them.
func (r *Reader) Follow(table *kinds.Table) { r.custom.Store(table) }

// resource returns the storage of gr, nil when no such kind is served.
func (r *Reader) resource(gr schema.GroupResource) *store.Resource {
	if res, ok := (*r.started.Load())[gr]; ok {
		return res
	}
	if r.kinds.ByGroupResource(gr) != nil {
		return r.start(gr)
	}
	table := r.custom.Load()
	if table == nil {
		return nil
	}
	set := table.Set()
	if k := set.ByGroupResource(gr); k != nil && !k.Virtual {
		// Never remembered: its storage is another one when its schema changes.
		return r.store.Resource(set.Stored(k))
	}
	return nil
}

func (r *Reader) start(gr schema.GroupResource) *store.Resource {
	var res *store.Resource
	if k := r.kinds.ByGroupResource(gr); k != nil && !k.Virtual {
		if stored := r.kinds.Stored(k); stored != nil {
			res = r.store.Resource(stored)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	next := maps.Clone(*r.started.Load())
	next[gr] = res
	r.started.Store(&next)
	return res
}

// Get implements admission.Source.
func (r *Reader) Get(gr schema.GroupResource, namespace, name string) (api.Object, bool) {
	res := r.resource(gr)
	if res == nil {
		return nil, false
	}
	if e := res.Cached(key(namespace, name)); e != nil {
		return e.Object, true
	}
	return nil, false
}

// List implements admission.Source.
func (r *Reader) List(gr schema.GroupResource, namespace string) []api.Object {
	if r.resource(gr) == nil {
		return nil
	}
	return r.store.List(gr, namespace)
}

// Revision implements admission.Source.
func (r *Reader) Revision(gr schema.GroupResource) int64 {
	if res := r.resource(gr); res != nil {
		return res.Revision()
	}
	return 0
}

// Live is an admission.Live.
func (r *Reader) Live(ctx context.Context, gr schema.GroupResource, namespace, name string) (api.Object, bool) {
	res := r.resource(gr)
	if res == nil {
		return nil, false
	}
	e, err := res.Latest(ctx, key(namespace, name))
	if err != nil || e == nil {
		return nil, false
	}
	return e.Object, true
}

// Replace writes obj in place of the version that it names. A conflict says
// that this is not the latest.
func (r *Reader) Replace(ctx context.Context, gr schema.GroupResource, obj api.Object) error {
	res := r.resource(gr)
	if res == nil {
		return apierrors.NewNotFound(gr, obj.GetName())
	}
	conflict := apierrors.NewConflict(gr, obj.GetName(), store.ErrChanged)
	switch e := res.Cached(key(obj.GetNamespace(), obj.GetName())); {
	case e == nil:
		return apierrors.NewNotFound(gr, obj.GetName())
	case e.Object.GetResourceVersion() != obj.GetResourceVersion() || e.Object.GetUID() != obj.GetUID():
		return conflict
	default:
		if _, err := res.Update(ctx, e, obj); !errors.Is(err, store.ErrChanged) {
			return err
		}
	}
	return conflict
}

func key(namespace, name string) string {
	if namespace == "" {
		return name
	}
	return namespace + "/" + name
}
