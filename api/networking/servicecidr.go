package networking

import (
	"strings"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/net"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/api/validate"
)

// ServiceCIDR is the kind of ranges that Services take their addresses from.
func ServiceCIDR() *api.Kind {
	type C = *networkingv1.ServiceCIDR
	return &api.Kind{
		GVK:         gvk("ServiceCIDR"),
		Resource:    "servicecidrs",
		New:         api.Maker[networkingv1.ServiceCIDR](),
		NewList:     api.ListMaker[networkingv1.ServiceCIDRList](),
		StoragePath: "servicecidrs",
		Columns: []api.Column{
			api.Col("CIDRs", "string", "The ranges.", func(c C) any { return strings.Join(c.Spec.CIDRs, ",") }),
			api.AgeColumn(),
		},
		PrepareCreate:  api.On(func(c C) { c.Status = networkingv1.ServiceCIDRStatus{} }),
		PrepareUpdate:  api.OnUpdate(func(c, old C) { c.Status = old.Status }),
		Validate:       api.Check(func(c C) field.ErrorList { return validateRanges(&c.Spec) }),
		ValidateUpdate: api.CheckUpdate(validateRangesUpdate),
		Status: &api.Status{
			PrepareUpdate: api.OnUpdate(func(c, old C) {
				c.Spec = old.Spec
				metav1.ResetObjectMetaForStatus(&c.ObjectMeta, &old.ObjectMeta)
			}),
		},
		ResetFields: map[string][]string{"": {"status"}, "status": {"metadata", "spec"}},
	}
}

func validateRanges(s *networkingv1.ServiceCIDRSpec) field.ErrorList {
	path := field.NewPath("spec", "cidrs")
	switch {
	case len(s.CIDRs) == 0:
		return field.ErrorList{field.Required(path, "at least one CIDR required")}
	case len(s.CIDRs) > 2:
		return field.ErrorList{field.Invalid(path, s, "may only hold up to 2 values")}
	}
	var errs field.ErrorList
	for i, c := range s.CIDRs {
		errs = append(errs, validation.IsValidCIDR(path.Index(i), c)...)
	}
	if len(s.CIDRs) == 2 {
		first := net.IPFamilyOfCIDRString(s.CIDRs[0])
		if first == net.IPFamilyOfCIDRString(s.CIDRs[1]) && first != net.IPFamilyUnknown {
			errs = append(errs, field.Invalid(path, s.CIDRs, "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64"))
		}
	}
	return errs
}

// validateRangesUpdate lets a range of the other family be added, and nothing
// else change.
func validateRangesUpdate(c, old *networkingv1.ServiceCIDR) field.ErrorList {
	path, now, before := field.NewPath("spec", "cidrs"), c.Spec.CIDRs, old.Spec.CIDRs
	var errs field.ErrorList
	switch {
	case len(before) == len(now):
		for i := range before {
			if now[i] != before[i] {
				errs = append(errs, field.Invalid(path.Index(i), now[i], validate.Immutable))
			}
		}
	case len(before) == 1 && len(now) == 2:
		if now[0] != before[0] {
			errs = append(errs, field.Invalid(path.Index(0), now[0], validate.Immutable))
		}
		errs = append(errs, validateRanges(&c.Spec)...)
	default:
		errs = append(errs, field.Invalid(path, now, validate.Immutable))
	}
	return errs
}
