package local

import (
	"context"
	"sync"
	"time"

	toolscache "k8s.io/client-go/tools/cache"
)

type noticeKind int

const (
	added noticeKind = iota
	updated
	deleted
	syncedMark // the initial state ends here
)

// notice is one call of a handler to be made.
type notice struct {
	kind     noticeKind
	key      string
	old, new any
	initial  bool
}

// maxBehind is how many notices may wait before the informer waits too.
const maxBehind = 50_000

// handler calls one event handler, in order, from a goroutine of its own. A
// slow one finds the updates of an object joined into one; creations and
// deletions are never joined, since some count them.
type handler struct {
	informer *informer
	callee   toolscache.ResourceEventHandler
	resync   time.Duration
	synced   chan struct{}
	once     sync.Once
	stopped  chan struct{}

	mu    sync.Mutex
	queue []*notice
	// open are the waiting notices that an update can join.
	open map[string]*notice
	wake chan struct{} // holds one
	room chan struct{} // closed when the queue is taken
}

func newHandler(i *informer, callee toolscache.ResourceEventHandler, resync time.Duration) *handler {
	return &handler{
		informer: i,
		callee:   callee,
		resync:   resync,
		synced:   make(chan struct{}),
		stopped:  make(chan struct{}),
		open:     map[string]*notice{},
		wake:     make(chan struct{}, 1),
		room:     make(chan struct{}),
	}
}

func (h *handler) stop() { h.once.Do(func() { close(h.stopped) }) }

// HasSynced implements toolscache.ResourceEventHandlerRegistration.
func (h *handler) HasSynced() bool {
	select {
	case <-h.synced:
		return true
	default:
		return false
	}
}

// HasSyncedChecker implements toolscache.ResourceEventHandlerRegistration.
func (h *handler) HasSyncedChecker() toolscache.DoneChecker {
	return checker{"handler of " + h.informer.gvk.Kind, h.synced}
}

func (h *handler) put(n notice) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if before := h.open[n.key]; n.kind == updated && before != nil {
		before.new = n.new
		return
	}
	h.queue = append(h.queue, &n)
	switch n.kind {
	case added, updated:
		h.open[n.key] = &n
	case deleted:
		delete(h.open, n.key)
	}
	select {
	case h.wake <- struct{}{}:
	default:
	}
}

// awaitRoom returns when the queue is not too long.
func (h *handler) awaitRoom(ctx context.Context) {
	h.mu.Lock()
	full, room := len(h.queue) > maxBehind, h.room
	h.mu.Unlock()
	if !full {
		return
	}
	select {
	case <-room:
	case <-h.stopped:
	case <-ctx.Done():
	}
}

func (h *handler) run(ctx context.Context) {
	var resync <-chan time.Time
	if h.resync > 0 {
		t := time.NewTicker(h.resync)
		defer t.Stop()
		resync = t.C
	}
	for {
		select {
		case <-h.wake:
			for _, n := range h.takeAll() {
				if ctx.Err() != nil {
					return
				}
				h.call(n)
			}
		case <-resync:
			h.putAll()
		case <-h.stopped:
			return
		case <-ctx.Done():
			return
		}
	}
}

func (h *handler) takeAll() []*notice {
	h.mu.Lock()
	defer h.mu.Unlock()
	list := h.queue
	h.queue = nil
	clear(h.open)
	close(h.room)
	h.room = make(chan struct{})
	return list
}

func (h *handler) call(n *notice) {
	switch n.kind {
	case added:
		h.callee.OnAdd(n.new, n.initial)
	case updated:
		h.callee.OnUpdate(n.old, n.new)
	case deleted:
		h.callee.OnDelete(n.new)
	case syncedMark:
		close(h.synced)
	}
}

// putAll shows every object again.
func (h *handler) putAll() {
	h.informer.mu.RLock()
	defer h.informer.mu.RUnlock()
	for _, obj := range h.informer.indexer.List() {
		key, _ := toolscache.MetaNamespaceKeyFunc(obj)
		h.put(notice{kind: updated, key: key, old: obj, new: obj})
	}
}
