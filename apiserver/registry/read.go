package registry

import (
	"context"
	"fmt"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/utils/ptr"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/store"
)

const expiredToken = "The provided continue parameter is too old to display a consistent list result. " +
	"You can start a new list without the continue parameter, or use the continue token in this response to retrieve the remainder of the results. " +
	"Continuing with the provided token results in an inconsistent list - objects that were created, modified, or deleted between the time the first chunk was returned and now may show up in the list."

// Get implements Registry.
func (c *Core) Get(ctx context.Context, t Target, opts *metav1.GetOptions) (runtime.Object, error) {
	if err := c.authorize(ctx, "get", t); err != nil {
		return nil, err
	}
	if f := c.cfg.Computed[t.Kind.GVK]; f != nil {
		e, err := c.computedOne(ctx, t, f)
		if err != nil {
			return nil, err
		}
		return e.Object, nil
	}
	r, e, err := c.entry(ctx, t, opts)
	if err != nil {
		return nil, err
	}
	obj, err := r.served(e)
	if err != nil {
		return nil, err
	}
	if t.Subresource == "scale" && t.Kind.Scale != nil {
		if r.unscaled(obj) {
			return nil, apierrors.NewInternalError(fmt.Errorf("the spec replicas field %q does not exist", r.replicasPath()))
		}
		return r.scaleOf(obj)
	}
	return obj, nil
}

// Entry is Get for callers that want the stored bytes. Convert, if not nil,
// makes the kind's version of the entry's object.
func (c *Core) Entry(ctx context.Context, t Target, opts *metav1.GetOptions) (*store.Entry, func(api.Object) (api.Object, error), error) {
	if err := c.authorize(ctx, "get", t); err != nil {
		return nil, nil, err
	}
	if f := c.cfg.Computed[t.Kind.GVK]; f != nil {
		e, err := c.computedOne(ctx, t, f)
		return e, same, err
	}
	r, e, err := c.entry(ctx, t, opts)
	if err != nil {
		return nil, nil, err
	}
	return e, r.converter(), nil
}

func (c *Core) entry(ctx context.Context, t Target, opts *metav1.GetOptions) (*resource, *store.Entry, error) {
	r, err := c.resource(t.Kind)
	if err != nil {
		return nil, nil, err
	}
	var e *store.Entry
	switch {
	case opts != nil && opts.ResourceVersion == "0":
		if e = r.store.Cached(t.key()); e == nil {
			e, err = r.store.Latest(ctx, t.key())
		}
	case opts != nil && opts.ResourceVersion != "":
		rev, perr := parseVersion(opts.ResourceVersion)
		if perr != nil {
			return nil, nil, perr
		}
		snap, serr := r.store.Snapshot(ctx, store.MatchNotOlder, rev)
		if serr != nil {
			return nil, nil, storeError(serr, t.Kind.GR(), "get")
		}
		if e = snap.Get(t.key()); e == nil { // is it that it cannot be read?
			e, err = r.store.Latest(ctx, t.key())
		}
	default:
		e, err = r.store.Latest(ctx, t.key())
	}
	if err != nil {
		return nil, nil, storeError(err, t.Kind.GR(), "get")
	}
	if e == nil {
		return nil, nil, apierrors.NewNotFound(t.Kind.GR(), t.Name)
	}
	return r, e, nil
}

// converter is nil when the stored version is the served one.
func (r *resource) converter() func(api.Object) (api.Object, error) {
	if r.kind.Storage == nil {
		return nil
	}
	return func(stored api.Object) (api.Object, error) {
		return r.served(&store.Entry{Object: stored})
	}
}

// prefix is what the keys of a list start with.
func (t Target) prefix() string {
	if t.Kind.Namespaced && t.Namespace != "" {
		return t.Namespace + "/"
	}
	return ""
}

// List implements Registry.
func (c *Core) List(ctx context.Context, t Target, opts *metav1.ListOptions) (*List, error) {
	f, err := c.Find(ctx, t, opts)
	if err != nil {
		return nil, err
	}
	return f.List()
}

// Found is a list that is not collected yet.
type Found struct {
	// Same is equal for lists of the same entries; nil where that is not known,
	// or there are few.
	Same any
	// Revision is what the list reports as its resourceVersion.
	Revision int64
	// List collects the entries.
	List func() (*List, error)
}

// manyEntries is from how many objects on it is worth knowing that nothing
// changed since a list before.
const manyEntries = 256

// sameList is Found.Same.
type sameList struct {
	kind           *api.Kind
	state          store.State
	prefix         string
	labels, fields string
}

// Find is List for callers that may have the answer already.
func (c *Core) Find(ctx context.Context, t Target, opts *metav1.ListOptions) (*Found, error) {
	if err := c.authorizeMany(ctx, "list", t, opts); err != nil {
		return nil, err
	}
	return c.find(ctx, t, opts)
}

func (c *Core) list(ctx context.Context, t Target, opts *metav1.ListOptions) (*List, error) {
	f, err := c.find(ctx, t, opts)
	if err != nil {
		return nil, err
	}
	return f.List()
}

func (c *Core) find(ctx context.Context, t Target, opts *metav1.ListOptions) (*Found, error) {
	if opts == nil {
		opts = &metav1.ListOptions{}
	}
	if f := c.cfg.Computed[t.Kind.GVK]; f != nil {
		l, err := c.computed(ctx, t, f, opts)
		if err != nil {
			return nil, err
		}
		return &Found{List: func() (*List, error) { return l, nil }}, nil
	}
	r, err := c.resource(t.Kind)
	if err != nil {
		return nil, err
	}
	sel, err := newSelection(t, opts, false)
	if err != nil {
		return nil, err
	}
	match, rev, err := listRevision(opts)
	if err != nil {
		return nil, err
	}
	prefix, from, limit := t.prefix(), "", opts.Limit
	if opts.ResourceVersion == "0" && opts.ResourceVersionMatch == "" {
		limit = 0 // served whole from the cache, as upstream does
	}
	if opts.Continue != "" {
		if opts.ResourceVersion != "" && opts.ResourceVersion != "0" {
			return nil, apierrors.NewBadRequest("specifying resource version is not allowed when using continue")
		}
		start, at, err := decodeContinue(opts.Continue)
		if err != nil {
			return nil, err
		}
		from, match, rev = prefix+start, store.MatchExact, at
		if at < 0 {
			match, rev = store.MatchLatest, 0
		}
	}
	snap, err := r.store.Snapshot(ctx, match, rev)
	if err != nil {
		if opts.Continue != "" && apierrors.IsResourceExpired(err) {
			expired := apierrors.NewResourceExpired(expiredToken)
			expired.ErrStatus.ListMeta.Continue = encodeContinue(strings.TrimSuffix(strings.TrimPrefix(from, prefix), "\x00"), -1)
			return nil, expired
		}
		return nil, storeError(err, t.Kind.GR(), "list")
	}
	if match == store.MatchLatest {
		if err := r.whole(prefix, sel.name); err != nil {
			return nil, err
		}
	}
	f := &Found{Revision: snap.Revision, List: func() (*List, error) { return r.collect(snap, sel, t, prefix, from, limit) }}
	if limit == 0 && from == "" && t.Name == "" && snap.Len() >= manyEntries {
		f.Same = sameList{t.Kind, snap.State(), prefix, opts.LabelSelector, opts.FieldSelector}
	}
	return f, nil
}

// collect walks the snapshot.
func (r *resource) collect(snap *store.Snapshot, sel *selection, t Target, prefix, from string, limit int64) (*List, error) {
	out := &List{Meta: metav1.ListMeta{ResourceVersion: formatVersion(snap.Revision)}, Convert: r.converter(), prepare: r.prepare}
	matches := sel.matcher(r)
	if sel.name != "" && (prefix != "" || !t.Kind.Namespaced) {
		if e := snap.Get(prefix + sel.name); e != nil && e.Key >= from && (matches == nil || matches(e.Object)) {
			out.Entries = []*store.Entry{e}
		}
		return out, nil
	}
	if sel.reads(r) {
		if err := r.prepareAll(snap, prefix, from); err != nil {
			return nil, err
		}
	}
	if matches == nil && prefix == "" && limit == 0 {
		out.Entries = make([]*store.Entry, 0, snap.Len())
	}
	var rest int64
	more := false
	snap.Ascend(prefix, from, func(e *store.Entry) bool {
		if limit > 0 && int64(len(out.Entries)) == limit {
			// With a selector only the existence of more is told, as the
			// count would cost a walk of everything.
			more = true
			rest++
			return matches == nil
		}
		if matches == nil || matches(e.Object) {
			out.Entries = append(out.Entries, e)
		}
		return true
	})
	if more {
		last := out.Entries[len(out.Entries)-1]
		out.Meta.Continue = encodeContinue(strings.TrimPrefix(last.Key, prefix), snap.Revision)
		if matches == nil {
			out.Meta.RemainingItemCount = &rest
		}
	}
	return out, nil
}

// prepareAll prepares what is in a snapshot.
func (r *resource) prepareAll(snap *store.Snapshot, prefix, from string) error {
	if r.kind.Storage == nil || r.kind.Storage.Prepare == nil {
		return nil
	}
	var entries []*store.Entry
	snap.Ascend(prefix, from, func(e *store.Entry) bool {
		entries = append(entries, e)
		return true
	})
	return r.prepare(entries)
}

// Watch implements Registry.
func (c *Core) Watch(ctx context.Context, t Target, opts *metav1.ListOptions) (*Watch, error) {
	if err := c.authorizeMany(ctx, "watch", t, opts); err != nil {
		return nil, err
	}
	if opts == nil {
		opts = &metav1.ListOptions{}
	}
	r, err := c.resource(t.Kind)
	if err != nil {
		return nil, err
	}
	sel, err := newSelection(t, opts, true)
	if err != nil {
		return nil, err
	}
	rev, err := parseVersion(opts.ResourceVersion)
	if err != nil {
		return nil, err
	}
	w := store.WatchOptions{Since: rev, Prefix: t.prefix(), Bookmarks: opts.AllowWatchBookmarks}
	if sel.name != "" && (w.Prefix != "" || !t.Kind.Namespaced) {
		w.Key = w.Prefix + sel.name
	}
	w.Match = sel.matcher(r)
	// The state that the watch begins with is no older than any acknowledged
	// write, unless the client says which.
	initial := opts.SendInitialEvents
	if initial == nil && rev == 0 {
		initial = ptr.To(true) // what such watches have always meant
	}
	var snap *store.Snapshot
	if initial != nil {
		match := store.MatchNotOlder
		if opts.ResourceVersion == "" {
			match = store.MatchLatest
		}
		if snap, err = r.store.Snapshot(ctx, match, rev); err != nil {
			return nil, storeError(err, t.Kind.GR(), "watch")
		}
		w.Initial = *initial
		if rev == 0 && !w.Initial {
			w.Since = snap.Revision
		}
	}
	if snap != nil && w.Since == 0 && w.Key == "" {
		if err := r.prepareAll(snap, w.Prefix, ""); err != nil {
			return nil, err
		}
	}
	watcher, err := r.store.Watch(w)
	if err != nil {
		return nil, storeError(err, t.Kind.GR(), "watch")
	}
	return &Watch{Watcher: watcher, Convert: r.converter()}, nil
}
