// Package expect remembers what a controller has done and not yet seen.
//
// A cache lags behind the controller's own writes: right after creating three
// pods it still shows none, and a controller that believed it would create
// three more. So a controller announces how many objects it is about to create
// or which to delete, ticks them off as the watch shows them, and acts again
// only when all are accounted for.
package expect

import (
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"
)

// timeout bounds how long an announcement holds a controller back, should an
// event never come.
const timeout = 5 * time.Minute

// Recheck is when to look again at an owner of which something announced was not
// seen yet: a watch that had to begin anew may never show what came and went.
const Recheck = 30 * time.Second

// Tracker keeps the announcements of one controller, by owner. Safe for
// concurrent use.
type Tracker struct {
	clock clock.PassiveClock

	mu      sync.Mutex
	pending map[types.UID]*pending
}

type pending struct {
	creations int
	deletions map[types.UID]struct{}
	since     time.Time
}

// NewTracker returns an empty tracker.
func NewTracker(c clock.PassiveClock) *Tracker {
	return &Tracker{clock: c, pending: map[types.UID]*pending{}}
}

// ExpectCreations announces n creations. It replaces what was announced
// before, so it must follow Satisfied.
func (t *Tracker) ExpectCreations(owner types.UID, n int) { t.Expect(owner, n, nil) }

// ExpectDeletions announces the deletion of objects, like ExpectCreations.
func (t *Tracker) ExpectDeletions(owner types.UID, objects []types.UID) { t.Expect(owner, 0, objects) }

// Expect announces both at once, like ExpectCreations.
func (t *Tracker) Expect(owner types.UID, creations int, deletions []types.UID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.pending, owner)
	t.add(owner, creations, deletions)
}

// Add announces more, for controllers that find out as they go.
func (t *Tracker) Add(owner types.UID, creations int, deletions ...types.UID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.add(owner, creations, deletions)
}

// add is called with t.mu held.
func (t *Tracker) add(owner types.UID, creations int, deletions []types.UID) {
	if creations == 0 && len(deletions) == 0 {
		return
	}
	p := t.pending[owner]
	if p == nil {
		p = &pending{deletions: make(map[types.UID]struct{}, len(deletions))}
		t.pending[owner] = p
	}
	p.since = t.clock.Now()
	p.creations += creations
	for _, uid := range deletions {
		p.deletions[uid] = struct{}{}
	}
}

// Created ticks off n creations: seen, or failed and never to be seen.
func (t *Tracker) Created(owner types.UID, n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if p := t.pending[owner]; p != nil && p.creations > 0 {
		p.creations -= n
		t.settle(owner, p)
	}
}

// Deleted ticks off the deletion of one object; twice is harmless.
func (t *Tracker) Deleted(owner, object types.UID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if p := t.pending[owner]; p != nil {
		delete(p.deletions, object)
		t.settle(owner, p)
	}
}

// settle forgets p when nothing is left of it. t.mu is held.
func (t *Tracker) settle(owner types.UID, p *pending) {
	if p.creations <= 0 && len(p.deletions) == 0 {
		delete(t.pending, owner)
	}
}

// Satisfied reports whether everything announced was seen, or took too long.
func (t *Tracker) Satisfied(owner types.UID) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.pending[owner]
	return p == nil || t.clock.Since(p.since) > timeout
}

// Forget drops what was announced for an owner that is gone.
func (t *Tracker) Forget(owner types.UID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.pending, owner)
}
