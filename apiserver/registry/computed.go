package registry

import (
	"context"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/store"
)

// ComputedFunc makes the objects of a kind that is read but never stored, in
// order, new ones at each call: those of a namespace, or all where it is empty.
type ComputedFunc func(ctx context.Context, namespace string) []api.Object

// computed answers reads of t from f.
func (c *Core) computed(ctx context.Context, t Target, f ComputedFunc, opts *metav1.ListOptions) (*List, error) {
	sel, err := newSelection(t, opts, false)
	if err != nil {
		return nil, err
	}
	matches := sel.matcher(&resource{kind: t.Kind, stored: t.Kind})
	out := &List{Convert: same}
	for _, obj := range f(ctx, t.Namespace) {
		obj.GetObjectKind().SetGroupVersionKind(t.Kind.GVK)
		if (sel.name == "" || sel.name == obj.GetName()) && (matches == nil || matches(obj)) {
			out.Entries = append(out.Entries, &store.Entry{Key: obj.GetName(), Object: obj})
		}
	}
	return out, nil
}

// computedOne is the object with t's name.
func (c *Core) computedOne(ctx context.Context, t Target, f ComputedFunc) (*store.Entry, error) {
	l, err := c.computed(ctx, t, f, &metav1.ListOptions{})
	if err == nil && len(l.Entries) == 0 {
		err = apierrors.NewNotFound(t.Kind.GR(), t.Name)
	}
	if err != nil {
		return nil, err
	}
	return l.Entries[0], nil
}

// same tells handlers that an entry is no stored one, with bytes.
func same(obj api.Object) (api.Object, error) { return obj, nil }
