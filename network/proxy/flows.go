package proxy

import (
	"errors"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	corev1 "k8s.io/api/core/v1"
)

// endFlows deletes the kernel's flows of connectionless protocols that would
// keep going to an endpoint that is gone, or nowhere although there now is one.
// TCP needs none: its connections end by themselves.
func endFlows(f family, changes []change) error {
	var errs []error
	for _, c := range changes {
		if c.old == nil || c.old.protocol != corev1.ProtocolUDP {
			continue
		}
		for _, filter := range staleFlows(c) {
			if _, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, netlink.InetFamily(f.nfproto), filter); err != nil {
				errs = append(errs, err)
			}
		}
	}
	return errors.Join(errs...)
}

// flow matches flows that go to dest on port and are answered by from (any
// where it is invalid).
type flow struct {
	dest netip.Addr
	port uint16
	from netip.Addr
	// unanswered matches those that no endpoint was chosen for.
	unanswered bool
}

// MatchConntrackFlow implements netlink.CustomConntrackFilter.
func (w flow) MatchConntrackFlow(c *netlink.ConntrackFlow) bool {
	if c.Forward.Protocol != protocolNumber(corev1.ProtocolUDP) || c.Forward.DstPort != w.port {
		return false
	}
	dest, _ := netip.AddrFromSlice(c.Forward.DstIP)
	if w.dest.IsValid() && dest.Unmap() != w.dest {
		return false
	}
	from, _ := netip.AddrFromSlice(c.Reverse.SrcIP)
	if w.unanswered {
		return from.Unmap() == dest.Unmap()
	}
	return from.Unmap() == w.from
}

func staleFlows(c change) []netlink.CustomConntrackFilter {
	type face struct {
		dest netip.Addr
		port uint16
	}
	faces := []face{}
	if c.old.clusterIP.IsValid() {
		faces = append(faces, face{c.old.clusterIP, c.old.port})
	}
	for _, ip := range c.old.externalIPs {
		faces = append(faces, face{ip, c.old.port})
	}
	if c.old.nodePort != 0 {
		faces = append(faces, face{netip.Addr{}, c.old.nodePort})
	}
	var now []endpoint
	if c.new != nil {
		now = c.new.cluster
	}
	var list []netlink.CustomConntrackFilter
	for _, f := range faces {
		for _, e := range c.old.cluster {
			if !slices.Contains(now, e) {
				list = append(list, flow{dest: f.dest, port: f.port, from: e.addr})
			}
		}
		if len(c.old.cluster) == 0 && len(now) > 0 {
			list = append(list, flow{dest: f.dest, port: f.port, unanswered: true})
		}
	}
	return list
}
