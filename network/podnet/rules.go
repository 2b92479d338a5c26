package podnet

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// rules is our nftables table: masquerade, host ports, and what keeps pods from
// addresses that are not theirs. It stands beside other tables and touches none.
//
//	prerouting  raw:   spoofed source, node's loopback, into the tunnel from a pod → drop
//	prerouting  dstnat ┐ to an address of the node: map port → pod
//	output      dstnat ┘
//	postrouting srcnat: pod to itself by host port, loopback to pod,
//	                    pod to outside the cluster → masquerade
type rules struct {
	pods    string // name pattern of pods' links, without the asterisk
	table   *nftables.Table
	cluster []netip.Prefix
	tunnels bool // between nodes
	ip4     portMaps
	ip6     portMaps

	mu sync.Mutex
	// owner tells which pod each element stands for.
	owner map[string]string
}

// portMaps are the host ports of one address family.
type portMaps struct {
	v6 bool
	// any maps protocol . port, one maps address . protocol . port.
	any, one *nftables.Set
	// hairpin holds address . address of pods with host ports: what such a
	// pod sends to its own host port needs another source to come back.
	hairpin *nftables.Set
}

func newRules(link string, cluster []netip.Prefix, tunnels bool) *rules {
	r := &rules{
		pods:    link + "-",
		table:   &nftables.Table{Family: nftables.TableFamilyINet, Name: link + "-podnet"},
		cluster: cluster,
		tunnels: tunnels,
		owner:   map[string]string{},
	}
	r.ip4 = r.maps(false, "4", nftables.TypeIPAddr)
	r.ip6 = r.maps(true, "6", nftables.TypeIP6Addr)
	return r
}

func (r *rules) maps(v6 bool, suffix string, addr nftables.SetDatatype) portMaps {
	proto, port := nftables.TypeInetProto, nftables.TypeInetService
	set := func(name string, isMap bool, key ...nftables.SetDatatype) *nftables.Set {
		s := &nftables.Set{Table: r.table, Name: name + suffix, KeyType: nftables.MustConcatSetType(key...), Concatenation: true}
		if isMap {
			s.IsMap, s.DataType = true, nftables.MustConcatSetType(addr, port)
		}
		return s
	}
	return portMaps{
		v6:      v6,
		any:     set("hostports", true, proto, port),
		one:     set("hostports-addr", true, addr, proto, port),
		hairpin: set("hairpin", false, addr, addr),
	}
}

func (r *rules) families() []portMaps { return []portMaps{r.ip4, r.ip6} }

// replace writes the whole table as one transaction.
func (r *rules) replace(cidrs []netip.Prefix, pods []attachment) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	c, err := nftables.New()
	if err != nil {
		return err
	}
	c.AddTable(r.table) // so that there is one to delete
	c.DelTable(r.table)
	c.AddTable(r.table)
	for _, m := range r.families() {
		for _, s := range []*nftables.Set{m.any, m.one, m.hairpin} {
			if err := c.AddSet(s, nil); err != nil {
				return err
			}
		}
	}
	r.guard(c)
	r.hostPorts(c)
	r.masquerade(c, cidrs)
	clear(r.owner)
	for _, a := range pods {
		list, err := r.elements(a)
		if err != nil {
			return err
		}
		for _, e := range list {
			if _, taken := r.owner[e.key()]; taken {
				continue
			}
			r.owner[e.key()] = a.key()
			if err := c.SetAddElements(e.set, []nftables.SetElement{e.SetElement}); err != nil {
				return err
			}
		}
	}
	return c.Flush()
}

// remove deletes the table and what openForward put into others.
func (r *rules) remove(ctx context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	c, err := nftables.New()
	if err != nil {
		return err
	}
	c.AddTable(r.table)
	c.DelTable(r.table)
	return errors.Join(c.Flush(), r.closeForward(ctx))
}

// addPorts maps the host ports of a pod. A port that another pod has is an
// error: the scheduler keeps them apart, so it is a pod that is about to go.
func (r *rules) addPorts(a attachment) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	list, err := r.elements(a)
	if err != nil || len(list) == 0 {
		return err
	}
	for _, e := range list {
		if owner, taken := r.owner[e.key()]; taken && owner != a.key() {
			return errors.New("another pod has one of the pod's host ports")
		}
	}
	if err := r.change(list, (*nftables.Conn).SetAddElements); err != nil {
		return err
	}
	r.own(a.key(), list)
	return nil
}

// removePorts unmaps those of the pod's host ports that are mapped to it.
func (r *rules) removePorts(a attachment) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	all, err := r.elements(a)
	if err != nil {
		return err
	}
	var ours []element
	for _, e := range all {
		if r.owner[e.key()] == a.key() {
			ours = append(ours, e)
		}
	}
	// ENOENT: somebody has emptied the table.
	if err := r.change(ours, (*nftables.Conn).SetDeleteElements); err != nil && !errors.Is(err, unix.ENOENT) {
		return err
	}
	for _, e := range ours {
		delete(r.owner, e.key())
	}
	return nil
}

// element is one entry of one of our sets or maps.
type element struct {
	set *nftables.Set
	nftables.SetElement
}

func (e element) key() string { return e.set.Name + " " + string(e.Key) }

func (r *rules) own(pod string, list []element) {
	for _, e := range list {
		r.owner[e.key()] = pod
	}
}

// change applies one operation to all elements as one transaction. r.mu is held.
func (r *rules) change(list []element, apply func(*nftables.Conn, *nftables.Set, []nftables.SetElement) error) error {
	if len(list) == 0 {
		return nil
	}
	c, err := nftables.New()
	if err != nil {
		return err
	}
	for _, e := range list {
		if err := apply(c, e.set, []nftables.SetElement{e.SetElement}); err != nil {
			return err
		}
	}
	return c.Flush()
}

// elements lists what stands for a pod's host ports, each key once.
func (r *rules) elements(a attachment) ([]element, error) {
	if len(a.Ports) == 0 {
		return nil, nil
	}
	var list []element
	for _, ip := range a.IPs {
		m := r.ip4
		if ip.Is6() {
			m = r.ip6
		}
		list = append(list, element{m.hairpin, nftables.SetElement{Key: append(ip.AsSlice(), ip.AsSlice()...)}})
		for _, p := range a.Ports {
			proto, ok := protocol(p.Protocol)
			if !ok {
				return nil, fmt.Errorf("unknown protocol %q", p.Protocol)
			}
			set, key := m.any, append(field(proto), port(p.HostPort)...)
			if host, err := netip.ParseAddr(p.HostIP); err == nil {
				if host = host.Unmap(); host.Is6() != m.v6 {
					continue // of the pod's other address, if it has one
				}
				if !host.IsUnspecified() {
					set, key = m.one, append(host.AsSlice(), key...)
				}
			}
			e := element{set, nftables.SetElement{Key: key, Val: append(ip.AsSlice(), port(p.ContainerPort)...)}}
			if !slices.ContainsFunc(list, func(o element) bool { return o.key() == e.key() }) {
				list = append(list, e)
			}
		}
	}
	return list, nil
}

// protocol gives the number of a protocol's name; empty means TCP.
func protocol(name string) (byte, bool) {
	switch name {
	case "", "tcp", "TCP":
		return unix.IPPROTO_TCP, true
	case "udp", "UDP":
		return unix.IPPROTO_UDP, true
	case "sctp", "SCTP":
		return unix.IPPROTO_SCTP, true
	}
	return 0, false
}

// field pads a byte as concatenated keys want it: to four bytes.
func field(b byte) []byte { return []byte{b, 0, 0, 0} }

// port writes a port in network order, padded to four bytes.
func port(p int) []byte { return append(binary.BigEndian.AppendUint16(nil, uint16(p)), 0, 0) }

func (r *rules) chain(c *nftables.Conn, name string, typ nftables.ChainType, hook *nftables.ChainHook, priority nftables.ChainPriority) *nftables.Chain {
	return c.AddChain(&nftables.Chain{Table: r.table, Name: name, Type: typ, Hooknum: hook, Priority: &priority})
}

func (r *rules) rule(c *nftables.Conn, chain *nftables.Chain, parts ...[]expr.Any) {
	var all []expr.Any
	for _, p := range parts {
		all = append(all, p...)
	}
	c.AddRule(&nftables.Rule{Table: r.table, Chain: chain, Exprs: all})
}

// guard drops what pods have no business to send: from an address that is not
// routed to them, or to the node's loopback, which route_localnet opens.
func (r *rules) guard(c *nftables.Conn) {
	ch := r.chain(c, "guard", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, *nftables.ChainPriorityRaw)
	drop := []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}}
	noRouteBack := []expr.Any{
		&expr.Fib{Register: 1, FlagSADDR: true, FlagIIF: true, ResultOIF: true},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{0, 0, 0, 0}},
	}
	from := ifName(expr.MetaKeyIIFNAME, expr.CmpOpEq, r.pods)
	r.rule(c, ch, from, nfproto(false), inPrefix(false, netip.MustParsePrefix("127.0.0.0/8"), expr.CmpOpEq), drop)
	r.rule(c, ch, from, nfproto(false), noRouteBack, drop)
	// Neighbour discovery speaks from link-local and unspecified addresses.
	r.rule(c, ch, from, nfproto(true),
		inPrefix(true, netip.MustParsePrefix("fe80::/10"), expr.CmpOpNeq, source),
		inPrefix(true, netip.MustParsePrefix("::/128"), expr.CmpOpNeq, source), noRouteBack, drop)
	if r.tunnels {
		r.guardTunnel(c, ch, from, drop)
	}
}

// guardTunnel keeps pods from speaking to nodes' ends of the tunnel, which take
// packets from whoever sends them: a pod could send in the name of any other.
// Pods reach nodes by their own addresses, and by those on the nodes' loopback,
// which are of the pods' networks.
func (r *rules) guardTunnel(c *nftables.Conn, ch *nftables.Chain, fromPod, drop []expr.Any) {
	for _, v6 := range []bool{false, true} {
		into := append(nfproto(v6), protoPort(reg32(0))...)
		into = append(into, &expr.Cmp{Op: expr.CmpOpEq, Register: reg32(0), Data: append(field(unix.IPPROTO_UDP), port(vxlanPort)...)})
		outside := [][]expr.Any{fromPod, into}
		for _, p := range r.cluster {
			if p.Addr().Is6() != v6 {
				continue
			}
			outside = append(outside, inPrefix(v6, p, expr.CmpOpNeq))
			r.rule(c, ch, into, inPrefix(v6, p, expr.CmpOpEq, source), toNode(), drop)
		}
		r.rule(c, ch, append(outside, drop)...)
		r.rule(c, ch, fromPod, into, toNode(), drop)
	}
}

// toNode matches packets to an address of this machine.
func toNode() []expr.Any {
	return []expr.Any{
		&expr.Fib{Register: 1, FlagDADDR: true, ResultADDRTYPE: true},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binary.NativeEndian.AppendUint32(nil, unix.RTN_LOCAL)},
	}
}

func (r *rules) hostPorts(c *nftables.Conn) {
	for name, hook := range map[string]*nftables.ChainHook{"hostports-in": nftables.ChainHookPrerouting, "hostports-out": nftables.ChainHookOutput} {
		ch := r.chain(c, name, nftables.ChainTypeNAT, hook, *nftables.ChainPriorityNATDest)
		for _, m := range r.families() {
			r.rule(c, ch, nfproto(m.v6), toNode(), m.keyOfAddress(), m.dnat(m.one))
			r.rule(c, ch, nfproto(m.v6), toNode(), protoPort(reg32(0)), m.dnat(m.any))
		}
	}
}

// keyOfAddress loads destination . protocol . port.
func (m portMaps) keyOfAddress() []expr.Any {
	words := 1
	if m.v6 {
		words = 4
	}
	return append(addrLoad(m.v6, destination, reg32(0)), protoPort(reg32(words))...)
}

// dnat looks the key at the first register up and sends the packet there.
func (m portMaps) dnat(set *nftables.Set) []expr.Any {
	fam, words := uint32(unix.NFPROTO_IPV4), 1
	if m.v6 {
		fam, words = unix.NFPROTO_IPV6, 4
	}
	return []expr.Any{
		&expr.Lookup{SourceRegister: reg32(0), DestRegister: reg32(0), IsDestRegSet: true, SetName: set.Name, SetID: set.ID},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: fam, RegAddrMin: reg32(0), RegProtoMin: reg32(words), Specified: true},
	}
}

func (r *rules) masquerade(c *nftables.Conn, cidrs []netip.Prefix) {
	ch := r.chain(c, "masquerade", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, *nftables.ChainPriorityNATSource)
	masq := []expr.Any{&expr.Masq{FullyRandom: true}}
	toPod := ifName(expr.MetaKeyOIFNAME, expr.CmpOpEq, r.pods)
	for _, m := range r.families() {
		words := 1
		if m.v6 {
			words = 4
		}
		key := append(addrLoad(m.v6, source, reg32(0)), addrLoad(m.v6, destination, reg32(words))...)
		lookup := []expr.Any{&expr.Lookup{SourceRegister: reg32(0), SetName: m.hairpin.Name, SetID: m.hairpin.ID}}
		r.rule(c, ch, nfproto(m.v6), toPod, key, lookup, masq)
	}
	r.rule(c, ch, nfproto(false), toPod, inPrefix(false, netip.MustParsePrefix("127.0.0.0/8"), expr.CmpOpEq, source), masq)
	notToPod := ifName(expr.MetaKeyOIFNAME, expr.CmpOpNeq, r.pods)
	for _, p := range cidrs {
		v6 := p.Addr().Is6()
		parts := [][]expr.Any{nfproto(v6), inPrefix(v6, p, expr.CmpOpEq, source), notToPod}
		for _, keep := range r.keepSource(v6, p) {
			parts = append(parts, inPrefix(v6, keep, expr.CmpOpNeq))
		}
		r.rule(c, ch, append(parts, masq)...)
	}
}

// keepSource lists where pods appear with their own address.
func (r *rules) keepSource(v6 bool, own netip.Prefix) []netip.Prefix {
	list := []netip.Prefix{own}
	for _, p := range r.cluster {
		if p.Addr().Is6() == v6 {
			list = append(list, p.Masked())
		}
	}
	if v6 {
		return append(list, netip.MustParsePrefix("ff00::/8"))
	}
	return append(list, netip.MustParsePrefix("224.0.0.0/4"))
}

// direction chooses one of a packet's two addresses.
type direction int

const (
	destination direction = iota
	source
)

// reg32 numbers the 32-bit registers.
func reg32(i int) uint32 { return uint32(unix.NFT_REG32_00 + i) }

func nfproto(v6 bool) []expr.Any {
	proto := byte(unix.NFPROTO_IPV4)
	if v6 {
		proto = unix.NFPROTO_IPV6
	}
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{proto}},
	}
}

// ifName compares the beginning of a link's name: a comparison without the
// final NUL is nft's "name*".
func ifName(key expr.MetaKey, op expr.CmpOp, prefix string) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: key, Register: 1},
		&expr.Cmp{Op: op, Register: 1, Data: []byte(prefix)},
	}
}

func addrLoad(v6 bool, d direction, register uint32) []expr.Any {
	offset, size := uint32(16), uint32(4)
	if v6 {
		offset, size = 24, 16
	}
	if d == source {
		offset -= size
	}
	return []expr.Any{&expr.Payload{DestRegister: register, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: size}}
}

// protoPort loads protocol . destination port into two registers.
func protoPort(register uint32) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: register},
		&expr.Payload{DestRegister: register + 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
	}
}

// inPrefix compares the destination, or another address, with a prefix.
func inPrefix(v6 bool, p netip.Prefix, op expr.CmpOp, d ...direction) []expr.Any {
	which := destination
	if len(d) > 0 {
		which = d[0]
	}
	n := ipNet(p.Masked())
	size := uint32(len(n.IP))
	return append(addrLoad(v6, which, 1),
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: size, Mask: n.Mask, Xor: make([]byte, size)},
		&expr.Cmp{Op: op, Register: 1, Data: n.IP})
}
