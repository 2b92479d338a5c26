// Package coordination holds the kinds of the group coordination.k8s.io, v1.
package coordination

import (
	coordinationv1 "k8s.io/api/coordination/v1"

	"github.com/proa-dev/proa/api"
)

// Kinds lists the kinds of the group.
func Kinds() []*api.Kind { return []*api.Kind{Lease()} }

// Lease is the kind of leases.
func Lease() *api.Kind {
	return &api.Kind{
		GVK:                    coordinationv1.SchemeGroupVersion.WithKind("Lease"),
		Resource:               "leases",
		Namespaced:             true,
		New:                    api.Maker[coordinationv1.Lease](),
		NewList:                api.ListMaker[coordinationv1.LeaseList](),
		StoragePath:            "leases",
		CreateOnUpdate:         true,
		RequireVersionOnUpdate: true,
	}
}
