// Package discovery holds the kinds of the group discovery.k8s.io, v1.
package discovery

import (
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/utils/ptr"

	"github.com/proa-dev/proa/api"
)

// Kinds lists the kinds of the group.
func Kinds() []*api.Kind { return []*api.Kind{EndpointSlice()} }

// EndpointSlice is the kind of endpoint slices.
func EndpointSlice() *api.Kind {
	return &api.Kind{
		GVK:         discoveryv1.SchemeGroupVersion.WithKind("EndpointSlice"),
		Resource:    "endpointslices",
		Namespaced:  true,
		New:         api.Maker[discoveryv1.EndpointSlice](),
		NewList:     api.ListMaker[discoveryv1.EndpointSliceList](),
		StoragePath: "endpointslices",

		Default: api.On(func(s *discoveryv1.EndpointSlice) {
			for i := range s.Ports {
				if s.Ports[i].Name == nil {
					s.Ports[i].Name = ptr.To("")
				}
				if s.Ports[i].Protocol == nil {
					s.Ports[i].Protocol = ptr.To(corev1.ProtocolTCP)
				}
			}
		}),
		PrepareCreate: api.On(func(s *discoveryv1.EndpointSlice) { s.Generation = 1 }),
		PrepareUpdate: api.OnUpdate(func(s, old *discoveryv1.EndpointSlice) {
			s.Generation = old.Generation
			if s.AddressType != old.AddressType || !equality.Semantic.DeepEqual(s.Endpoints, old.Endpoints) ||
				!equality.Semantic.DeepEqual(s.Ports, old.Ports) || !equality.Semantic.DeepEqual(s.Labels, old.Labels) {
				s.Generation++
			}
		}),
	}
}
