package store

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/proa-dev/proa/api"
)

// Resource is the storage of one resource: writes go to etcd, reads come
// from the watch cache.
type Resource struct {
	store  *Store
	kind   *api.Kind
	prefix string // of etcd's keys
	ctx    context.Context
	cancel context.CancelFunc // ends loads
	// next took its place.
	next atomic.Pointer[Resource]

	changed atomic.Int64 // the latest change
	ttl     atomic.Int64 // of the latest create that had one
	pending pending
	kept    keptSnapshots
	log     *eventLog

	mu   sync.RWMutex
	tree *tree
	snap *Snapshot // of tree, nil after a change
	rev  int64     // the latest change, or where the load stood
	// unreadable is what the tree lacks, by key; nil while there is nothing.
	unreadable map[string]*Unreadable
	fill
}

func newResource(s *Store, k *api.Kind) *Resource {
	r := &Resource{
		store:  s,
		prefix: root + k.StoragePath + "/",
		log:    newEventLog(),
		tree:   newTree(),
		kind:   k,
	}
	r.ctx, r.cancel = context.WithCancel(s.ctx)
	r.pending.init()
	r.loading, r.loaded = true, make(chan struct{})
	return r
}

// now is what r was replaced by, or r.
func (r *Resource) now() *Resource {
	for {
		n := r.next.Load()
		if n == nil {
			return r
		}
		r = n
	}
}

// Create stores obj under key (see Entry). obj is handed over, whatever the
// outcome: the caller must not change it again. An existing key is an
// AlreadyExists status error. ttl is in seconds, 0 for none (Events have one).
func (r *Resource) Create(ctx context.Context, key string, obj api.Object, ttl int64) (*Entry, error) {
	r = r.now()
	k := r.kind
	data, err := encode(k, obj)
	if err != nil {
		return nil, apierrors.NewInternalError(fmt.Errorf("encode %s %s: %w", k.GVK.Kind, key, err))
	}
	put := write{key: r.prefix + key, value: data}
	if ttl > 0 {
		r.ttl.Store(ttl)
		if put.lease, err = r.store.leases.get(ctx, ttl); err != nil {
			return nil, asStatus(err, "create")
		}
	}
	p := &pendingWrite{key: key, obj: obj, value: data, leased: put.lease != 0}
	e, err := r.commit(ctx, put, p, "create")
	if errors.Is(err, ErrChanged) {
		return nil, apierrors.NewAlreadyExists(k.GR(), key[strings.LastIndexByte(key, '/')+1:])
	}
	return e, err
}

// Update replaces old by obj when old is still the latest revision, else it
// returns ErrChanged; the caller reads again and decides. An object equal to
// old is not written: old itself is returned. obj is handed over as in Create.
func (r *Resource) Update(ctx context.Context, old *Entry, obj api.Object) (*Entry, error) {
	r = r.now()
	k := r.kind
	data, err := encode(k, obj)
	if err != nil {
		return nil, apierrors.NewInternalError(fmt.Errorf("encode %s %s: %w", k.GVK.Kind, old.Key, err))
	}
	if old.sameStored(data) {
		// Still the latest? Else the caller would take a stale object for
		// the outcome of its update.
		latest, err := r.Latest(ctx, old.Key)
		if err != nil {
			return nil, err
		}
		if latest == nil || latest.Revision != old.Revision {
			return nil, ErrChanged
		}
		return latest, nil
	}
	put := write{key: r.prefix + old.Key, value: data, expect: old.Revision}
	if old.leased {
		if ttl := r.ttl.Load(); ttl == 0 {
			put.keepLease = true
		} else if put.lease, err = r.store.leases.get(ctx, ttl); err != nil {
			return nil, asStatus(err, "update")
		}
	}
	p := &pendingWrite{key: old.Key, obj: obj, value: data, leased: old.leased}
	return r.commit(ctx, put, p, "update")
}

// Delete removes old when it is still the latest revision, else it returns
// ErrChanged. The entry returned carries the deletion's revision.
func (r *Resource) Delete(ctx context.Context, old *Entry) (*Entry, error) {
	w := write{key: r.prefix + old.Key, expect: old.Revision, remove: true}
	return r.commit(ctx, w, &pendingWrite{key: old.Key, old: old}, "delete")
}

// commit carries out w; ErrChanged says that its condition does not hold.
func (r *Resource) commit(ctx context.Context, w write, p *pendingWrite, verb string) (*Entry, error) {
	if r.ctx.Err() != nil {
		if n := r.next.Load(); n != nil {
			return n.commit(ctx, w, p, verb)
		}
		return nil, asStatus(errClosed, verb) // nobody would wait for the event
	}
	select {
	case r.store.writes <- struct{}{}:
		defer func() { <-r.store.writes }()
	case <-ctx.Done():
		return nil, asStatus(ctx.Err(), verb)
	}
	r.pending.add(p)
	rev, ok, err := r.store.etcd.commit(ctx, w)
	switch {
	case err == nil && ok:
		return r.written(ctx, p, rev)
	case isNoSpace(err):
		// etcd answers so to the write that fills its quota, but does it.
		r.store.makeSpace()
		if caught := r.catchUp(ctx); caught == nil {
			if e := r.pending.claimed(p); e != nil {
				return e, nil
			}
		}
	}
	r.pending.drop(p)
	if err != nil {
		return nil, asStatus(err, verb)
	}
	return nil, ErrChanged
}

// written ends a successful write once the cache has it, so that who wrote
// finds it there by whatever way it reads. In process the event has come before
// the acknowledgement nearly always.
func (r *Resource) written(ctx context.Context, p *pendingWrite, rev int64) (*Entry, error) {
	e, err := r.pending.done(p, rev, r.decode)
	if err == nil && r.store.feed.rev.Load() < rev {
		// The write is done whether or not the cache is slow.
		wait, cancel := context.WithTimeout(ctx, writtenTimeout)
		_ = r.store.feed.wait(wait, rev)
		cancel()
	}
	return e, err
}

// ErrChanged says that an object was written by somebody else meanwhile.
type changedError struct{}

func (changedError) Error() string { return "the object has been modified" }

// ErrChanged is returned by Update and Delete.
var ErrChanged error = changedError{}

// Latest returns the newest entry of key, at least as new as every write that
// was acknowledged before the call. Nil, nil where there is none, and an
// *Unreadable where there is something else.
func (r *Resource) Latest(ctx context.Context, key string) (*Entry, error) {
	for {
		r = r.now()
		err := r.catchUp(ctx)
		if r.next.Load() != nil {
			continue
		}
		if err != nil {
			return nil, err
		}
		r.mu.RLock()
		defer r.mu.RUnlock()
		if u := r.unreadable[key]; u != nil {
			return nil, u
		}
		return lookup(r.tree, key), nil
	}
}

// Revision is that of the latest change that the cache has seen.
func (r *Resource) Revision() int64 { return r.changed.Load() }

// Cached returns what the cache has now, without waiting.
func (r *Resource) Cached(key string) *Entry {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return lookup(r.tree, key)
}

// catchUp waits until the cache has every write acknowledged before the call.
func (r *Resource) catchUp(ctx context.Context) error {
	if r.ctx.Err() != nil {
		return asStatus(errClosed, "get")
	}
	rev, err := r.store.etcd.currentRevision(ctx)
	if err == nil && r.store.feed.rev.Load() < rev {
		wait, cancel := context.WithTimeout(ctx, catchUpTimeout)
		err = r.store.reach(wait, rev)
		cancel()
	}
	if err == nil {
		err = r.awaitLoad(ctx)
	}
	if err != nil {
		return asStatus(err, "get")
	}
	return nil
}

func (r *Resource) decode(key string, value []byte) (api.Object, error) {
	return decode(r.kind, r.store.cfg.Lookup, value)
}

// verify checks that nobody changed a cached object.
func (r *Resource) verify() {
	r.mu.RLock()
	defer r.mu.RUnlock()
	r.tree.Ascend(func(e *Entry) bool {
		e.verify()
		return true
	})
}
