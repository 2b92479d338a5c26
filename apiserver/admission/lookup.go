package admission

import (
	"context"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/proa-dev/proa/api"
)

// Live reads one object as new as every acknowledged write; false when there
// is none (or it cannot be read).
type Live func(ctx context.Context, gr schema.GroupResource, namespace, name string) (api.Object, bool)

// Lookup reads from the cache and asks again, as new as every acknowledged
// write, before it reports an object missing: a namespace that was created a
// moment ago is not refused because the cache is about to learn of it.
type Lookup struct {
	Source Source
	Live   Live // nil: the cache is all there is
}

// Get returns the object, immutable.
func (l Lookup) Get(ctx context.Context, gr schema.GroupResource, namespace, name string) (api.Object, bool) {
	if name == "" {
		return nil, false
	}
	if obj, ok := l.Source.Get(gr, namespace, name); ok {
		return obj, true
	}
	if l.Live == nil {
		return nil, false
	}
	return l.Live(ctx, gr, namespace, name)
}
