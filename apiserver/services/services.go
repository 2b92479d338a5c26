// Package services gives Services their cluster addresses and node ports.
//
// What is handed out is claimed in the store before the Service is written
// and given back when the write fails, or when the Service goes: an address
// as an IPAddress object (KEP-1880), node ports in one bitmap under
// upstream's key. Whatever a crash leaves claimed, Repair gives back.
package services

import (
	"context"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/api/networking"
	"github.com/proa-dev/proa/apiserver/registry"
	"github.com/proa-dev/proa/store"
)

// Config says what there is to hand out.
type Config struct {
	Store     *store.Store
	CIDR      netip.Prefix // of cluster IPs, beside those of ServiceCIDRs
	PortFirst int32        // node ports, both ends inclusive
	PortLast  int32
	Now       func() metav1.Time
}

// Allocator hands out addresses and ports: the registry's hook for Services. Safe for concurrent use, also with
// allocators of other servers on the same store.
type Allocator struct {
	ips   *addresses
	ports *ports
}

// New makes an Allocator.
func New(cfg Config) *Allocator {
	ipKind := networking.IPAddress()
	return &Allocator{
		ips: &addresses{
			kind: ipKind, res: cfg.Store.Resource(ipKind), cidrs: cfg.Store.Resource(networking.ServiceCIDR()), cidr: cfg.CIDR.Masked(), now: cfg.Now,
		},
		ports: &ports{within: portRange{cfg.PortFirst, cfg.PortLast}, res: cfg.Store.Resource(portRanges())},
	}
}

// Claim is what one write of a Service took and may give back. Exactly one of
// Commit and Rollback is to be called.
type Claim struct {
	a          *Allocator
	svc        *corev1.Service
	takenIPs   []string
	takenPorts []int32
	freedIPs   []string
	freedPorts []int32
}

// Commit gives back what the Service no longer uses, once it is written.
func (c *Claim) Commit(ctx context.Context) error { return c.give(ctx, c.freedIPs, c.freedPorts) }

// Rollback gives back what was taken, when the Service was not written.
func (c *Claim) Rollback(ctx context.Context) error { return c.give(ctx, c.takenIPs, c.takenPorts) }

func (c *Claim) give(ctx context.Context, ips []string, ports []int32) error {
	for _, ip := range ips {
		if err := c.a.ips.release(ctx, ip, c.svc); err != nil {
			return err
		}
	}
	return c.a.ports.release(ctx, ports)
}

// Release returns the claim whose Commit gives back all that a deleted
// Service held.
func (a *Allocator) Release(obj api.Object) registry.Claim {
	svc := obj.(*corev1.Service)
	return &Claim{a: a, svc: svc, freedIPs: realIPs(svc), freedPorts: nodePorts(svc)}
}

// Claim fills in a Service's addresses, families and ports. old is nil on
// create; what an update did not mention the kind has carried over from it. A dry run claims nothing and leaves what it cannot know empty.
// Errors are Invalid status errors with upstream's texts.
func (a *Allocator) Claim(ctx context.Context, obj, before api.Object, dryRun bool) (registry.Claim, error) {
	svc := obj.(*corev1.Service)
	var old *corev1.Service
	if before != nil {
		old = before.(*corev1.Service)
	}
	c := &Claim{a: a, svc: svc}
	errs := a.families(svc)
	if len(errs) == 0 {
		errs = c.assignIPs(ctx, svc, old, dryRun)
	}
	if len(errs) == 0 {
		errs = c.assignPorts(ctx, svc, old, dryRun)
	}
	if len(errs) > 0 {
		if err := c.Rollback(ctx); err != nil {
			return nil, apierrors.NewInternalError(err)
		}
		return nil, apierrors.NewInvalid(corev1.SchemeGroupVersion.WithKind("Service").GroupKind(), svc.Name, errs)
	}
	if old != nil {
		c.freedIPs = without(realIPs(old), realIPs(svc))
		c.freedPorts = without(nodePorts(old), nodePorts(svc))
	}
	return c, nil
}

// families defaults ipFamilies and ipFamilyPolicy for a single-stack cluster.
func (a *Allocator) families(svc *corev1.Service) field.ErrorList {
	spec := field.NewPath("spec")
	if svc.Spec.Type == corev1.ServiceTypeExternalName {
		return nil // validation refuses what it names
	}
	family := familyOf(a.ips.cidr.Addr())
	if p := svc.Spec.IPFamilyPolicy; p != nil && *p == corev1.IPFamilyPolicyRequireDualStack {
		return field.ErrorList{field.Invalid(spec.Child("ipFamilyPolicy"), *p, "this cluster is not configured for dual-stack services")}
	}
	for i, f := range svc.Spec.IPFamilies {
		if f != family {
			return field.ErrorList{field.Invalid(spec.Child("ipFamilies").Index(i), f, "not configured on this cluster")}
		}
	}
	if svc.Spec.IPFamilyPolicy == nil {
		single := corev1.IPFamilyPolicySingleStack
		svc.Spec.IPFamilyPolicy = &single
	}
	if len(svc.Spec.IPFamilies) == 0 {
		svc.Spec.IPFamilies = []corev1.IPFamily{family}
	}
	return nil
}

func (c *Claim) assignIPs(ctx context.Context, svc, old *corev1.Service, dryRun bool) field.ErrorList {
	path := field.NewPath("spec", "clusterIPs").Index(0)
	if svc.Spec.ClusterIP == "" && len(svc.Spec.ClusterIPs) > 0 {
		return nil // validation refuses the one without the other
	}
	if svc.Spec.ClusterIP != "" && len(svc.Spec.ClusterIPs) == 0 {
		svc.Spec.ClusterIPs = []string{svc.Spec.ClusterIP}
	}
	switch {
	case !hasClusterIP(svc) || svc.Spec.ClusterIP == corev1.ClusterIPNone:
		return nil
	case svc.Spec.ClusterIP != "":
		if old != nil && slices.Contains(realIPs(old), svc.Spec.ClusterIP) {
			return nil
		}
		ip, err := netip.ParseAddr(svc.Spec.ClusterIP)
		if err != nil || dryRun {
			return nil // validation names a malformed address
		}
		if err := c.a.ips.take(ctx, ip, svc); err != nil {
			return field.ErrorList{field.Invalid(path, svc.Spec.ClusterIPs, "failed to allocate IP "+svc.Spec.ClusterIP+": "+err.Error())}
		}
		c.takenIPs = append(c.takenIPs, ip.String())
		return nil
	case dryRun:
		// Some address, so that validation and the answer are true to form.
		svc.Spec.ClusterIP = addrAt(c.a.ips.cidr, 1).String()
		svc.Spec.ClusterIPs = []string{svc.Spec.ClusterIP}
		return nil
	}
	ip, err := c.a.ips.next(ctx, svc)
	if err != nil {
		return field.ErrorList{field.InternalError(path, err)}
	}
	c.takenIPs = append(c.takenIPs, ip.String())
	svc.Spec.ClusterIP, svc.Spec.ClusterIPs = ip.String(), []string{ip.String()}
	return nil
}

func (c *Claim) assignPorts(ctx context.Context, svc, old *corev1.Service, dryRun bool) field.ErrorList {
	if dryRun {
		return nil
	}
	var held []int32
	if old != nil {
		held = nodePorts(old)
	}
	allocate := svc.Spec.Type == corev1.ServiceTypeNodePort ||
		svc.Spec.Type == corev1.ServiceTypeLoadBalancer && (svc.Spec.AllocateLoadBalancerNodePorts == nil || *svc.Spec.AllocateLoadBalancerNodePorts)
	path := field.NewPath("spec", "ports")
	// One node port may serve one number under several protocols.
	byPort := map[int32]map[corev1.Protocol]int32{}
	if hasNodePorts(svc) {
		for i := range svc.Spec.Ports {
			p := &svc.Spec.Ports[i]
			if p.NodePort == 0 {
				continue
			}
			if err := c.takePort(ctx, p.NodePort, held); err != nil {
				return field.ErrorList{field.Invalid(path.Index(i).Child("nodePort"), p.NodePort, err.Error())}
			}
			remember(byPort, p)
		}
		for i := range svc.Spec.Ports {
			p := &svc.Spec.Ports[i]
			if p.NodePort != 0 || !allocate {
				continue
			}
			if shared, ok := shareable(byPort[p.Port], p.Protocol); ok {
				p.NodePort = shared
			} else if n, err := c.nextPort(ctx); err != nil {
				return field.ErrorList{field.InternalError(path.Index(i).Child("nodePort"), err)}
			} else {
				p.NodePort = n
			}
			remember(byPort, p)
		}
	}
	if !needsHealthPort(svc) {
		return nil
	}
	health := field.NewPath("spec", "healthCheckNodePort")
	if svc.Spec.HealthCheckNodePort != 0 {
		if err := c.takePort(ctx, svc.Spec.HealthCheckNodePort, held); err != nil {
			return field.ErrorList{field.Invalid(health, svc.Spec.HealthCheckNodePort, err.Error())}
		}
		return nil
	}
	n, err := c.nextPort(ctx)
	if err != nil {
		return field.ErrorList{field.InternalError(health, err)}
	}
	svc.Spec.HealthCheckNodePort = n
	return nil
}

func remember(byPort map[int32]map[corev1.Protocol]int32, p *corev1.ServicePort) {
	if byPort[p.Port] == nil {
		byPort[p.Port] = map[corev1.Protocol]int32{}
	}
	byPort[p.Port][p.Protocol] = p.NodePort
}

// shareable finds a node port that the same port number has under another protocol.
func shareable(held map[corev1.Protocol]int32, protocol corev1.Protocol) (int32, bool) {
	if _, same := held[protocol]; same {
		return 0, false
	}
	for _, n := range held {
		return n, true
	}
	return 0, false
}

func (c *Claim) takePort(ctx context.Context, port int32, held []int32) error {
	if slices.Contains(held, port) || slices.Contains(c.takenPorts, port) {
		return nil
	}
	if err := c.a.ports.take(ctx, port); err != nil {
		return err
	}
	c.takenPorts = append(c.takenPorts, port)
	return nil
}

func (c *Claim) nextPort(ctx context.Context) (int32, error) {
	n, err := c.a.ports.next(ctx)
	if err == nil {
		c.takenPorts = append(c.takenPorts, n)
	}
	return n, err
}

func hasClusterIP(svc *corev1.Service) bool { return svc.Spec.Type != corev1.ServiceTypeExternalName }

func hasNodePorts(svc *corev1.Service) bool {
	return svc.Spec.Type == corev1.ServiceTypeNodePort || svc.Spec.Type == corev1.ServiceTypeLoadBalancer
}

func needsHealthPort(svc *corev1.Service) bool {
	return svc.Spec.Type == corev1.ServiceTypeLoadBalancer && svc.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
}

// realIPs are the addresses that svc holds.
func realIPs(svc *corev1.Service) []string {
	if !hasClusterIP(svc) || svc.Spec.ClusterIP == "" || svc.Spec.ClusterIP == corev1.ClusterIPNone {
		return nil
	}
	if len(svc.Spec.ClusterIPs) == 0 {
		return []string{svc.Spec.ClusterIP}
	}
	return svc.Spec.ClusterIPs
}

// nodePorts are the node ports that svc holds, each once.
func nodePorts(svc *corev1.Service) []int32 {
	var list []int32
	if hasNodePorts(svc) {
		for _, p := range svc.Spec.Ports {
			if p.NodePort != 0 && !slices.Contains(list, p.NodePort) {
				list = append(list, p.NodePort)
			}
		}
	}
	if p := svc.Spec.HealthCheckNodePort; p != 0 && needsHealthPort(svc) && !slices.Contains(list, p) {
		list = append(list, p)
	}
	return list
}

func without[T comparable](list, gone []T) []T {
	return slices.DeleteFunc(slices.Clone(list), func(x T) bool { return slices.Contains(gone, x) })
}
