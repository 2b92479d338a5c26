package services

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/uuid"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/store"
)

// Upstream's words for why an address cannot be had.
var (
	errAllocated = errors.New("provided IP is already allocated")
	errNoRange   = errors.New("the provided network does not match the current range")
	errFull      = errors.New("range is full")
)

// addresses hands out cluster IPs: who creates the IPAddress of that name
// holds the address.
type addresses struct {
	kind  *api.Kind
	res   *store.Resource
	cidrs *store.Resource // of ServiceCIDRs
	cidr  netip.Prefix    // the configured one
	now   func() metav1.Time
}

// take claims exactly ip for svc, if a range may hand it out.
func (a *addresses) take(ctx context.Context, ip netip.Addr, svc *corev1.Service) error {
	list, err := a.ranges(ctx)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(list, func(p netip.Prefix) bool { return gives(p, ip) }) {
		return errNoRange
	}
	return a.claim(ctx, ip, svc)
}

// claim claims ip for svc, whatever the ranges.
func (a *addresses) claim(ctx context.Context, ip netip.Addr, svc *corev1.Service) error {
	obj := &networkingv1.IPAddress{
		ObjectMeta: metav1.ObjectMeta{
			Name:              ip.String(),
			UID:               uuid.NewUUID(),
			CreationTimestamp: a.now(),
			Labels: map[string]string{
				networkingv1.LabelIPAddressFamily: string(familyOf(ip)),
				networkingv1.LabelManagedBy:       "ipallocator.k8s.io",
			},
		},
		Spec: networkingv1.IPAddressSpec{ParentRef: &networkingv1.ParentReference{
			Resource: "services", Namespace: svc.Namespace, Name: svc.Name,
		}},
	}
	obj.SetGroupVersionKind(a.kind.GVK)
	_, err := a.res.Create(ctx, ip.String(), obj, 0)
	if apierrors.IsAlreadyExists(err) {
		return errAllocated
	}
	return err
}

// next claims a free address for svc, of the first range that has one.
func (a *addresses) next(ctx context.Context, svc *corev1.Service) (netip.Addr, error) {
	list, err := a.ranges(ctx)
	if err != nil {
		return netip.Addr{}, err
	}
	for _, p := range list {
		if ip, err := a.nextIn(ctx, p, svc); !errors.Is(err, errFull) {
			return ip, err
		}
	}
	return netip.Addr{}, errFull
}

// nextIn claims a free address of one range. Its first addresses are kept for
// those who ask by number, until the rest is used up (KEP-3070).
func (a *addresses) nextIn(ctx context.Context, p netip.Prefix, svc *corev1.Service) (netip.Addr, error) {
	bits := p.Addr().BitLen() - p.Bits()
	size := 1 << min(bits, 30)
	reserved := min(max(16, size/16), 256)
	if reserved >= size-1 {
		reserved = 1
	}
	for _, band := range [][2]int{{reserved, size - 1}, {1, reserved}} {
		width := band[1] - band[0]
		if width <= 0 {
			continue
		}
		start := rand.IntN(width)
		for i := range width {
			ip := addrAt(p, band[0]+(start+i)%width)
			if a.res.Cached(ip.String()) != nil {
				continue
			}
			if err := a.claim(ctx, ip, svc); !errors.Is(err, errAllocated) {
				return ip, err
			}
		}
	}
	return netip.Addr{}, errFull
}

// release gives ip back if svc holds it.
func (a *addresses) release(ctx context.Context, ip string, svc *corev1.Service) error {
	for {
		entry, err := a.res.Latest(ctx, ip)
		if err != nil || entry == nil {
			return err
		}
		parent := entry.Object.(*networkingv1.IPAddress).Spec.ParentRef
		if parent == nil || parent.Resource != "services" || parent.Namespace != svc.Namespace || parent.Name != svc.Name {
			return nil
		}
		if _, err = a.res.Delete(ctx, entry); !errors.Is(err, store.ErrChanged) {
			return err
		}
	}
}

func familyOf(ip netip.Addr) corev1.IPFamily {
	if ip.Is6() {
		return corev1.IPv6Protocol
	}
	return corev1.IPv4Protocol
}

// addrAt is the n-th address of the prefix.
func addrAt(p netip.Prefix, n int) netip.Addr {
	b := p.Masked().Addr().AsSlice()
	for i := len(b) - 1; n > 0 && i >= 0; i-- {
		n += int(b[i])
		b[i] = byte(n)
		n >>= 8
	}
	ip, _ := netip.AddrFromSlice(b)
	return ip
}

func lastAddr(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 1 << (7 - i%8)
	}
	ip, _ := netip.AddrFromSlice(b)
	return ip
}
