package servicecidr

import (
	"net/netip"
	"slices"

	networkingv1 "k8s.io/api/networking/v1"
)

// allocator is what the API server's allocator labels its addresses with.
const allocator = "ipallocator.k8s.io"

// prefixes are the networks of a ServiceCIDR.
func prefixes(c *networkingv1.ServiceCIDR) []netip.Prefix {
	var list []netip.Prefix
	for _, text := range c.Spec.CIDRs {
		if p, err := netip.ParsePrefix(text); err == nil {
			list = append(list, p.Masked())
		}
	}
	return list
}

// overlap says whether two ServiceCIDRs have an address in common.
func overlap(a, b *networkingv1.ServiceCIDR) bool {
	return slices.ContainsFunc(prefixes(a), func(p netip.Prefix) bool {
		return slices.ContainsFunc(prefixes(b), p.Overlaps)
	})
}

// gives says whether ip may come from c: from no network comes its first
// address, nor from one of IPv4 its last.
func gives(c *networkingv1.ServiceCIDR, ip netip.Addr) bool {
	return slices.ContainsFunc(prefixes(c), func(p netip.Prefix) bool {
		last := ip.Is4() && !p.Contains(ip.Next())
		return p.Contains(ip) && ip != p.Addr() && !last
	})
}

// holds says whether c has the whole of p.
func holds(c *networkingv1.ServiceCIDR, p netip.Prefix) bool {
	return slices.ContainsFunc(prefixes(c), func(q netip.Prefix) bool { return q.Overlaps(p) && q.Bits() <= p.Bits() })
}

// orphans returns an address that would belong to no ServiceCIDR without c,
// "" when there is none. Others that are being deleted do not count.
func orphans(c *networkingv1.ServiceCIDR, all []networkingv1.ServiceCIDR, ips []networkingv1.IPAddress) string {
	others := slices.DeleteFunc(slices.Clone(all), func(o networkingv1.ServiceCIDR) bool {
		return o.Name == c.Name || o.DeletionTimestamp != nil
	})
	free := slices.DeleteFunc(prefixes(c), func(p netip.Prefix) bool {
		return slices.ContainsFunc(others, func(o networkingv1.ServiceCIDR) bool { return holds(&o, p) })
	})
	if len(free) == 0 {
		return ""
	}
	for i := range ips {
		ip, err := netip.ParseAddr(ips[i].Name)
		if err != nil || ips[i].Labels[networkingv1.LabelManagedBy] != allocator || !gives(c, ip) {
			continue
		}
		if !slices.ContainsFunc(others, func(o networkingv1.ServiceCIDR) bool { return gives(&o, ip) }) {
			return ips[i].Name
		}
	}
	return ""
}
