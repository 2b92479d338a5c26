package core

import (
	corev1 "k8s.io/api/core/v1"

	"github.com/proa-dev/proa/api"
)

// Endpoints is the kind that EndpointSlices replaced.
func Endpoints() *api.Kind {
	return &api.Kind{
		GVK:            gvk("Endpoints"),
		Resource:       "endpoints",
		ShortNames:     []string{"ep"},
		Namespaced:     true,
		New:            api.Maker[corev1.Endpoints](),
		NewList:        api.ListMaker[corev1.EndpointsList](),
		StoragePath:    "services/endpoints",
		CreateOnUpdate: true,

		Default: api.On(func(e *corev1.Endpoints) {
			for i := range e.Subsets {
				for j := range e.Subsets[i].Ports {
					if p := &e.Subsets[i].Ports[j]; p.Protocol == "" {
						p.Protocol = corev1.ProtocolTCP
					}
				}
			}
		}),
	}
}
