package store

import (
	"sync"
	"sync/atomic"
	"time"
)

const (
	// waveShare is what a watcher behind a network costs when it is woken: time
	// for its frame, its record and its system call. Waves leave this much time
	// between them for each watcher, so that half of a core at most goes into
	// waking, writers are not starved, and events that come faster than they
	// can be delivered travel together. A few watchers wait for nothing.
	waveShare = 50 * time.Microsecond
	minWave   = time.Millisecond
	maxWave   = 25 * time.Millisecond
)

// bell wakes the watchers that wait for the next event.
type bell struct {
	waiting atomic.Int64
	wake    atomic.Pointer[chan struct{}]
}

func (b *bell) init() {
	ch := make(chan struct{})
	b.wake.Store(&ch)
}

// waker returns a channel that is closed at the next ring. The caller counts
// itself in waiting first.
func (b *bell) waker() <-chan struct{} { return *b.wake.Load() }

func (b *bell) ring() {
	ch := make(chan struct{})
	close(*b.wake.Swap(&ch))
}

// patientBell rings for many watchers at a time, and not more often than they
// can be served.
type patientBell struct {
	bell

	mu    sync.Mutex
	last  time.Time
	crowd int64 // who was woken then
	timer *time.Timer
	armed bool
}

// news rings now or, if the last ring was a moment ago, soon.
func (b *patientBell) news(now time.Time) {
	if b.waiting.Load() == 0 {
		return // who does not wait looks before it does
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.armed {
		return
	}
	pause := min(time.Duration(max(b.waiting.Load(), b.crowd))*waveShare, maxWave)
	rest := pause - now.Sub(b.last)
	if pause < minWave || rest <= 0 {
		b.ringLocked(now)
		return
	}
	b.armed = true
	if b.timer == nil {
		b.timer = time.AfterFunc(rest, b.late)
	} else {
		b.timer.Reset(rest)
	}
}

func (b *patientBell) late() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.armed {
		b.armed = false
		b.ringLocked(time.Now())
	}
}

func (b *patientBell) ringLocked(now time.Time) {
	b.last, b.crowd = now, b.waiting.Load()
	b.ring()
}

// stop rings a last time.
func (b *patientBell) stop() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.armed = false
	if b.timer != nil {
		b.timer.Stop()
	}
	b.ring()
}
