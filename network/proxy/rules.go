package proxy

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
)

// element is one entry of a map or set; the same key in the same set is the
// same element.
type element struct {
	set     *nftables.Set
	key     string
	verdict string // chain to go to; "drop"; empty for a plain set
}

// program is all that one front needs: chains with their rules, and the
// elements that lead to them.
type program struct {
	elements []element
	chains   []chainSpec
	// shared elements are counted: ports of one Service share its address.
	shared []element
}

// chainSpec is one chain: plain rules, then those that serve endpoints.
type chainSpec struct {
	name     string
	rules    [][]expr.Any
	serve    []serving
	affinity time.Duration
}

// serving is a rule that ends in DNAT, under conditions.
type serving struct {
	when      []expr.Any
	endpoints []endpoint
}

func (f *front) id() string {
	return strings.ToLower(string(f.protocol)) + "-" + f.name
}

// compile says what front f needs: a pure function.
func (t *table) compile(f *front) program {
	var p program
	svc, ext, lb := "svc-"+f.id(), "ext-"+f.id(), "lb-"+f.id()
	if f.clusterIP.IsValid() {
		key := string(frontKey(f.clusterIP, f.protocol, f.port))
		switch {
		case len(f.internal) > 0:
			p.elements = append(p.elements, element{t.serviceIPs, key, svc})
			p.chains = append(p.chains, t.internalChain(svc, f))
		case f.known:
			p.elements = append(p.elements, element{t.refusedIPs, key, "drop"})
		default:
			p.elements = append(p.elements, element{t.refusedIPs, key, chainReject})
		}
		p.shared = append(p.shared, element{set: t.clusterIPs, key: string(f.clusterIP.AsSlice())})
	}
	if len(f.externalIPs) > 0 || len(f.balancerIPs) > 0 || f.nodePort != 0 {
		t.compileExternal(&p, f, ext, lb)
	}
	for _, e := range f.cluster {
		ip := string(e.addr.AsSlice())
		p.shared = append(p.shared, element{set: t.hairpins, key: ip + ip})
	}
	return p
}

func (t *table) compileExternal(p *program, f *front, ext, lb string) {
	ips, ports, to := t.refusedIPs, t.refusedPorts, chainReject
	if f.known {
		ips, ports, to = t.serviceIPs, t.servicePorts, ext
		c := t.externalChain(ext, f)
		c.affinity = f.affinity
		p.chains = append(p.chains, c)
	}
	lead := func(addresses []netip.Addr, to string) {
		for _, ip := range addresses {
			p.elements = append(p.elements, element{ips, string(frontKey(ip, f.protocol, f.port)), to})
		}
	}
	lead(f.externalIPs, to)
	if f.nodePort != 0 {
		p.elements = append(p.elements, element{ports, string(portKey(f.protocol, f.nodePort)), to})
	}
	if f.known && len(f.balancerIPs) > 0 && len(f.sourceRanges) > 0 {
		p.chains = append(p.chains, t.firewallChain(lb, ext, f))
		to = lb
	}
	lead(f.balancerIPs, to)
}

// internalChain serves a cluster IP. Who is no pod gets this node's address
// on the bridge, so that the answer comes back through here.
func (t *table) internalChain(name string, f *front) chainSpec {
	return chainSpec{
		name:     name,
		rules:    [][]expr.Any{append(t.inPrefix(t.loadSource(reg), t.pods, expr.CmpOpNeq), mark()...)},
		serve:    []serving{{endpoints: f.internal}},
		affinity: f.affinity,
	}
}

// externalChain serves node ports and external addresses.
func (t *table) externalChain(name string, f *front) chainSpec {
	if !f.externalLocal {
		return chainSpec{name: name, rules: [][]expr.Any{mark()}, serve: []serving{{endpoints: f.external}}}
	}
	// Pods and this node itself are served by everyone; only what comes from
	// outside keeps its address and stays here.
	return chainSpec{
		name: name,
		rules: [][]expr.Any{
			append(local(true), mark()...),
		},
		serve: []serving{
			{when: t.inPrefix(t.loadSource(reg), t.pods, expr.CmpOpEq), endpoints: f.cluster},
			{when: local(true), endpoints: f.cluster},
			{endpoints: f.external},
			{}, // nobody here: drop
		},
	}
}

func (t *table) firewallChain(name, next string, f *front) chainSpec {
	c := chainSpec{name: name}
	for _, r := range f.sourceRanges {
		c.rules = append(c.rules, append(t.inPrefix(t.loadSource(reg), r, expr.CmpOpEq), goTo(next)))
	}
	c.rules = append(c.rules, append(local(true), goTo(next)), []expr.Any{drop()})
	return c
}

// affinityMap remembers which endpoint a client of a chain has.
func (t *table) affinityMap(c chainSpec) *nftables.Set {
	return &nftables.Set{
		Table: t.table, Name: "aff-" + c.name, IsMap: true, Dynamic: true, HasTimeout: true, Timeout: c.affinity,
		KeyType: t.addrType(), DataType: nftables.MustConcatSetType(t.addrType(), nftables.TypeInetService), Size: 65535,
	}
}

func (t *table) addrType() nftables.SetDatatype {
	if t.family == ipv6 {
		return nftables.TypeIP6Addr
	}
	return nftables.TypeIPAddr
}

// write puts a chain into the transaction, replacing old, what it held.
func (t *table) write(c chainSpec, old *chainSpec) error {
	chain := t.chain(c.name)
	if old != nil {
		t.conn.FlushChain(chain)
		if old.affinity > 0 && old.affinity != c.affinity {
			t.conn.DelSet(t.affinityMap(*old))
		}
	}
	for _, r := range c.rules {
		t.rule(c.name, r)
	}
	var affinity *nftables.Set
	if c.affinity > 0 {
		affinity = t.affinityMap(c)
		if err := t.conn.AddSet(affinity, nil); err != nil {
			return err
		}
	}
	for _, s := range c.serve {
		if err := t.writeServing(c.name, s, affinity); err != nil {
			return fmt.Errorf("chain %s: %w", c.name, err)
		}
	}
	return nil
}

func (t *table) writeServing(chain string, s serving, affinity *nftables.Set) error {
	if len(s.endpoints) == 0 {
		if s.when == nil {
			t.rule(chain, []expr.Any{drop()})
		}
		return nil
	}
	if affinity != nil {
		t.rule(chain, s.when, []expr.Any{
			t.loadSource(reg),
			&expr.Lookup{SourceRegister: reg, DestRegister: reg2, IsDestRegSet: true, SetName: affinity.Name, SetID: affinity.ID},
		}, t.remember(affinity), []expr.Any{t.dnat(reg2At)})
	}
	choice, err := t.pick(s.endpoints)
	if err != nil {
		return err
	}
	if affinity != nil {
		choice = append(choice, t.loadSource(reg))
		choice = append(choice, t.remember(affinity)...)
	}
	t.rule(chain, s.when, choice, []expr.Any{t.dnat(reg2At)})
	return nil
}

// remember notes the choice in reg2 for the client in reg, or renews it.
func (t *table) remember(affinity *nftables.Set) []expr.Any {
	const update = 1 // NFT_DYNSET_OP_UPDATE
	return []expr.Any{&expr.Dynset{SrcRegKey: reg, SrcRegData: reg2, SetName: affinity.Name, SetID: affinity.ID, Operation: update, Timeout: affinity.Timeout}}
}

// pick puts one of the endpoints, at random, into reg2.
func (t *table) pick(list []endpoint) ([]expr.Any, error) {
	if len(list) == 1 {
		data := list[0].data()
		return []expr.Any{
			&expr.Immediate{Register: reg2, Data: data[:t.addrLen]},
			&expr.Immediate{Register: reg2At + t.addrLen/4, Data: data[t.addrLen : t.addrLen+2]},
		}, nil
	}
	choice := &nftables.Set{
		Table: t.table, Anonymous: true, Constant: true, IsMap: true,
		KeyType: nftables.TypeInteger, DataType: nftables.MustConcatSetType(t.addrType(), nftables.TypeInetService),
	}
	elements := make([]nftables.SetElement, len(list))
	for i, e := range list {
		elements[i] = nftables.SetElement{Key: binaryutil.NativeEndian.PutUint32(uint32(i)), Val: e.data()}
	}
	if err := t.conn.AddSet(choice, elements); err != nil {
		return nil, err
	}
	const random = 1 // NFT_NG_RANDOM
	return []expr.Any{
		&expr.Numgen{Register: reg3, Modulus: uint32(len(list)), Type: random},
		&expr.Lookup{SourceRegister: reg3, DestRegister: reg2, IsDestRegSet: true, SetName: choice.Name, SetID: choice.ID},
	}, nil
}

func (e element) toKernel() nftables.SetElement {
	s := nftables.SetElement{Key: []byte(e.key)}
	switch e.verdict {
	case "":
	case "drop":
		s.VerdictData = drop()
	default:
		s.VerdictData = goTo(e.verdict)
	}
	return s
}

// serves says whether the chain leads to the endpoint that a map value holds.
func (c chainSpec) serves(data []byte) bool {
	for _, s := range c.serve {
		if slices.ContainsFunc(s.endpoints, func(e endpoint) bool { return string(e.data()) == string(data) }) {
			return true
		}
	}
	return false
}
