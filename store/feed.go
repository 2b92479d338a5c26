package store

import (
	"container/heap"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// change is one event of etcd.
type change struct {
	key     string // in its resource
	value   []byte // nil when deleted
	rev     int64
	leased  bool
	deleted bool
	// unreadable is set by makeEntry.
	unreadable *Unreadable
}

// errCompacted ends a watch whose history is gone.
var errCompacted = errors.New("etcd has compacted the revisions to be watched")

// feed is the progress of the one watch that fills all caches: every change
// up to rev has reached the cache of its resource.
type feed struct {
	rev atomic.Int64

	mu      sync.Mutex
	waiters waiters
}

func newFeed(rev int64) *feed {
	f := &feed{}
	f.rev.Store(rev)
	return f
}

// publish raises the revision and wakes those who wait for it.
func (f *feed) publish(rev int64) {
	if rev <= f.rev.Load() {
		return
	}
	f.mu.Lock()
	f.rev.Store(rev)
	for len(f.waiters) > 0 && f.waiters[0].rev <= rev {
		close(heap.Pop(&f.waiters).(*waiter).done)
	}
	f.mu.Unlock()
}

// wait returns when the feed has reached rev.
func (f *feed) wait(ctx context.Context, rev int64) error {
	if f.rev.Load() >= rev {
		return nil
	}
	w := &waiter{rev: rev, done: make(chan struct{})}
	f.mu.Lock()
	if f.rev.Load() >= rev {
		f.mu.Unlock()
		return nil
	}
	heap.Push(&f.waiters, w)
	f.mu.Unlock()
	select {
	case <-w.done:
		return nil
	case <-ctx.Done():
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if w.index < 0 { // it came at the same time
		return nil
	}
	heap.Remove(&f.waiters, w.index)
	return ctx.Err()
}

type waiter struct {
	rev   int64
	index int // in the heap, -1 outside
	done  chan struct{}
}

// waiters is a heap, the lowest revision first.
type waiters []*waiter

func (w waiters) Len() int           { return len(w) }
func (w waiters) Less(i, j int) bool { return w[i].rev < w[j].rev }
func (w waiters) Swap(i, j int) {
	w[i], w[j] = w[j], w[i]
	w[i].index, w[j].index = i, j
}

// Push implements heap.Interface.
func (w *waiters) Push(x any) {
	e := x.(*waiter)
	e.index = len(*w)
	*w = append(*w, e)
}

// Pop implements heap.Interface.
func (w *waiters) Pop() any {
	old := *w
	e := old[len(old)-1]
	old[len(old)-1] = nil
	*w = old[:len(old)-1]
	e.index = -1
	return e
}

// runFeed keeps the watch going until the store closes.
func (s *Store) runFeed() {
	const slowest = 5 * time.Second
	delay := 10 * time.Millisecond
	for {
		began := time.Now()
		err := s.etcd.watch(s.ctx, s.feed.rev.Load()+1, s.distribute)
		if s.ctx.Err() != nil {
			return
		}
		s.log.Warn("watch on etcd ended, starting it again", "revision", s.feed.rev.Load(), "err", err)
		if errors.Is(err, errCompacted) {
			err = s.restartFeed()
			if err != nil {
				s.log.Warn("reload after compaction failed, trying again", "err", err)
			}
		}
		if time.Since(began) > time.Minute {
			delay = 10 * time.Millisecond
		}
		select {
		case <-time.After(delay):
		case <-s.ctx.Done():
			return
		}
		delay = min(delay*2, slowest)
	}
}

// restartFeed goes on at etcd's present: events were lost, so every cache
// reads all of its objects again and logs the differences.
func (s *Store) restartFeed() error {
	rev, err := s.etcd.currentRevision(s.ctx)
	if err != nil {
		return fmt.Errorf("read the revision of etcd: %w", err)
	}
	// Caches are marked before the revision rises: who waits for it then
	// waits for the reload too.
	s.mu.Lock()
	for _, r := range s.table.Load().byPath {
		r.startReload()
		s.wg.Go(func() { r.load(s.ctx) })
	}
	s.mu.Unlock()
	s.feed.publish(rev)
	return nil
}

// distribute hands a batch of etcd's events, complete up to rev, to the
// caches.
func (s *Store) distribute(batch []rawChange, rev int64) {
	t := s.table.Load()
	var run []change
	var to *Resource
	flush := func() {
		if len(run) > 0 {
			to.apply(run)
			run = nil
		}
	}
	for i := range batch {
		c := &batch[i]
		r, key := t.find(string(c.key))
		if r == nil {
			continue
		}
		if r != to {
			flush()
			to = r
		}
		run = append(run, change{key: key, value: c.value, rev: c.rev, leased: c.lease != 0, deleted: c.deleted})
	}
	flush()
	s.feed.publish(rev)
}
