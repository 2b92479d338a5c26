package proxy

import (
	"encoding/binary"
	"net/netip"

	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
)

// family holds what differs between IPv4 and IPv6 in expressions.
type family struct {
	nfproto      byte
	saddr, daddr uint32 // offsets in the network header
	addrLen      uint32
	unreachable  uint8 // ICMP code of a refused port
	loopback     netip.Prefix
	name         corev1.IPFamily
}

var (
	ipv4 = family{unix.NFPROTO_IPV4, 12, 16, 4, 3, netip.MustParsePrefix("127.0.0.0/8"), corev1.IPv4Protocol}
	ipv6 = family{unix.NFPROTO_IPV6, 8, 24, 16, 4, netip.MustParsePrefix("::1/128"), corev1.IPv6Protocol}
)

// Registers: 1 is 16 bytes wide and the same as 8 to 11, which are 4 each.
// Concatenations lie in neighbouring 4-byte registers.
const (
	reg    = 1
	regAt  = 8
	reg2   = 2 // 16 bytes after reg
	reg2At = 12
	reg3   = 3
	reg3At = 16
)

// masqueradeMark is the mark bit of packets whose source is to be replaced
// (upstream's default bit 14).
const masqueradeMark = 1 << 14

func (f family) loadSource(r uint32) expr.Any {
	return &expr.Payload{DestRegister: r, Base: expr.PayloadBaseNetworkHeader, Offset: f.saddr, Len: f.addrLen}
}

func (f family) loadDest(r uint32) expr.Any {
	return &expr.Payload{DestRegister: r, Base: expr.PayloadBaseNetworkHeader, Offset: f.daddr, Len: f.addrLen}
}

func loadPort(r uint32) expr.Any {
	return &expr.Payload{DestRegister: r, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2}
}

func loadProtocol(r uint32) expr.Any { return &expr.Meta{Key: expr.MetaKeyL4PROTO, Register: r} }

// loadFront loads address . protocol . port from reg on.
func (f family) loadFront() []expr.Any {
	return []expr.Any{f.loadDest(reg), loadProtocol(regAt + f.addrLen/4), loadPort(regAt + f.addrLen/4 + 1)}
}

// inPrefix matches (or, with op CmpOpNeq, does not match) an address against a network.
func (f family) inPrefix(load expr.Any, p netip.Prefix, op expr.CmpOp) []expr.Any {
	mask := make([]byte, f.addrLen)
	for i := range p.Bits() {
		mask[i/8] |= 1 << (7 - i%8)
	}
	return []expr.Any{
		load,
		&expr.Bitwise{SourceRegister: reg, DestRegister: reg, Len: f.addrLen, Mask: mask, Xor: make([]byte, f.addrLen)},
		&expr.Cmp{Op: op, Register: reg, Data: p.Masked().Addr().AsSlice()},
	}
}

// local matches an address of this machine.
func local(source bool) []expr.Any {
	return []expr.Any{
		&expr.Fib{Register: reg, ResultADDRTYPE: true, FlagSADDR: source, FlagDADDR: !source},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg, Data: binaryutil.NativeEndian.PutUint32(unix.RTN_LOCAL)},
	}
}

// elsewhere matches packets that are not to an address of this machine.
func elsewhere() []expr.Any {
	return []expr.Any{
		&expr.Fib{Register: reg, ResultADDRTYPE: true, FlagDADDR: true},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: reg, Data: binaryutil.NativeEndian.PutUint32(unix.RTN_LOCAL)},
	}
}

// mark sets the masquerade bit.
func mark() []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyMARK, Register: reg},
		&expr.Bitwise{SourceRegister: reg, DestRegister: reg, Len: 4,
			Mask: binaryutil.NativeEndian.PutUint32(^uint32(masqueradeMark)), Xor: binaryutil.NativeEndian.PutUint32(masqueradeMark)},
		&expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: reg},
	}
}

// bits matches when any of the bits of a 4-byte value in reg is set (or none, with CmpOpEq).
func bits(load expr.Any, mask uint32, op expr.CmpOp) []expr.Any {
	return []expr.Any{
		load,
		&expr.Bitwise{SourceRegister: reg, DestRegister: reg, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(mask), Xor: make([]byte, 4)},
		&expr.Cmp{Op: op, Register: reg, Data: make([]byte, 4)},
	}
}

func jump(chain string) expr.Any { return &expr.Verdict{Kind: expr.VerdictJump, Chain: chain} }

func goTo(chain string) *expr.Verdict { return &expr.Verdict{Kind: expr.VerdictGoto, Chain: chain} }

func drop() *expr.Verdict { return &expr.Verdict{Kind: expr.VerdictDrop} }

// dnat sends the packet to the address . port that lie from register at on.
func (f family) dnat(at uint32) expr.Any {
	return &expr.NAT{Type: expr.NATTypeDestNAT, Family: uint32(f.nfproto), RegAddrMin: wide(at), RegProtoMin: at + f.addrLen/4}
}

// wide names the 16-byte register that begins at a 4-byte one.
func wide(at uint32) uint32 { return (at-regAt)/4 + reg }

// frontKey is the map key address . protocol . port, each padded to 4 bytes.
func frontKey(ip netip.Addr, protocol corev1.Protocol, port uint16) []byte {
	return append(ip.AsSlice(), portKey(protocol, port)...)
}

// portKey is the map key protocol . port.
func portKey(protocol corev1.Protocol, port uint16) []byte {
	key := make([]byte, 8)
	key[0] = protocolNumber(protocol)
	binary.BigEndian.PutUint16(key[4:], port)
	return key
}

// data is the map value address . port.
func (e endpoint) data() []byte {
	port := make([]byte, 4)
	binary.BigEndian.PutUint16(port, e.port)
	return append(e.addr.AsSlice(), port...)
}

func protocolNumber(p corev1.Protocol) byte {
	switch p {
	case corev1.ProtocolUDP:
		return unix.IPPROTO_UDP
	case corev1.ProtocolSCTP:
		return unix.IPPROTO_SCTP
	default:
		return unix.IPPROTO_TCP
	}
}
