// Package lifecycle starts components in order and stops them in reverse.
//
//	Run ──> start A ──ready──> start B ──ready──> … ──> wait
//	                                                     │ ctx ends, or one fails
//	        stop A  <──done──  stop B  <──done──  …  <───┘
package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"
)

// Component is one part of the process with a life of its own.
type Component struct {
	// Name is for logs and errors: "apiserver", "scheduler".
	Name string
	// Run works until ctx ends. It calls ready once others may rely on it,
	// and returns nil after a clean stop. Returning before ctx ends, with an
	// error or without, stops the whole group.
	Run func(ctx context.Context, ready func()) error
}

// Group is components in start order.
type Group struct {
	Logger     *slog.Logger
	Components []Component
}

type running struct {
	name string
	stop context.CancelFunc
	done chan error
}

// Run starts every component when those before it are ready, waits until ctx
// ends or one of them does, and stops all in reverse order. The error is that
// of the component which ended first, joined by those of unclean stops.
func (g *Group) Run(ctx context.Context, ready func()) error {
	var started []running
	ended := make(chan error, len(g.Components))
	var errs []error

	for _, c := range g.Components {
		begin := time.Now()
		r, isReady := g.start(ctx, c, ended)
		started = append(started, r)
		select {
		case <-isReady:
			g.Logger.Info("component ready", "component", c.Name, "after", time.Since(begin).Round(time.Millisecond))
			continue
		case err := <-ended:
			errs = append(errs, err)
		case <-ctx.Done():
		}
		break
	}
	if len(errs) == 0 && ctx.Err() == nil {
		ready()
		select {
		case err := <-ended:
			errs = append(errs, err)
		case <-ctx.Done():
		}
	}
	for i := len(started) - 1; i >= 0; i-- {
		started[i].stop()
		if err := <-started[i].done; err != nil && !errors.Is(err, context.Canceled) {
			errs = append(errs, fmt.Errorf("stop %s: %w", started[i].name, err))
		}
	}
	return errors.Join(errs...)
}

// start runs c under a context that does not end with ctx, so that the stop
// order stays in our hands.
func (g *Group) start(ctx context.Context, c Component, ended chan<- error) (running, <-chan struct{}) {
	own, cancel := context.WithCancel(context.WithoutCancel(ctx))
	r := running{name: c.Name, stop: cancel, done: make(chan error, 1)}
	isReady := make(chan struct{})
	go func() {
		err := c.Run(own, func() { close(isReady) })
		if own.Err() == nil { // nobody asked it to stop
			if err == nil {
				err = errors.New("ended early")
			}
			ended <- fmt.Errorf("%s: %w", c.Name, err)
			err = nil
		}
		r.done <- err
	}()
	return r, isReady
}
