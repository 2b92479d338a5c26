package probes

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/clock"
)

// Outcome is a probe's verdict on a container.
type Outcome struct {
	OK      bool
	Message string
}

// Worker probes one container again and again.
type Worker struct {
	Probe  *corev1.Probe
	Target Target
	Clock  clock.Clock
	// Since is when the container started.
	Since time.Time
	// Done is told of every attempt and how long it took; may be nil.
	Done func(err error, took time.Duration)
	// Tell is told of every attempt that failed or came with a warning, for an
	// event.
	Tell func(err error)
	// Verdict is told of every change of the verdict, and of the first.
	Verdict func(Outcome)
	// Spread delays the first probe by a random part of the period: after a
	// restart of the kubelet not all containers are asked at once.
	Spread bool
	// Once ends the worker at its first success: startup probes.
	Once bool
}

// Run probes until ctx ends.
func (w *Worker) Run(ctx context.Context) {
	period := time.Duration(max(w.Probe.PeriodSeconds, 1)) * time.Second
	wait := time.Duration(w.Probe.InitialDelaySeconds)*time.Second - w.Clock.Since(w.Since)
	if w.Spread {
		wait = max(wait, rand.N(period))
	}
	var run int // consecutive equal results
	var last, decided, verdict bool
	for {
		if !w.sleep(ctx, wait) {
			return
		}
		wait = period
		begin := w.Clock.Now()
		err := w.ask(ctx)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			w.Tell(err)
		}
		if away := (*Warning)(nil); errors.As(err, &away) {
			err = nil
		}
		if w.Done != nil {
			w.Done(err, w.Clock.Since(begin))
		}
		if errors.Is(err, ErrUnknown) {
			continue
		}
		ok := err == nil
		if ok == last {
			run++
		} else {
			last, run = ok, 1
		}
		threshold := int(max(w.Probe.SuccessThreshold, 1))
		if !ok {
			threshold = int(max(w.Probe.FailureThreshold, 1))
		}
		if run < threshold || (decided && verdict == ok) {
			continue
		}
		decided, verdict = true, ok
		message := ""
		if err != nil {
			message = err.Error()
		}
		w.Verdict(Outcome{OK: ok, Message: message})
		if ok && w.Once {
			return
		}
	}
}

// ask probes, and again at once when that says nothing.
func (w *Worker) ask(ctx context.Context) (err error) {
	const tries = 3
	for range tries {
		if err = Once(ctx, w.Probe, w.Target); ctx.Err() != nil || !errors.Is(err, ErrUnknown) {
			break
		}
	}
	return err
}

func (w *Worker) sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	timer := w.Clock.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C():
		return true
	case <-ctx.Done():
		return false
	}
}
