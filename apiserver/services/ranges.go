package services

import (
	"context"
	"net/netip"
	"slices"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/proa-dev/proa/store"
)

// ranges are what addresses may be taken from now: those of every ServiceCIDR
// that is ready and stays. The configured one counts as well as long as no
// ServiceCIDR names it, for a new cluster's is about to be made; once there is
// one, whoever deletes it means that range too.
func (a *addresses) ranges(ctx context.Context) ([]netip.Prefix, error) {
	snap, err := a.cidrs.Snapshot(ctx, store.MatchNotOlder, 0)
	if err != nil {
		return nil, err
	}
	var list []netip.Prefix
	named := false
	snap.Ascend("", "", func(e *store.Entry) bool {
		c := e.Object.(*networkingv1.ServiceCIDR)
		for _, text := range c.Spec.CIDRs {
			p, err := netip.ParsePrefix(text)
			if err != nil || p.Addr().Is6() != a.cidr.Addr().Is6() {
				continue
			}
			p = p.Masked()
			named = named || p == a.cidr
			if usable(c) && !slices.Contains(list, p) {
				list = append(list, p)
			}
		}
		return true
	})
	if !named {
		list = append(list, a.cidr)
	}
	// The configured range is used up before what was added to it.
	if at := slices.Index(list, a.cidr); at > 0 {
		list[0], list[at] = list[at], list[0]
	}
	return list, nil
}

// usable says whether a range may give addresses. One without a condition is
// new, and as good as ready.
func usable(c *networkingv1.ServiceCIDR) bool {
	if c.DeletionTimestamp != nil {
		return false
	}
	at := slices.IndexFunc(c.Status.Conditions, func(have metav1.Condition) bool { return have.Type == networkingv1.ServiceCIDRConditionReady })
	return at < 0 || c.Status.Conditions[at].Status == metav1.ConditionTrue
}

// gives says whether a range may hand out ip: neither its first address nor,
// for IPv4, its last.
func gives(p netip.Prefix, ip netip.Addr) bool {
	return p.Contains(ip) && ip != p.Masked().Addr() && (ip.Is6() || ip != lastAddr(p))
}
