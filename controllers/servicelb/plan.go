package servicelb

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Class is the load balancer class that means this controller. A Service that
// names none means it too.
const Class = "proa.dev/servicelb"

// State is what addresses follow from.
type State struct {
	Services []*corev1.Service
	Nodes    []*corev1.Node
	// Slices are those of Services that keep traffic on the node, and of the
	// API server's.
	Slices map[types.NamespacedName][]*discoveryv1.EndpointSlice
	// NodePorts says whose a port of all nodes is.
	NodePorts map[Port]types.NamespacedName
}

// Port is a port of any address.
type Port struct {
	Protocol corev1.Protocol
	Number   int32
}

// Grant is what one Service gets.
type Grant struct {
	Addresses []netip.Addr
	// Taken says who has the port that the Service wants, where it gets
	// nothing for that reason.
	Taken string
}

// socket is one port of one address.
type socket struct {
	address  netip.Addr
	protocol corev1.Protocol
	port     int32
}

// claim is what a Service asks for.
type claim struct {
	svc *corev1.Service
	key types.NamespacedName
	// held are the addresses that it has.
	held  map[netip.Addr]bool
	grant Grant
}

// place is a node as far as addresses go.
type place struct {
	name  string
	ready bool
	// v4 and v6 are by what it is reached from outside for a Service of one
	// family, both for one of any.
	v4, v6, both []netip.Addr
}

// apiServer is the Service whose endpoints the API servers are.
var apiServer = types.NamespacedName{Namespace: corev1.NamespaceDefault, Name: "kubernetes"}

// Plan gives every Service that is ours the addresses of the nodes that may
// serve it, each port of an address to one Service. Who has an address keeps
// it; among the others the oldest Service comes first. What nodes themselves
// need, API server and kubelet, is nobody's, and a node port is its Service's.
func Plan(s State) map[types.NamespacedName]Grant {
	holders, places := s.reserved(), s.places()
	var claims []*claim
	for _, svc := range s.Services {
		if wanted(svc) {
			claims = append(claims, &claim{svc: svc, key: keyOf(svc), held: held(svc)})
		}
	}
	slices.SortFunc(claims, func(x, y *claim) int {
		return cmp.Or(x.svc.CreationTimestamp.Compare(y.svc.CreationTimestamp.Time), cmp.Compare(x.key.Namespace, y.key.Namespace), cmp.Compare(x.key.Name, y.key.Name))
	})
	asked := map[netip.Addr][]*claim{}
	for _, c := range claims {
		for _, a := range s.candidates(c, places) {
			asked[a] = append(asked[a], c)
		}
	}
	for a, list := range asked {
		for _, having := range []bool{true, false} {
			for _, c := range list {
				if c.held[a] == having {
					s.give(c, a, holders)
				}
			}
		}
	}
	plan := make(map[types.NamespacedName]Grant, len(claims))
	for _, c := range claims {
		slices.SortFunc(c.grant.Addresses, netip.Addr.Compare)
		if len(c.grant.Addresses) > 0 {
			c.grant.Taken = ""
		}
		plan[c.key] = c.grant
	}
	return plan
}

// give lets a Service have an address, unless another one has a port of it.
func (s State) give(c *claim, a netip.Addr, holders map[socket]string) {
	if by, port := s.taken(c, a, holders); by != "" {
		if text := fmt.Sprintf("port %d/%s of %s is taken by %s", port.Port, port.Protocol, a, by); c.grant.Taken == "" || text < c.grant.Taken {
			c.grant.Taken = text
		}
		return
	}
	for _, p := range c.svc.Spec.Ports {
		holders[socket{a, p.Protocol, p.Port}] = "Service " + c.key.String()
	}
	c.grant.Addresses = append(c.grant.Addresses, a)
}

// taken returns who has a port of the address that the Service wants.
func (s State) taken(c *claim, a netip.Addr, holders map[socket]string) (string, corev1.ServicePort) {
	for _, p := range c.svc.Spec.Ports {
		if by := holders[socket{a, p.Protocol, p.Port}]; by != "" {
			return by, p
		}
		if by, ok := s.NodePorts[Port{p.Protocol, p.Port}]; ok && by != c.key {
			return "the node port of Service " + by.String(), p
		}
	}
	return "", corev1.ServicePort{}
}

// reserved are the ports of nodes without which there is no cluster.
func (s State) reserved() map[socket]string {
	holders := map[socket]string{}
	for _, n := range s.Nodes {
		for _, a := range n.Status.Addresses {
			if ip, ok := parse(a.Address); ok && n.Status.DaemonEndpoints.KubeletEndpoint.Port != 0 {
				holders[socket{ip, corev1.ProtocolTCP, n.Status.DaemonEndpoints.KubeletEndpoint.Port}] = "the kubelet of node " + n.Name
			}
		}
	}
	for _, slice := range s.Slices[apiServer] {
		for _, e := range slice.Endpoints {
			for _, text := range e.Addresses {
				ip, ok := parse(text)
				for _, p := range slice.Ports {
					if ok && p.Port != nil {
						holders[socket{ip, corev1.ProtocolTCP, *p.Port}] = "the API server"
					}
				}
			}
		}
	}
	return holders
}

// candidates are the addresses that a Service may have. When no node serves it,
// it keeps what it has: a pod that starts again, or nodes that are silent for a
// moment, must not cost it its addresses.
func (s State) candidates(c *claim, places []place) []netip.Addr {
	var serving, all []netip.Addr
	var on map[string]bool
	local := c.svc.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
	if local {
		on = s.serving(c.key)
	}
	for i := range places {
		p := &places[i]
		have := p.addresses(c.svc.Spec.IPFamilies)
		all = append(all, have...)
		if p.ready && (!local || on[p.name]) {
			serving = append(serving, have...)
		}
	}
	if len(serving) == 0 {
		serving = slices.DeleteFunc(all, func(a netip.Addr) bool { return !c.held[a] })
	}
	slices.SortFunc(serving, netip.Addr.Compare)
	return slices.Compact(serving)
}

// serving are the nodes that have a ready endpoint of a Service.
func (s State) serving(key types.NamespacedName) map[string]bool {
	on := map[string]bool{}
	for _, slice := range s.Slices[key] {
		for i := range slice.Endpoints {
			if e := &slice.Endpoints[i]; e.NodeName != nil && (e.Conditions.Ready == nil || *e.Conditions.Ready) {
				on[*e.NodeName] = true
			}
		}
	}
	return on
}

// places are the nodes that may take part, ready or not.
func (s State) places() []place {
	var out []place
	for _, n := range s.Nodes {
		if included(n) {
			out = append(out, place{name: n.Name, ready: ready(n), v4: addresses(n, netip.Addr.Is4), v6: addresses(n, netip.Addr.Is6),
				both: addresses(n, netip.Addr.IsValid)})
		}
	}
	return out
}

func (p *place) addresses(families []corev1.IPFamily) []netip.Addr {
	v4 := slices.Contains(families, corev1.IPv4Protocol)
	switch v6 := slices.Contains(families, corev1.IPv6Protocol); {
	case v4 == v6:
		return p.both
	case v4:
		return p.v4
	}
	return p.v6
}

// addresses are those by which a node is reached from outside: its external
// ones, else its internal ones.
func addresses(n *corev1.Node, wanted func(netip.Addr) bool) []netip.Addr {
	for _, kind := range []corev1.NodeAddressType{corev1.NodeExternalIP, corev1.NodeInternalIP} {
		var list []netip.Addr
		for _, a := range n.Status.Addresses {
			if ip, ok := parse(a.Address); ok && a.Type == kind && wanted(ip) {
				list = append(list, ip)
			}
		}
		if len(list) > 0 {
			return list
		}
	}
	return nil
}

// parse reads an address that packets can be sent to. Nodes say of themselves
// what they like, and one bad address would keep all Services waiting.
func parse(text string) (netip.Addr, bool) {
	ip, err := netip.ParseAddr(text)
	ip = ip.Unmap()
	return ip, err == nil && ip.Zone() == "" && !ip.IsUnspecified() && !ip.IsMulticast()
}

// included says whether a node may take part, ready or not.
func included(n *corev1.Node) bool {
	_, excluded := n.Labels[corev1.LabelNodeExcludeBalancers]
	return !excluded && n.DeletionTimestamp == nil
}

func ready(n *corev1.Node) bool {
	return slices.ContainsFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	})
}

// ours says whether a Service is meant for this controller.
func ours(svc *corev1.Service) bool {
	return svc.Spec.LoadBalancerClass == nil || *svc.Spec.LoadBalancerClass == Class
}

// wanted says whether a Service is to have addresses of ours.
func wanted(svc *corev1.Service) bool {
	return svc.Spec.Type == corev1.ServiceTypeLoadBalancer && ours(svc) && svc.DeletionTimestamp == nil
}

// held are the addresses that a Service has.
func held(svc *corev1.Service) map[netip.Addr]bool {
	set := map[netip.Addr]bool{}
	for _, in := range svc.Status.LoadBalancer.Ingress {
		if ip, err := netip.ParseAddr(in.IP); err == nil {
			set[ip] = true
		}
	}
	return set
}

// nodePorts are the ports of all nodes that a Service has.
func nodePorts(svc *corev1.Service) []Port {
	var list []Port
	if svc.Spec.HealthCheckNodePort != 0 {
		list = append(list, Port{corev1.ProtocolTCP, svc.Spec.HealthCheckNodePort})
	}
	for _, p := range svc.Spec.Ports {
		if p.NodePort != 0 {
			list = append(list, Port{p.Protocol, p.NodePort})
		}
	}
	return list
}

func keyOf(svc *corev1.Service) types.NamespacedName {
	return types.NamespacedName{Namespace: svc.Namespace, Name: svc.Name}
}
