// Package selected relates Services to the pods that they select.
package selected

import (
	"context"
	"fmt"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	endpointutil "k8s.io/endpointslice/util"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/proa-dev/proa/controllers/internal/loop"
)

// Pods returns the pods that a Service selects, shared with the cache.
func Pods(ctx context.Context, r client.Reader, svc *corev1.Service) ([]*corev1.Pod, error) {
	var list corev1.PodList
	err := r.List(ctx, &list, client.InNamespace(svc.Namespace), client.UnsafeDisableDeepCopy,
		client.MatchingLabelsSelector{Selector: labels.SelectorFromSet(svc.Spec.Selector)})
	if err != nil {
		return nil, fmt.Errorf("list pods of service %s/%s: %w", svc.Namespace, svc.Name, err)
	}
	out := make([]*corev1.Pod, len(list.Items))
	for i := range list.Items {
		out[i] = &list.Items[i]
	}
	return out, nil
}

// Services knows the Services by namespace, so that the change of a pod is
// compared with those it may concern and with no others.
type Services struct {
	env loop.Env

	mu   sync.RWMutex
	held map[string]map[string]*corev1.Service // by namespace and name
}

// Follow makes Services for one loop, to be fed by its sources.
func Follow(env loop.Env) *Services {
	return &Services{env: env, held: map[string]map[string]*corev1.Service{}}
}

// Changes queues the Services that appear, change or go.
func (s *Services) Changes() source.Source {
	set := func(_ context.Context, q loop.Queue, svc *corev1.Service) {
		s.set(svc)
		q.Add(loop.Key(svc.Namespace, svc.Name))
	}
	return loop.Watch(s.env.Cluster, &corev1.Service{}, loop.On[*corev1.Service]{
		Created: set,
		Updated: func(ctx context.Context, q loop.Queue, _, svc *corev1.Service) { set(ctx, q, svc) },
		Deleted: func(_ context.Context, q loop.Queue, svc *corev1.Service) {
			s.remove(svc)
			q.Add(loop.Key(svc.Namespace, svc.Name))
		},
	})
}

// Pods queues the Services whose endpoints a change of a pod concerns. One that
// Changes has not told of yet is queued by Changes, and finds the pod then.
func (s *Services) Pods() source.Source {
	changed := func(q loop.Queue, old, pod any) {
		key := endpointutil.GetPodUpdateProjectionKey(old, pod)
		names, err := endpointutil.GetServicesToUpdate(lister{services: s}, key)
		if err != nil {
			s.env.Logger.Error("finding the services of a pod", "err", err)
			return
		}
		for name := range names {
			ns, n, err := cache.SplitMetaNamespaceKey(name)
			if err == nil {
				q.Add(loop.Key(ns, n))
			}
		}
	}
	return loop.Watch(s.env.Cluster, &corev1.Pod{}, loop.On[*corev1.Pod]{
		Created: func(_ context.Context, q loop.Queue, p *corev1.Pod) { changed(q, nil, p) },
		Updated: func(_ context.Context, q loop.Queue, old, p *corev1.Pod) { changed(q, old, p) },
		Deleted: func(_ context.Context, q loop.Queue, p *corev1.Pod) { changed(q, p, nil) },
	})
}

func (s *Services) set(svc *corev1.Service) {
	s.mu.Lock()
	defer s.mu.Unlock()
	in := s.held[svc.Namespace]
	if in == nil {
		in = map[string]*corev1.Service{}
		s.held[svc.Namespace] = in
	}
	in[svc.Name] = svc
}

func (s *Services) remove(svc *corev1.Service) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.held[svc.Namespace], svc.Name)
	if len(s.held[svc.Namespace]) == 0 {
		delete(s.held, svc.Namespace)
	}
}

// lister is client-go's lister over Services, for k8s.io/endpointslice.
type lister struct {
	services  *Services
	namespace string
	corelisters.ServiceListerExpansion
	corelisters.ServiceNamespaceListerExpansion
}

func (l lister) Services(namespace string) corelisters.ServiceNamespaceLister {
	l.namespace = namespace
	return l
}

func (l lister) List(selector labels.Selector) ([]*corev1.Service, error) {
	l.services.mu.RLock()
	defer l.services.mu.RUnlock()
	var out []*corev1.Service
	for _, svc := range l.services.held[l.namespace] {
		if selector.Matches(labels.Set(svc.Labels)) {
			out = append(out, svc)
		}
	}
	return out, nil
}

func (l lister) Get(name string) (*corev1.Service, error) {
	l.services.mu.RLock()
	defer l.services.mu.RUnlock()
	if svc := l.services.held[l.namespace][name]; svc != nil {
		return svc, nil
	}
	return nil, apierrors.NewNotFound(corev1.Resource("services"), name)
}
