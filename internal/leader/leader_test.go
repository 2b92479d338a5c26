package leader_test

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	coordv1 "k8s.io/api/coordination/v1"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/proa-dev/proa/internal/leader"
)

// world is an API and the number of servers that work now.
type world struct {
	t       *testing.T
	api     client.Client
	working atomic.Int32
}

func newWorld(t *testing.T) *world {
	return &world{t: t, api: fake.NewClientBuilder().WithScheme(scheme.Scheme).Build()}
}

// server is one candidate. Its own API can be made to fail.
type server struct {
	w       *world
	name    string
	broken  atomic.Bool
	lag     atomic.Int64 // nanoseconds until an answer to a write is here
	leading atomic.Bool
	terms   atomic.Int32
	slow    time.Duration // to stop working
	cancel  context.CancelFunc
	done    chan error
}

var errBroken = errors.New("no connection")

func (w *world) start(name string, slow time.Duration) *server {
	s := &server{w: w, name: name, slow: slow, done: make(chan error, 1)}
	api := interceptor.NewClient(w.api.(client.WithWatch), interceptor.Funcs{
		Get: func(ctx context.Context, c client.WithWatch, key client.ObjectKey, o client.Object, opts ...client.GetOption) error {
			if s.broken.Load() {
				return errBroken
			}
			return c.Get(ctx, key, o, opts...)
		},
		Update: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.UpdateOption) error {
			if s.broken.Load() {
				return errBroken
			}
			err := c.Update(ctx, o, opts...)
			time.Sleep(time.Duration(s.lag.Load())) // synctest's time
			return err
		},
	})
	ctx, cancel := context.WithCancel(w.t.Context())
	s.cancel = cancel
	go func() {
		s.done <- leader.Run(ctx, leader.Config{
			Client: api, Reader: api, Namespace: "kube-system", Name: "l", Identity: name, Logger: slog.New(slog.DiscardHandler),
		}, s.work)
	}()
	return s
}

func (s *server) work(ctx context.Context) error {
	if n := s.w.working.Add(1); n != 1 {
		s.w.t.Errorf("%d servers work at once", n)
	}
	s.leading.Store(true)
	s.terms.Add(1)
	<-ctx.Done()
	time.Sleep(s.slow) // synctest's time: none
	s.leading.Store(false)
	s.w.working.Add(-1)
	return nil
}

func (s *server) stop() {
	s.w.t.Helper()
	s.cancel()
	if err := <-s.done; err != nil {
		s.w.t.Error(err)
	}
}

func (w *world) lease() *coordv1.LeaseSpec {
	w.t.Helper()
	l := &coordv1.Lease{}
	if err := w.api.Get(w.t.Context(), client.ObjectKey{Namespace: "kube-system", Name: "l"}, l); err != nil {
		w.t.Fatal(err)
	}
	return &l.Spec
}

// after lets time pass and says who leads.
func after(d time.Duration, servers ...*server) string {
	time.Sleep(d)
	synctest.Wait()
	var who []string
	for _, s := range servers {
		if s.leading.Load() {
			who = append(who, s.name)
		}
	}
	return strings.Join(who, " ")
}

func TestTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		want := func(got, want string) {
			t.Helper()
			if got != want {
				t.Errorf("%q leads, want %q", got, want)
			}
		}
		a := w.start("a", 0)
		want(after(0, a), "a") // at once: nobody waits where there is one server
		b := w.start("b", time.Second)
		want(after(time.Minute, a, b), "a")
		if l := w.lease(); *l.HolderIdentity != "a" || *l.LeaseTransitions != 0 || *l.LeaseDurationSeconds != 8 || time.Since(l.RenewTime.Time) > leader.DefaultRetry {
			t.Errorf("lease: %+v", l)
		}

		// Who stops gives it back.
		a.stop()
		want(after(leader.DefaultRetry, a, b), "b")
		if l := w.lease(); *l.HolderIdentity != "b" || *l.LeaseTransitions != 1 {
			t.Errorf("lease: %+v", l)
		}

		// Who cannot renew stops before another one begins, and waits.
		a = w.start("a", 0)
		b.broken.Store(true)
		want(after(leader.DefaultDeadline-leader.DefaultRetry, a, b), "b")
		want(after(leader.DefaultDuration+2*leader.DefaultRetry, a, b), "a")
		b.broken.Store(false)
		want(after(time.Minute, a, b), "a")
		a.stop()
		want(after(leader.DefaultRetry, a, b), "b")
		if b.terms.Load() != 2 {
			t.Errorf("b led %d times", b.terms.Load())
		}

		// So does who finds that somebody took it.
		l := &coordv1.Lease{}
		if err := w.api.Get(t.Context(), client.ObjectKey{Namespace: "kube-system", Name: "l"}, l); err != nil {
			t.Fatal(err)
		}
		l.Spec.HolderIdentity = ptr.To("c")
		if err := w.api.Update(t.Context(), l); err != nil {
			t.Fatal(err)
		}
		want(after(leader.DefaultRetry+time.Second, b), "")
		want(after(leader.DefaultDuration+leader.DefaultRetry, b), "b")
		b.stop()
		if l := w.lease(); *l.HolderIdentity != "" {
			t.Errorf("the Lease is not given back: %+v", l)
		}
	})
}

// A server that crashed and comes back does not wait for itself; another one
// waits for as long as the Lease says.
func TestCrash(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.start("a", 0)
		after(time.Minute, a)
		a.broken.Store(true) // what it says at its end is lost
		a.stop()
		if l := w.lease(); *l.HolderIdentity != "a" {
			t.Fatalf("lease: %+v", l)
		}
		a = w.start("a", 0)
		if got := after(0, a); got != "a" {
			t.Errorf("%q leads after the crash", got)
		}
		a.broken.Store(true)
		a.stop()
		b := w.start("b", 0)
		if got := after(leader.DefaultDuration-time.Second, b); got != "" {
			t.Errorf("%q leads too early", got)
		}
		if got := after(leader.DefaultRetry+time.Second, b); got != "b" {
			t.Errorf("%q leads, want b", got)
		}
		b.stop()
	})
}

func TestWorkEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		bad := errors.New("bad")
		err := leader.Run(t.Context(), leader.Config{
			Client: w.api, Reader: w.api, Namespace: "kube-system", Name: "l", Identity: "a", Logger: slog.New(slog.DiscardHandler),
		}, func(context.Context) error { return bad })
		if !errors.Is(err, bad) || *w.lease().HolderIdentity != "" {
			t.Errorf("error %v, lease %+v", err, w.lease())
		}
	})
}

// A Lease is as old as the request for it, however late the answer is.
func TestLateAnswer(t *testing.T) {
	for _, lag := range []time.Duration{4 * time.Second, 7 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			first := w.start("first", 0)
			after(time.Second, first)
			first.stop() // the Lease is there, and nobody's
			a := w.start("a", 0)
			a.lag.Store(int64(lag))
			after(time.Second, a)
			b := w.start("b", 0)
			after(lag-time.Second, a, b)
			a.lag.Store(0)
			after(0, a, b)
			a.broken.Store(true)
			after(time.Minute, a, b) // world tells when two work
			if b.terms.Load() == 0 {
				t.Error("b never led")
			}
			a.stop()
			b.stop()
		})
	}
}
