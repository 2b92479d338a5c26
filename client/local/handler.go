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

// notice is one call of a handler to be made. Handlers share it: it never
// changes.
type notice struct {
	kind     noticeKind
	key      string
	old, new any
	initial  bool
}

const (
	// maxBehind is how many notices may wait before the informer waits too.
	maxBehind = 50_000
	// joinFrom is the length of a queue from which on updates join: a handler
	// that keeps up with events pays nothing for those that do not.
	joinFrom = 64
)

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
	// open are the places in a long queue of what an update can join.
	open map[string]int
	wake chan struct{} // holds one
	room chan struct{} // nil unless somebody waits for the queue to be taken
}

func newHandler(i *informer, callee toolscache.ResourceEventHandler, resync time.Duration) *handler {
	return &handler{
		informer: i,
		callee:   callee,
		resync:   resync,
		synced:   make(chan struct{}),
		stopped:  make(chan struct{}),
		wake:     make(chan struct{}, 1),
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

func (h *handler) put(news ...*notice) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, n := range news {
		h.putLocked(n)
	}
	select {
	case h.wake <- struct{}{}:
	default:
	}
}

func (h *handler) putLocked(n *notice) {
	if at, ok := h.open[n.key]; ok && n.kind == updated {
		joined := *h.queue[at]
		joined.new = n.new
		h.queue[at] = &joined
		return
	}
	h.queue = append(h.queue, n)
	switch {
	case h.open != nil:
		h.openLocked(len(h.queue) - 1)
	case len(h.queue) == joinFrom:
		h.open = map[string]int{}
		for at := range h.queue {
			h.openLocked(at)
		}
	}
}

func (h *handler) openLocked(at int) {
	switch n := h.queue[at]; n.kind {
	case added, updated:
		h.open[n.key] = at
	case deleted:
		delete(h.open, n.key)
	}
}

// awaitRoom returns when the queue is not too long.
func (h *handler) awaitRoom(ctx context.Context) {
	h.mu.Lock()
	if len(h.queue) <= maxBehind {
		h.mu.Unlock()
		return
	}
	if h.room == nil {
		h.room = make(chan struct{})
	}
	room := h.room
	h.mu.Unlock()
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
	var batch []*notice
	for {
		select {
		case <-h.wake:
			batch = h.takeAll(batch)
			for at, n := range batch {
				if ctx.Err() != nil {
					return
				}
				batch[at] = nil
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

// takeAll takes what waits, and leaves the room of what was done for more.
func (h *handler) takeAll(done []*notice) []*notice {
	if cap(done) > 2*joinFrom {
		done = nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	list := h.queue
	h.queue, h.open = done[:0], nil
	if h.room != nil {
		close(h.room)
		h.room = nil
	}
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
		h.put(&notice{kind: updated, key: key, old: obj, new: obj})
	}
}
