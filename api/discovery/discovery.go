// Package discovery holds the kinds of the group discovery.k8s.io, v1.
package discovery

import (
	"strconv"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/net"
	"k8s.io/utils/ptr"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/api/validate"
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
		Columns: []api.Column{
			api.Col("AddressType", "string", "What kind of addresses these are.", func(s *discoveryv1.EndpointSlice) any { return string(s.AddressType) }),
			api.Col("Ports", "string", "Ports of the endpoints.", func(s *discoveryv1.EndpointSlice) any { return portList(s) }),
			api.Col("Endpoints", "string", "Addresses of the endpoints.", func(s *discoveryv1.EndpointSlice) any { return addressList(s) }),
			api.AgeColumn(),
		},

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
		Validate:       api.Check(func(s *discoveryv1.EndpointSlice) field.ErrorList { return validateSlice(s, nil) }),
		ValidateUpdate: api.CheckUpdate(validateSliceUpdate),
		PrepareCreate:  api.On(func(s *discoveryv1.EndpointSlice) { s.Generation = 1 }),
		PrepareUpdate: api.OnUpdate(func(s, old *discoveryv1.EndpointSlice) {
			s.Generation = old.Generation
			if s.AddressType != old.AddressType || !equality.Semantic.DeepEqual(s.Endpoints, old.Endpoints) ||
				!equality.Semantic.DeepEqual(s.Ports, old.Ports) || !equality.Semantic.DeepEqual(s.Labels, old.Labels) {
				s.Generation++
			}
		}),
	}
}

const (
	maxEndpoints = 1000
	maxAddresses = 100
	maxPorts     = 20000
	maxTopology  = 16
	maxHints     = 8
)

// validateSlice: addresses that old (nil on create) has may stay.
func validateSlice(s, old *discoveryv1.EndpointSlice) field.ErrorList {
	errs := validate.RequiredOneOf(field.NewPath("addressType"), s.AddressType,
		discoveryv1.AddressTypeFQDN, discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6)
	known := sets.New[string]()
	if old != nil {
		for _, e := range old.Endpoints {
			known.Insert(e.Addresses...)
		}
	}
	path := field.NewPath("endpoints")
	if n := len(s.Endpoints); n > maxEndpoints {
		errs = append(errs, field.TooMany(path, n, maxEndpoints))
	} else {
		for i := range s.Endpoints {
			errs = append(errs, validateEndpoint(path.Index(i), &s.Endpoints[i], s.AddressType, known)...)
		}
	}
	return append(errs, validatePorts(field.NewPath("ports"), s.Ports)...)
}

func validateSliceUpdate(s, old *discoveryv1.EndpointSlice) field.ErrorList {
	errs := validateSlice(s, old)
	return append(errs, validate.Unchanged(field.NewPath("addressType"), s.AddressType, old.AddressType)...)
}

func validateEndpoint(path *field.Path, e *discoveryv1.Endpoint, t discoveryv1.AddressType, known sets.Set[string]) field.ErrorList {
	var errs field.ErrorList
	addresses := path.Child("addresses")
	if n := len(e.Addresses); n == 0 {
		errs = append(errs, field.Required(addresses, "must contain at least 1 address"))
	} else if n > maxAddresses {
		errs = append(errs, field.TooMany(addresses, n, maxAddresses))
	}
	for i, a := range e.Addresses {
		errs = append(errs, validateAddress(addresses.Index(i), a, t, known)...)
	}
	if e.NodeName != nil {
		errs = append(errs, validate.Subdomain(path.Child("nodeName"), *e.NodeName)...)
	}
	topology := path.Child("deprecatedTopology")
	if n := len(e.DeprecatedTopology); n > maxTopology {
		errs = append(errs, field.TooMany(topology, n, maxTopology))
	}
	errs = append(errs, metavalidation.ValidateLabels(e.DeprecatedTopology, topology)...)
	if e.Hostname != nil {
		errs = append(errs, validate.Label(path.Child("hostname"), *e.Hostname)...)
	}
	if e.Hints != nil {
		errs = append(errs, validateHints(path.Child("hints"), e.Hints)...)
	}
	return errs
}

func validateAddress(path *field.Path, a string, t discoveryv1.AddressType, known sets.Set[string]) field.ErrorList {
	if t == discoveryv1.AddressTypeFQDN {
		return validation.IsFullyQualifiedDomainName(path, a)
	}
	if t != discoveryv1.AddressTypeIPv4 && t != discoveryv1.AddressTypeIPv6 {
		return nil
	}
	errs := validation.IsValidIPForLegacyField(path, a, true, known.UnsortedList())
	switch {
	case t == discoveryv1.AddressTypeIPv4 && !net.IsIPv4String(a):
		errs = append(errs, field.Invalid(path, a, "must be an IPv4 address"))
	case t == discoveryv1.AddressTypeIPv6 && !net.IsIPv6String(a):
		errs = append(errs, field.Invalid(path, a, "must be an IPv6 address"))
	}
	return append(errs, validate.OrdinaryIP(path, a)...)
}

func validateHints(path *field.Path, h *discoveryv1.EndpointHints) field.ErrorList {
	var errs field.ErrorList
	list := func(path *field.Path, names []string, check func(*field.Path, string) field.ErrorList) {
		if len(names) > maxHints {
			errs = append(errs, field.TooMany(path, len(names), maxHints))
			return
		}
		seen := sets.New[string]()
		for i, n := range names {
			at := path.Index(i).Child("name")
			if seen.Has(n) {
				errs = append(errs, field.Duplicate(at, n))
			}
			seen.Insert(n)
			errs = append(errs, check(at, n)...)
		}
	}
	var zones, nodes []string
	for _, z := range h.ForZones {
		zones = append(zones, z.Name)
	}
	for _, n := range h.ForNodes {
		nodes = append(nodes, n.Name)
	}
	list(path.Child("forZones"), zones, func(at *field.Path, n string) field.ErrorList {
		return metavalidation.ValidateLabelName(n, at)
	})
	list(path.Child("forNodes"), nodes, validate.Subdomain)
	return errs
}

func validatePorts(path *field.Path, ports []discoveryv1.EndpointPort) field.ErrorList {
	if n := len(ports); n > maxPorts {
		return field.ErrorList{field.TooMany(path, n, maxPorts)}
	}
	var errs field.ErrorList
	seen := sets.New[string]()
	for i, p := range ports {
		at := path.Index(i)
		name := ptr.Deref(p.Name, "")
		if name != "" {
			errs = append(errs, validate.Label(at.Child("name"), name)...)
		}
		if seen.Has(name) {
			errs = append(errs, field.Duplicate(at.Child("name"), name))
		}
		seen.Insert(name)
		if p.Port != nil {
			errs = append(errs, validate.PortNumber(at.Child("port"), *p.Port)...)
		}
		errs = append(errs, validate.RequiredOneOf(at.Child("protocol"), ptr.Deref(p.Protocol, ""),
			corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP)...)
		if p.AppProtocol != nil {
			errs = append(errs, validate.QualifiedName(at.Child("appProtocol"), *p.AppProtocol)...)
		}
	}
	return errs
}

const maxListed = 3 // ports and addresses shown of many

func portList(s *discoveryv1.EndpointSlice) string {
	var out []string
	for _, p := range s.Ports {
		switch {
		case p.Port != nil:
			out = append(out, strconv.Itoa(int(*p.Port)))
		case ptr.Deref(p.Name, "") != "":
			out = append(out, *p.Name)
		default:
			out = append(out, "*")
		}
	}
	if len(out) == 0 {
		return "<unset>"
	}
	return api.Shortened(out, maxListed)
}

func addressList(s *discoveryv1.EndpointSlice) string {
	var out []string
	for _, e := range s.Endpoints {
		out = append(out, e.Addresses...)
	}
	if len(out) == 0 {
		return "<unset>"
	}
	return api.Shortened(out, maxListed)
}
