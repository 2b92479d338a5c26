// Package networking describes the kinds of networking.k8s.io.
package networking

import (
	"net/netip"

	networkingv1 "k8s.io/api/networking/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/proa-dev/proa/api"
)

// Kinds lists the kinds of the group.
func Kinds() []*api.Kind { return []*api.Kind{IPAddress()} }

// IPAddress is one address that a Service holds. Its name is the address, so
// that two API servers cannot hand out the same one (KEP-1880).
func IPAddress() *api.Kind {
	return &api.Kind{
		GVK:         networkingv1.SchemeGroupVersion.WithKind("IPAddress"),
		Resource:    "ipaddresses",
		ShortNames:  []string{"ip"},
		New:         func() api.Object { return &networkingv1.IPAddress{} },
		NewList:     func() runtime.Object { return &networkingv1.IPAddressList{} },
		StoragePath: "ipaddresses",
		ValidateName: func(name string, _ bool) []string {
			if ip, err := netip.ParseAddr(name); err != nil || ip.String() != name {
				return []string{"must be a valid IP address in canonical format"}
			}
			return nil
		},
		Validate: func(obj api.Object) field.ErrorList {
			return validateParent(obj.(*networkingv1.IPAddress).Spec.ParentRef)
		},
		ValidateUpdate: func(obj, old api.Object) field.ErrorList {
			return apivalidation.ValidateImmutableField(
				obj.(*networkingv1.IPAddress).Spec.ParentRef, old.(*networkingv1.IPAddress).Spec.ParentRef,
				field.NewPath("spec", "parentRef"))
		},
		Columns: []api.Column{{
			TableColumnDefinition: metav1.TableColumnDefinition{Name: "ParentRef", Type: "string", Description: "What holds the address."},
			Value:                 func(obj api.Object) any { return parentText(obj.(*networkingv1.IPAddress).Spec.ParentRef) },
		}},
	}
}

func validateParent(p *networkingv1.ParentReference) field.ErrorList {
	path := field.NewPath("spec", "parentRef")
	if p == nil {
		return field.ErrorList{field.Required(path, "")}
	}
	var errs field.ErrorList
	if p.Resource == "" {
		errs = append(errs, field.Required(path.Child("resource"), ""))
	}
	if p.Name == "" {
		errs = append(errs, field.Required(path.Child("name"), ""))
	}
	return errs
}

func parentText(p *networkingv1.ParentReference) string {
	if p == nil {
		return ""
	}
	s := p.Resource
	if p.Group != "" {
		s += "." + p.Group
	}
	if p.Namespace != "" {
		return s + "/" + p.Namespace + "/" + p.Name
	}
	return s + "/" + p.Name
}
