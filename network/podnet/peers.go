package podnet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
)

// How pods of different nodes reach each other.
const (
	// VXLAN wraps their packets in UDP between the nodes: it needs nothing of
	// the network but that nodes reach each other.
	VXLAN = "vxlan"
	// Direct routes to nodes on the same segment and is VXLAN to others. The
	// segment must let packets with pods' addresses pass, which those of
	// clouds often do not.
	Direct = "direct"
)

// Peer is another node.
type Peer struct {
	Name    string
	Address netip.Addr
	// PodCIDRs are the networks of its pods.
	PodCIDRs []netip.Prefix
}

// SetPeers tells all other nodes of the cluster. The machine follows while Run
// runs; what it is not told stays as it was.
func (n *Network) SetPeers(list []Peer) {
	n.mu.Lock()
	n.peers = append([]Peer{}, list...) // none at all is told too
	n.mu.Unlock()
	n.pokeFabric()
}

func (n *Network) pokeFabric() {
	select {
	case n.poke <- struct{}{}:
	default:
	}
}

// Between looks at what others may have changed, and after errors.
const (
	fabricPeriod    = time.Minute
	fabricFirstWait = 100 * time.Millisecond
	fabricLastWait  = 10 * time.Second
)

// runFabric keeps the ways to other nodes until ctx ends, and leaves them.
func (n *Network) runFabric(ctx context.Context) {
	wait := fabricFirstWait
	for {
		period := fabricPeriod
		if err := n.syncFabric(); err != nil {
			n.cfg.Logger.Error("ways to other nodes", "error", err, "again", wait)
			period, wait = wait, min(2*wait, fabricLastWait)
		} else {
			wait = fabricFirstWait
		}
		t := time.NewTimer(period)
		select {
		case <-ctx.Done():
			t.Stop()
			return
		case <-n.poke:
		case <-t.C:
		}
		t.Stop()
	}
}

// syncFabric makes the machine fit the peers. Before they are told, and before
// the node has a network itself, nothing is touched: pods go on as they are.
func (n *Network) syncFabric() error {
	n.mu.Lock()
	peers, own, ready := n.peers, n.cidrs, n.applied
	n.mu.Unlock()
	if peers == nil || !ready || n.cfg.Between == "" {
		return nil
	}
	f := fabric{cfg: &n.cfg, own: own}
	if len(peers) > 0 {
		var err error
		if f.under, f.from, err = underlay(n.cfg.Address); err != nil {
			return err
		}
	}
	var tunnelled []Peer
	for _, p := range peers {
		if err := n.cfg.checkPeer(p, own); err != nil {
			n.cfg.Logger.Warn("pods of another node are not reached", "node", p.Name, "error", err)
			continue
		}
		if n.cfg.Between == Direct && onSegment(p.Address, f.under) {
			f.direct(p)
		} else {
			tunnelled = append(tunnelled, p)
		}
	}
	if err := f.tunnel(tunnelled); err != nil {
		return err
	}
	return f.apply()
}

// checkPeer keeps one node from drawing traffic to itself that is not its own.
func (c *Config) checkPeer(p Peer, own []netip.Prefix) error {
	if !p.Address.IsValid() || p.Address.IsLoopback() || p.Address.IsUnspecified() || p.Address.IsMulticast() {
		return fmt.Errorf("its address %s is none", p.Address)
	}
	if p.Address == c.Address {
		return fmt.Errorf("it has this node's address %s", p.Address)
	}
	if p.Address.Is4() != c.Address.Is4() {
		return fmt.Errorf("its address %s is not of this node's family", p.Address)
	}
	for _, cidr := range p.PodCIDRs {
		inside := func(all netip.Prefix) bool { return all.Contains(cidr.Addr()) && all.Bits() <= cidr.Bits() }
		if !cidr.IsValid() || !slices.ContainsFunc(c.ClusterCIDRs, inside) {
			return fmt.Errorf("its pods' network %s is not in the cluster's", cidr)
		}
		if slices.ContainsFunc(own, cidr.Overlaps) {
			return fmt.Errorf("its pods' network %s is this node's too", cidr)
		}
	}
	return nil
}

// underlay is the link by which other nodes are reached, and the address that
// tunnels start from: the node's, and nil where that is none of the machine's
// own, as behind address translation.
func underlay(ip netip.Addr) (netlink.Link, net.IP, error) {
	addrs, err := netlink.AddrList(nil, family(ip))
	if err != nil {
		return nil, nil, err
	}
	for _, a := range addrs {
		if got, ok := netip.AddrFromSlice(a.IP); ok && got.Unmap() == ip {
			link, err := netlink.LinkByIndex(a.LinkIndex)
			return link, ip.AsSlice(), err
		}
	}
	routes, err := netlink.RouteGet(ip.AsSlice())
	if err != nil || len(routes) == 0 {
		return nil, nil, fmt.Errorf("no link leads to the node's address %s: %w", ip, err)
	}
	link, err := netlink.LinkByIndex(routes[0].LinkIndex)
	return link, nil, err
}

// onSegment says whether an address is reached through a link without a gateway.
func onSegment(ip netip.Addr, under netlink.Link) bool {
	routes, err := netlink.RouteGet(ip.AsSlice())
	return err == nil && len(routes) > 0 && routes[0].Gw == nil && routes[0].LinkIndex == under.Attrs().Index
}

// overhead is what VXLAN adds to a packet: outer IP and UDP, its own header and
// the inner Ethernet's.
func overhead(underlay netip.Addr) int {
	if underlay.Is6() {
		return 40 + 8 + 8 + 14
	}
	return 20 + 8 + 8 + 14
}

// podMTU is that of pods' links: what they send must fit through a tunnel.
func (c *Config) podMTU() int {
	if c.MTU != 0 {
		return c.MTU
	}
	mtu := defaultMTU()
	if c.Between == VXLAN {
		if under, _, err := underlay(c.Address); err == nil && under.Attrs().Flags&net.FlagLoopback == 0 {
			mtu = min(mtu, under.Attrs().MTU)
		}
		mtu -= overhead(c.Address)
	}
	return max(mtu, 576)
}

var errNoNodeName = errors.New("podnet: a network between nodes needs the node's name and address")

func (c *Config) validateBetween() error {
	switch c.Between {
	case "":
		return nil
	case VXLAN, Direct:
	default:
		return fmt.Errorf("podnet: network between nodes %q: want %q or %q", c.Between, VXLAN, Direct)
	}
	if c.Node == "" || !c.Address.IsValid() {
		return errNoNodeName
	}
	return nil
}
