package store

import (
	"testing"
	"testing/synctest"
	"time"
)

func rung(ch <-chan struct{}) bool {
	select {
	case <-ch:
		return true
	default:
		return false
	}
}

// TestPatientBell follows a few watchers, who are woken at once, and many, who
// are woken together and lose no event.
func TestPatientBell(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &patientBell{}
		b.init()
		b.waiting.Store(3)
		for range 3 {
			ch := b.waker()
			b.news(time.Now())
			if !rung(ch) {
				t.Fatal("a few watchers were not woken at once")
			}
		}

		const many = 200
		b.waiting.Store(many)
		time.Sleep(maxWave)
		ch := b.waker()
		b.news(time.Now())
		if !rung(ch) {
			t.Fatal("the first event after a rest did not wake at once")
		}
		ch = b.waker()
		b.news(time.Now())
		b.news(time.Now())
		if rung(ch) {
			t.Fatal("the next events woke before the wave was over")
		}
		time.Sleep(many*waveShare - 1)
		if synctest.Wait(); rung(ch) {
			t.Fatal("woken too soon")
		}
		time.Sleep(time.Nanosecond)
		if synctest.Wait(); !rung(ch) {
			t.Fatal("events were held back for ever")
		}

		ch = b.waker()
		b.news(time.Now())
		b.stop()
		if !rung(ch) {
			t.Fatal("the end woke nobody")
		}
	})
}
