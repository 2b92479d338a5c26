// Package nodeipam gives every node a network of its own for its pods, out of
// the cluster's.
package nodeipam

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proa-dev/proa/controllers/internal/loop"
)

// Name is the controller's name in logs.
const Name = "node-ipam-controller"

// Sizes of a node's network: upstream's defaults of --node-cidr-mask-size.
const (
	nodeBits4 = 24
	nodeBits6 = 64
)

type controller struct {
	env     loop.Env
	cluster netip.Prefix
	bits    int
}

// New makes the controller; cluster holds the pods of all nodes.
func New(env loop.Env, cluster netip.Prefix) (loop.Loop, error) {
	c := &controller{env: env.Named(Name), cluster: cluster.Masked(), bits: nodeBits4}
	if cluster.Addr().Is6() {
		c.bits = nodeBits6
	}
	c.bits = max(c.bits, cluster.Bits())
	// One key for all nodes: each pass reads them all, so that one pass serves
	// all that came in the meantime.
	lacks := func(_ context.Context, q loop.Queue, n *corev1.Node) {
		if lacking(n) {
			q.Add(loop.Key("", "nodes"))
		}
	}
	// No watch tells that a network is free again.
	retries := loop.Retries{First: 5 * time.Millisecond, Longest: time.Minute}
	return loop.NewRetrying(c.env, Name, 1, retries, c.reconcile, loop.Watch(env.Cluster, &corev1.Node{}, loop.On[*corev1.Node]{
		Created: lacks,
		Updated: func(ctx context.Context, q loop.Queue, _, n *corev1.Node) { lacks(ctx, q, n) },
	}))
}

func lacking(n *corev1.Node) bool { return n.Spec.PodCIDR == "" && n.DeletionTimestamp == nil }

// reconcile gives a network to every node that has none.
func (c *controller) reconcile(ctx context.Context, _ types.NamespacedName) (time.Duration, error) {
	// Read past the cache: a network must never be given twice.
	nodes := &corev1.NodeList{}
	if err := c.env.Cluster.Reader().List(ctx, nodes, client.UnsafeDisableDeepCopy); err != nil {
		return 0, err
	}
	var without []*corev1.Node
	var used []netip.Prefix
	for i := range nodes.Items {
		n := &nodes.Items[i]
		if lacking(n) {
			without = append(without, n)
		}
		for _, text := range n.Spec.PodCIDRs {
			if p, err := netip.ParsePrefix(text); err == nil {
				used = append(used, p)
			}
		}
	}
	next, stop := iter.Pull(Free(c.cluster, c.bits, used))
	defer stop()
	var errs []error
	for i, n := range without {
		free, ok := next()
		if !ok {
			for _, n := range without[i:] {
				c.env.Cluster.Recorder("nodeControllerIpam").Eventf(n, corev1.EventTypeNormal, "CIDRNotAvailable", "Node %s status is now: CIDRNotAvailable", n.Name)
			}
			errs = append(errs, fmt.Errorf("no network is left in %s for %d nodes, node %s among them", c.cluster, len(without)-i, n.Name))
			return 0, errors.Join(errs...)
		}
		errs = append(errs, client.IgnoreNotFound(c.give(ctx, n, free)))
	}
	return 0, errors.Join(errs...)
}

// give writes a network into a node, which is shared.
func (c *controller) give(ctx context.Context, n *corev1.Node, network netip.Prefix) error {
	next := n.DeepCopy()
	next.Spec.PodCIDR, next.Spec.PodCIDRs = network.String(), []string{network.String()}
	return c.env.Cluster.Client().Patch(ctx, next, client.MergeFromWithOptions(n, client.MergeFromWithOptimisticLock{}))
}

// Free are the networks of that many bits in cluster which overlap none of
// used, in order.
func Free(cluster netip.Prefix, bits int, used []netip.Prefix) iter.Seq[netip.Prefix] {
	taken := make(map[netip.Prefix]bool, len(used))
	var wide []netip.Prefix
	for _, u := range used {
		if u.Bits() < bits {
			wide = append(wide, u.Masked()) // by hand: rare
		} else if u.Addr().Is4() == cluster.Addr().Is4() {
			taken[netip.PrefixFrom(u.Addr(), bits).Masked()] = true
		}
	}
	return func(yield func(netip.Prefix) bool) {
		ip := cluster.Masked().Addr()
		for ip.IsValid() && cluster.Contains(ip) {
			p := netip.PrefixFrom(ip, bits)
			if i := slices.IndexFunc(wide, p.Overlaps); i >= 0 {
				ip = after(wide[i])
				continue
			}
			if !taken[p] && !yield(p) {
				return
			}
			ip = after(p)
		}
	}
}

// after is the first address behind a network; invalid at the very end.
func after(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for i := p.Bits() - 1; i >= 0; i-- {
		bit := byte(1) << (7 - i%8)
		b[i/8] ^= bit
		if b[i/8]&bit != 0 { // no carry
			ip, _ := netip.AddrFromSlice(b)
			return ip
		}
	}
	return netip.Addr{}
}
