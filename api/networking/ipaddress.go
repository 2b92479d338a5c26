package networking

import (
	"net/netip"
	"strings"

	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/validate/content"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/api/validate"
)

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
			ref := obj.(*networkingv1.IPAddress).Spec.ParentRef
			return append(validateParent(ref),
				validate.Unchanged(field.NewPath("spec", "parentRef"), ref, old.(*networkingv1.IPAddress).Spec.ParentRef)...)
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
	if p.Group != "" { // the group of Services is empty
		errs = append(errs, validate.Subdomain(path.Child("group"), p.Group)...)
	}
	errs = append(errs, requiredSegment(path.Child("resource"), p.Resource)...)
	errs = append(errs, requiredSegment(path.Child("name"), p.Name)...)
	if p.Namespace != "" {
		errs = append(errs, validate.Messages(path.Child("namespace"), p.Namespace, content.IsPathSegmentName(p.Namespace))...)
	}
	return errs
}

func parentText(p *networkingv1.ParentReference) string {
	if p == nil {
		return "<none>"
	}
	s := strings.ToLower(schema.GroupResource{Group: p.Group, Resource: p.Resource}.String())
	if p.Namespace != "" {
		s += "/" + p.Namespace
	}
	return s + "/" + p.Name
}
