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

// apiServer is the Service whose endpoints the API servers are.
var apiServer = types.NamespacedName{Namespace: corev1.NamespaceDefault, Name: "kubernetes"}

// Plan gives every Service that is ours the addresses of the nodes that may
// serve it, each port of an address to one Service. Who has an address keeps
// it; among the others the oldest Service comes first. What nodes themselves
// need, API server and kubelet, is nobody's.
func Plan(s State) map[types.NamespacedName]Grant {
	holders := s.reserved()
	plan := map[types.NamespacedName]Grant{}
	claims := map[netip.Addr][]*corev1.Service{}
	for _, svc := range s.Services {
		if !wanted(svc) {
			continue
		}
		plan[keyOf(svc)] = Grant{}
		for _, a := range s.candidates(svc) {
			claims[a] = append(claims[a], svc)
		}
	}
	for a, list := range claims {
		slices.SortFunc(list, func(x, y *corev1.Service) int { return before(x, y, a) })
		for _, svc := range list {
			key := keyOf(svc)
			g := plan[key]
			if by, port := taken(holders, svc, a); by != "" {
				if text := fmt.Sprintf("port %d/%s of %s is taken by %s", port.Port, port.Protocol, a, by); g.Taken == "" || text < g.Taken {
					g.Taken = text
				}
			} else {
				for _, p := range svc.Spec.Ports {
					holders[socket{a, p.Protocol, p.Port}] = "Service " + key.String()
				}
				g.Addresses = append(g.Addresses, a)
			}
			plan[key] = g
		}
	}
	for key, g := range plan {
		slices.SortFunc(g.Addresses, netip.Addr.Compare)
		if len(g.Addresses) > 0 {
			g.Taken = ""
		}
		plan[key] = g
	}
	return plan
}

// before orders who asks for an address.
func before(x, y *corev1.Service, a netip.Addr) int {
	later := func(svc *corev1.Service) int {
		if slices.Contains(held(svc), a) {
			return 0
		}
		return 1
	}
	return cmp.Or(cmp.Compare(later(x), later(y)), x.CreationTimestamp.Compare(y.CreationTimestamp.Time),
		cmp.Compare(x.Namespace, y.Namespace), cmp.Compare(x.Name, y.Name))
}

// taken returns who has a port of the address that the Service wants.
func taken(holders map[socket]string, svc *corev1.Service, a netip.Addr) (string, corev1.ServicePort) {
	for _, p := range svc.Spec.Ports {
		if by := holders[socket{a, p.Protocol, p.Port}]; by != "" {
			return by, p
		}
	}
	return "", corev1.ServicePort{}
}

// reserved are the ports of nodes without which there is no cluster.
func (s State) reserved() map[socket]string {
	holders := map[socket]string{}
	for _, n := range s.Nodes {
		for _, a := range n.Status.Addresses {
			if ip, err := netip.ParseAddr(a.Address); err == nil && n.Status.DaemonEndpoints.KubeletEndpoint.Port != 0 {
				holders[socket{ip, corev1.ProtocolTCP, n.Status.DaemonEndpoints.KubeletEndpoint.Port}] = "the kubelet of node " + n.Name
			}
		}
	}
	for _, slice := range s.Slices[apiServer] {
		for _, e := range slice.Endpoints {
			for _, text := range e.Addresses {
				ip, err := netip.ParseAddr(text)
				for _, p := range slice.Ports {
					if err == nil && p.Port != nil {
						holders[socket{ip, corev1.ProtocolTCP, *p.Port}] = "the API server"
					}
				}
			}
		}
	}
	return holders
}

// candidates are the addresses that a Service may have. When no node is ready
// it keeps what it has: that may still work, and nothing else does.
func (s State) candidates(svc *corev1.Service) []netip.Addr {
	var serving, silent []netip.Addr
	local := svc.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
	someReady := false
	for _, n := range s.Nodes {
		if !included(n) {
			continue
		}
		someReady = someReady || ready(n)
		if local && !s.serves(svc, n.Name) {
			continue
		}
		if ready(n) {
			serving = append(serving, addresses(n, svc.Spec.IPFamilies)...)
		} else {
			silent = append(silent, addresses(n, svc.Spec.IPFamilies)...)
		}
	}
	if !someReady {
		have := held(svc)
		serving = slices.DeleteFunc(silent, func(a netip.Addr) bool { return !slices.Contains(have, a) })
	}
	slices.SortFunc(serving, netip.Addr.Compare)
	return slices.Compact(serving)
}

// serves says whether a node has a ready endpoint of the Service.
func (s State) serves(svc *corev1.Service, node string) bool {
	return slices.ContainsFunc(s.Slices[keyOf(svc)], func(slice *discoveryv1.EndpointSlice) bool {
		return slices.ContainsFunc(slice.Endpoints, func(e discoveryv1.Endpoint) bool {
			return e.NodeName != nil && *e.NodeName == node && (e.Conditions.Ready == nil || *e.Conditions.Ready)
		})
	})
}

// addresses are those by which a node is reached from outside: its external
// ones, else its internal ones.
func addresses(n *corev1.Node, families []corev1.IPFamily) []netip.Addr {
	for _, kind := range []corev1.NodeAddressType{corev1.NodeExternalIP, corev1.NodeInternalIP} {
		var list []netip.Addr
		for _, a := range n.Status.Addresses {
			ip, err := netip.ParseAddr(a.Address)
			if a.Type != kind || err != nil {
				continue
			}
			family := corev1.IPv4Protocol
			if ip.Is6() {
				family = corev1.IPv6Protocol
			}
			if len(families) == 0 || slices.Contains(families, family) {
				list = append(list, ip)
			}
		}
		if len(list) > 0 {
			return list
		}
	}
	return nil
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
func held(svc *corev1.Service) []netip.Addr {
	var list []netip.Addr
	for _, in := range svc.Status.LoadBalancer.Ingress {
		if ip, err := netip.ParseAddr(in.IP); err == nil {
			list = append(list, ip)
		}
	}
	return list
}

func keyOf(svc *corev1.Service) types.NamespacedName {
	return types.NamespacedName{Namespace: svc.Namespace, Name: svc.Name}
}
