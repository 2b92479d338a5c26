package podnet

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// podLink is what a pod was given.
type podLink struct {
	hostName string
	hostMAC  net.HardwareAddr
	podMAC   net.HardwareAddr
	gateways []netip.Addr
	mtu      int
}

// hostName names the node's end of a pod's link: at most 15 bytes, the same
// for the same pod each time.
func hostName(link, key string) string {
	sum := sha256.Sum256([]byte(key))
	return (link + "-" + hex.EncodeToString(sum[:]))[:15]
}

// hardwareAddr makes a locally administered address for one end of a pod's link.
func hardwareAddr(key, end string) net.HardwareAddr {
	sum := sha256.Sum256([]byte(end + key))
	sum[0] = sum[0]&0xfe | 0x02
	return sum[:6]
}

// setUpNode gives the node its gateway addresses and turns forwarding on.
// n.mu is held.
//
// The addresses are on the loopback link: it is there in every kernel, always
// up, and the node answers for its addresses on every link anyhow.
func (n *Network) setUpNode() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("link lo: %w", err)
	}
	old, err := readRanges(n.cfg.rangesFile())
	if err != nil {
		return err
	}
	for _, r := range old {
		if !slices.Contains(n.cidrs, r) {
			if err := removeRange(lo, r); err != nil {
				return err
			}
		}
	}
	if err := writeRanges(n.cfg.rangesFile(), n.cidrs); err != nil {
		return err
	}
	for _, r := range n.cidrs {
		if err := addRange(lo, r); err != nil {
			return err
		}
	}
	return nil
}

// addRange makes a pod CIDR the node's own.
func addRange(lo netlink.Link, r netip.Prefix) error {
	if err := forwarding(r.Addr().Is6()); err != nil {
		return err
	}
	gw := gateway(r)
	addr := &netlink.Addr{IPNet: hostNet(gw)}
	if gw.Is6() {
		addr.Flags = unix.IFA_F_NODAD
	}
	if err := netlink.AddrReplace(lo, addr); err != nil {
		return fmt.Errorf("address %s: %w", gw, err)
	}
	// Addresses that no pod has are nobody's: they must not follow the
	// default route out of the node. The routes to pods are longer.
	if err := netlink.RouteReplace(unreachable(r)); err != nil {
		return fmt.Errorf("route to %s: %w", r, err)
	}
	return nil
}

// removeRange takes back what addRange did, but forwarding: others may want it.
func removeRange(lo netlink.Link, r netip.Prefix) error {
	err := netlink.AddrDel(lo, &netlink.Addr{IPNet: hostNet(gateway(r))})
	if err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
		return fmt.Errorf("address %s: %w", gateway(r), err)
	}
	if err := netlink.RouteDel(unreachable(r)); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("route to %s: %w", r, err)
	}
	return nil
}

func unreachable(r netip.Prefix) *netlink.Route {
	return &netlink.Route{Dst: ipNet(r), Type: unix.RTN_UNREACHABLE, Priority: 4096}
}

// readRanges tells which pod CIDRs the node was set up for.
func readRanges(file string) ([]netip.Prefix, error) {
	data, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	var list []netip.Prefix
	if err := json.Unmarshal(data, &list); err != nil {
		return nil, nil //nolint:nilerr // cut off by a power loss, after which no address is left either
	}
	return list, nil
}

func writeRanges(file string, list []netip.Prefix) error {
	data, err := json.Marshal(list)
	if err != nil {
		return err
	}
	return replaceFile(file, data, 0o600)
}

func forwarding(v6 bool) error {
	file := "/proc/sys/net/ipv4/ip_forward"
	if v6 {
		file = "/proc/sys/net/ipv6/conf/all/forwarding"
	}
	return sysctl(file, "1")
}

// sysctl writes a value unless it is there: under /proc/sys mounted read-only
// the right value is enough.
func sysctl(file, value string) error {
	now, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if strings.TrimSpace(string(now)) == value {
		return nil
	}
	return os.WriteFile(file, []byte(value), 0)
}

// defaultMTU is that of the link by which the node reaches the world.
func defaultMTU() int {
	// Addresses kept for documentation: no route of its own leads there.
	for _, far := range []net.IP{{198, 51, 100, 1}, net.ParseIP("2001:db8::1")} {
		routes, err := netlink.RouteGet(far)
		if err != nil || len(routes) == 0 {
			continue
		}
		link, err := netlink.LinkByIndex(routes[0].LinkIndex)
		if err == nil && link.Attrs().MTU >= 576 && link.Attrs().Flags&net.FlagLoopback == 0 {
			return min(link.Attrs().MTU, 65535)
		}
	}
	return 1500
}

// connect makes a pod's link, anew if it exists.
func connect(link string, a attachment, gateways []netip.Addr, mtu int) (podLink, error) {
	l := podLink{
		hostName: hostName(link, a.key()),
		hostMAC:  hardwareAddr(a.key(), "node"),
		podMAC:   hardwareAddr(a.key(), "pod"),
		gateways: gateways,
		mtu:      mtu,
	}
	ns, err := netns.GetFromPath(a.NetNS)
	if err != nil {
		return l, fmt.Errorf("network namespace %s: %w", a.NetNS, err)
	}
	defer ns.Close()
	veth := &netlink.Veth{
		LinkAttrs:        netlink.LinkAttrs{Name: l.hostName, MTU: mtu, HardwareAddr: l.hostMAC, Flags: net.FlagUp, TxQLen: -1},
		PeerName:         a.IfName,
		PeerNamespace:    netlink.NsFd(ns),
		PeerHardwareAddr: l.podMAC,
		PeerTxQLen:       -1,
	}
	err = netlink.LinkAdd(veth)
	if errors.Is(err, unix.EEXIST) {
		// Left by an ADD that did not finish.
		if err := disconnect(link, a.key()); err != nil {
			return l, err
		}
		err = netlink.LinkAdd(veth)
	}
	if err != nil {
		return l, fmt.Errorf("link pair %s: %w", l.hostName, err)
	}
	if err := connectNode(veth, a, l); err != nil {
		return l, err
	}
	if err := connectPod(ns, a, l); err != nil {
		return l, fmt.Errorf("in the pod: %w", err)
	}
	return l, nil
}

// connectNode tells the node where the pod is.
func connectNode(veth *netlink.Veth, a attachment, l podLink) error {
	for i, ip := range a.IPs {
		err := netlink.NeighSet(&netlink.Neigh{LinkIndex: veth.Index, IP: ip.AsSlice(), HardwareAddr: l.podMAC, State: netlink.NUD_PERMANENT, Family: family(ip)})
		if err != nil {
			return fmt.Errorf("neighbour %s: %w", ip, err)
		}
		err = netlink.RouteReplace(&netlink.Route{LinkIndex: veth.Index, Dst: hostNet(ip), Scope: netlink.SCOPE_LINK, Src: l.gateways[i].AsSlice()})
		if err != nil {
			return fmt.Errorf("route to %s: %w", ip, err)
		}
	}
	if len(a.Ports) > 0 {
		// From the node itself a host port is reached at 127.0.0.1 too; the
		// rules keep pods from the node's own loopback.
		return sysctl(filepath.Join("/proc/sys/net/ipv4/conf", l.hostName, "route_localnet"), "1")
	}
	return nil
}

// connectPod gives the pod's end its addresses and routes.
func connectPod(ns netns.NsHandle, a attachment, l podLink) error {
	h, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer h.Close()
	eth, err := h.LinkByName(a.IfName)
	if err != nil {
		return err
	}
	for _, ip := range a.IPs {
		addr := &netlink.Addr{IPNet: hostNet(ip)}
		if ip.Is6() {
			addr.Flags = unix.IFA_F_NODAD
		}
		if err := h.AddrReplace(eth, addr); err != nil {
			return fmt.Errorf("address %s: %w", ip, err)
		}
	}
	if err := h.LinkSetUp(eth); err != nil {
		return err
	}
	index := eth.Attrs().Index
	for i, ip := range a.IPs {
		gw := l.gateways[i]
		err := h.NeighSet(&netlink.Neigh{LinkIndex: index, IP: gw.AsSlice(), HardwareAddr: l.hostMAC, State: netlink.NUD_PERMANENT, Family: family(ip)})
		if err != nil {
			return fmt.Errorf("neighbour %s: %w", gw, err)
		}
		err = h.RouteReplace(&netlink.Route{LinkIndex: index, Dst: hostNet(gw), Scope: netlink.SCOPE_LINK, Src: ip.AsSlice()})
		if err != nil {
			return fmt.Errorf("route to %s: %w", gw, err)
		}
		all := &net.IPNet{IP: make(net.IP, ip.BitLen()/8), Mask: net.CIDRMask(0, ip.BitLen())}
		err = h.RouteReplace(&netlink.Route{LinkIndex: index, Dst: all, Gw: gw.AsSlice(), Src: ip.AsSlice()})
		if err != nil {
			return fmt.Errorf("default route: %w", err)
		}
	}
	return nil
}

// disconnect removes a pod's link with its routes; that there is none is fine.
func disconnect(link, key string) error {
	name := hostName(link, key)
	l, err := netlink.LinkByName(name)
	if err == nil {
		err = netlink.LinkDel(l)
	}
	if err == nil || errors.Is(err, unix.ENODEV) || errors.As(err, new(netlink.LinkNotFoundError)) {
		return nil
	}
	return fmt.Errorf("remove link %s: %w", name, err)
}

// inspect compares a pod's link with what connect made.
func inspect(link string, a attachment) error {
	host, err := netlink.LinkByName(hostName(link, a.key()))
	if err != nil {
		return fmt.Errorf("the node's end of the pod's link: %w", err)
	}
	for _, ip := range a.IPs {
		routes, err := netlink.RouteListFiltered(family(ip), &netlink.Route{Dst: hostNet(ip), LinkIndex: host.Attrs().Index}, netlink.RT_FILTER_DST|netlink.RT_FILTER_OIF)
		if err != nil {
			return err
		}
		if len(routes) == 0 {
			return fmt.Errorf("the node has no route to %s", ip)
		}
	}
	ns, err := netns.GetFromPath(a.NetNS)
	if err != nil {
		return fmt.Errorf("network namespace %s: %w", a.NetNS, err)
	}
	defer ns.Close()
	h, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer h.Close()
	eth, err := h.LinkByName(a.IfName)
	if err != nil {
		return fmt.Errorf("the pod's end of its link: %w", err)
	}
	have, err := h.AddrList(eth, netlink.FAMILY_ALL)
	if err != nil {
		return err
	}
	for _, ip := range a.IPs {
		if !hasAddr(have, ip) {
			return fmt.Errorf("the pod has lost its address %s", ip)
		}
	}
	return nil
}

func hasAddr(list []netlink.Addr, ip netip.Addr) bool {
	for _, a := range list {
		if got, ok := netip.AddrFromSlice(a.IP); ok && got.Unmap() == ip {
			return true
		}
	}
	return false
}

// tearDownNode removes the gateway addresses and all pods' links.
func tearDownNode(link, rangesFile string) error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	ranges, err := readRanges(rangesFile)
	if err != nil {
		return err
	}
	var errs []error
	for _, r := range ranges {
		errs = append(errs, removeRange(lo, r))
	}
	links, err := netlink.LinkList()
	if err != nil {
		return err
	}
	for _, l := range links {
		if l.Type() != "veth" || !strings.HasPrefix(l.Attrs().Name, link+"-") {
			continue
		}
		if err := netlink.LinkDel(l); err != nil && !errors.Is(err, unix.ENODEV) {
			errs = append(errs, err)
		}
	}
	return errors.Join(append(errs, removeIfExists(rangesFile))...)
}

func family(ip netip.Addr) int {
	if ip.Is4() {
		return netlink.FAMILY_V4
	}
	return netlink.FAMILY_V6
}

func hostNet(ip netip.Addr) *net.IPNet { return ipNet(netip.PrefixFrom(ip, ip.BitLen())) }

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
