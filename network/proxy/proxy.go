// Package proxy makes Services answer on a node, by nftables.
//
// The front is one port of a Service with the addresses that lead to it. What
// a front needs is a pure function of the Service and its EndpointSlices
// (model.go), and so are the rules and map elements for it (rules.go). A packet
// costs two map lookups however many Services there are; a changed Service
// costs one netlink transaction of its own chains and elements.
//
// Terms: a cluster IP is answered from pods and nodes; external addresses
// and node ports from outside too. A hairpin is a pod that reaches itself.
package proxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"
	ctrl "sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proa-dev/proa/client"
)

// Config describes the node.
type Config struct {
	NodeName string
	// PodCIDR is the network of all pods of the cluster: who is in it needs
	// no masquerade.
	PodCIDR netip.Prefix
	// Table is the nftables table's name; "proa-services" when empty.
	Table  string
	Logger *slog.Logger
}

// Proxy keeps the rules of one node.
type Proxy struct {
	cfg     Config
	cluster client.Cluster
	family  family
	health  *healthServers

	mu       sync.Mutex
	services map[types.NamespacedName]*corev1.Service
	slices   map[types.NamespacedName]map[string]*discoveryv1.EndpointSlice
	// owners are the Services that slices are kept for: a label may come to name another.
	owners map[types.NamespacedName]types.NamespacedName
	ranges map[string][]string // ServiceCIDR -> its networks
	dirty  map[types.NamespacedName]bool
	wake   chan struct{}

	applied map[types.NamespacedName][]front
	state   *state
}

// New makes a Proxy; it touches nothing before Run.
func New(cluster client.Cluster, cfg Config) *Proxy {
	if cfg.Table == "" {
		cfg.Table = "proa-services"
	}
	fam := ipv4
	if cfg.PodCIDR.Addr().Is6() {
		fam = ipv6
	}
	return &Proxy{
		cfg: cfg, cluster: cluster, family: fam,
		health:   newHealthServers(cfg.Logger),
		services: map[types.NamespacedName]*corev1.Service{},
		slices:   map[types.NamespacedName]map[string]*discoveryv1.EndpointSlice{},
		owners:   map[types.NamespacedName]types.NamespacedName{},
		ranges:   map[string][]string{},
		dirty:    map[types.NamespacedName]bool{},
		wake:     make(chan struct{}, 1),
		applied:  map[types.NamespacedName][]front{},
	}
}

// Run keeps the rules until ctx ends, and leaves them in place: connections
// go on while Proa restarts. ready is called when the rules say what the API
// said at the start.
func (p *Proxy) Run(ctx context.Context, ready func()) error {
	if err := prepareKernel(p.family); err != nil {
		return err
	}
	conn, err := connect()
	if err != nil {
		return fmt.Errorf("nftables: %w", err)
	}
	defer conn.CloseLasting()
	p.state = newState(newTable(conn, p.cfg.Table, p.family, p.cfg.PodCIDR))
	if err := p.follow(ctx); err != nil {
		return err
	}
	defer p.health.close()
	if err := p.restart(ctx); err != nil {
		return err
	}
	ready()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-p.wake:
		}
		if err := p.sync(ctx, p.takeDirty()); err != nil {
			p.cfg.Logger.Error("write Service rules; all are written anew", "error", err)
			if err := p.retry(ctx); err != nil {
				return err
			}
		}
	}
}

// retry writes everything anew until it succeeds or ctx ends.
func (p *Proxy) retry(ctx context.Context) error {
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, 10*time.Second) {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
		conn, err := connect()
		if err != nil {
			return fmt.Errorf("nftables: %w", err)
		}
		p.state.conn.CloseLasting()
		p.state.conn = conn
		if err = p.restart(ctx); err == nil {
			return nil
		}
		p.cfg.Logger.Error("write Service rules", "error", err)
	}
}

// bufferSize lets the first transaction carry thousands of Services.
const bufferSize = 64 << 20

func connect() (*nftables.Conn, error) {
	return nftables.New(nftables.AsLasting(), nftables.WithSockOptions(func(c *netlink.Conn) error {
		return errors.Join(c.SetWriteBuffer(bufferSize), c.SetReadBuffer(bufferSize))
	}))
}

// prepareKernel lets this machine forward, and answer node ports on loopback.
func prepareKernel(f family) error {
	settings := map[string]string{
		"/proc/sys/net/ipv4/ip_forward":              "1",
		"/proc/sys/net/ipv4/conf/all/route_localnet": "1",
	}
	if f == ipv6 {
		settings = map[string]string{"/proc/sys/net/ipv6/conf/all/forwarding": "1"}
	}
	for path, value := range settings {
		if have, err := os.ReadFile(path); err == nil && len(have) > 0 && string(have[:1]) == value {
			continue
		}
		if err := os.WriteFile(path, []byte(value), 0o644); err != nil {
			return fmt.Errorf("a node must forward packets: %w", err)
		}
	}
	return nil
}

// follow collects Services, EndpointSlices and ServiceCIDRs, and waits for the
// first state.
func (p *Proxy) follow(ctx context.Context) error {
	var synced []cache.DoneChecker
	for _, f := range []struct {
		kind ctrl.Object
		to   cache.ResourceEventHandler
	}{
		{&corev1.Service{}, handler(p.setService)},
		{&discoveryv1.EndpointSlice{}, handler(p.setSlice)},
		{&networkingv1.ServiceCIDR{}, handler(p.setRange)},
	} {
		informer, err := p.cluster.Cache().GetInformer(ctx, f.kind)
		if err != nil {
			return err
		}
		followed, err := informer.AddEventHandler(f.to)
		if err != nil {
			return err
		}
		context.AfterFunc(ctx, func() {
			if err := informer.RemoveEventHandler(followed); err != nil {
				p.cfg.Logger.Warn("stop following Services", "error", err)
			}
		})
		synced = append(synced, followed.HasSyncedChecker())
	}
	if !cache.WaitFor(ctx, "", synced...) {
		return ctx.Err()
	}
	return nil
}

// handler calls set with each object, and whether it is gone.
func handler[T any](set func(obj T, gone bool)) cache.ResourceEventHandler {
	return cache.ResourceEventHandlerFuncs{
		AddFunc:    func(obj any) { set(obj.(T), false) },
		UpdateFunc: func(_, obj any) { set(obj.(T), false) },
		DeleteFunc: func(obj any) {
			if d, ok := obj.(cache.DeletedFinalStateUnknown); ok {
				obj = d.Obj
			}
			if o, ok := obj.(T); ok {
				set(o, true)
			}
		},
	}
}

func (p *Proxy) setService(svc *corev1.Service, gone bool) {
	key := types.NamespacedName{Namespace: svc.Namespace, Name: svc.Name}
	p.mu.Lock()
	defer p.mu.Unlock()
	if gone || svc.Labels["service.kubernetes.io/service-proxy-name"] != "" {
		delete(p.services, key) // the label leaves it to another proxy
	} else {
		p.services[key] = svc
	}
	p.touch(key)
}

func (p *Proxy) setSlice(slice *discoveryv1.EndpointSlice, gone bool) {
	name := types.NamespacedName{Namespace: slice.Namespace, Name: slice.Name}
	key := types.NamespacedName{Namespace: slice.Namespace, Name: slice.Labels[discoveryv1.LabelServiceName]}
	p.mu.Lock()
	defer p.mu.Unlock()
	if was, held := p.owners[name]; held && (gone || was != key) {
		delete(p.owners, name)
		delete(p.slices[was], slice.Name)
		if len(p.slices[was]) == 0 {
			delete(p.slices, was)
		}
		p.touch(was)
	}
	if gone || key.Name == "" {
		return
	}
	if p.slices[key] == nil {
		p.slices[key] = map[string]*discoveryv1.EndpointSlice{}
	}
	p.slices[key][slice.Name], p.owners[name] = slice, key
	p.touch(key)
}

func (p *Proxy) setRange(c *networkingv1.ServiceCIDR, gone bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if gone {
		delete(p.ranges, c.Name)
	} else {
		p.ranges[c.Name] = c.Spec.CIDRs
	}
	p.signal()
}

// serviceRanges lists the networks of Services of this family, in order.
func (p *Proxy) serviceRanges() []netip.Prefix {
	p.mu.Lock()
	defer p.mu.Unlock()
	var list []netip.Prefix
	for _, cidrs := range p.ranges {
		for _, c := range cidrs {
			if n, err := netip.ParsePrefix(c); err == nil && n.Addr().BitLen() == int(p.family.addrLen)*8 {
				list = append(list, n.Masked())
			}
		}
	}
	slices.SortFunc(list, netip.Prefix.Compare)
	return slices.Compact(list)
}

// touch marks a Service for the next transaction; p.mu is held.
func (p *Proxy) touch(key types.NamespacedName) {
	p.dirty[key] = true
	p.signal()
}

func (p *Proxy) signal() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// maxBatch bounds the Services of one transaction.
const maxBatch = 1000

func (p *Proxy) takeDirty() map[types.NamespacedName]bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.dirty) <= maxBatch {
		taken := p.dirty
		p.dirty = map[types.NamespacedName]bool{}
		return taken
	}
	taken := map[types.NamespacedName]bool{}
	for key := range p.dirty {
		if len(taken) == maxBatch {
			break
		}
		taken[key] = true
		delete(p.dirty, key)
	}
	p.signal()
	return taken
}

// restart writes the table anew with everything known.
func (p *Proxy) restart(ctx context.Context) error {
	p.mu.Lock()
	for key := range p.services {
		p.dirty[key] = true
	}
	p.mu.Unlock()
	clear(p.applied)
	p.state = newState(p.state.table)
	if err := p.state.reset(); err != nil {
		return err
	}
	return p.sync(ctx, p.takeDirty())
}

// sync writes the rules of some Services in one transaction.
func (p *Proxy) sync(ctx context.Context, keys map[types.NamespacedName]bool) error {
	var changes []change
	stale := staleFlows{pods: p.cfg.PodCIDR}
	next := map[types.NamespacedName][]front{}
	for key := range keys {
		now := p.current(ctx, key)
		next[key] = now
		changes = append(changes, diff(p.applied[key], now)...)
		stale.note(p.applied[key], now)
	}
	if ranges := p.serviceRanges(); !slices.Equal(ranges, p.state.ranges) {
		p.state.confine(ranges)
	}
	if err := p.state.put(changes); err != nil {
		return err
	}
	if err := p.state.conn.Flush(); err != nil {
		return err
	}
	for key, now := range next {
		if len(now) == 0 {
			delete(p.applied, key)
		} else {
			p.applied[key] = now
		}
	}
	return p.after(changes, &stale)
}

// current computes the fronts of one Service and its health check.
func (p *Proxy) current(ctx context.Context, key types.NamespacedName) []front {
	p.mu.Lock()
	svc := p.services[key]
	parts := make([]*discoveryv1.EndpointSlice, 0, len(p.slices[key]))
	for _, s := range p.slices[key] {
		parts = append(parts, s)
	}
	p.mu.Unlock()
	list := fronts(svc, parts, p.cfg.NodeName, p.family.name)
	p.health.set(ctx, key, svc, list)
	return list
}

// after ends what the kernel remembers of endpoints that are gone.
func (p *Proxy) after(changes []change, stale *staleFlows) error {
	// A packet that was under way may have put back what was just removed: so
	// until nothing is found. Only what was found can be put back.
	for again := true; again; {
		again = false
		for _, c := range changes {
			if c.new == nil || c.old == nil || c.new.affinity == 0 {
				continue
			}
			any, err := p.state.forget(c.new)
			if err != nil {
				return err
			}
			again = again || any
		}
		if err := p.state.conn.Flush(); err != nil {
			return err
		}
	}
	if err := stale.end(p.family); err != nil {
		p.cfg.Logger.Warn("end flows to endpoints that are gone", "error", err)
	}
	return nil
}

// diff pairs old and new fronts by what they are named after.
func diff(old, now []front) []change {
	var changes []change
	held := map[string]*front{}
	for i := range old {
		held[old[i].id()] = &old[i]
	}
	for i := range now {
		before := held[now[i].id()]
		delete(held, now[i].id())
		if before == nil || !before.equal(&now[i]) {
			changes = append(changes, change{before, &now[i]})
		}
	}
	for _, f := range held {
		changes = append(changes, change{f, nil})
	}
	return changes
}

// Cleanup removes the table of that name; none is fine.
func Cleanup(table string) error {
	conn, err := connect()
	if err != nil {
		return err
	}
	defer conn.CloseLasting()
	for _, fam := range []nftables.TableFamily{nftables.TableFamilyIPv4, nftables.TableFamilyIPv6} {
		t := &nftables.Table{Name: table, Family: fam}
		conn.AddTable(t) // makes the removal valid where there is none
		conn.DelTable(t)
	}
	return conn.Flush()
}
