package local

import (
	"context"
	"errors"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	ctrl "sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/apiserver/registry"
	"github.com/proa-dev/proa/store"
)

// Watch implements ctrl.WithWatch. The objects are the caller's.
func (c *localClient) Watch(ctx context.Context, list ctrl.ObjectList, opts ...ctrl.ListOption) (watch.Interface, error) {
	k, err := c.kindOf(list)
	if err != nil {
		return nil, err
	}
	o := (&ctrl.ListOptions{}).ApplyOptions(opts)
	ask := *o.AsListOptions()
	ask.Watch = true
	w, err := c.Registry.Watch(c.as(ctx), target(k, o.Namespace, nameIn(o), ""), &ask)
	if err != nil {
		return nil, err
	}
	s := &stream{kind: k, watch: w, results: make(chan watch.Event), done: make(chan struct{})}
	ctx, s.cancel = context.WithCancel(ctx)
	go s.run(ctx, makerOf(k, list))
	return s, nil
}

// makerOf returns how to make an empty item of list.
func makerOf(k *api.Kind, list ctrl.ObjectList) func() ctrl.Object {
	switch list.(type) {
	case *metav1.PartialObjectMetadataList:
		return func() ctrl.Object { return &metav1.PartialObjectMetadata{} }
	case runtime.Unstructured:
		return func() ctrl.Object { return &unstructured.Unstructured{Object: map[string]any{}} }
	}
	return func() ctrl.Object { return k.New() }
}

// stream implements watch.Interface.
type stream struct {
	kind    *api.Kind
	watch   *registry.Watch
	results chan watch.Event
	cancel  context.CancelFunc
	once    sync.Once
	done    chan struct{}
}

// Stop implements watch.Interface.
func (s *stream) Stop() {
	s.once.Do(func() {
		s.cancel()
		s.watch.Stop()
	})
	<-s.done
}

// ResultChan implements watch.Interface.
func (s *stream) ResultChan() <-chan watch.Event { return s.results }

func (s *stream) run(ctx context.Context, empty func() ctrl.Object) {
	defer close(s.done)
	defer close(s.results)
	defer s.watch.Stop()
	defer s.cancel()
	var buf []store.Event
	for {
		var err error
		if buf, err = s.watch.Next(ctx, buf); err != nil {
			return
		}
		for i := range buf {
			out, err := s.event(&buf[i], empty())
			if err != nil {
				out = failed(err)
			}
			select {
			case s.results <- out:
			case <-ctx.Done():
				return
			}
		}
	}
}

func (s *stream) event(ev *store.Event, dst ctrl.Object) (watch.Event, error) {
	switch ev.Type {
	case watch.Error:
		return watch.Event{}, ev.Err
	case watch.Bookmark:
		dst.GetObjectKind().SetGroupVersionKind(s.kind.GVK)
		dst.SetResourceVersion(formatRevision(ev.Revision))
		if ev.InitialEnd {
			dst.SetAnnotations(map[string]string{metav1.InitialEventsAnnotationKey: "true"})
		}
		return watch.Event{Type: watch.Bookmark, Object: dst}, nil
	}
	obj := ev.Entry.Object
	if s.watch.Convert != nil {
		var err error
		if obj, err = s.watch.Convert(obj); err != nil {
			return watch.Event{}, err
		}
	}
	if err := into(dst, obj, false); err != nil {
		return watch.Event{}, err
	}
	return watch.Event{Type: ev.Type, Object: dst}, nil
}

func failed(err error) watch.Event {
	var status apierrors.APIStatus
	if !errors.As(err, &status) {
		status = apierrors.NewInternalError(err)
	}
	s := status.Status()
	return watch.Event{Type: watch.Error, Object: &s}
}
