package proxy

import (
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	corev1 "k8s.io/api/core/v1"
)

// staleFlows matches the kernel's UDP flows to Services that would keep going to
// an endpoint that is gone, or nowhere although there is one now: a client that
// goes on sending never lets them expire. TCP needs none: its connections end by
// themselves.
type staleFlows struct {
	pods      netip.Prefix
	addresses map[endpoint]backends // by what leads to a front
	nodePorts map[uint16]backends
}

// backends are the endpoints of a front that serve, before and now.
type backends struct {
	was, now []endpoint
	// fresh says that what was is unknown: the flows may be of an earlier run.
	fresh bool
}

// note adds what changes of one Service mean for flows.
func (s *staleFlows) note(old, now []front) {
	held := map[string]*front{}
	for i := range old {
		held[old[i].id()] = &old[i]
	}
	for i := range now {
		f, before := &now[i], held[now[i].id()]
		delete(held, f.id())
		if before == nil {
			s.add(f, backends{now: f.serving, fresh: true}, true)
		} else if !slices.Equal(before.serving, f.serving) || !before.equal(f) {
			s.add(f, backends{was: before.serving, now: f.serving}, true)
		}
	}
	for _, f := range held {
		s.add(f, backends{was: f.serving}, false)
	}
}

// add keeps b for all that leads to f. What is there now counts more than what
// was there, which may have had the same addresses.
func (s *staleFlows) add(f *front, b backends, current bool) {
	if f.protocol != corev1.ProtocolUDP {
		return
	}
	if s.addresses == nil {
		s.addresses, s.nodePorts = map[endpoint]backends{}, map[uint16]backends{}
	}
	for _, ip := range slices.Concat(f.externalIPs, f.balancerIPs, []netip.Addr{f.clusterIP}) {
		at := endpoint{ip, f.port}
		if _, known := s.addresses[at]; ip.IsValid() && (current || !known) {
			s.addresses[at] = b
		}
	}
	if _, known := s.nodePorts[f.nodePort]; f.nodePort != 0 && (current || !known) {
		s.nodePorts[f.nodePort] = b
	}
}

// end deletes the flows.
func (s *staleFlows) end(f family) error {
	if len(s.addresses) == 0 && len(s.nodePorts) == 0 {
		return nil
	}
	_, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, netlink.InetFamily(f.nfproto), s)
	return err
}

// MatchConntrackFlow implements netlink.CustomConntrackFilter.
func (s *staleFlows) MatchConntrackFlow(c *netlink.ConntrackFlow) bool {
	if c.Forward.Protocol != protocolNumber(corev1.ProtocolUDP) {
		return false
	}
	dest, _ := netip.AddrFromSlice(c.Forward.DstIP)
	from, _ := netip.AddrFromSlice(c.Reverse.SrcIP)
	to, by := endpoint{dest.Unmap(), c.Forward.DstPort}, endpoint{from.Unmap(), c.Reverse.SrcPort}
	if b, ok := s.addresses[to]; ok {
		return !slices.Contains(b.now, by)
	}
	b, ok := s.nodePorts[to.port]
	switch {
	case !ok || slices.Contains(b.now, by):
		return false
	case to == by:
		// To a node, or to anybody else who has something on that port.
		return len(b.was) == 0 && len(b.now) > 0 && !b.fresh
	case b.fresh:
		return s.pods.Contains(by.addr)
	}
	return slices.Contains(b.was, by)
}
