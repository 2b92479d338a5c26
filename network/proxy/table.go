package proxy

import (
	"fmt"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// table is our nftables table for one address family:
//
//	prerouting, output ─> services ─> @service-ips, @service-nodeports ─> svc-…, ext-…: DNAT
//	postrouting: masquerade what is marked, and pods that reach themselves
//	input, forward, output (before DNAT) ─> refused: Services without endpoints
//	forward, output (after DNAT) ─> strays: ports that a cluster IP does not have,
//	    and addresses for Services that no Service has
type table struct {
	family
	conn  *nftables.Conn
	table *nftables.Table
	pods  netip.Prefix

	serviceIPs, servicePorts *nftables.Set // front -> verdict
	refusedIPs, refusedPorts *nftables.Set // front -> verdict
	clusterIPs               *nftables.Set
	hairpins                 *nftables.Set
	chains                   map[string]*nftables.Chain
}

const (
	chainServices = "services"
	chainRefused  = "refused"
	chainStrays   = "strays"
	chainReject   = "reject"
)

func newTable(conn *nftables.Conn, name string, fam family, pods netip.Prefix) *table {
	nf := nftables.TableFamilyIPv4
	if fam == ipv6 {
		nf = nftables.TableFamilyIPv6
	}
	t := &table{family: fam, conn: conn, pods: pods, table: &nftables.Table{Name: name, Family: nf}, chains: map[string]*nftables.Chain{}}
	addr := nftables.TypeIPAddr
	if fam == ipv6 {
		addr = nftables.TypeIP6Addr
	}
	front := nftables.MustConcatSetType(addr, nftables.TypeInetProto, nftables.TypeInetService)
	port := nftables.MustConcatSetType(nftables.TypeInetProto, nftables.TypeInetService)
	verdicts := func(name string, key nftables.SetDatatype) *nftables.Set {
		return &nftables.Set{Table: t.table, Name: name, IsMap: true, Concatenation: true, KeyType: key, DataType: nftables.TypeVerdict}
	}
	t.serviceIPs, t.servicePorts = verdicts("service-ips", front), verdicts("service-nodeports", port)
	t.refusedIPs, t.refusedPorts = verdicts("refused-ips", front), verdicts("refused-nodeports", port)
	t.clusterIPs = &nftables.Set{Table: t.table, Name: "cluster-ips", KeyType: addr}
	t.hairpins = &nftables.Set{Table: t.table, Name: "hairpins", Concatenation: true, KeyType: nftables.MustConcatSetType(addr, addr)}
	return t
}

// reset makes the base of the table and empties whatever an earlier run left
// in it, in the same transaction as the caller's first fronts: connections
// never see a half-made table.
func (t *table) reset() error {
	// Adding first makes the removal valid when there is no such table.
	t.conn.AddTable(t.table)
	t.conn.DelTable(t.table)
	t.conn.AddTable(t.table)
	for _, s := range []*nftables.Set{t.serviceIPs, t.servicePorts, t.refusedIPs, t.refusedPorts, t.clusterIPs, t.hairpins} {
		s.ID = 0
		if err := t.conn.AddSet(s, nil); err != nil {
			return fmt.Errorf("set %s: %w", s.Name, err)
		}
	}
	clear(t.chains)
	for _, name := range []string{chainServices, chainRefused, chainStrays, chainReject} {
		t.chain(name)
	}
	t.baseChains()
	t.rule(chainServices, t.loadFront(), lookup(t.serviceIPs))
	t.rule(chainServices, local(false), []expr.Any{loadProtocol(reg), loadPort(regAt + 1)}, lookup(t.servicePorts))
	t.rule(chainRefused, t.loadFront(), lookup(t.refusedIPs))
	t.rule(chainRefused, local(false), []expr.Any{loadProtocol(reg), loadPort(regAt + 1)}, lookup(t.refusedPorts))
	t.refuseStrays()
	t.rule(chainReject, []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_ICMP_UNREACH, Code: t.unreachable}})
	return nil
}

func (t *table) refuseStrays() {
	t.rule(chainStrays, []expr.Any{t.loadDest(reg), &expr.Lookup{SourceRegister: reg, SetName: t.clusterIPs.Name, SetID: t.clusterIPs.ID}, goTo(chainReject)})
}

func (t *table) baseChains() {
	base := func(name string, kind nftables.ChainType, hook *nftables.ChainHook, priority nftables.ChainPriority, rules ...[]expr.Any) {
		t.chains[name] = t.conn.AddChain(&nftables.Chain{Name: name, Table: t.table, Type: kind, Hooknum: hook, Priority: &priority})
		for _, r := range rules {
			t.rule(name, r)
		}
	}
	ifNew := func(chain string) []expr.Any {
		return append(bits(&expr.Ct{Key: expr.CtKeySTATE, Register: reg}, expr.CtStateBitNEW, expr.CmpOpNeq), jump(chain))
	}
	toRefused, toStrays := ifNew(chainRefused), ifNew(chainStrays)
	const before, after = -110, -90 // DNAT is at -100

	base("prerouting", nftables.ChainTypeNAT, nftables.ChainHookPrerouting, *nftables.ChainPriorityNATDest, []expr.Any{jump(chainServices)})
	base("output", nftables.ChainTypeNAT, nftables.ChainHookOutput, *nftables.ChainPriorityNATDest, []expr.Any{jump(chainServices)})
	base("filter-output", nftables.ChainTypeFilter, nftables.ChainHookOutput, before, toRefused)
	base("stray-output", nftables.ChainTypeFilter, nftables.ChainHookOutput, after, toStrays)
	base("filter-forward", nftables.ChainTypeFilter, nftables.ChainHookForward, before, toRefused, toStrays)
	base("filter-input", nftables.ChainTypeFilter, nftables.ChainHookInput, before, toRefused, t.martians())
	base("postrouting", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, *nftables.ChainPriorityNATSource, t.masquerades()...)
}

// martians drops what comes from outside for a loopback address, which
// route_localnet would let in, unless it belongs to a connection through a
// node port (CVE-2020-8558).
func (t *table) martians() []expr.Any {
	const statusDNAT = 1 << 5
	known := expr.CtStateBitESTABLISHED | expr.CtStateBitRELATED
	r := t.inPrefix(t.loadDest(reg), t.loopback, expr.CmpOpEq)
	r = append(r, t.inPrefix(t.loadSource(reg), t.loopback, expr.CmpOpNeq)...)
	r = append(r, bits(&expr.Ct{Key: expr.CtKeySTATE, Register: reg}, known, expr.CmpOpEq)...)
	r = append(r, bits(&expr.Ct{Key: expr.CtKeySTATUS, Register: reg}, statusDNAT, expr.CmpOpEq)...)
	return append(r, drop())
}

func (t *table) masquerades() [][]expr.Any {
	const statusDNAT = 1 << 5
	marked := bits(&expr.Meta{Key: expr.MetaKeyMARK, Register: reg}, masqueradeMark, expr.CmpOpNeq)
	marked = append(marked,
		&expr.Meta{Key: expr.MetaKeyMARK, Register: reg},
		&expr.Bitwise{SourceRegister: reg, DestRegister: reg, Len: 4,
			Mask: binaryutil.NativeEndian.PutUint32(^uint32(masqueradeMark)), Xor: make([]byte, 4)},
		&expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: reg},
		&expr.Masq{FullyRandom: true})
	hairpin := bits(&expr.Ct{Key: expr.CtKeySTATUS, Register: reg}, statusDNAT, expr.CmpOpNeq)
	hairpin = append(hairpin, t.loadSource(reg), t.loadDest(regAt+t.addrLen/4),
		&expr.Lookup{SourceRegister: reg, SetName: t.hairpins.Name, SetID: t.hairpins.ID}, &expr.Masq{FullyRandom: true})
	return [][]expr.Any{marked, hairpin}
}

// lookup ends a rule with the verdict that a map has for what lies in reg.
func lookup(s *nftables.Set) []expr.Any {
	return []expr.Any{&expr.Lookup{SourceRegister: reg, DestRegister: 0, IsDestRegSet: true, SetName: s.Name, SetID: s.ID}}
}

func (t *table) chain(name string) *nftables.Chain {
	c, ok := t.chains[name]
	if !ok {
		c = t.conn.AddChain(&nftables.Chain{Name: name, Table: t.table})
		t.chains[name] = c
	}
	return c
}

func (t *table) rule(chain string, parts ...[]expr.Any) {
	var exprs []expr.Any
	for _, p := range parts {
		exprs = append(exprs, p...)
	}
	t.conn.AddRule(&nftables.Rule{Table: t.table, Chain: t.chains[chain], Exprs: exprs})
}
