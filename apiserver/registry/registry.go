// Package registry carries out requests on objects: authorization, admission,
// defaults, validation, then the store. Both the HTTP handlers and the
// in-process client (client/local) call it, so there is one way to write.
//
// The user and the request's warnings travel in the context (WithUser of
// k8s.io/apiserver/pkg/endpoints/request, WithWarnings).
package registry

import (
	"context"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/store"
)

// Target names what a request is about.
type Target struct {
	Kind        *api.Kind
	Namespace   string
	Name        string // empty for lists, creates and collections
	Subresource string
}

// Registry is the programmatic face of the API server. Every error is a
// status error (k8s.io/apimachinery/pkg/api/errors) as a client would get it.
// Objects returned are in the version of Target.Kind; those of Get, List and
// Watch are shared and immutable.
type Registry interface {
	Get(ctx context.Context, t Target, opts *metav1.GetOptions) (runtime.Object, error)
	List(ctx context.Context, t Target, opts *metav1.ListOptions) (*List, error)
	Watch(ctx context.Context, t Target, opts *metav1.ListOptions) (*Watch, error)
	// Create takes ownership of obj. For a subresource with a kind of its own
	// (binding, eviction, token) obj is of that kind and Name is the parent's.
	Create(ctx context.Context, t Target, obj runtime.Object, opts *metav1.CreateOptions) (runtime.Object, error)
	Update(ctx context.Context, t Target, obj runtime.Object, opts *metav1.UpdateOptions) (runtime.Object, error)
	// Patch also does server-side apply (types.ApplyPatchType). created is
	// true when it made the object.
	Patch(ctx context.Context, t Target, pt types.PatchType, data []byte, opts *metav1.PatchOptions) (obj runtime.Object, created bool, err error)
	// Delete returns the object as it stands (deleted is false while
	// finalizers or a grace period keep it) or a Status.
	Delete(ctx context.Context, t Target, opts *metav1.DeleteOptions) (obj runtime.Object, deleted bool, err error)
	DeleteCollection(ctx context.Context, t Target, opts *metav1.DeleteOptions, list *metav1.ListOptions) (runtime.Object, error)
}

// List is the answer to a list: entries of the stored version that match, and
// how to make an object of Target.Kind of each.
type List struct {
	Meta    metav1.ListMeta
	Entries []*store.Entry
	// Convert is nil when the stored version is the wanted one.
	Convert func(api.Object) (api.Object, error)
	prepare func([]*store.Entry) error
}

// Objects returns the list's objects in the version of the kind. They are
// shared: never mutate them.
func (l *List) Objects() ([]api.Object, error) {
	out := make([]api.Object, len(l.Entries))
	if l.prepare != nil {
		if err := l.prepare(l.Entries); err != nil {
			return nil, err
		}
	}
	for i, e := range l.Entries {
		out[i] = e.Object
		if l.Convert == nil {
			continue
		}
		var err error
		if out[i], err = l.Convert(e.Object); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// Watch is an open watch; see store.Watcher.
type Watch struct {
	*store.Watcher
	Convert func(api.Object) (api.Object, error)
}
