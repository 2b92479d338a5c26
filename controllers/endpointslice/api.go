package endpointslice

import (
	"context"
	"sync/atomic"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	discoveryclient "k8s.io/client-go/kubernetes/typed/discovery/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// sliceAPI is the part of client-go's clientset that k8s.io/endpointslice
// uses, over our client. It lives for one reconciliation and binds its
// context, for which the library has no place. The embedded interfaces are
// nil: a method that the library did not use before would show at once.
type sliceAPI struct {
	kubernetes.Interface
	ctx    context.Context
	client client.Client
	// conflict is set when a write found a newer object.
	conflict atomic.Bool
}

type sliceGroup struct {
	discoveryclient.DiscoveryV1Interface
	api *sliceAPI
}

type sliceClient struct {
	discoveryclient.EndpointSliceInterface
	*sliceAPI
	namespace string
}

func (a *sliceAPI) DiscoveryV1() discoveryclient.DiscoveryV1Interface { return sliceGroup{api: a} }

func (g sliceGroup) EndpointSlices(namespace string) discoveryclient.EndpointSliceInterface {
	return sliceClient{sliceAPI: g.api, namespace: namespace}
}

func (a sliceClient) Create(_ context.Context, s *discoveryv1.EndpointSlice, _ metav1.CreateOptions) (*discoveryv1.EndpointSlice, error) {
	s.Namespace = a.namespace
	return s, a.client.Create(a.ctx, s)
}

func (a sliceClient) Update(_ context.Context, s *discoveryv1.EndpointSlice, _ metav1.UpdateOptions) (*discoveryv1.EndpointSlice, error) {
	return s, a.note(a.client.Update(a.ctx, s))
}

// Delete deletes by name alone; a slice is never renamed, and one that is gone
// is as wanted.
func (a sliceClient) Delete(_ context.Context, name string, _ metav1.DeleteOptions) error {
	err := a.client.Delete(a.ctx, &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Namespace: a.namespace, Name: name}})
	return client.IgnoreNotFound(a.note(err))
}

func (a *sliceAPI) note(err error) error {
	if apierrors.IsConflict(err) {
		a.conflict.Store(true)
	}
	return err
}

// nodes is client-go's lister over the cache.
type nodes struct {
	ctx    context.Context
	reader client.Reader
	corelisters.NodeListerExpansion
}

func (n nodes) List(selector labels.Selector) ([]*corev1.Node, error) {
	var list corev1.NodeList
	if err := n.reader.List(n.ctx, &list, client.MatchingLabelsSelector{Selector: selector}); err != nil {
		return nil, err
	}
	out := make([]*corev1.Node, len(list.Items))
	for i := range list.Items {
		out[i] = &list.Items[i]
	}
	return out, nil
}

func (n nodes) Get(name string) (*corev1.Node, error) {
	node := &corev1.Node{}
	if err := n.reader.Get(n.ctx, types.NamespacedName{Name: name}, node); err != nil {
		return nil, err
	}
	return node, nil
}
