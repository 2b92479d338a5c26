package registry

import (
	"context"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/store"
)

// Computed is a kind that is read but never stored.
type Computed struct {
	// Make makes the objects, in order, new ones at each call: those of a
	// namespace, or all where it is empty.
	Make func(ctx context.Context, namespace string) []api.Object
	// Missing is the answer for a name that there is no object of; nil: not
	// found.
	Missing func(namespace, name string) error
}

// computed answers reads of t from f.
func (c *Core) computed(ctx context.Context, t Target, f *Computed, opts *metav1.ListOptions) (*List, error) {
	sel, err := newSelection(t, opts, false)
	if err != nil {
		return nil, err
	}
	matches := sel.matcher(&resource{kind: t.Kind, stored: t.Kind})
	out := &List{Convert: same}
	for _, obj := range f.Make(ctx, t.Namespace) {
		obj.GetObjectKind().SetGroupVersionKind(t.Kind.GVK)
		if (sel.name == "" || sel.name == obj.GetName()) && (matches == nil || matches(obj)) {
			out.Entries = append(out.Entries, &store.Entry{Key: obj.GetName(), Object: obj})
		}
	}
	return out, nil
}

// computedOne is the object with t's name.
func (c *Core) computedOne(ctx context.Context, t Target, f *Computed) (*store.Entry, error) {
	l, err := c.computed(ctx, t, f, &metav1.ListOptions{})
	switch {
	case err != nil:
		return nil, err
	case len(l.Entries) > 0:
		return l.Entries[0], nil
	case f.Missing != nil:
		return nil, f.Missing(t.Namespace, t.Name)
	}
	return nil, apierrors.NewNotFound(t.Kind.GR(), t.Name)
}

// same tells handlers that an entry is no stored one, with bytes.
func same(obj api.Object) (api.Object, error) { return obj, nil }
