package proxy

import (
	"cmp"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
)

// endpoint is one address and port that traffic may go to.
type endpoint struct {
	addr netip.Addr
	port uint16
}

func (e endpoint) compare(o endpoint) int {
	return cmp.Or(e.addr.Compare(o.addr), cmp.Compare(e.port, o.port))
}

// front is one port of a Service with all addresses that lead to it: the unit
// of rules. A front is a value: equal fronts need no change.
type front struct {
	// name is "namespace/name/port-name", what rules are named after.
	name     string
	protocol corev1.Protocol
	port     uint16
	// nodePort is 0 where there is none.
	nodePort uint16
	// clusterIP is invalid for a Service without one.
	clusterIP netip.Addr
	// externalIPs are those of spec.externalIPs that are no load balancer's.
	externalIPs []netip.Addr
	// balancerIPs are the load balancer's addresses that are meant to be answered
	// by nodes (ipMode VIP).
	balancerIPs []netip.Addr
	// sourceRanges limit who may come in by balancerIPs; nil is everyone.
	sourceRanges []netip.Prefix
	// internal serves the cluster IP, external what comes from outside. Both
	// are sorted.
	internal, external []endpoint
	// cluster is who serves pods and this node where external is limited to
	// this node's endpoints (externalTrafficPolicy: Local).
	cluster []endpoint
	// serving are all endpoints that serve, be it while they terminate. UDP flows
	// to them go on, whatever is chosen for new ones. Rules do not depend on it.
	serving []endpoint
	// healthy counts this node's endpoints that are ready, where externalLocal.
	// Rules do not depend on it either.
	healthy []endpoint
	// externalLocal keeps the client's address and uses this node's endpoints alone.
	externalLocal bool
	// known says that some endpoint exists, be it on another node: what has
	// none is refused, what has none here is dropped.
	known bool
	// affinity is how long a client stays with an endpoint; 0 is not at all.
	affinity time.Duration
}

// fronts are the rules' input for one Service: a pure function of the Service
// and its EndpointSlices. Headless and ExternalName Services have none.
func fronts(svc *corev1.Service, parts []*discoveryv1.EndpointSlice, node string, family corev1.IPFamily) []front {
	if svc == nil || svc.Spec.Type == corev1.ServiceTypeExternalName || svc.Spec.ClusterIP == corev1.ClusterIPNone || svc.Spec.ClusterIP == "" {
		return nil
	}
	var list []front
	for i := range svc.Spec.Ports {
		p := &svc.Spec.Ports[i]
		f := front{
			name:     types.NamespacedName{Namespace: svc.Namespace, Name: svc.Name}.String() + "/" + cmp.Or(p.Name, strconv.Itoa(int(p.Port))),
			protocol: p.Protocol,
			port:     uint16(p.Port),
			nodePort: uint16(p.NodePort),
		}
		f.externalIPs, f.balancerIPs = outerIPs(svc, family)
		for _, ip := range svc.Spec.ClusterIPs {
			if a, ok := addrOf(ip, family); ok {
				f.clusterIP = a
			}
		}
		f.sourceRanges = sourceRanges(svc, family)
		if svc.Spec.SessionAffinity == corev1.ServiceAffinityClientIP {
			f.affinity = 3 * time.Hour
			if c := svc.Spec.SessionAffinityConfig; c != nil && c.ClientIP != nil && c.ClientIP.TimeoutSeconds != nil {
				f.affinity = time.Duration(*c.ClientIP.TimeoutSeconds) * time.Second
			}
		}
		f.serve(svc, p.Name, parts, node, family)
		list = append(list, f)
	}
	return list
}

// sourceRanges reads a Service's ranges of one family, which the API allows
// spaces around. One that cannot be read lets nobody in, rather than everyone.
func sourceRanges(svc *corev1.Service, family corev1.IPFamily) []netip.Prefix {
	var list []netip.Prefix
	for _, text := range svc.Spec.LoadBalancerSourceRanges {
		r, err := netip.ParsePrefix(strings.TrimSpace(text))
		switch {
		case err != nil && family == corev1.IPv6Protocol:
			r = netip.PrefixFrom(netip.IPv6Unspecified(), 128)
		case err != nil:
			r = netip.PrefixFrom(netip.IPv4Unspecified(), 32)
		}
		if r.Addr().Is4() == (family == corev1.IPv4Protocol) {
			list = append(list, r.Masked())
		}
	}
	return list
}

// serve chooses the endpoints by the Service's traffic policies.
func (f *front) serve(svc *corev1.Service, portName string, parts []*discoveryv1.EndpointSlice, node string, family corev1.IPFamily) {
	list := list(parts, portName, f.protocol, family)
	all := list.on("")
	f.cluster, f.serving = all.chosen(), all.serving()
	f.known = len(f.cluster) > 0
	f.internal, f.external = f.cluster, f.cluster
	here := list.on(node)
	if p := svc.Spec.InternalTrafficPolicy; p != nil && *p == corev1.ServiceInternalTrafficPolicyLocal {
		f.internal = here.chosen()
	}
	if svc.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal {
		f.externalLocal = true
		f.external, f.healthy = here.chosen(), here.ready
	}
}

// candidate is an endpoint that traffic may go to, now or until it has terminated.
type candidate struct {
	endpoint
	node    string
	leaving bool
}

type candidates []candidate

// list returns the endpoints of a port that serve.
func list(parts []*discoveryv1.EndpointSlice, portName string, protocol corev1.Protocol, family corev1.IPFamily) candidates {
	var out candidates
	for _, s := range parts {
		if string(s.AddressType) != string(family) {
			continue
		}
		port, ok := portOf(s, portName, protocol)
		if !ok {
			continue
		}
		for i := range s.Endpoints {
			e := &s.Endpoints[i]
			if len(e.Addresses) == 0 {
				continue
			}
			addr, ok := addrOf(e.Addresses[0], family)
			if !ok {
				continue
			}
			c := e.Conditions
			ready := ptr.Deref(c.Ready, true)
			if ready || ptr.Deref(c.Serving, true) && ptr.Deref(c.Terminating, false) {
				out = append(out, candidate{endpoint{addr, port}, ptr.Deref(e.NodeName, ""), !ready})
			}
		}
	}
	return out
}

// pool is what there is to choose from, sorted.
type pool struct{ ready, leaving []endpoint }

// on is the pool of one node; "" is all of them.
func (list candidates) on(node string) pool {
	var p pool
	for _, c := range list {
		switch {
		case node != "" && c.node != node:
		case c.leaving:
			p.leaving = append(p.leaving, c.endpoint)
		default:
			p.ready = append(p.ready, c.endpoint)
		}
	}
	p.ready, p.leaving = sorted(p.ready), sorted(p.leaving)
	return p
}

func sorted(list []endpoint) []endpoint {
	slices.SortFunc(list, endpoint.compare)
	return slices.Compact(list)
}

// chosen are the endpoints that are ready; when there are none, those that
// still serve while they terminate (KEP-1669).
func (p pool) chosen() []endpoint {
	if len(p.ready) == 0 {
		return p.leaving
	}
	return p.ready
}

func (p pool) serving() []endpoint { return sorted(slices.Concat(p.ready, p.leaving)) }

func portOf(s *discoveryv1.EndpointSlice, name string, protocol corev1.Protocol) (uint16, bool) {
	for _, p := range s.Ports {
		if p.Port == nil || p.Name != nil && *p.Name != name || p.Name == nil && name != "" {
			continue
		}
		if p.Protocol == nil && protocol == corev1.ProtocolTCP || p.Protocol != nil && *p.Protocol == protocol {
			return uint16(*p.Port), true
		}
	}
	return 0, false
}

// outerIPs are the addresses of a Service that are not the cluster's. One that
// is named as both is the load balancer's, which may be guarded.
func outerIPs(svc *corev1.Service, family corev1.IPFamily) (external, balancer []netip.Addr) {
	if svc.Spec.Type == corev1.ServiceTypeLoadBalancer {
		for _, in := range svc.Status.LoadBalancer.Ingress {
			if in.IPMode != nil && *in.IPMode != corev1.LoadBalancerIPModeVIP {
				continue
			}
			if a, ok := addrOf(in.IP, family); ok {
				balancer = append(balancer, a)
			}
		}
	}
	for _, ip := range svc.Spec.ExternalIPs {
		if a, ok := addrOf(ip, family); ok && !slices.Contains(balancer, a) {
			external = append(external, a)
		}
	}
	unique := func(list []netip.Addr) []netip.Addr {
		slices.SortFunc(list, netip.Addr.Compare)
		return slices.Compact(list)
	}
	return unique(external), unique(balancer)
}

func addrOf(text string, family corev1.IPFamily) (netip.Addr, bool) {
	a, err := netip.ParseAddr(text)
	if err != nil || a.Is4() != (family == corev1.IPv4Protocol) {
		return netip.Addr{}, false
	}
	return a, true
}

// equal says that two fronts need the same rules.
func (f *front) equal(o *front) bool {
	return f.name == o.name && f.protocol == o.protocol && f.port == o.port && f.nodePort == o.nodePort &&
		f.clusterIP == o.clusterIP && f.externalLocal == o.externalLocal && f.known == o.known && f.affinity == o.affinity &&
		slices.Equal(f.externalIPs, o.externalIPs) && slices.Equal(f.balancerIPs, o.balancerIPs) && slices.Equal(f.sourceRanges, o.sourceRanges) &&
		slices.Equal(f.internal, o.internal) && slices.Equal(f.external, o.external) && slices.Equal(f.cluster, o.cluster)
}
