package store

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"
	"weak"

	"github.com/google/btree"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Match says at which revision a list is to be read
// (resourceVersionMatch of the API).
type Match int

// The three ways to read.
const (
	MatchLatest   Match = iota // as new as every acknowledged write
	MatchNotOlder              // any revision from rev on; 0: whatever the cache has
	MatchExact                 // exactly rev: 410 Expired when it is gone
)

type tree = btree.BTreeG[*Entry]

func newTree() *tree {
	return btree.NewG(32, func(a, b *Entry) bool { return a.Key < b.Key })
}

// probes are entries with nothing but a key, to look for others.
var probes = sync.Pool{New: func() any { return new(Entry) }}

func lookup(t *tree, key string) *Entry {
	probe := probes.Get().(*Entry)
	probe.Key = key
	e, _ := t.Get(probe)
	probe.Key = ""
	probes.Put(probe)
	return e
}

// Snapshot is a resource at one revision; holding it is cheap.
type Snapshot struct {
	// Revision is what a list made of it reports as its resourceVersion.
	Revision int64

	tree *tree // shared, never changed
	tail *node // the log's newest event that tree contains
}

// Get returns the entry of key, or nil.
func (s *Snapshot) Get(key string) *Entry {
	return lookup(s.tree, key)
}

// Ascend calls fn for the entries whose keys start with prefix ("namespace/",
// "" for all) in key order, from the first key that is >= from, until fn
// returns false.
func (s *Snapshot) Ascend(prefix, from string, fn func(*Entry) bool) {
	probe := probes.Get().(*Entry)
	probe.Key = max(prefix, from)
	s.tree.AscendGreaterOrEqual(probe, func(e *Entry) bool {
		return strings.HasPrefix(e.Key, prefix) && fn(e)
	})
	probe.Key = ""
	probes.Put(probe)
}

// State stands for what the snapshot holds: it is equal for two snapshots of a
// resource between which nothing was written to that resource, though their
// revisions may differ. It does not keep what it stands for.
func (s *Snapshot) State() State { return State{weak.Make(s.tree)} }

// State is comparable.
type State struct{ tree weak.Pointer[tree] }

// Len is the number of entries.
func (s *Snapshot) Len() int { return s.tree.Len() }

// futureWait is how long a revision that does not exist yet is waited for.
const futureWait = 3 * time.Second

// Snapshot returns the resource at a revision. A revision in the future is
// waited for a few seconds, then it is a "Too large resource version" timeout
// status error; one that is gone is a 410 status error with reason Expired.
func (r *Resource) Snapshot(ctx context.Context, m Match, rev int64) (*Snapshot, error) {
	for {
		r = r.now()
		s, err := r.snapshot(ctx, m, rev)
		if r.next.Load() == nil {
			return s, err
		}
	}
}

func (r *Resource) snapshot(ctx context.Context, m Match, rev int64) (*Snapshot, error) {
	switch {
	case m == MatchLatest:
		if err := r.catchUp(ctx); err != nil {
			return nil, err
		}
	case rev > 0:
		if err := r.awaitFuture(ctx, rev); err != nil {
			return nil, err
		}
	default:
		if err := r.awaitLoad(ctx); err != nil {
			return nil, asStatus(err, "list")
		}
	}
	if m == MatchExact {
		return r.exact(rev)
	}
	return r.current(), nil
}

// awaitFuture waits until the cache is complete up to rev.
func (r *Resource) awaitFuture(ctx context.Context, rev int64) error {
	if r.store.feed.rev.Load() < rev {
		wait, cancel := context.WithTimeout(ctx, futureWait)
		defer cancel()
		// What is newer than etcd itself will not come; what etcd has is on
		// its way.
		if err := r.store.reach(wait, rev); err != nil {
			if ctx.Err() != nil {
				return asStatus(ctx.Err(), "list")
			}
			return tooLarge(rev, r.store.feed.rev.Load())
		}
	}
	if err := r.awaitLoad(ctx); err != nil {
		return asStatus(err, "list")
	}
	return nil
}

func tooLarge(rev, current int64) error {
	err := apierrors.NewTimeoutError(fmt.Sprintf("Too large resource version: %d, current: %d", rev, current), 1)
	err.ErrStatus.Details.Causes = []metav1.StatusCause{{
		Type:    metav1.CauseTypeResourceVersionTooLarge,
		Message: "Too large resource version",
	}}
	return err
}

// current returns the cache as it is. The copy-on-write tree is cloned once
// between two writes, however many read it.
func (r *Resource) current() *Snapshot {
	r.mu.RLock()
	s := r.snap
	rev := max(r.store.feed.rev.Load(), r.rev)
	r.mu.RUnlock()
	if s == nil {
		r.mu.Lock()
		if r.snap == nil {
			r.snap = &Snapshot{tree: r.tree.Clone(), tail: r.log.tail}
		}
		s = r.snap
		// Under the lock: no change up to the feed's revision is missing.
		rev = max(r.store.feed.rev.Load(), r.rev)
		r.mu.Unlock()
	}
	return &Snapshot{Revision: rev, tree: s.tree, tail: s.tail}
}

// exact rebuilds the resource as it was at rev by undoing what the log has
// since. The result is kept a while: pages of one list follow one another.
func (r *Resource) exact(rev int64) (*Snapshot, error) {
	if rev < r.store.forgotten.Load() {
		return nil, apierrors.NewResourceExpired("The resourceVersion for the provided list is too old.")
	}
	now := r.current()
	if now.tail.rev <= rev { // nothing changed since
		return &Snapshot{Revision: rev, tree: now.tree, tail: now.tail}, nil
	}
	if s := r.kept.get(rev); s != nil {
		return s, nil
	}
	from, err := r.log.after(rev)
	if err != nil {
		return nil, apierrors.NewResourceExpired("The resourceVersion for the provided list is too old.")
	}
	r.mu.Lock() // Clone marks both trees
	past := now.tree.Clone()
	r.mu.Unlock()
	seen := map[string]bool{}
	for n := from.next.Load(); n != nil; n = n.next.Load() {
		if !seen[n.entry.Key] {
			seen[n.entry.Key] = true
			if n.prev != nil {
				past.ReplaceOrInsert(n.prev)
			} else {
				past.Delete(n.entry)
			}
		}
		if n == now.tail {
			s := &Snapshot{Revision: rev, tree: past, tail: from}
			r.kept.put(s)
			return s, nil
		}
	}
	// The log was cut while it was read.
	return nil, apierrors.NewResourceExpired("The resourceVersion for the provided list is too old.")
}
