package loop

import (
	"context"

	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/priorityqueue"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
)

// watcher passes events on. Unlike handler.TypedFuncs, which asks reflection
// what it is made of at every event, it costs nothing: every loop hears of every
// pod.
type watcher[T client.Object] struct{ on On[T] }

var _ handler.TypedEventHandler[client.Object, Request] = watcher[client.Object]{}

// Create implements handler.TypedEventHandler.
func (w watcher[T]) Create(ctx context.Context, e event.TypedCreateEvent[T], q Queue) {
	if w.on.Created == nil {
		return
	}
	if e.IsInInitialList {
		q = unhurried(q)
	}
	w.on.Created(ctx, q, e.Object)
}

// Update implements handler.TypedEventHandler.
func (w watcher[T]) Update(ctx context.Context, e event.TypedUpdateEvent[T], q Queue) {
	if w.on.Updated == nil {
		return
	}
	if e.ObjectOld.GetResourceVersion() == e.ObjectNew.GetResourceVersion() {
		q = unhurried(q)
	}
	w.on.Updated(ctx, q, e.ObjectOld, e.ObjectNew)
}

// Delete implements handler.TypedEventHandler.
func (w watcher[T]) Delete(ctx context.Context, e event.TypedDeleteEvent[T], q Queue) {
	if w.on.Deleted != nil {
		w.on.Deleted(ctx, q, e.Object)
	}
}

// Generic implements handler.TypedEventHandler; a cache has no such events.
func (watcher[T]) Generic(context.Context, event.TypedGenericEvent[T], Queue) {}

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
