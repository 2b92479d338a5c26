// Package queue orders the pods that wait for a node. It has no goroutine and
// no clock: the caller says what time it is and keeps calls apart.
//
//	Add ──> active ──Pop──> decided ──Fail, Hold──> unschedulable ──Wake──┐
//	          ▲                └─────Retry──> backoff <───────────────────┤
//	          └────────────────── in time, or at once when it has waited enough
//
// A pod that waits only because of earlier failures may be taken from backoff
// when nothing else is to do; one whose API calls failed may not, since those
// need the rest. When it fails again, nobody is taken early for a moment: one
// freed place may have woken thousands, and most of them in vain.
package queue

import (
	"cmp"
	"container/heap"
	"math/bits"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/proa-dev/proa/scheduler/core"
)

// Upstream's times.
const (
	InitialBackoff   = time.Second
	MaxBackoff       = 10 * time.Second
	MaxUnschedulable = 5 * time.Minute
)

// earlyPause is for how long nobody is taken early after one was in vain.
const earlyPause = 100 * time.Millisecond

// Item is one waiting pod.
type Item struct {
	Pod *core.Pod
	// Failed are the filters that kept the pod off nodes the last time.
	Failed core.FilterSet
	// Added is when the pod came to wait, Taken when it was last popped, for
	// so many Attempts.
	Added, Taken time.Time
	Attempts     int

	place    place
	index    int // in the heap of its place
	seq      uint64
	since    time.Time // when it joined the active queue or was set aside
	failures int       // in a row
	until    time.Time // end of backoff
	early    bool      // taken before that
}

// The queues and what brings pods there, for those who count.
const (
	Active        = "active"
	Backoff       = "backoff"
	Unschedulable = "unschedulable"

	EventAdd     = "UnscheduledPodAdd"
	EventFailed  = "ScheduleAttemptFailure"
	EventRested  = "BackoffComplete"
	EventTimeout = "UnschedulableTimeout"
	EventUpdate  = "UnscheduledPodUpdate"
)

type place uint8

func (p place) String() string {
	switch p {
	case active:
		return Active
	case unschedulable:
		return Unschedulable
	}
	return Backoff
}

const (
	nowhere place = iota
	active
	backoff
	resting // backoff after an error
	unschedulable
)

// Queue is every waiting pod.
type Queue struct {
	// Moved is told of every pod that joins a queue, and why; may be nil.
	Moved func(to, event string)

	items   map[types.UID]*Item
	heaps   [resting + 1]itemHeap
	aside   map[types.UID]*Item
	flushAt time.Time // when the oldest of aside is tried again
	earlyAt time.Time // when pods may be taken early again
	seq     uint64

	initial, longest time.Duration // of the backoff
	failing          [64]int       // pods aside by filter
}

// New returns an empty queue. A pod that failed rests for a time that doubles
// from initial to longest; zero is upstream's times.
func New(initial, longest time.Duration) *Queue {
	q := &Queue{
		items: map[types.UID]*Item{}, aside: map[types.UID]*Item{},
		initial: cmp.Or(initial, InitialBackoff), longest: cmp.Or(longest, MaxBackoff),
	}
	byPriority := func(a, b *Item) bool {
		return cmp.Or(
			cmp.Compare(b.Pod.Priority, a.Pod.Priority), a.since.Compare(b.since), cmp.Compare(a.seq, b.seq)) < 0
	}
	byEnd := func(a, b *Item) bool { return cmp.Or(a.until.Compare(b.until), cmp.Compare(a.seq, b.seq)) < 0 }
	q.heaps[active].less = byPriority
	q.heaps[backoff].less = byEnd
	q.heaps[resting].less = byEnd
	return q
}

// Len is the number of pods in the queue, those being decided excluded.
func (q *Queue) Len() int { return len(q.items) }

// Waiting counts the pods in each queue.
func (q *Queue) Waiting() (inActive, inBackoff, inUnschedulable int) {
	return q.heaps[active].Len(), q.heaps[backoff].Len() + q.heaps[resting].Len(), len(q.aside)
}

// Add puts a new pod into the active queue. For a pod that waits already it is
// an Update.
func (q *Queue) Add(pod *core.Pod, now time.Time) {
	if _, ok := q.items[pod.UID()]; ok {
		q.Update(pod, true, now)
		return
	}
	q.put(&Item{Pod: pod, Added: now}, active, now, EventAdd)
}

// Update replaces what is known of a waiting pod. retry says that the change
// may help it.
func (q *Queue) Update(pod *core.Pod, retry bool, now time.Time) {
	it, ok := q.items[pod.UID()]
	if !ok {
		return
	}
	it.Pod = pod
	switch {
	case it.place == unschedulable && retry:
		q.wake(it, now, EventUpdate)
	case it.place != unschedulable: // its priority may be another
		heap.Fix(&q.heaps[it.place], it.index)
	}
}

// Get returns the waiting pod with this uid.
func (q *Queue) Get(uid types.UID) (*Item, bool) {
	it, ok := q.items[uid]
	return it, ok
}

// Delete forgets a pod.
func (q *Queue) Delete(uid types.UID) {
	if it, ok := q.items[uid]; ok {
		q.take(it)
	}
}

// Pop takes the next pod, nil when none is ready.
func (q *Queue) Pop(now time.Time) *Item {
	q.advance(now)
	from := &q.heaps[active]
	early := from.Len() == 0 && !now.Before(q.earlyAt)
	if early {
		from = &q.heaps[backoff]
	}
	if from.Len() == 0 {
		return nil
	}
	it := from.items[0]
	q.take(it)
	it.early = early
	it.Taken = now
	it.Attempts++
	return it
}

// Fail sets aside a pod that fits nowhere, until something changes.
func (q *Queue) Fail(it *Item, failed core.FilterSet, now time.Time) {
	if it.early {
		q.earlyAt = now.Add(earlyPause)
	}
	it.failures++
	it.Failed = failed
	it.until = now.Add(q.wait(it.failures))
	q.put(it, unschedulable, now, EventFailed)
}

// Hold sets aside a pod for which it is too early: it has not failed, so it need
// not rest either.
func (q *Queue) Hold(it *Item, waitsFor core.FilterSet, now time.Time) {
	it.Attempts--
	it.Failed = waitsFor
	q.put(it, unschedulable, now, EventAdd)
}

// Retry lets a pod rest for a while, after an error that is not its own.
func (q *Queue) Retry(it *Item, now time.Time) {
	it.failures++
	it.until = now.Add(q.wait(it.failures))
	q.put(it, resting, now, EventFailed)
}

// Wake lets those of the pods set aside try again for which f is true, and
// says whether there was any. event is what happened, for those who count.
func (q *Queue) Wake(now time.Time, event string, f func(*Item) bool) (any bool) {
	for _, it := range q.aside {
		if f(it) {
			q.wake(it, now, event)
			any = true
		}
	}
	return any
}

// Any says whether a pod that one of the filters kept off nodes is set aside.
func (q *Queue) Any(filters core.FilterSet) bool {
	for ; filters != 0; filters &= filters - 1 {
		if q.failing[bits.TrailingZeros32(uint32(filters))] > 0 {
			return true
		}
	}
	return false
}

func (q *Queue) count(filters core.FilterSet, n int) {
	for ; filters != 0; filters &= filters - 1 {
		q.failing[bits.TrailingZeros32(uint32(filters))] += n
	}
}

func (q *Queue) wake(it *Item, now time.Time, event string) {
	q.take(it)
	if it.until.After(now) {
		q.put(it, backoff, now, event)
	} else {
		q.put(it, active, now, event)
	}
}

// Next is when Pop may find a pod that it does not find now; zero is never.
func (q *Queue) Next() time.Time {
	var next time.Time
	earlier := func(t time.Time) {
		if !t.IsZero() && (next.IsZero() || t.Before(next)) {
			next = t
		}
	}
	if h := &q.heaps[resting]; h.Len() > 0 {
		earlier(h.items[0].until)
	}
	if h := &q.heaps[backoff]; h.Len() > 0 {
		earlier(h.items[0].until)
		earlier(q.earlyAt)
	}
	if len(q.aside) > 0 {
		earlier(q.flushAt)
	}
	return next
}

// advance moves what has waited long enough.
func (q *Queue) advance(now time.Time) {
	for _, p := range []place{backoff, resting} {
		h := &q.heaps[p]
		for h.Len() > 0 && !h.items[0].until.After(now) {
			it := h.items[0]
			q.take(it)
			q.put(it, active, now, EventRested)
		}
	}
	if len(q.aside) == 0 || now.Before(q.flushAt) {
		return
	}
	oldest := now
	for _, it := range q.aside {
		if now.Sub(it.since) >= MaxUnschedulable {
			q.wake(it, now, EventTimeout)
		} else if it.since.Before(oldest) {
			oldest = it.since
		}
	}
	q.flushAt = oldest.Add(MaxUnschedulable)
}

func (q *Queue) put(it *Item, p place, now time.Time, event string) {
	if q.Moved != nil {
		q.Moved(p.String(), event)
	}
	q.seq++
	it.seq, it.place, it.since = q.seq, p, now
	q.items[it.Pod.UID()] = it
	if p != unschedulable {
		heap.Push(&q.heaps[p], it)
		return
	}
	if len(q.aside) == 0 {
		q.flushAt = now.Add(MaxUnschedulable)
	}
	q.aside[it.Pod.UID()] = it
	q.count(it.Failed, 1)
}

func (q *Queue) take(it *Item) {
	delete(q.items, it.Pod.UID())
	if it.place == unschedulable {
		delete(q.aside, it.Pod.UID())
		q.count(it.Failed, -1)
	} else {
		heap.Remove(&q.heaps[it.place], it.index)
	}
	it.place = nowhere
}

// wait is the backoff after so many failures in a row.
func (q *Queue) wait(failures int) time.Duration {
	d := q.initial
	for i := 1; i < failures && d < q.longest; i++ {
		d *= 2
	}
	return min(d, q.longest)
}

// itemHeap implements heap.Interface.
type itemHeap struct {
	items []*Item
	less  func(a, b *Item) bool
}

func (h *itemHeap) Len() int           { return len(h.items) }
func (h *itemHeap) Less(i, j int) bool { return h.less(h.items[i], h.items[j]) }
func (h *itemHeap) Swap(i, j int) {
	h.items[i], h.items[j] = h.items[j], h.items[i]
	h.items[i].index, h.items[j].index = i, j
}
func (h *itemHeap) Push(x any) {
	it := x.(*Item)
	it.index = len(h.items)
	h.items = append(h.items, it)
}
func (h *itemHeap) Pop() any {
	last := len(h.items) - 1
	it := h.items[last]
	h.items[last] = nil
	h.items = h.items[:last]
	return it
}
