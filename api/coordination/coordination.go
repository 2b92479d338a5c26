// Package coordination holds the kinds of the group coordination.k8s.io, v1.
package coordination

import (
	"strings"

	coordinationv1 "k8s.io/api/coordination/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/api/validate"
)

// Kinds lists the kinds of the group.
func Kinds() []*api.Kind { return []*api.Kind{Lease()} }

// Lease is the kind of leases.
func Lease() *api.Kind {
	return &api.Kind{
		GVK:         coordinationv1.SchemeGroupVersion.WithKind("Lease"),
		Resource:    "leases",
		Namespaced:  true,
		New:         api.Maker[coordinationv1.Lease](),
		NewList:     api.ListMaker[coordinationv1.LeaseList](),
		StoragePath: "leases",
		Columns: []api.Column{
			api.Col("Holder", "string", "Who has the lease.", func(l *coordinationv1.Lease) any { return ptr.Deref(l.Spec.HolderIdentity, "") }),
			api.AgeColumn(),
		},
		CreateOnUpdate:         true,
		RequireVersionOnUpdate: true,
		Validate:               api.Check(validateLease),
		ValidateUpdate:         api.CheckUpdate(func(l, _ *coordinationv1.Lease) field.ErrorList { return validateLease(l) }),
	}
}

func validateLease(l *coordinationv1.Lease) field.ErrorList {
	s, path := &l.Spec, field.NewPath("spec")
	var errs field.ErrorList
	if d := s.LeaseDurationSeconds; d != nil && *d <= 0 {
		errs = append(errs, field.Invalid(path.Child("leaseDurationSeconds"), d, "must be greater than 0"))
	}
	if n := s.LeaseTransitions; n != nil && *n < 0 {
		errs = append(errs, field.Invalid(path.Child("leaseTransitions"), n, "must be greater than or equal to 0"))
	}
	if s.Strategy != nil {
		// The name of the field comes twice, as upstream has it.
		at := path.Child("strategy", "strategy")
		if strings.Contains(string(*s.Strategy), "/") {
			errs = append(errs, validate.QualifiedName(at, string(*s.Strategy))...)
		} else {
			errs = append(errs, validate.OneOf(at, *s.Strategy, coordinationv1.OldestEmulationVersion)...)
		}
	}
	if ptr.Deref(s.PreferredHolder, "") != "" && ptr.Deref(s.Strategy, "") == "" {
		errs = append(errs, field.Forbidden(path.Child("preferredHolder"), "may only be specified if `strategy` is defined"))
	}
	return errs
}
