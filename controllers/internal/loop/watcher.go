package loop

import (
	"context"
	"errors"
	"fmt"
	"time"

	toolscache "k8s.io/client-go/tools/cache"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/priorityqueue"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/source"

	proa "github.com/proa-dev/proa/client"
)

// watch is a source of keys: the changes of one kind. Unlike source.TypedKind,
// which makes a context for every event, it costs nothing: every loop hears of
// every pod.
type watch[T client.Object] struct {
	cluster proa.Cluster
	obj     T
	on      On[T]
	synced  chan error
}

var _ source.SyncingSource = &watch[client.Object]{}

// Start implements source.Source.
func (w *watch[T]) Start(ctx context.Context, q Queue) error {
	w.synced = make(chan error, 1)
	go func() { w.synced <- w.follow(ctx, q) }()
	return nil
}

// WaitForSync implements source.SyncingSource.
func (w *watch[T]) WaitForSync(ctx context.Context) error {
	select {
	case err := <-w.synced:
		return err
	case <-ctx.Done():
		if errors.Is(ctx.Err(), context.Canceled) {
			return nil // stopping
		}
		return fmt.Errorf("the cache of %T does not fill: %w", w.obj, ctx.Err())
	}
}

func (w *watch[T]) follow(ctx context.Context, q Queue) error {
	informer, err := w.informer(ctx)
	if err != nil {
		return err
	}
	reg, err := informer.AddEventHandlerWithOptions(events[T]{ctx, q, w.on}, toolscache.HandlerOptions{})
	if err != nil {
		return fmt.Errorf("watch %T: %w", w.obj, err)
	}
	// Other kinds are not waited for: one that cannot be read would hold up all
	// loops.
	if !toolscache.WaitForCacheSync(ctx.Done(), reg.HasSynced) {
		return fmt.Errorf("watch %T: %w", w.obj, ctx.Err())
	}
	return nil
}

// informer asks until there is one: the server may be out of reach.
func (w *watch[T]) informer(ctx context.Context) (cache.Informer, error) {
	for {
		i, err := w.cluster.Cache().GetInformer(ctx, w.obj)
		if err == nil {
			return i, nil
		}
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return nil, fmt.Errorf("watch %T: %w", w.obj, errors.Join(err, ctx.Err()))
		}
	}
}

// events passes events on.
type events[T client.Object] struct {
	ctx context.Context // of the loop
	q   Queue
	on  On[T]
}

// OnAdd implements toolscache.ResourceEventHandler.
func (e events[T]) OnAdd(obj any, initial bool) {
	o, ok := obj.(T)
	if !ok || e.on.Created == nil {
		return
	}
	q := e.q
	if initial {
		q = unhurried(q)
	}
	e.on.Created(e.ctx, q, o)
}

// OnUpdate implements toolscache.ResourceEventHandler.
func (e events[T]) OnUpdate(old, obj any) {
	from, ok := old.(T)
	o, okNew := obj.(T)
	if !ok || !okNew || e.on.Updated == nil {
		return
	}
	q := e.q
	if from.GetResourceVersion() == o.GetResourceVersion() {
		q = unhurried(q)
	}
	e.on.Updated(e.ctx, q, from, o)
}

// OnDelete implements toolscache.ResourceEventHandler.
func (e events[T]) OnDelete(obj any) {
	if gone, ok := obj.(toolscache.DeletedFinalStateUnknown); ok {
		obj = gone.Obj
	}
	if o, ok := obj.(T); ok && e.on.Deleted != nil {
		e.on.Deleted(e.ctx, e.q, o)
	}
}

// unhurried lets what nothing happened to, at the start or in a resync, wait for
// what just changed.
func unhurried(q Queue) Queue {
	if p, ok := q.(priorityqueue.PriorityQueue[Request]); ok {
		return lowQueue{p}
	}
	return q
}

type lowQueue struct {
	priorityqueue.PriorityQueue[Request]
}

// Add implements Queue.
func (q lowQueue) Add(r Request) {
	q.AddWithOpts(priorityqueue.AddOpts{Priority: ptr.To(handler.LowPriority)}, r)
}
