// Package selected relates Services to the pods that they select.
package selected

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
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

// Watch queues the Services whose endpoints a change of a pod concerns.
func Watch(env loop.Env) source.Source {
	changed := func(ctx context.Context, q loop.Queue, old, pod any) {
		key := endpointutil.GetPodUpdateProjectionKey(old, pod)
		names, err := endpointutil.GetServicesToUpdate(services{ctx: ctx, reader: env.Cluster.Client()}, key)
		if err != nil {
			env.Logger.Error("finding the services of a pod", "err", err)
			return
		}
		for name := range names {
			ns, n, err := cache.SplitMetaNamespaceKey(name)
			if err == nil {
				q.Add(loop.Key(ns, n))
			}
		}
	}
	return loop.Watch(env.Cluster, &corev1.Pod{}, loop.On[*corev1.Pod]{
		Created: func(ctx context.Context, q loop.Queue, p *corev1.Pod) { changed(ctx, q, nil, p) },
		Updated: func(ctx context.Context, q loop.Queue, old, p *corev1.Pod) { changed(ctx, q, old, p) },
		Deleted: func(ctx context.Context, q loop.Queue, p *corev1.Pod) { changed(ctx, q, p, nil) },
	})
}

// services is client-go's lister over a cache, for k8s.io/endpointslice. It
// lives for one event.
type services struct {
	ctx       context.Context
	reader    client.Reader
	namespace string
	corelisters.ServiceNamespaceListerExpansion
}

func (s services) Services(namespace string) corelisters.ServiceNamespaceLister {
	s.namespace = namespace
	return s
}

func (s services) List(selector labels.Selector) ([]*corev1.Service, error) {
	var list corev1.ServiceList
	err := s.reader.List(s.ctx, &list, client.InNamespace(s.namespace), client.UnsafeDisableDeepCopy,
		client.MatchingLabelsSelector{Selector: selector})
	if err != nil {
		return nil, err
	}
	out := make([]*corev1.Service, len(list.Items))
	for i := range list.Items {
		out[i] = &list.Items[i]
	}
	return out, nil
}

func (s services) Get(name string) (*corev1.Service, error) {
	svc := &corev1.Service{}
	return svc, s.reader.Get(s.ctx, types.NamespacedName{Namespace: s.namespace, Name: name}, svc)
}
