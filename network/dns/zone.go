package dns

import (
	"cmp"
	"context"
	"net/netip"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/cache"
)

// zone is what the cluster's domain holds now.
type zone struct {
	domain  string // with a dot at the end
	address netip.Addr

	mu       sync.RWMutex
	services map[types.NamespacedName]*corev1.Service
	slices   map[types.NamespacedName]map[string]*discoveryv1.EndpointSlice
	// spaces counts the Services of a namespace: its name exists while it has any.
	spaces map[string]int
	// byAddr leads from cluster IPs to Services.
	byAddr map[netip.Addr]types.NamespacedName
	// owners are the Services that slices are kept for: a label may come to name another.
	owners map[types.NamespacedName]types.NamespacedName
	// hosts leads from endpoint addresses to the Services that have them, and in
	// how many slices: one that moves is in two for a moment.
	hosts map[netip.Addr]map[types.NamespacedName]int
}

func newZone(domain string, address netip.Addr) *zone {
	return &zone{
		domain: strings.ToLower(strings.Trim(domain, ".")) + ".", address: address,
		services: map[types.NamespacedName]*corev1.Service{},
		slices:   map[types.NamespacedName]map[string]*discoveryv1.EndpointSlice{},
		spaces:   map[string]int{},
		byAddr:   map[netip.Addr]types.NamespacedName{},
		owners:   map[types.NamespacedName]types.NamespacedName{},
		hosts:    map[netip.Addr]map[types.NamespacedName]int{},
	}
}

// follow keeps the zone until ctx ends, and waits for the first state.
func (z *zone) follow(ctx context.Context, c cache.Cache) error {
	services, err := c.GetInformer(ctx, &corev1.Service{})
	if err != nil {
		return err
	}
	slices, err := c.GetInformer(ctx, &discoveryv1.EndpointSlice{})
	if err != nil {
		return err
	}
	var synced []toolscache.DoneChecker
	for _, f := range []struct {
		informer cache.Informer
		handler  toolscache.ResourceEventHandler
	}{{services, handler(z.setService)}, {slices, handler(z.setSlice)}} {
		reg, err := f.informer.AddEventHandler(f.handler)
		if err != nil {
			return err
		}
		context.AfterFunc(ctx, func() { _ = f.informer.RemoveEventHandler(reg) })
		synced = append(synced, reg.HasSyncedChecker())
	}
	if !toolscache.WaitFor(ctx, "", synced...) {
		return ctx.Err()
	}
	return nil
}

func handler[T any](set func(old, now *T)) toolscache.ResourceEventHandler {
	return toolscache.ResourceEventHandlerFuncs{
		AddFunc:    func(obj any) { set(nil, obj.(*T)) },
		UpdateFunc: func(old, obj any) { set(old.(*T), obj.(*T)) },
		DeleteFunc: func(obj any) {
			if d, ok := obj.(toolscache.DeletedFinalStateUnknown); ok {
				obj = d.Obj
			}
			if o, ok := obj.(*T); ok {
				set(o, nil)
			}
		},
	}
}

func (z *zone) setService(old, now *corev1.Service) {
	z.mu.Lock()
	defer z.mu.Unlock()
	key := nameOf(cmp.Or(now, old))
	if held := z.services[key]; held != nil {
		z.spaces[key.Namespace]--
		if z.spaces[key.Namespace] == 0 {
			delete(z.spaces, key.Namespace)
		}
		for _, ip := range clusterIPs(held) {
			if z.byAddr[ip] == key {
				delete(z.byAddr, ip)
			}
		}
		delete(z.services, key)
	}
	if now == nil {
		return
	}
	z.services[key] = now
	z.spaces[key.Namespace]++
	for _, ip := range clusterIPs(now) {
		z.byAddr[ip] = key
	}
}

func (z *zone) setSlice(old, now *discoveryv1.EndpointSlice) {
	any := cmp.Or(now, old)
	name := types.NamespacedName{Namespace: any.Namespace, Name: any.Name}
	z.mu.Lock()
	defer z.mu.Unlock()
	if key, ok := z.owners[name]; ok {
		delete(z.owners, name)
		z.dropSlice(key, name.Name)
	}
	key := types.NamespacedName{Namespace: any.Namespace, Name: any.Labels[discoveryv1.LabelServiceName]}
	if now == nil || key.Name == "" {
		return
	}
	if z.slices[key] == nil {
		z.slices[key] = map[string]*discoveryv1.EndpointSlice{}
	}
	z.slices[key][name.Name], z.owners[name] = now, key
	for _, ip := range addressesOf(now) {
		if z.hosts[ip] == nil {
			z.hosts[ip] = map[types.NamespacedName]int{}
		}
		z.hosts[ip][key]++
	}
}

// dropSlice forgets a slice of a Service; z.mu is held.
func (z *zone) dropSlice(key types.NamespacedName, name string) {
	for _, ip := range addressesOf(z.slices[key][name]) {
		if z.hosts[ip][key]--; z.hosts[ip][key] > 0 {
			continue
		}
		delete(z.hosts[ip], key)
		if len(z.hosts[ip]) == 0 {
			delete(z.hosts, ip)
		}
	}
	delete(z.slices[key], name)
	if len(z.slices[key]) == 0 {
		delete(z.slices, key)
	}
}

func nameOf(svc *corev1.Service) types.NamespacedName {
	return types.NamespacedName{Namespace: svc.Namespace, Name: svc.Name}
}

func clusterIPs(svc *corev1.Service) []netip.Addr {
	if svc.Spec.Type == corev1.ServiceTypeExternalName {
		return nil
	}
	var list []netip.Addr
	for _, text := range svc.Spec.ClusterIPs {
		if ip, err := netip.ParseAddr(text); err == nil { // "None" is none
			list = append(list, ip)
		}
	}
	return list
}

func addressesOf(s *discoveryv1.EndpointSlice) []netip.Addr {
	var list []netip.Addr
	for i := range s.Endpoints {
		for _, text := range s.Endpoints[i].Addresses {
			if ip, err := netip.ParseAddr(text); err == nil {
				list = append(list, ip)
			}
		}
	}
	return list
}

// host is one endpoint of a headless Service.
type host struct {
	name  string // label below the Service's name
	addr  netip.Addr
	ports []discoveryv1.EndpointPort
}

// hostsOf lists the ready endpoints of a Service; z.mu is held.
func (z *zone) hostsOf(key types.NamespacedName) []host {
	var list []host
	for _, s := range z.slices[key] {
		for i := range s.Endpoints {
			e := &s.Endpoints[i]
			if e.Conditions.Ready != nil && !*e.Conditions.Ready {
				continue
			}
			for _, text := range e.Addresses {
				if ip, err := netip.ParseAddr(text); err == nil {
					list = append(list, host{hostLabel(e, ip), ip, s.Ports})
				}
			}
		}
	}
	return list
}

// hostLabel is an endpoint's hostname, or its address in dashes.
func hostLabel(e *discoveryv1.Endpoint, ip netip.Addr) string {
	if e.Hostname != nil && *e.Hostname != "" {
		return strings.ToLower(*e.Hostname)
	}
	return dashed(ip)
}

func dashed(ip netip.Addr) string {
	return strings.NewReplacer(".", "-", ":", "-").Replace(ip.String())
}
