// Package loop builds control loops: a queue of object names, a bounded number
// of workers, and watches that fill the queue. It is controller-runtime's
// controller with the settings that all loops of Proa share.
package loop

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/utils/clock"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	proa "github.com/proa-dev/proa/client"
)

// Env is what every loop works with.
type Env struct {
	Cluster proa.Cluster
	Logger  *slog.Logger
	Clock   clock.WithTicker
	// Metrics is where controllers register theirs; nil is nowhere.
	Metrics prometheus.Registerer
}

// Named returns the environment with a logger that tells the loop's name.
func (e Env) Named(name string) Env {
	e.Logger = e.Logger.With("controller", name)
	return e
}

// Loop is one controller.
type Loop struct {
	Name string
	// Run works until ctx ends. It can be called once.
	Run func(ctx context.Context) error
}

// Queue takes the names of objects to look at.
type Queue = workqueue.TypedRateLimitingInterface[reconcile.Request]

// Request names an object to look at.
type Request = reconcile.Request

// Key makes the request for an object.
func Key(namespace, name string) Request {
	return Request{NamespacedName: types.NamespacedName{Namespace: namespace, Name: name}}
}

// Func reconciles one object. after is when to look again without a change;
// zero is never.
type Func func(ctx context.Context, key types.NamespacedName) (after time.Duration, err error)

// Join makes one loop of several that serve one purpose. It ends when the
// first of them does.
func Join(name string, loops ...Loop) Loop {
	return Loop{Name: name, Run: func(ctx context.Context) error {
		g, ctx := errgroup.WithContext(ctx)
		for _, l := range loops {
			g.Go(func() error { return l.Run(ctx) })
		}
		return g.Wait()
	}}
}

// Every makes a loop that calls fn from time to time.
func Every(clk clock.WithTicker, name string, period time.Duration, fn func()) Loop {
	return Loop{Name: name, Run: func(ctx context.Context) error {
		tick := clk.NewTicker(period)
		defer tick.Stop()
		for {
			select {
			case <-tick.C():
				fn()
			case <-ctx.Done():
				return nil
			}
		}
	}}
}

// StaleDelay is how long to wait when the cache is known to lag behind our own
// writes; what it lacks is on its way.
const StaleDelay = 20 * time.Millisecond

// Older reports whether a resource version comes before another one. Versions
// that cannot be compared tell nothing, and waiting would not help.
func Older(version, than string) bool {
	order, err := resourceversion.CompareResourceVersion(version, than)
	return err == nil && order < 0
}

// Retries are the first and the longest pause after attempts that failed; it
// doubles in between.
type Retries struct{ First, Longest time.Duration }

// New makes a loop that calls fn for the keys that sources queue, at most
// workers at a time and never twice at a time for one key.
func New(env Env, name string, workers int, fn Func, sources ...source.Source) (Loop, error) {
	return build(env, name, workers, nil, fn, sources)
}

// NewRetrying is New for who waits for what no watch tells, such as room in a
// quota, and has pauses of its own.
func NewRetrying(env Env, name string, workers int, retries Retries, fn Func, sources ...source.Source) (Loop, error) {
	limiter := workqueue.NewTypedItemExponentialFailureRateLimiter[Request](retries.First, retries.Longest)
	return build(env, name, workers, limiter, fn, sources)
}

// build makes the loop; no limiter is controller-runtime's.
func build(env Env, name string, workers int, limiter workqueue.TypedRateLimiter[Request], fn Func, sources []source.Source) (Loop, error) {
	c, err := controller.NewUnmanaged(name, controller.Options{
		// Several servers may share a process, each with loops of these names.
		SkipNameValidation:      ptr.To(true),
		MaxConcurrentReconciles: workers,
		RateLimiter:             limiter,
		Logger:                  logr.FromSlogHandler(quiet{env.Logger.Handler()}),
		Reconciler:              reconciler(env.Logger, fn),
	})
	if err != nil {
		return Loop{}, fmt.Errorf("controller %s: %w", name, err)
	}
	for _, s := range sources {
		if err := c.Watch(s); err != nil {
			return Loop{}, fmt.Errorf("controller %s: %w", name, err)
		}
	}
	return Loop{Name: name, Run: c.Start}, nil
}

// reconciler adapts fn. A conflict is no failure: the cache was behind, and
// what changed is on its way. A loop that is to stop begins nothing: the write
// that failed because of that may have been done all the same, and would be
// done twice.
func reconciler(logger *slog.Logger, fn Func) reconcile.Func {
	return func(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
		if ctx.Err() != nil {
			return reconcile.Result{}, nil //nolint:nilerr // no failure
		}
		after, err := fn(ctx, req.NamespacedName)
		switch {
		case err == nil:
			return reconcile.Result{RequeueAfter: after}, nil
		case apierrors.IsConflict(err):
			logger.Debug("read was outdated, trying again", "object", req.NamespacedName, "err", err)
			return reconcile.Result{RequeueAfter: StaleDelay}, nil
		case ctx.Err() != nil && errors.Is(err, ctx.Err()):
			return reconcile.Result{}, nil // stopping
		}
		return reconcile.Result{}, err
	}
}

// On says what to do when an object appears, changes or goes. Objects are
// shared with the cache: never mutate them. Nil functions do nothing.
type On[T client.Object] struct {
	Created func(ctx context.Context, q Queue, obj T)
	Updated func(ctx context.Context, q Queue, old, obj T)
	Deleted func(ctx context.Context, q Queue, obj T)
}

// Watch feeds a loop from the changes of obj's kind.
func Watch[T client.Object](c proa.Cluster, obj T, on On[T]) source.Source {
	return &watch[T]{cluster: c, obj: obj, on: on}
}

// Self queues every object of obj's kind that appears, changes or goes.
func Self[T client.Object](c proa.Cluster, obj T) source.Source {
	add := func(_ context.Context, q Queue, o T) { q.Add(Key(o.GetNamespace(), o.GetName())) }
	return Watch(c, obj, On[T]{
		Created: add,
		Updated: func(ctx context.Context, q Queue, _, o T) { add(ctx, q, o) },
		Deleted: add,
	})
}

// Once queues a key at the start, for what must be there though no object
// tells of it.
func Once(key Request) source.Source {
	return source.Func(func(_ context.Context, q Queue) error {
		q.Add(key)
		return nil
	})
}
