package store

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"
)

// fill is the state of a cache that is being filled. Guarded by Resource.mu.
type fill struct {
	loading bool
	loaded  chan struct{} // closed when loading becomes false
	// early are events that came while the cache was loading.
	early    []change
	overflow bool
	// round tells a reload from the load it overtakes.
	round   int
	started bool // the first load is done
}

const (
	catchUpTimeout = 10 * time.Second
	writtenTimeout = time.Second
	pageSize       = 1000
	maxEarly       = 200_000
)

var errOverflow = errors.New("too many changes came while the objects were being read")

// awaitLoad returns when the cache is filled.
func (r *Resource) awaitLoad(ctx context.Context) error {
	r.mu.RLock()
	loading, loaded := r.loading, r.loaded
	r.mu.RUnlock()
	if !loading {
		return nil
	}
	select {
	case <-loaded:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-r.ctx.Done():
		return errClosed
	}
}

// startReload makes readers wait and keeps events until load is done. Called
// by the feed's goroutine alone, which also calls apply.
func (r *Resource) startReload() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.round++
	r.early, r.overflow = nil, false
	if !r.loading {
		r.loading, r.loaded = true, make(chan struct{})
	}
}

// load fills the cache from etcd, trying until it succeeds.
func (r *Resource) load(context.Context) {
	const slowest = 5 * time.Second
	r.mu.RLock()
	round := r.round
	r.mu.RUnlock()
	for delay := 10 * time.Millisecond; ; delay = min(2*delay, slowest) {
		err := r.loadOnce(round)
		if err == nil || r.ctx.Err() != nil {
			return
		}
		r.store.log.Warn("loading a cache failed, trying again", "resource", r.prefix, "err", err)
		select {
		case <-time.After(delay):
		case <-r.ctx.Done():
			return
		}
	}
}

func (r *Resource) loadOnce(round int) error {
	r.mu.Lock()
	r.overflow = false
	r.mu.Unlock()
	rev, items, err := r.store.etcd.readAll(r.ctx, r.prefix)
	if err != nil {
		return err
	}
	entries := make([]*Entry, 0, len(items))
	var unreadable map[string]*Unreadable
	for i := range items {
		it := &items[i]
		c := change{key: string(it.key[len(r.prefix):]), value: it.value, rev: it.rev, leased: it.lease != 0}
		e := r.Cached(c.key)
		if e == nil || e.Revision != c.rev {
			e = r.makeEntry(&c)
		}
		switch {
		case e != nil:
			entries = append(entries, e)
		case unreadable == nil:
			unreadable = map[string]*Unreadable{c.key: c.unreadable}
		default:
			unreadable[c.key] = c.unreadable
		}
		items[i] = rawChange{}
	}
	return r.finishLoad(round, rev, entries, unreadable)
}

// finishLoad makes entries and what is unreadable, which are all there was at
// rev, the content of the cache, logs what differs, and lets early events follow.
func (r *Resource) finishLoad(round int, rev int64, entries []*Entry, unreadable map[string]*Unreadable) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if round != r.round {
		return nil // a later load is under way
	}
	if r.overflow {
		r.early, r.overflow = nil, false
		return errOverflow
	}
	var events []*node
	if r.started {
		events = r.differences(rev, entries)
	} else {
		r.log.start(rev)
	}
	t := newTree()
	for _, e := range entries {
		t.ReplaceOrInsert(e)
	}
	r.tree, r.snap, r.rev, r.unreadable = t, nil, rev, unreadable
	r.changed.Store(rev)
	r.pending.forget(rev)
	for i := range r.early {
		c := &r.early[i]
		if c.rev > rev {
			events = r.applyLocked(c, r.makeEntry(c), events)
		}
	}
	r.early = nil
	r.log.append(events, time.Now())
	r.started, r.loading = true, false
	close(r.loaded)
	return nil
}

// differences are the events that lead from the cache to entries. When
// exactly things were deleted is unknown: they are said to go at rev.
func (r *Resource) differences(rev int64, entries []*Entry) []*node {
	var events []*node
	have := make(map[string]bool, len(entries))
	for _, e := range entries {
		have[e.Key] = true
		prev, _ := r.tree.Get(e)
		if prev == nil || prev.Revision != e.Revision {
			events = append(events, &node{rev: e.Revision, entry: e, prev: prev})
		}
	}
	slices.SortFunc(events, func(a, b *node) int { return cmp.Compare(a.rev, b.rev) })
	r.tree.Ascend(func(e *Entry) bool {
		if !have[e.Key] {
			events = append(events, &node{rev: rev, entry: e.at(rev), prev: e, deleted: true})
		}
		return true
	})
	return events
}

// apply takes changes in from the feed.
func (r *Resource) apply(changes []change) {
	r.mu.Lock()
	if r.loading {
		if len(r.early)+len(changes) > maxEarly {
			r.early, r.overflow = nil, true
		}
		if !r.overflow {
			r.early = append(r.early, changes...)
		}
		r.mu.Unlock()
		return
	}
	r.mu.Unlock()

	entries := make([]*Entry, len(changes)) // decoded outside of the lock
	for i := range changes {
		entries[i] = r.makeEntry(&changes[i])
	}
	r.mu.Lock()
	var events []*node
	for i := range changes {
		if changes[i].rev > r.rev || i > 0 && changes[i].rev == changes[i-1].rev {
			events = r.applyLocked(&changes[i], entries[i], events)
		}
	}
	r.log.append(events, time.Now())
	r.mu.Unlock()
}

// makeEntry returns c's entry. It is nil for deletions that were not made
// here, and for what cannot be decoded.
func (r *Resource) makeEntry(c *change) *Entry {
	if e := r.pending.claim(c); e != nil {
		return e
	}
	if c.deleted {
		return nil
	}
	obj, err := r.decode(c.key, c.value)
	if err != nil {
		r.store.log.Error("cannot read a stored object, leaving it out", "key", r.prefix+c.key, "revision", c.rev, "err", err)
		c.unreadable = &Unreadable{Path: r.prefix + c.key, key: c.key, Revision: c.rev, Err: err}
		return nil
	}
	return newEntry(c.key, obj, c.rev, c.value, c.leased)
}

// applyLocked changes the tree and appends what happened to events. Something
// that cannot be read any more is gone.
func (r *Resource) applyLocked(c *change, e *Entry, events []*node) []*node {
	r.noteLocked(c)
	gone := c.deleted || e == nil
	prev := lookup(r.tree, c.key)
	if gone && prev == nil {
		return events
	}
	if gone {
		if e == nil {
			e = prev.at(c.rev)
		}
		r.tree.Delete(prev)
	} else {
		r.tree.ReplaceOrInsert(e)
	}
	r.snap, r.rev = nil, c.rev
	r.changed.Store(c.rev)
	return append(events, &node{rev: c.rev, entry: e, prev: prev, deleted: gone})
}
