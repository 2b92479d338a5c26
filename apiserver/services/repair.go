package services

import (
	"context"
	"errors"
	"math/big"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"

	"github.com/proa-dev/proa/store"
)

// claimGrace is how long an address may be claimed without its Service being
// there: a write in progress is far shorter.
const claimGrace = time.Minute

// Repair makes claims agree with the Services that exist: it claims what they
// use and gives back what nobody uses. To be run every few minutes, by one
// goroutine: what is gone at two runs in a row was leaked by a crash.
func (a *Allocator) Repair(ctx context.Context, services *store.Resource) error {
	snap, err := services.Snapshot(ctx, store.MatchLatest, 0)
	if err != nil {
		return err
	}
	inUse := map[string]*corev1.Service{}
	usedPorts := new(big.Int)
	snap.Ascend("", "", func(e *store.Entry) bool {
		svc := e.Object.(*corev1.Service)
		for _, ip := range realIPs(svc) {
			inUse[ip] = svc
		}
		for _, p := range nodePorts(svc) {
			if a.ports.within.contains(p) {
				usedPorts.SetBit(usedPorts, int(p-a.ports.within.first), 1)
			}
		}
		return true
	})
	for text, svc := range inUse {
		ip, err := netip.ParseAddr(text)
		if err != nil || a.ips.res.Cached(text) != nil {
			continue
		}
		if err := a.ips.claim(ctx, ip, svc); err != nil {
			return err
		}
	}
	if err := a.releaseOrphans(ctx, services); err != nil {
		return err
	}
	return a.ports.repair(ctx, usedPorts)
}

func (a *Allocator) releaseOrphans(ctx context.Context, services *store.Resource) error {
	snap, err := a.ips.res.Snapshot(ctx, store.MatchLatest, 0)
	if err != nil {
		return err
	}
	now := a.ips.now()
	var orphans []*store.Entry
	snap.Ascend("", "", func(e *store.Entry) bool {
		ip := e.Object.(*networkingv1.IPAddress)
		p := ip.Spec.ParentRef
		if p == nil || p.Resource != "services" || now.Sub(ip.CreationTimestamp.Time) < claimGrace {
			return true
		}
		holder := services.Cached(p.Namespace + "/" + p.Name)
		if holder == nil || !slices.Contains(realIPs(holder.Object.(*corev1.Service)), ip.Name) {
			orphans = append(orphans, e)
		}
		return true
	})
	for _, e := range orphans {
		if _, err := a.ips.res.Delete(ctx, e); err != nil && !errors.Is(err, store.ErrChanged) {
			return err
		}
	}
	return nil
}
