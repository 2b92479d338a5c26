package dns

import (
	"context"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"

	"github.com/coredns/coredns/plugin/pkg/dnsutil"
	"github.com/coredns/coredns/request"
	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// answer is what the zone says to one question.
type answer struct {
	records []dns.RR
	extra   []dns.RR
	// exists tells an empty answer (NODATA) from a name that is not (NXDOMAIN).
	exists bool
	// chase is a name elsewhere that a CNAME of records leads to.
	chase string
}

// specVersion is the version of the DNS specification that is served.
const specVersion = "1.1.0"

// answer answers a question for a lower-case name that was asked as asked; false
// leaves it to other servers.
func (z *zone) answer(name, asked string, qtype uint16) (answer, bool) {
	z.mu.RLock()
	defer z.mu.RUnlock()
	if ip := dnsutil.ExtractAddressFromReverse(name); ip != "" {
		return z.reverse(asked, ip, qtype)
	}
	if name != z.domain && !strings.HasSuffix(name, "."+z.domain) {
		return answer{}, false
	}
	labels := dns.SplitDomainName(strings.TrimSuffix(name, z.domain))
	switch n := len(labels); {
	case n == 0:
		return z.apex(asked, qtype), true
	case n == 1 && labels[0] == "dns-version":
		a := answer{exists: true}
		if qtype == dns.TypeTXT || qtype == dns.TypeANY {
			a.records = []dns.RR{&dns.TXT{Hdr: header(asked, dns.TypeTXT), Txt: []string{specVersion}}}
		}
		return a, true
	case labels[n-1] == "svc":
		return z.service(labels[:n-1], asked, qtype), true
	case labels[n-1] == "pod":
		return z.pod(labels[:n-1], asked, qtype), true
	case labels[n-1] == "dns" && n <= 2:
		if n == 2 && labels[0] != "ns" {
			return answer{}, true
		}
		a := answer{exists: true}
		if n == 2 {
			a.records = addresses(asked, qtype, z.address)
		}
		return a, true
	default:
		return answer{}, true
	}
}

func (z *zone) apex(asked string, qtype uint16) answer {
	a := answer{exists: true}
	switch qtype {
	case dns.TypeSOA:
		a.records = []dns.RR{z.soa()}
	case dns.TypeNS:
		a.records = []dns.RR{&dns.NS{Hdr: header(asked, dns.TypeNS), Ns: "ns.dns." + z.domain}}
		a.extra = addresses("ns.dns."+z.domain, dns.TypeANY, z.address)
	}
	return a
}

// service answers for what stands before "svc": [[host | _port, _proto,] service,] namespace.
func (z *zone) service(labels []string, asked string, qtype uint16) answer {
	n := len(labels)
	if n == 0 {
		return answer{exists: true}
	}
	if n == 1 {
		return answer{exists: z.spaces[labels[0]] > 0}
	}
	key := types.NamespacedName{Namespace: labels[n-1], Name: labels[n-2]}
	svc := z.services[key]
	if svc == nil {
		return answer{}
	}
	if svc.Spec.Type == corev1.ServiceTypeExternalName {
		return z.externalName(svc, labels[:n-2], asked)
	}
	headless := svc.Spec.ClusterIP == corev1.ClusterIPNone
	switch rest := labels[:n-2]; {
	case len(rest) == 0:
		return z.serviceItself(svc, key, asked, qtype, headless)
	case len(rest) == 1 && strings.HasPrefix(rest[0], "_"):
		return answer{exists: z.hasProtocol(svc, rest[0])}
	case len(rest) == 1 && headless:
		return z.host(key, rest[0], asked, qtype)
	case len(rest) == 2 && strings.HasPrefix(rest[0], "_") && strings.HasPrefix(rest[1], "_"):
		return z.ports(svc, key, rest[0][1:], rest[1][1:], asked, qtype, headless)
	default:
		return answer{}
	}
}

func (z *zone) hasProtocol(svc *corev1.Service, label string) bool {
	for _, p := range svc.Spec.Ports {
		if strings.EqualFold("_"+string(p.Protocol), label) {
			return true
		}
	}
	return false
}

func (z *zone) externalName(svc *corev1.Service, rest []string, asked string) answer {
	target := dns.Fqdn(svc.Spec.ExternalName)
	if _, ok := dns.IsDomainName(target); !ok || len(rest) > 0 {
		return answer{}
	}
	return answer{
		exists:  true,
		records: []dns.RR{&dns.CNAME{Hdr: header(asked, dns.TypeCNAME), Target: target}},
		chase:   target,
	}
}

func (z *zone) serviceItself(svc *corev1.Service, key types.NamespacedName, asked string, qtype uint16, headless bool) answer {
	if qtype == dns.TypeSRV {
		return z.ports(svc, key, "", "", asked, qtype, headless)
	}
	a := answer{exists: true}
	if !headless {
		for _, ip := range clusterIPs(svc) {
			a.records = append(a.records, addresses(asked, qtype, ip)...)
		}
		return a
	}
	seen := map[netip.Addr]bool{}
	for _, h := range z.hostsOf(key) {
		if !seen[h.addr] {
			seen[h.addr] = true
			a.records = append(a.records, addresses(asked, qtype, h.addr)...)
		}
	}
	return a
}

func (z *zone) host(key types.NamespacedName, label, asked string, qtype uint16) answer {
	var a answer
	seen := map[netip.Addr]bool{}
	for _, h := range z.hostsOf(key) {
		if h.name == label && !seen[h.addr] {
			seen[h.addr] = true
			a.exists = true
			a.records = append(a.records, addresses(asked, qtype, h.addr)...)
		}
	}
	return a
}

// ports answers SRV questions; an empty port means all of them.
func (z *zone) ports(svc *corev1.Service, key types.NamespacedName, port, proto, asked string, qtype uint16, headless bool) answer {
	var a answer
	base := key.Name + "." + key.Namespace + ".svc." + z.domain
	add := func(number int32, target string, ip netip.Addr) {
		a.exists = true
		if qtype != dns.TypeSRV && qtype != dns.TypeANY {
			return
		}
		a.records = append(a.records, &dns.SRV{Hdr: header(asked, dns.TypeSRV), Priority: 0, Port: uint16(number), Target: target})
		a.extra = append(a.extra, addresses(target, dns.TypeANY, ip)...)
	}
	wanted := func(name, protocol string) bool {
		return port == "" || strings.EqualFold(name, port) && strings.EqualFold(protocol, proto)
	}
	if !headless {
		for _, p := range svc.Spec.Ports {
			for _, ip := range clusterIPs(svc) {
				if wanted(p.Name, string(p.Protocol)) {
					add(p.Port, base, ip)
				}
			}
		}
	} else {
		for _, h := range z.hostsOf(key) {
			for _, p := range h.ports {
				if p.Port != nil && p.Name != nil && p.Protocol != nil && wanted(*p.Name, string(*p.Protocol)) {
					add(*p.Port, h.name+"."+base, h.addr)
				}
			}
		}
	}
	if port == "" {
		a.exists = true
	}
	for i := range a.records {
		a.records[i].(*dns.SRV).Weight = uint16(max(1, 100/len(a.records)))
	}
	return a
}

// pod answers for a-b-c-d.namespace.pod with that address.
func (z *zone) pod(labels []string, asked string, qtype uint16) answer {
	switch len(labels) {
	case 0:
		return answer{exists: true}
	case 1:
		return answer{exists: z.spaces[labels[0]] > 0}
	case 2:
		text := labels[0]
		if strings.Count(text, "-") == 3 && !strings.Contains(text, "--") {
			text = strings.ReplaceAll(text, "-", ".")
		} else {
			text = strings.ReplaceAll(text, "-", ":")
		}
		ip, err := netip.ParseAddr(text)
		if err != nil {
			return answer{}
		}
		return answer{exists: true, records: addresses(asked, qtype, ip)}
	default:
		return answer{}
	}
}

// reverse answers for addresses of Services and of endpoints with a name.
func (z *zone) reverse(asked, text string, qtype uint16) (answer, bool) {
	ip, err := netip.ParseAddr(text)
	if err != nil {
		return answer{}, false
	}
	var names []string
	if key, ok := z.byAddr[ip]; ok {
		names = append(names, key.Name+"."+key.Namespace+".svc."+z.domain)
	}
	for key := range z.hosts[ip] {
		if svc := z.services[key]; svc == nil || svc.Spec.ClusterIP != corev1.ClusterIPNone {
			continue
		}
		for _, h := range z.hostsOf(key) {
			if h.addr == ip {
				names = append(names, h.name+"."+key.Name+"."+key.Namespace+".svc."+z.domain)
			}
		}
	}
	if len(names) == 0 {
		return answer{}, false
	}
	a := answer{exists: true}
	if qtype == dns.TypePTR || qtype == dns.TypeANY {
		for _, n := range names {
			a.records = append(a.records, &dns.PTR{Hdr: header(asked, dns.TypePTR), Ptr: n})
		}
	}
	return a, true
}

func (z *zone) soa() *dns.SOA {
	return &dns.SOA{
		Hdr: header(z.domain, dns.TypeSOA), Ns: "ns.dns." + z.domain, Mbox: "hostmaster." + z.domain,
		Serial: 1, Refresh: 7200, Retry: 1800, Expire: 86400, Minttl: ttl,
	}
}

func header(name string, kind uint16) dns.RR_Header {
	return dns.RR_Header{Name: name, Rrtype: kind, Class: dns.ClassINET, Ttl: ttl}
}

// addresses is the A or AAAA record of ip if the question wants it.
func addresses(name string, qtype uint16, ip netip.Addr) []dns.RR {
	switch {
	case ip.Is4() && (qtype == dns.TypeA || qtype == dns.TypeANY):
		return []dns.RR{&dns.A{Hdr: header(name, dns.TypeA), A: net.IP(ip.AsSlice())}}
	case ip.Is6() && (qtype == dns.TypeAAAA || qtype == dns.TypeANY):
		return []dns.RR{&dns.AAAA{Hdr: header(name, dns.TypeAAAA), AAAA: net.IP(ip.AsSlice())}}
	default:
		return nil
	}
}

// reply writes an answer of the zone, following its CNAME elsewhere: stub
// resolvers do not.
func (s *Server) reply(ctx context.Context, w dns.ResponseWriter, r *dns.Msg, a answer) {
	m := new(dns.Msg)
	m.SetReply(r)
	m.Authoritative, m.RecursionAvailable = true, true
	m.Answer, m.Extra = a.records, a.extra
	qtype := r.Question[0].Qtype
	if a.chase != "" && qtype != dns.TypeCNAME {
		more, cut := s.follow(ctx, w, r, a.chase, qtype)
		m.Answer, m.Truncated = append(m.Answer, more...), cut
	}
	rand.Shuffle(len(a.records), func(i, j int) { a.records[i], a.records[j] = a.records[j], a.records[i] })
	if len(a.records) == 0 {
		m.Ns = []dns.RR{s.zone.soa()}
		if !a.exists {
			m.Rcode = dns.RcodeNameError
		}
	}
	state := request.Request{W: w, Req: r}
	state.SizeAndDo(m)
	s.write(w, state.Scrub(m))
}

// follow resolves the target of a CNAME, here or elsewhere. cut says that there
// is more than fits a packet.
func (s *Server) follow(ctx context.Context, w dns.ResponseWriter, r *dns.Msg, target string, qtype uint16) (answer []dns.RR, cut bool) {
	if a, ok := s.zone.answer(strings.ToLower(target), target, qtype); ok {
		return a.records, false // one step: a chain of ExternalNames may be a ring
	}
	q := r.Copy()
	q.Question[0].Name = target
	got := &capture{ResponseWriter: w}
	s.forward.serve(ctx, got, q)
	if got.msg == nil {
		return nil, false
	}
	return got.msg.Answer, got.msg.Truncated
}

// capture keeps an answer in place of sending it.
type capture struct {
	dns.ResponseWriter
	msg *dns.Msg
}

func (c *capture) WriteMsg(m *dns.Msg) error {
	c.msg = m
	return nil
}
