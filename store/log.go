package store

import (
	"errors"
	"sync"
	"sync/atomic"
	"time"
)

// The window of a log. Watchers that fall behind it, or come back later,
// list again.
const (
	logAge      = 5 * time.Minute
	logMinCount = 128
	logMaxCount = 100_000
	logMaxBytes = 16 << 20 // of stored bytes; the objects are a few times that
)

// node is one event of a resource. Nodes are a list from the oldest to the
// newest, so that watchers walk it without a lock.
type node struct {
	next    atomic.Pointer[node]
	seq     uint64
	rev     int64
	at      int64  // unix seconds
	entry   *Entry // of a deletion: the last state with the deletion's revision
	prev    *Entry // what it replaced, nil for a creation
	deleted bool

	// left is prev with this event's revision, for watchers whose selection
	// the object leaves. Made at most once.
	left atomic.Pointer[Entry]
}

func (n *node) departed() *Entry {
	if n.deleted {
		return n.entry
	}
	if e := n.left.Load(); e != nil {
		return e
	}
	e := n.prev.at(n.rev)
	if !n.left.CompareAndSwap(nil, e) {
		return n.left.Load()
	}
	return e
}

var errGone = errors.New("no longer in the log")

// eventLog is the window of a resource's latest events.
//
// Dropped nodes are cut off, floor first and link second: a cursor that finds
// no next node looks at floor, and so cannot take a cut for the end. Without
// the cut one stuck watcher would keep all later events in memory.
type eventLog struct {
	mu    sync.Mutex
	head  *node // the newest dropped event: what follows it is complete
	tail  *node
	bytes int64

	floor   atomic.Uint64 // head's seq
	floorAt atomic.Int64  // head's revision
	prompt  bell          // for watchers of this process
	patient patientBell   // for those behind a network
	closed  atomic.Bool
}

func newEventLog() *eventLog {
	l := &eventLog{}
	l.head = &node{}
	l.tail = l.head
	l.prompt.init()
	l.patient.init()
	return l
}

// start sets the revision after which the log is complete.
func (l *eventLog) start(rev int64) {
	l.mu.Lock()
	l.head.rev = rev
	l.floorAt.Store(rev)
	l.mu.Unlock()
}

// append adds events in order and wakes the watchers.
func (l *eventLog) append(events []*node, now time.Time) {
	if len(events) == 0 {
		return
	}
	l.mu.Lock()
	for _, n := range events {
		n.seq = l.tail.seq + 1
		n.at = now.Unix()
		l.bytes += int64(n.entry.size)
		l.tail.next.Store(n)
		l.tail = n
	}
	l.trimLocked(now)
	l.mu.Unlock()
	l.broadcast(now)
}

// trim drops what is too old.
func (l *eventLog) trim(now time.Time) {
	l.mu.Lock()
	l.trimLocked(now)
	l.mu.Unlock()
}

func (l *eventLog) trimLocked(now time.Time) {
	oldest := now.Add(-logAge).Unix()
	for {
		count := l.tail.seq - l.head.seq
		first := l.head.next.Load()
		switch {
		case first == nil || count <= logMinCount && l.bytes <= logMaxBytes:
			return
		case count > logMaxCount, l.bytes > logMaxBytes && count > 1, first.at < oldest:
		default:
			return
		}
		l.floorAt.Store(first.rev)
		l.floor.Store(first.seq)
		l.head.next.Store(nil)
		l.head = first
		l.bytes -= int64(first.entry.size)
	}
}

// after returns the node after which all events newer than rev stand.
func (l *eventLog) after(rev int64) (*node, error) {
	l.mu.Lock()
	n, tail := l.head, l.tail
	l.mu.Unlock()
	if rev < n.rev {
		return nil, errGone
	}
	if rev >= tail.rev {
		return tail, nil
	}
	for {
		next := n.next.Load()
		switch {
		case next == nil && l.gone(n):
			return nil, errGone
		case next == nil || next.rev > rev:
			return n, nil
		}
		n = next
	}
}

// gone says that events after n were dropped.
func (l *eventLog) gone(n *node) bool { return n.seq < l.floor.Load() }

func (l *eventLog) broadcast(now time.Time) {
	if l.prompt.waiting.Load() > 0 {
		l.prompt.ring()
	}
	l.patient.news(now)
}

func (l *eventLog) close() {
	l.closed.Store(true)
	l.prompt.ring()
	l.patient.stop()
}
