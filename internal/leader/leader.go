// Package leader lets one of several servers do what only one may do, by a
// Lease, in upstream's form.
//
//	Run ──> try to get the Lease ──got──> work ──lost──> stop work ─┐
//	             ^        └─ not yet: wait a little ┐               │
//	             └───────────────────────────────────┴──────────────┘
//
// Who dies is replaced once its Lease is older than Duration; who stops in
// order gives it back at once. Work is over before the Lease may be anybody
// else's: a holder that cannot renew stops after Deadline, which is shorter.
package leader

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	coordv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/clock"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime/pkg/client"
)

// The times of a Config that names none. Upstream's are 15, 10 and 2 seconds,
// and its processes end when they lose; here losing costs little, so that the
// others need not wait as long.
const (
	DefaultDuration = 8 * time.Second
	DefaultDeadline = 6 * time.Second
	DefaultRetry    = 2 * time.Second
)

// Config says which Lease, and who wants it.
type Config struct {
	Client ctrl.Client
	// Reader reads as new as every acknowledged write.
	Reader   ctrl.Reader
	Recorder record.EventRecorder // nil for no events

	Namespace, Name string
	// Identity is this server's own, and the same after a restart: what a
	// server held that crashed is its own when it comes back.
	Identity string

	// Duration is how long others respect a Lease that is not renewed,
	// Deadline how long its holder works without a renewal, Retry the time
	// between two tries.
	Duration, Deadline, Retry time.Duration

	Clock  clock.WithTicker // nil is the real one
	Logger *slog.Logger
}

// Validate fills in defaults and says what is wrong.
func (c *Config) Validate() error {
	if c.Client == nil || c.Reader == nil || c.Logger == nil || c.Namespace == "" || c.Name == "" || c.Identity == "" {
		return errors.New("leader: Client, Reader, Logger, Namespace, Name and Identity are required")
	}
	if c.Duration == 0 && c.Deadline == 0 && c.Retry == 0 {
		c.Duration, c.Deadline, c.Retry = DefaultDuration, DefaultDeadline, DefaultRetry
	}
	if c.Retry <= 0 || c.Deadline <= c.Retry || c.Duration <= c.Deadline {
		return fmt.Errorf("leader: a Lease of %s, a deadline of %s and a retry after %s are not in order", c.Duration, c.Deadline, c.Retry)
	}
	if c.Clock == nil {
		c.Clock = clock.RealClock{}
	}
	return nil
}

// candidate is what one Run remembers.
type candidate struct {
	Config
	lease *coordv1.Lease // as last seen or written
	since time.Time      // when it was first seen so, by our clock
}

// Run does work whenever this server holds the Lease, until ctx ends or work
// does by itself, whose error it returns. work's context ends with the Lease.
func Run(ctx context.Context, cfg Config, work func(context.Context) error) error {
	if err := cfg.Validate(); err != nil {
		return err
	}
	c := &candidate{Config: cfg}
	for {
		begin := c.Clock.Now()
		got, err := c.try(ctx)
		switch {
		case ctx.Err() != nil:
			if got {
				c.release(ctx)
			}
			return nil
		case err != nil:
			c.Logger.Warn("the Lease cannot be had", "lease", c.Name, "error", err)
		case got && c.Clock.Since(begin) >= c.Deadline:
			continue // others may see it as old already: renew it first
		case got:
			if err, over := c.lead(ctx, begin, work); over {
				return err
			}
		}
		if !c.pause(ctx) {
			return nil
		}
	}
}

// pause waits for the next try; false when ctx ends first.
func (c *candidate) pause(ctx context.Context) bool {
	timer := c.Clock.NewTimer(c.Retry)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C():
		return true
	}
}

// lead works while the Lease is ours, which was asked for at the time since. over
// says that there is nothing more to do: ctx ended, or work did.
func (c *candidate) lead(ctx context.Context, since time.Time, work func(context.Context) error) (err error, over bool) { //nolint:revive // whether comes with why
	c.Logger.Info("leading", "lease", c.Name, "identity", c.Identity)
	c.event("became leader")
	own, stop := context.WithCancel(ctx)
	defer stop()
	done := make(chan error, 1)
	go func() { done <- work(own) }()

	lost := make(chan struct{})
	go func() {
		defer close(lost)
		c.keep(own, since)
	}()
	select {
	case err = <-done:
		over = true
		stop()
		<-lost
	case <-lost:
		over = ctx.Err() != nil
		stop()
		err = <-done
	}
	c.Logger.Info("no longer leading", "lease", c.Name, "identity", c.Identity)
	c.event("stopped leading")
	c.release(ctx)
	if !over {
		if err != nil {
			c.Logger.Warn("stopped with the Lease", "lease", c.Name, "error", err)
		}
		return nil, false
	}
	return err, true
}

// keep renews the Lease until ctx ends or it is lost. Its age counts from when it
// was asked for: the answer may have taken long.
func (c *candidate) keep(ctx context.Context, renewed time.Time) {
	for c.pause(ctx) {
		// A try may not take longer than what is left.
		left, cancel := context.WithTimeout(ctx, c.Deadline-c.Clock.Since(renewed))
		begin := c.Clock.Now()
		got, err := c.try(left)
		cancel()
		switch {
		case ctx.Err() != nil:
			return
		case got:
			renewed = begin
			continue
		case err == nil:
			c.Logger.Warn("another server took the Lease", "lease", c.Name, "holder", ptr.Deref(c.lease.Spec.HolderIdentity, ""))
			return
		case c.Clock.Since(renewed) >= c.Deadline:
			c.Logger.Warn("the Lease could not be renewed in time", "lease", c.Name, "error", err)
			return
		}
	}
}

// try gets or renews the Lease. It is not ours, without an error, while
// another server's is valid.
func (c *candidate) try(ctx context.Context) (bool, error) {
	// What we wrote last is most likely still there.
	if c.mine() {
		err := c.write(ctx, c.lease.DeepCopy())
		if err == nil || !apierrors.IsConflict(err) && !apierrors.IsNotFound(err) {
			return err == nil, err
		}
	}
	have := &coordv1.Lease{}
	err := c.Reader.Get(ctx, ctrl.ObjectKey{Namespace: c.Namespace, Name: c.Name}, have)
	switch {
	case apierrors.IsNotFound(err):
		have.Namespace, have.Name = c.Namespace, c.Name
		err := c.create(ctx, have)
		if apierrors.IsAlreadyExists(err) {
			return false, nil // look at it next time
		}
		return err == nil, err
	case err != nil:
		return false, fmt.Errorf("read the Lease: %w", err)
	}
	if c.lease == nil || c.lease.ResourceVersion != have.ResourceVersion {
		c.lease, c.since = have, c.Clock.Now()
	}
	if holder := ptr.Deref(have.Spec.HolderIdentity, ""); holder != "" && !c.mine() && c.Clock.Since(c.since) < valid(have) {
		return false, nil
	}
	err = c.write(ctx, have.DeepCopy())
	if apierrors.IsConflict(err) {
		return false, nil // another one was faster
	}
	return err == nil, err
}

// valid is how long a Lease is respected from when it was seen first. Clocks
// of different servers are not compared.
func valid(l *coordv1.Lease) time.Duration {
	return time.Duration(ptr.Deref(l.Spec.LeaseDurationSeconds, 0)) * time.Second
}

func (c *candidate) mine() bool {
	return c.lease != nil && ptr.Deref(c.lease.Spec.HolderIdentity, "") == c.Identity
}

// write makes l ours, or renews it.
func (c *candidate) write(ctx context.Context, l *coordv1.Lease) error {
	c.fill(l)
	if err := c.Client.Update(ctx, l); err != nil {
		return fmt.Errorf("renew the Lease: %w", err)
	}
	c.lease, c.since = l, c.Clock.Now()
	return nil
}

func (c *candidate) create(ctx context.Context, l *coordv1.Lease) error {
	c.fill(l)
	l.Spec.LeaseTransitions = ptr.To[int32](0)
	if err := c.Client.Create(ctx, l); err != nil {
		return fmt.Errorf("make the Lease: %w", err)
	}
	c.lease, c.since = l, c.Clock.Now()
	return nil
}

func (c *candidate) fill(l *coordv1.Lease) {
	now := metav1.NewMicroTime(c.Clock.Now())
	if ptr.Deref(l.Spec.HolderIdentity, "") != c.Identity {
		l.Spec.HolderIdentity = &c.Identity
		l.Spec.AcquireTime = &now
		l.Spec.LeaseTransitions = ptr.To(ptr.Deref(l.Spec.LeaseTransitions, 0) + 1)
	}
	l.Spec.RenewTime = &now
	l.Spec.LeaseDurationSeconds = ptr.To(int32(c.Duration / time.Second))
}

// release gives the Lease back if it is ours, in the little time that a stop
// may take. Nobody else's is touched: the version is that of our last write.
func (c *candidate) release(ctx context.Context) {
	if !c.mine() {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	l := c.lease.DeepCopy()
	now := metav1.NewMicroTime(c.Clock.Now())
	l.Spec.HolderIdentity, l.Spec.LeaseDurationSeconds = ptr.To(""), ptr.To[int32](1)
	l.Spec.RenewTime, l.Spec.AcquireTime = &now, &now
	if err := c.Client.Update(ctx, l); err != nil && !apierrors.IsConflict(err) && !apierrors.IsNotFound(err) {
		c.Logger.Warn("the Lease is not given back: others wait until it is old", "lease", c.Name, "error", err)
	}
	c.lease = nil
}

func (c *candidate) event(what string) {
	if c.Recorder != nil && c.lease != nil {
		c.Recorder.Eventf(c.lease, corev1.EventTypeNormal, "LeaderElection", "%s %s", c.Identity, what)
	}
}
