// Package matching finds the objects of a kind whose selectors match a pod,
// without a look at the objects: every pod that appears is asked for.
package matching

import (
	"context"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proa-dev/proa/controllers/internal/loop"
)

// Index holds the selectors of all objects of a kind. Its user feeds it from
// the watch that queues the objects: one that it does not know yet is queued
// when it does, and finds the pods that there are by then.
type Index[T client.Object] struct {
	of func(T) labels.Selector

	mu   sync.RWMutex
	held map[string]map[string]labels.Selector // by namespace and name
}

// New makes an index. of tells what an object selects.
func New[T client.Object](of func(T) labels.Selector) *Index[T] {
	return &Index[T]{of: of, held: map[string]map[string]labels.Selector{}}
}

// Adopting is what the owner of pods with this selector could adopt: an empty
// or invalid one adopts nothing.
func Adopting(s *metav1.LabelSelector) labels.Selector {
	selector, err := metav1.LabelSelectorAsSelector(s)
	if err != nil || selector.Empty() {
		return labels.Nothing()
	}
	return selector
}

// Fed is on, with the index kept up to date before each change is handled.
func (x *Index[T]) Fed(on loop.On[T]) loop.On[T] {
	return loop.On[T]{
		Created: func(ctx context.Context, q loop.Queue, obj T) {
			x.set(obj)
			on.Created(ctx, q, obj)
		},
		Updated: func(ctx context.Context, q loop.Queue, old, obj T) {
			x.set(obj)
			on.Updated(ctx, q, old, obj)
		},
		Deleted: func(ctx context.Context, q loop.Queue, obj T) {
			x.remove(obj)
			on.Deleted(ctx, q, obj)
		},
	}
}

// Names returns the objects of a namespace that select a pod with these labels,
// in no order.
func (x *Index[T]) Names(namespace string, l labels.Set) []string {
	x.mu.RLock()
	defer x.mu.RUnlock()
	var names []string
	for name, s := range x.held[namespace] {
		if s.Matches(l) {
			names = append(names, name)
		}
	}
	return names
}

func (x *Index[T]) set(obj T) {
	s := x.of(obj)
	x.mu.Lock()
	defer x.mu.Unlock()
	in := x.held[obj.GetNamespace()]
	if in == nil {
		in = map[string]labels.Selector{}
		x.held[obj.GetNamespace()] = in
	}
	in[obj.GetName()] = s
}

func (x *Index[T]) remove(obj T) {
	x.mu.Lock()
	defer x.mu.Unlock()
	in := x.held[obj.GetNamespace()]
	delete(in, obj.GetName())
	if len(in) == 0 {
		delete(x.held, obj.GetNamespace())
	}
}
