package podnet

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The tunnel's identity on the wire: the port that Linux and flannel use, and a
// network of our own on it.
const (
	vxlanPort    = 8472
	vxlanNetwork = 7369327
	// protocol marks our routes to other nodes among those of others.
	routeProtocol netlink.RouteProtocol = 112
)

func vxlanName(link string) string { return link + "vxlan" }

// tunnelMAC is the hardware address of a node's end of the tunnel. It follows
// from the node's name, so that nobody has to ask for it.
func tunnelMAC(node string) net.HardwareAddr { return hardwareAddr(node, "tunnel") }

// fabric is the ways to other nodes as they ought to be: a pure function of
// the peers, and apply.
//
//	route  <peer's pod CIDR> via <peer's gateway address> dev <link>vxlan
//	neigh  <peer's gateway address> is at <MAC from the peer's name>
//	fdb    <that MAC> is behind <peer's address>
type fabric struct {
	cfg   *Config
	own   []netip.Prefix
	under netlink.Link // nil without peers
	from  net.IP       // where tunnels start; nil is up to the kernel

	routes []netlink.Route
	neighs map[netip.Addr]net.HardwareAddr
	remote map[string]netip.Addr // hardware address to node
	vxlan  netlink.Link          // nil when nobody needs it
}

// direct routes to a node on the same segment.
func (f *fabric) direct(p Peer) {
	for _, cidr := range p.PodCIDRs {
		f.routes = append(f.routes, netlink.Route{
			LinkIndex: f.under.Attrs().Index, Dst: ipNet(cidr.Masked()), Gw: p.Address.AsSlice(), Src: f.source(cidr), Protocol: routeProtocol,
		})
	}
}

// source is this node's own address among pods, of the family of cidr: what it
// sends to pods of other nodes comes from there, and answers find the way back.
func (f *fabric) source(cidr netip.Prefix) net.IP {
	for _, r := range f.own {
		if r.Addr().Is6() == cidr.Addr().Is6() {
			return gateway(r).AsSlice()
		}
	}
	return nil
}

// tunnel routes to peers through VXLAN; the link is there only while somebody
// is behind it.
func (f *fabric) tunnel(peers []Peer) error {
	if len(peers) == 0 {
		return removeLink(vxlanName(f.cfg.Link))
	}
	if err := f.ensureLink(); err != nil {
		return err
	}
	f.neighs, f.remote = map[netip.Addr]net.HardwareAddr{}, map[string]netip.Addr{}
	for _, p := range peers {
		mac := tunnelMAC(p.Name)
		f.remote[mac.String()] = p.Address
		for _, cidr := range p.PodCIDRs {
			r := netlink.Route{
				LinkIndex: f.vxlan.Attrs().Index, Dst: ipNet(cidr.Masked()), Gw: gateway(cidr).AsSlice(), Src: f.source(cidr),
				Protocol: routeProtocol, Flags: int(netlink.FLAG_ONLINK),
			}
			f.neighs[gateway(cidr)] = mac
			f.routes = append(f.routes, r)
		}
	}
	return nil
}

// ensureLink makes the tunnel's end, anew if it is not as it ought to be.
func (f *fabric) ensureLink() error {
	want := &netlink.Vxlan{
		LinkAttrs: netlink.LinkAttrs{
			Name: vxlanName(f.cfg.Link), MTU: f.under.Attrs().MTU - overhead(f.cfg.Address), HardwareAddr: tunnelMAC(f.cfg.Node), TxQLen: -1,
		},
		VxlanId: vxlanNetwork, SrcAddr: f.from, Port: vxlanPort, Learning: false,
	}
	have, err := netlink.LinkByName(want.Name)
	if err == nil && !sameTunnel(have, want) {
		if err := netlink.LinkDel(have); err != nil {
			return fmt.Errorf("link %s: %w", want.Name, err)
		}
		have = nil
	}
	if err != nil || have == nil {
		if err := netlink.LinkAdd(want); err != nil {
			return fmt.Errorf("link %s: %w", want.Name, err)
		}
		if have, err = netlink.LinkByName(want.Name); err != nil {
			return fmt.Errorf("link %s: %w", want.Name, err)
		}
	}
	f.vxlan = have
	// The address is that on loopback: traffic that is masqueraded into the
	// tunnel takes the link's.
	for _, r := range f.own {
		addr := &netlink.Addr{IPNet: hostNet(gateway(r))}
		if r.Addr().Is6() {
			addr.Flags = unix.IFA_F_NODAD
		}
		if err := netlink.AddrReplace(have, addr); err != nil {
			return fmt.Errorf("address of %s: %w", want.Name, err)
		}
	}
	if err := netlink.LinkSetUp(have); err != nil {
		return fmt.Errorf("link %s: %w", want.Name, err)
	}
	return nil
}

func sameTunnel(have netlink.Link, want *netlink.Vxlan) bool {
	v, ok := have.(*netlink.Vxlan)
	return ok && v.VxlanId == want.VxlanId && v.Port == want.Port && v.SrcAddr.Equal(want.SrcAddr) && !v.Learning &&
		v.MTU == want.MTU && bytes.Equal(v.HardwareAddr, want.HardwareAddr)
}

// apply makes the kernel's tables fit: first what is missing, then what is too
// much goes.
func (f *fabric) apply() error {
	var errs []error
	if f.vxlan != nil {
		errs = append(errs, f.applyNeighbours(), f.applyRemotes())
	}
	for i := range f.routes {
		if err := netlink.RouteReplace(&f.routes[i]); err != nil {
			errs = append(errs, fmt.Errorf("route to %s: %w", f.routes[i].Dst, err))
		}
	}
	return errors.Join(append(errs, f.removeOtherRoutes())...)
}

func (f *fabric) removeOtherRoutes() error {
	have, err := ourRoutes()
	if err != nil {
		return err
	}
	wanted := map[string]int{}
	for _, r := range f.routes {
		wanted[r.Dst.String()] = r.LinkIndex
	}
	var errs []error
	for i := range have {
		if index, ok := wanted[have[i].Dst.String()]; ok && index == have[i].LinkIndex {
			continue
		}
		if err := netlink.RouteDel(&have[i]); err != nil && !errors.Is(err, unix.ESRCH) {
			errs = append(errs, fmt.Errorf("route to %s: %w", have[i].Dst, err))
		}
	}
	return errors.Join(errs...)
}

// ourRoutes are those to other nodes.
func ourRoutes() ([]netlink.Route, error) {
	var all []netlink.Route
	for _, fam := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		list, err := netlink.RouteListFiltered(fam, &netlink.Route{Protocol: routeProtocol}, netlink.RT_FILTER_PROTOCOL)
		if err != nil {
			return nil, fmt.Errorf("list routes: %w", err)
		}
		for _, r := range list {
			if r.Dst != nil {
				all = append(all, r)
			}
		}
	}
	return all, nil
}

// applyNeighbours says which hardware address each peer has.
func (f *fabric) applyNeighbours() error {
	index := f.vxlan.Attrs().Index
	var errs []error
	for ip, mac := range f.neighs {
		err := netlink.NeighSet(&netlink.Neigh{LinkIndex: index, IP: ip.AsSlice(), HardwareAddr: mac, State: netlink.NUD_PERMANENT, Family: family(ip)})
		if err != nil {
			errs = append(errs, fmt.Errorf("neighbour %s: %w", ip, err))
		}
	}
	have, err := netlink.NeighList(index, netlink.FAMILY_ALL)
	if err != nil {
		return errors.Join(append(errs, fmt.Errorf("list neighbours: %w", err))...)
	}
	for i := range have {
		ip, _ := netip.AddrFromSlice(have[i].IP)
		if _, ok := f.neighs[ip.Unmap()]; ok || have[i].State != netlink.NUD_PERMANENT {
			continue
		}
		if err := netlink.NeighDel(&have[i]); err != nil && !errors.Is(err, unix.ENOENT) {
			errs = append(errs, fmt.Errorf("neighbour %s: %w", have[i].IP, err))
		}
	}
	return errors.Join(errs...)
}

// applyRemotes says behind which node each hardware address is.
func (f *fabric) applyRemotes() error {
	index := f.vxlan.Attrs().Index
	have, err := netlink.NeighList(index, unix.AF_BRIDGE)
	if err != nil {
		return fmt.Errorf("list the tunnel's ends: %w", err)
	}
	var errs []error
	there := map[string]bool{}
	for i := range have {
		at, _ := netip.AddrFromSlice(have[i].IP)
		if want, ok := f.remote[have[i].HardwareAddr.String()]; ok && want == at.Unmap() {
			there[have[i].HardwareAddr.String()] = true
			continue
		}
		if err := netlink.NeighDel(&have[i]); err != nil && !errors.Is(err, unix.ENOENT) {
			errs = append(errs, fmt.Errorf("tunnel to %s: %w", have[i].IP, err))
		}
	}
	for text, at := range f.remote {
		if there[text] {
			continue
		}
		mac, err := net.ParseMAC(text)
		if err == nil {
			err = netlink.NeighSet(&netlink.Neigh{
				LinkIndex: index, Family: unix.AF_BRIDGE, State: netlink.NUD_PERMANENT, Flags: netlink.NTF_SELF, IP: at.AsSlice(), HardwareAddr: mac,
			})
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("tunnel to %s: %w", at, err))
		}
	}
	return errors.Join(errs...)
}

// tearDownFabric removes all ways to other nodes.
func tearDownFabric(link string) error {
	routes, err := ourRoutes()
	errs := []error{err, removeLink(vxlanName(link))}
	for i := range routes {
		if err := netlink.RouteDel(&routes[i]); err != nil && !errors.Is(err, unix.ESRCH) {
			errs = append(errs, fmt.Errorf("route to %s: %w", routes[i].Dst, err))
		}
	}
	return errors.Join(errs...)
}

// removeLink removes a link of ours; that there is none is fine.
func removeLink(name string) error {
	l, err := netlink.LinkByName(name)
	if errors.As(err, new(netlink.LinkNotFoundError)) {
		return nil
	}
	if err == nil {
		err = netlink.LinkDel(l)
	}
	if err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("remove link %s: %w", name, err)
	}
	return nil
}
