// Package nodeipam gives every node a network of its own for its pods, out of
// the cluster's.
package nodeipam

import (
	"context"
	"fmt"
	"net/netip"
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
	lacks := func(_ context.Context, q loop.Queue, n *corev1.Node) {
		if n.Spec.PodCIDR == "" && n.DeletionTimestamp == nil {
			q.Add(loop.Key("", n.Name))
		}
	}
	// One worker: what is free is read from the nodes themselves.
	return loop.New(c.env, Name, 1, c.reconcile, loop.Watch(env.Cluster, &corev1.Node{}, loop.On[*corev1.Node]{
		Created: lacks,
		Updated: func(ctx context.Context, q loop.Queue, _, n *corev1.Node) { lacks(ctx, q, n) },
	}))
}

func (c *controller) reconcile(ctx context.Context, key types.NamespacedName) (time.Duration, error) {
	// Read past the cache: a network must never be given twice. Without copies,
	// since all nodes are looked at for each.
	nodes := &corev1.NodeList{}
	if err := c.env.Cluster.Reader().List(ctx, nodes, client.UnsafeDisableDeepCopy); err != nil {
		return 0, err
	}
	var node *corev1.Node
	var used []netip.Prefix
	for i := range nodes.Items {
		n := &nodes.Items[i]
		if n.Name == key.Name {
			node = n
		}
		for _, text := range n.Spec.PodCIDRs {
			if p, err := netip.ParsePrefix(text); err == nil {
				used = append(used, p)
			}
		}
	}
	if node == nil || node.Spec.PodCIDR != "" || node.DeletionTimestamp != nil {
		return 0, nil
	}
	free, ok := Next(c.cluster, c.bits, used)
	if !ok {
		c.env.Cluster.Recorder("nodeControllerIpam").Eventf(node, corev1.EventTypeNormal, "CIDRNotAvailable", "Node %s status is now: CIDRNotAvailable", node.Name)
		return time.Minute, fmt.Errorf("no network is left in %s for node %s", c.cluster, node.Name)
	}
	was := node
	node = node.DeepCopy()
	node.Spec.PodCIDR, node.Spec.PodCIDRs = free.String(), []string{free.String()}
	return 0, c.env.Cluster.Client().Patch(ctx, node, client.MergeFromWithOptions(was, client.MergeFromWithOptimisticLock{}))
}

// Next is the first network of that many bits in cluster which overlaps none
// of used.
func Next(cluster netip.Prefix, bits int, used []netip.Prefix) (netip.Prefix, bool) {
	ip := cluster.Masked().Addr()
search:
	for cluster.Contains(ip) {
		p := netip.PrefixFrom(ip, bits)
		for _, u := range used {
			if u.Overlaps(p) {
				// Skip all of the wider one: its end is the next candidate.
				ip = after(netip.PrefixFrom(ip, min(bits, u.Bits())).Masked())
				if !ip.IsValid() {
					break search
				}
				continue search
			}
		}
		return p, true
	}
	return netip.Prefix{}, false
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
