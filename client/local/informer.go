package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	toolscache "k8s.io/client-go/tools/cache"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/store"
)

// informer follows one kind. It keeps pointers to the store's objects by key,
// for indexes, late handlers and the differences after a lost watch.
type informer struct {
	access *access
	gvk    schema.GroupVersionKind
	view   func(api.Object) (api.Object, error) // nil for the store's own objects

	indexer toolscache.Indexer
	synced  chan struct{}
	stopped chan struct{}
	hurry   chan struct{} // holds one: somebody waits for a revision
	once    sync.Once

	mu       sync.RWMutex
	handlers []*handler
	news     []*notice // noted, not told yet
	isSynced bool
	running  context.Context // nil before run
	revision int64
	waiting  []revisionWaiter
	wg       sync.WaitGroup
}

type revisionWaiter struct {
	revision int64
	done     chan struct{}
}

func newInformer(a *access, gvk schema.GroupVersionKind, view func(api.Object) (api.Object, error)) *informer {
	return &informer{
		access:  a,
		gvk:     gvk,
		view:    view,
		indexer: toolscache.NewIndexer(toolscache.MetaNamespaceKeyFunc, toolscache.Indexers{}),
		synced:  make(chan struct{}),
		stopped: make(chan struct{}),
		hurry:   make(chan struct{}, 1),
	}
}

func formatRevision(rev int64) string { return strconv.FormatInt(rev, 10) }

func (i *informer) stop() { i.once.Do(func() { close(i.stopped) }) }

// IsStopped implements cache.Informer.
func (i *informer) IsStopped() bool {
	select {
	case <-i.stopped:
		return true
	default:
		return false
	}
}

// HasSynced implements cache.Informer.
func (i *informer) HasSynced() bool {
	i.mu.RLock()
	defer i.mu.RUnlock()
	return i.isSynced
}

// HasSyncedChecker implements cache.Informer.
func (i *informer) HasSyncedChecker() toolscache.DoneChecker {
	return checker{"informer of " + i.gvk.Kind, i.synced}
}

type checker struct {
	name string
	done <-chan struct{}
}

// Name implements toolscache.DoneChecker.
func (c checker) Name() string { return c.name }

// Done implements toolscache.DoneChecker.
func (c checker) Done() <-chan struct{} { return c.done }

// AddIndexers implements cache.Informer.
func (i *informer) AddIndexers(indexers toolscache.Indexers) error {
	return i.indexer.AddIndexers(indexers)
}

func (i *informer) awaitSync(ctx context.Context) bool {
	select {
	case <-i.synced:
		return true
	case <-i.stopped:
	case <-ctx.Done():
	}
	return false
}

// run follows the kind until ctx ends or the informer is removed.
func (i *informer) run(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer i.stop()
	stopping := context.AfterFunc(ctx, i.stop)
	defer stopping()
	go func() {
		<-i.stopped // closed at the latest when run returns
		cancel()
	}()
	i.mu.Lock()
	i.running = ctx
	for _, h := range i.handlers {
		i.startLocked(h)
	}
	i.mu.Unlock()
	defer i.wg.Wait()
	defer cancel()

	const fastest, slowest = 50 * time.Millisecond, 15 * time.Second
	delay := fastest
	for ctx.Err() == nil {
		began := time.Now()
		err := i.follow(ctx)
		if ctx.Err() != nil {
			return
		}
		if time.Since(began) > time.Minute {
			delay = fastest
		}
		i.access.Logger.Debug("informer begins again", "kind", i.gvk.Kind, "err", err, "in", delay)
		select {
		case <-time.After(delay):
		case <-ctx.Done():
		}
		delay = min(2*delay, slowest)
	}
}

// follow reads the state and then what happens, until the watch ends.
func (i *informer) follow(ctx context.Context) error {
	k, err := i.access.kindFor(i.gvk)
	if err != nil {
		return err
	}
	initial := true
	only := ""
	if sel := i.access.Only[i.gvk]; sel != nil {
		only = sel.String()
	}
	w, err := i.access.Registry.Watch(i.access.as(ctx), target(k, "", "", ""), &metav1.ListOptions{
		FieldSelector:        only,
		SendInitialEvents:    &initial,
		ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan,
		AllowWatchBookmarks:  true,
	})
	if err != nil {
		i.access.Logger.Warn("cannot watch", "kind", i.gvk.Kind, "user", i.access.User.GetName(), "err", err)
		return err
	}
	defer w.Stop()
	round := &round{present: map[string]bool{}, convert: w.Convert}
	var buf []store.Event
	pace := time.NewTimer(breath)
	defer pace.Stop()
	var last time.Time
	for {
		buf, err = w.Next(ctx, buf)
		if errors.Is(err, io.EOF) {
			return errors.New("the watch ended")
		}
		if err != nil {
			return err
		}
		if err := i.take(round, buf); err != nil {
			return err
		}
		i.holdBack(ctx)
		if time.Since(last) < breath {
			pace.Reset(breath)
			select {
			case <-pace.C:
			case <-i.hurry:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		last = time.Now()
	}
}

// breath is the pause between events that come in quick succession. A dozen
// loops hear of every pod: waking each for each of thousands of changes a second
// would cost more than what they do.
const breath = 2 * time.Millisecond

// round is the state of one watch.
type round struct {
	convert func(api.Object) (api.Object, error)
	// present holds the keys of the initial state, nil once that is complete.
	present map[string]bool
}

// take applies a batch to the indexer, then tells the handlers.
func (i *informer) take(r *round, batch []store.Event) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	defer i.tellLocked()
	for n := range batch {
		ev := &batch[n]
		switch {
		case ev.Type == watch.Error:
			return ev.Err
		case ev.InitialEnd:
			i.completeLocked(r)
		case ev.Type == watch.Bookmark:
		default:
			i.takeOneLocked(r, ev)
		}
		i.revision = max(i.revision, ev.Revision)
	}
	for len(i.waiting) > 0 && i.waiting[0].revision <= i.revision {
		close(i.waiting[0].done)
		i.waiting = i.waiting[1:]
	}
	return nil
}

func (i *informer) takeOneLocked(r *round, ev *store.Event) {
	obj, err := i.object(r, ev.Entry.Object)
	old, had, _ := i.indexer.GetByKey(ev.Entry.Key)
	switch {
	case ev.Type == watch.Deleted && !had:
		return
	case ev.Type == watch.Deleted && err != nil:
		i.goneLocked(ev.Entry.Key, old) // whatever it was at the end
		return
	case err != nil:
		i.access.Logger.Error("cannot convert an object, leaving it out", "kind", i.gvk.Kind, "key", ev.Entry.Key, "err", err)
		return
	case ev.Type == watch.Deleted:
		_ = i.indexer.Delete(obj) // fails for objects without metadata alone
		i.noteLocked(notice{kind: deleted, key: ev.Entry.Key, new: obj})
		return
	}
	if r.present != nil {
		r.present[ev.Entry.Key] = true
		if had && old.(api.Object).GetResourceVersion() == obj.GetResourceVersion() {
			return
		}
		// While nobody watched, an object may have gone and another one of its
		// name have come: no update makes the one of the other.
		if had && old.(api.Object).GetUID() != obj.GetUID() {
			i.goneLocked(ev.Entry.Key, old)
			had = false
		}
	}
	_ = i.indexer.Add(obj)
	if had {
		i.noteLocked(notice{kind: updated, key: ev.Entry.Key, old: old, new: obj})
	} else {
		i.noteLocked(notice{kind: added, key: ev.Entry.Key, new: obj, initial: !i.isSynced})
	}
}

func (i *informer) object(r *round, obj api.Object) (api.Object, error) {
	var err error
	if r.convert != nil {
		if obj, err = r.convert(obj); err != nil {
			return nil, err
		}
	}
	if i.view != nil {
		return i.view(obj)
	}
	return obj, nil
}

// completeLocked ends the initial state: what is not in it is gone.
func (i *informer) completeLocked(r *round) {
	for _, key := range i.indexer.ListKeys() {
		if r.present[key] {
			continue
		}
		if old, ok, _ := i.indexer.GetByKey(key); ok {
			i.goneLocked(key, old)
		}
	}
	r.present = nil
	if !i.isSynced {
		i.isSynced = true
		close(i.synced)
		i.noteLocked(notice{kind: syncedMark})
	}
}

// goneLocked takes away an object of which only an older state is known.
func (i *informer) goneLocked(key string, old any) {
	_ = i.indexer.Delete(old)
	i.noteLocked(notice{kind: deleted, key: key, new: toolscache.DeletedFinalStateUnknown{Key: key, Obj: old}})
}

func (i *informer) noteLocked(n notice) { i.news = append(i.news, &n) }

// tellLocked tells every handler what was noted.
func (i *informer) tellLocked() {
	if len(i.news) == 0 {
		return
	}
	for _, h := range i.handlers {
		h.put(i.news...)
	}
	clear(i.news)
	i.news = i.news[:0]
}

// holdBack waits for handlers that are far behind: the log of the store waits
// for us, nothing else does.
func (i *informer) holdBack(ctx context.Context) {
	i.mu.RLock()
	handlers := i.handlers // replaced, never changed
	i.mu.RUnlock()
	for _, h := range handlers {
		h.awaitRoom(ctx)
	}
}

// awaitRevision waits, not for long, until the informer has seen rev.
func (i *informer) awaitRevision(ctx context.Context, rev int64) {
	i.mu.Lock()
	if i.revision >= rev || i.running == nil {
		i.mu.Unlock()
		return
	}
	w := revisionWaiter{rev, make(chan struct{})}
	at, _ := slices.BinarySearchFunc(i.waiting, rev, func(w revisionWaiter, rev int64) int { return int(w.revision - rev) })
	i.waiting = slices.Insert(i.waiting, at, w)
	i.mu.Unlock()
	select {
	case i.hurry <- struct{}{}:
	default:
	}
	limit := time.NewTimer(time.Second)
	defer limit.Stop()
	select {
	case <-w.done:
		return
	case <-limit.C:
	case <-ctx.Done():
	case <-i.stopped:
	}
	i.mu.Lock()
	i.waiting = slices.DeleteFunc(i.waiting, func(o revisionWaiter) bool { return o.done == w.done })
	i.mu.Unlock()
}

// AddEventHandler implements cache.Informer. The store loses no events, so
// that there is no resync unless one is asked for.
func (i *informer) AddEventHandler(h toolscache.ResourceEventHandler) (toolscache.ResourceEventHandlerRegistration, error) {
	return i.AddEventHandlerWithResyncPeriod(h, 0)
}

// AddEventHandlerWithOptions implements cache.Informer.
func (i *informer) AddEventHandlerWithOptions(h toolscache.ResourceEventHandler, o toolscache.HandlerOptions) (toolscache.ResourceEventHandlerRegistration, error) {
	var period time.Duration
	if o.ResyncPeriod != nil {
		period = *o.ResyncPeriod
	}
	return i.AddEventHandlerWithResyncPeriod(h, period)
}

// AddEventHandlerWithResyncPeriod implements cache.Informer.
func (i *informer) AddEventHandlerWithResyncPeriod(eh toolscache.ResourceEventHandler, period time.Duration) (toolscache.ResourceEventHandlerRegistration, error) {
	if i.IsStopped() {
		return nil, fmt.Errorf("the informer of %s was stopped", i.gvk.Kind)
	}
	h := newHandler(i, eh, period)
	i.mu.Lock()
	defer i.mu.Unlock()
	for _, obj := range i.indexer.List() {
		key, _ := toolscache.MetaNamespaceKeyFunc(obj)
		h.put(&notice{kind: added, key: key, new: obj, initial: true})
	}
	if i.isSynced {
		h.put(&notice{kind: syncedMark})
	}
	i.handlers = append(slices.Clip(i.handlers), h)
	if i.running != nil {
		i.startLocked(h)
	}
	return h, nil
}

func (i *informer) startLocked(h *handler) {
	ctx := i.running
	if ctx.Err() == nil {
		i.wg.Go(func() { h.run(ctx) })
	}
}

// RemoveEventHandler implements cache.Informer.
func (i *informer) RemoveEventHandler(r toolscache.ResourceEventHandlerRegistration) error {
	h, ok := r.(*handler)
	if !ok || h.informer != i {
		return fmt.Errorf("the handler is not of this informer")
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.handlers = slices.DeleteFunc(slices.Clone(i.handlers), func(o *handler) bool { return o == h })
	h.stop()
	return nil
}
