package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/proa-dev/proa/api"
)

// WatchOptions selects events.
type WatchOptions struct {
	// Since is the revision after which events are wanted. Gone from the log
	// means a 410 status error with reason Expired ("too old resource
	// version: 5 (100)"), from Watch or as the last event. Zero: the current
	// state first, as ADDED events, then what follows.
	Since int64
	// Prefix limits the keys: "", "namespace/"; Key is one exact key.
	Prefix, Key string
	// Match, if not nil, selects objects (labels, fields). An object that
	// begins to match is ADDED, one that ceases to is DELETED.
	Match func(api.Object) bool
	// Initial sends the current state first even when Since is set, with
	// Bookmarks ended by one annotated k8s.io/initial-events-end
	// (sendInitialEvents).
	Initial bool
	// Bookmarks asks for a Bookmark event about once a minute and before a
	// watch ends.
	Bookmarks bool
}

// Event is one change. For Deleted, Entry is the last state with the
// deletion's revision. For Bookmark, Entry is nil and Revision counts.
type Event struct {
	Type     watch.EventType
	Entry    *Entry
	Revision int64
	// InitialEnd marks the bookmark that ends the initial state.
	InitialEnd bool
	// Err is set for Error events.
	Err error
}

const (
	bookmarkEvery = time.Minute
	maxBatch      = 1024
)

// Watch opens a cursor. Nothing is buffered for it but the resource's log,
// which all watchers share: one that falls behind its window ends with a 410.
func (r *Resource) Watch(opts WatchOptions) (*Watcher, error) {
	if opts.Since < 0 {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("invalid resource version %d", opts.Since))
	}
	r = r.now()
	w := &Watcher{r: r, opts: opts, stop: make(chan struct{}), since: opts.Since, seen: opts.Since}
	if opts.Since == 0 || opts.Initial {
		w.initial = &initial{} // opened by Next, which has a context
		return w, nil
	}
	r.mu.RLock()
	started := r.started
	r.mu.RUnlock()
	if !started {
		return w, nil // where the log begins is known when the cache is filled: see place
	}
	at, err := r.log.after(opts.Since)
	if err != nil {
		return nil, r.tooOld(opts.Since)
	}
	w.at = at
	return w, nil
}

func (r *Resource) tooOld(since int64) error {
	return apierrors.NewResourceExpired(fmt.Sprintf("too old resource version: %d (%d)", since, r.log.floorAt.Load()))
}

// Watcher is a cursor in the log. Not safe for concurrent use, except Stop.
type Watcher struct {
	r     *Resource
	opts  WatchOptions
	at    *node // the event looked at last; nil until Next has found it
	since int64 // events up to it are not wanted
	seen  int64 // every event up to it was looked at
	ended bool
	bade  bool // the bookmark before the end was sent

	patient bool

	initial  *initial
	bookmark *time.Timer

	once sync.Once
	stop chan struct{}
}

// initial is the state that is sent first.
type initial struct {
	snap *Snapshot
	from string // the first key to be sent
}

// Stop wakes Next, which then returns io.EOF.
func (w *Watcher) Stop() { w.once.Do(func() { close(w.stop) }) }

// BePatient says that events cost more to deliver than to make, as over a
// network: where many watch, those that follow one another within milliseconds
// come together. To be called before Next.
func (w *Watcher) BePatient() { w.patient = true }

// Next waits for events and returns all there are (of many, the first
// thousand or so), at least one, appended to buf[:0]. It returns ctx's error
// when that ends first, and io.EOF after an Error event or when the store
// closes.
func (w *Watcher) Next(ctx context.Context, buf []Event) ([]Event, error) {
	buf = buf[:0]
	select {
	case <-w.stop:
		w.ended = true
	default:
	}
	if w.ended {
		return buf, io.EOF
	}
	if w.opts.Bookmarks && w.bookmark == nil {
		w.bookmark = time.NewTimer(bookmarkEvery - rand.N(bookmarkEvery/10))
	}
	if w.initial != nil {
		var err error
		if buf, err = w.begin(ctx, buf); err != nil || len(buf) > 0 {
			return buf, err
		}
	}
	if w.at == nil {
		var err error
		if buf, err = w.place(ctx, buf); err != nil || len(buf) > 0 {
			return buf, err
		}
	}
	log := w.r.log
	bell := &log.prompt
	if w.patient {
		bell = &log.patient.bell
	}
	bell.waiting.Add(1) // before looking: an append from here on wakes us
	defer bell.waiting.Add(-1)
	for {
		wake := bell.waker()
		complete := w.r.store.feed.rev.Load()
		buf = w.collect(buf)
		if len(buf) > 0 {
			return buf, nil
		}
		w.seen = max(w.seen, complete)
		if log.closed.Load() {
			w.ended = true
			return buf, io.EOF
		}
		if buf, done, err := w.idle(ctx, wake, buf); done {
			return buf, err
		}
	}
}

// idle waits for the next append; done says that Next has something to return.
func (w *Watcher) idle(ctx context.Context, wake <-chan struct{}, buf []Event) (out []Event, done bool, err error) {
	var bookmark <-chan time.Time
	if w.bookmark != nil {
		bookmark = w.bookmark.C
	}
	select {
	case <-wake:
		return buf, false, nil
	case <-bookmark:
		w.bookmark.Reset(bookmarkEvery)
		return append(buf, Event{Type: watch.Bookmark, Revision: w.seen}), true, nil
	case <-w.stop:
		w.ended = true
		return buf, true, io.EOF
	case <-ctx.Done():
		if w.opts.Bookmarks && !w.bade && w.seen > 0 && errors.Is(ctx.Err(), context.DeadlineExceeded) {
			w.bade = true
			return append(buf, Event{Type: watch.Bookmark, Revision: w.seen}), true, nil
		}
		return buf, true, ctx.Err()
	}
}

// place puts the cursor into a log that had not begun when the watch was asked
// for: what happened before this process is not in it.
func (w *Watcher) place(ctx context.Context, buf []Event) ([]Event, error) {
	w.r.mu.RLock()
	loaded := w.r.loaded
	w.r.mu.RUnlock()
	select {
	case <-loaded:
	case <-ctx.Done():
		return buf, ctx.Err()
	case <-w.stop:
		w.ended = true
		return buf, io.EOF
	case <-w.r.ctx.Done():
		w.ended = true
		return buf, io.EOF
	}
	at, err := w.r.log.after(w.since)
	if err != nil {
		return w.fail(buf, w.r.tooOld(w.since)), nil //nolint:nilerr // it is the last event
	}
	w.at = at
	return buf, nil
}

// begin sends the current state, in parts.
func (w *Watcher) begin(ctx context.Context, buf []Event) ([]Event, error) {
	if w.initial.snap == nil {
		match := MatchLatest
		if w.opts.Since > 0 {
			match = MatchNotOlder
		}
		snap, err := w.r.Snapshot(ctx, match, w.opts.Since)
		if err != nil {
			if ctx.Err() != nil {
				return buf, ctx.Err()
			}
			return w.fail(buf, err), nil
		}
		w.initial.snap = snap
		w.at, w.since, w.seen = snap.tail, snap.Revision, snap.Revision
	}
	snap, more := w.initial.snap, false
	snap.Ascend(w.opts.Prefix, max(w.initial.from, w.opts.Key), func(e *Entry) bool {
		if len(buf) >= maxBatch {
			w.initial.from, more = e.Key, true
			return false
		}
		if w.wants(e.Key) && (w.opts.Match == nil || w.opts.Match(e.Object)) {
			buf = append(buf, Event{Type: watch.Added, Entry: e, Revision: e.Revision})
		}
		return w.opts.Key == "" || e.Key < w.opts.Key
	})
	if more {
		return buf, nil
	}
	w.initial = nil
	if w.opts.Initial && w.opts.Bookmarks {
		buf = append(buf, Event{Type: watch.Bookmark, Revision: snap.Revision, InitialEnd: true})
	}
	return buf, nil
}

// collect walks the log from the cursor on.
func (w *Watcher) collect(buf []Event) []Event {
	for len(buf) < maxBatch {
		n := w.at.next.Load()
		if n == nil {
			if w.r.log.gone(w.at) {
				buf = w.fail(buf, w.r.tooOld(w.seen))
			}
			return buf
		}
		w.at = n
		w.seen = max(w.seen, n.rev)
		if n.rev > w.since && w.wants(n.entry.Key) {
			if ev, ok := w.event(n); ok {
				buf = append(buf, ev)
			}
		}
	}
	return buf
}

func (w *Watcher) wants(key string) bool {
	if w.opts.Key != "" {
		return key == w.opts.Key
	}
	return strings.HasPrefix(key, w.opts.Prefix)
}

// event is what n means to this watcher.
func (w *Watcher) event(n *node) (Event, bool) {
	was := n.prev != nil
	is := !n.deleted
	if w.opts.Match != nil {
		was = was && w.opts.Match(n.prev.Object)
		is = is && w.opts.Match(n.entry.Object)
	}
	ev := Event{Entry: n.entry, Revision: n.rev}
	switch {
	case is && was:
		ev.Type = watch.Modified
	case is:
		ev.Type = watch.Added
	case was:
		ev.Type = watch.Deleted
		ev.Entry = n.departed()
	default:
		return ev, false
	}
	return ev, true
}

func (w *Watcher) fail(buf []Event, err error) []Event {
	w.ended = true
	return append(buf, Event{Type: watch.Error, Err: err})
}
