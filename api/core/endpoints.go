package core

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/api/validate"
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
		Columns:        endpointsColumns(),
		CreateOnUpdate: true,
		Deprecated:     "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice",

		Validate:       api.Check(func(e *corev1.Endpoints) field.ErrorList { return validateEndpoints(e, nil) }),
		ValidateUpdate: api.CheckUpdate(validateEndpoints),
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

// validateEndpoints: addresses that old (nil on create) has may stay.
func validateEndpoints(e, old *corev1.Endpoints) field.ErrorList {
	var known []string
	if old != nil {
		for _, s := range old.Subsets {
			for _, a := range append(s.Addresses[:len(s.Addresses):len(s.Addresses)], s.NotReadyAddresses...) {
				known = append(known, a.IP)
			}
		}
	}
	var errs field.ErrorList
	for i := range e.Subsets {
		s, at := &e.Subsets[i], field.NewPath("subsets").Index(i)
		if len(s.Addresses) == 0 && len(s.NotReadyAddresses) == 0 {
			errs = append(errs, field.Required(at, "must specify `addresses` or `notReadyAddresses`"))
		}
		for j := range s.Addresses {
			errs = append(errs, validateEndpointAddress(at.Child("addresses").Index(j), &s.Addresses[j], known)...)
		}
		for j := range s.NotReadyAddresses {
			errs = append(errs, validateEndpointAddress(at.Child("notReadyAddresses").Index(j), &s.NotReadyAddresses[j], known)...)
		}
		for j := range s.Ports {
			errs = append(errs, validateEndpointPort(at.Child("ports").Index(j), &s.Ports[j], len(s.Ports) > 1)...)
		}
	}
	return errs
}

func validateEndpointAddress(path *field.Path, a *corev1.EndpointAddress, known []string) field.ErrorList {
	errs := validation.IsValidIPForLegacyField(path.Child("ip"), a.IP, true, known)
	if a.Hostname != "" {
		errs = append(errs, validate.Label(path.Child("hostname"), a.Hostname)...)
	}
	if a.NodeName != nil {
		errs = append(errs, validate.Subdomain(path.Child("nodeName"), *a.NodeName)...)
	}
	return append(errs, validate.OrdinaryIP(path.Child("ip"), a.IP)...)
}

func validateEndpointPort(path *field.Path, p *corev1.EndpointPort, named bool) field.ErrorList {
	var errs field.ErrorList
	if p.Name != "" {
		errs = append(errs, validate.Label(path.Child("name"), p.Name)...)
	} else if named {
		errs = append(errs, field.Required(path.Child("name"), ""))
	}
	errs = append(errs, validate.PortNumber(path.Child("port"), p.Port)...)
	errs = append(errs, validate.RequiredOneOf(path.Child("protocol"), p.Protocol,
		corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP)...)
	if p.AppProtocol != nil {
		errs = append(errs, validate.QualifiedName(path.Child("appProtocol"), *p.AppProtocol)...)
	}
	return errs
}
