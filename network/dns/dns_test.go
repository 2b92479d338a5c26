package dns_test

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/cache/informertest"
	ctrl "sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllertest"

	proadns "github.com/proa-dev/proa/network/dns"
)

type fakeCluster struct{ cache cache.Cache }

func (c fakeCluster) Client() ctrl.WithWatch               { return nil }
func (c fakeCluster) Reader() ctrl.Reader                  { return nil }
func (c fakeCluster) Cache() cache.Cache                   { return c.cache }
func (c fakeCluster) Recorder(string) record.EventRecorder { return record.NewFakeRecorder(10) }
func (c fakeCluster) Start(context.Context) error          { return nil }

// upstream is a resolver that knows example.com alone.
func upstream(t *testing.T) (resolvConf string) {
	t.Helper()
	pc, err := net.ListenPacket("udp", "127.0.0.93:53")
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.93:53")
	if err != nil {
		t.Fatal(err)
	}
	known := dns.HandlerFunc(func(w dns.ResponseWriter, r *dns.Msg) {
		m := new(dns.Msg)
		m.SetReply(r)
		if r.Question[0].Name == "example.com." && r.Question[0].Qtype == dns.TypeA {
			rr, _ := dns.NewRR("example.com. 60 IN A 203.0.113.5")
			m.Answer = []dns.RR{rr}
		} else {
			m.Rcode = dns.RcodeNameError
		}
		w.WriteMsg(m)
	})
	for _, srv := range []*dns.Server{{PacketConn: pc, Handler: known}, {Listener: l, Handler: known}} {
		go srv.ActivateAndServe()
		t.Cleanup(func() { srv.Shutdown() })
	}
	file := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(file, []byte("nameserver 127.0.0.93\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// start runs a server; the informer tells it of further slices.
func start(t *testing.T) (addr string, endpoints *controllertest.FakeInformer) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	informers := &informertest.FakeInformers{}
	services, err := informers.FakeInformerFor(ctx, &corev1.Service{})
	if err != nil {
		t.Fatal(err)
	}
	slices, err := informers.FakeInformerFor(ctx, &discoveryv1.EndpointSlice{})
	if err != nil {
		t.Fatal(err)
	}
	const port = 10053
	s := proadns.New(fakeCluster{informers}, proadns.Config{
		Address: netip.MustParseAddr("127.0.0.1"), Port: port, Domain: "cluster.local",
		ResolvConf: upstream(t), Logger: slog.New(slog.NewTextHandler(os.Stderr, nil)),
	})
	ready, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- s.Run(ctx, func() { close(ready) }) }()
	select {
	case <-ready:
	case err := <-done:
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})

	meta := func(name string) metav1.ObjectMeta { return metav1.ObjectMeta{Namespace: "shop", Name: name} }
	services.Add(&corev1.Service{ObjectMeta: meta("web"), Spec: corev1.ServiceSpec{
		ClusterIP: "10.43.0.7", ClusterIPs: []string{"10.43.0.7"},
		Ports: []corev1.ServicePort{{Name: "http", Protocol: "TCP", Port: 80}, {Name: "dns", Protocol: "UDP", Port: 53}},
	}})
	services.Add(&corev1.Service{ObjectMeta: meta("db"), Spec: corev1.ServiceSpec{
		ClusterIP: "None", ClusterIPs: []string{"None"},
		Ports: []corev1.ServicePort{{Name: "sql", Protocol: "TCP", Port: 5432}},
	}})
	services.Add(&corev1.Service{ObjectMeta: meta("idle"), Spec: corev1.ServiceSpec{ClusterIP: "None", ClusterIPs: []string{"None"}}})
	services.Add(&corev1.Service{ObjectMeta: meta("out"), Spec: corev1.ServiceSpec{Type: "ExternalName", ExternalName: "example.com"}})
	services.Add(&corev1.Service{ObjectMeta: meta("alias"), Spec: corev1.ServiceSpec{Type: "ExternalName", ExternalName: "web.shop.svc.cluster.local"}})
	slices.Add(&discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "db-1", Labels: map[string]string{discoveryv1.LabelServiceName: "db"}},
		Ports:      []discoveryv1.EndpointPort{{Name: ptr.To("sql"), Protocol: ptr.To(corev1.ProtocolTCP), Port: ptr.To[int32](5432)}},
		Endpoints: []discoveryv1.Endpoint{
			{Addresses: []string{"10.42.0.5"}, Hostname: ptr.To("db-0")},
			{Addresses: []string{"10.42.0.6"}, Hostname: ptr.To("db-1")},
			{Addresses: []string{"10.42.0.7"}},
			{Addresses: []string{"10.42.0.8"}, Conditions: discoveryv1.EndpointConditions{Ready: ptr.To(false)}},
		},
	})
	return fmt.Sprintf("127.0.0.1:%d", port), slices
}

// The table follows the Kubernetes DNS specification, section by section.
func TestAnswers(t *testing.T) {
	addr, _ := start(t)
	for _, c := range []struct {
		name  string
		qtype uint16
		rcode int
		want  []string // the data of the answers, sorted
	}{
		{"dns-version.cluster.local.", dns.TypeTXT, dns.RcodeSuccess, []string{`"1.1.0"`}},
		{"web.shop.svc.cluster.local.", dns.TypeA, dns.RcodeSuccess, []string{"10.43.0.7"}},
		{"WEB.Shop.svc.cluster.local.", dns.TypeA, dns.RcodeSuccess, []string{"10.43.0.7"}},
		{"web.shop.svc.cluster.local.", dns.TypeAAAA, dns.RcodeSuccess, nil},
		{"_http._tcp.web.shop.svc.cluster.local.", dns.TypeSRV, dns.RcodeSuccess, []string{"0 100 80 web.shop.svc.cluster.local."}},
		{"_http._udp.web.shop.svc.cluster.local.", dns.TypeSRV, dns.RcodeNameError, nil},
		{"_dns._udp.web.shop.svc.cluster.local.", dns.TypeSRV, dns.RcodeSuccess, []string{"0 100 53 web.shop.svc.cluster.local."}},
		{"7.0.43.10.in-addr.arpa.", dns.TypePTR, dns.RcodeSuccess, []string{"web.shop.svc.cluster.local."}},
		{"db.shop.svc.cluster.local.", dns.TypeA, dns.RcodeSuccess, []string{"10.42.0.5", "10.42.0.6", "10.42.0.7"}},
		{"db-0.db.shop.svc.cluster.local.", dns.TypeA, dns.RcodeSuccess, []string{"10.42.0.5"}},
		{"10-42-0-7.db.shop.svc.cluster.local.", dns.TypeA, dns.RcodeSuccess, []string{"10.42.0.7"}},
		{"db-9.db.shop.svc.cluster.local.", dns.TypeA, dns.RcodeNameError, nil},
		{"_sql._tcp.db.shop.svc.cluster.local.", dns.TypeSRV, dns.RcodeSuccess, []string{
			"0 33 5432 10-42-0-7.db.shop.svc.cluster.local.", "0 33 5432 db-0.db.shop.svc.cluster.local.", "0 33 5432 db-1.db.shop.svc.cluster.local."}},
		{"6.0.42.10.in-addr.arpa.", dns.TypePTR, dns.RcodeSuccess, []string{"db-1.db.shop.svc.cluster.local."}},
		{"idle.shop.svc.cluster.local.", dns.TypeA, dns.RcodeSuccess, nil},
		{"out.shop.svc.cluster.local.", dns.TypeCNAME, dns.RcodeSuccess, []string{"example.com."}},
		{"out.shop.svc.cluster.local.", dns.TypeA, dns.RcodeSuccess, []string{"203.0.113.5", "example.com."}},
		{"alias.shop.svc.cluster.local.", dns.TypeA, dns.RcodeSuccess, []string{"10.43.0.7", "web.shop.svc.cluster.local."}},
		{"10-42-0-9.shop.pod.cluster.local.", dns.TypeA, dns.RcodeSuccess, []string{"10.42.0.9"}},
		{"nonsense.shop.pod.cluster.local.", dns.TypeA, dns.RcodeNameError, nil},
		{"none.shop.svc.cluster.local.", dns.TypeA, dns.RcodeNameError, nil},
		{"shop.svc.cluster.local.", dns.TypeA, dns.RcodeSuccess, nil},
		{"nowhere.svc.cluster.local.", dns.TypeA, dns.RcodeNameError, nil},
		{"svc.cluster.local.", dns.TypeA, dns.RcodeSuccess, nil},
		{"cluster.local.", dns.TypeNS, dns.RcodeSuccess, []string{"ns.dns.cluster.local."}},
		{"example.com.", dns.TypeA, dns.RcodeSuccess, []string{"203.0.113.5"}},
		{"example.org.", dns.TypeA, dns.RcodeNameError, nil},
	} {
		for _, network := range []string{"udp", "tcp"} {
			t.Run(c.name+dns.TypeToString[c.qtype]+"/"+network, func(t *testing.T) {
				m := new(dns.Msg)
				m.SetQuestion(c.name, c.qtype)
				got, _, err := (&dns.Client{Net: network}).ExchangeContext(t.Context(), m, addr)
				if err != nil {
					t.Fatal(err)
				}
				var have []string
				for _, rr := range got.Answer {
					have = append(have, strings.TrimPrefix(rr.String(), rr.Header().String()))
				}
				slices.Sort(have)
				if got.Rcode != c.rcode || !slices.Equal(have, c.want) {
					t.Errorf("%s %q, want %s %q", dns.RcodeToString[got.Rcode], have, dns.RcodeToString[c.rcode], c.want)
				}
			})
		}
	}
}

func TestBadQueries(t *testing.T) {
	addr, _ := start(t)
	m := new(dns.Msg)
	m.SetNotify("cluster.local.")
	got, _, err := new(dns.Client).ExchangeContext(t.Context(), m, addr)
	if err != nil || got.Rcode != dns.RcodeNotImplemented {
		t.Errorf("NOTIFY: %v, %v", got, err)
	}
	m = new(dns.Msg)
	m.SetQuestion("web.shop.svc.cluster.local.", dns.TypeA)
	m.SetEdns0(1232, false).IsEdns0().SetVersion(1)
	if got, _, err = new(dns.Client).ExchangeContext(t.Context(), m, addr); err != nil || got.Rcode != dns.RcodeBadVers {
		t.Errorf("EDNS of a later version: %v, %v", got, err)
	}
	// Garbage is not answered, and the next query is.
	c, err := net.Dial("udp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write([]byte{0xff, 0, 1}); err != nil {
		t.Fatal(err)
	}
	m = new(dns.Msg)
	m.SetQuestion("web.shop.svc.cluster.local.", dns.TypeA)
	if got, _, err = new(dns.Client).ExchangeContext(t.Context(), m, addr); err != nil || len(got.Answer) != 1 {
		t.Errorf("after garbage: %v, %v", got, err)
	}
}

// Endpoints move from slice to slice, and slices from Service to Service.
func TestSlicesChange(t *testing.T) {
	addr, informer := start(t)
	ask := func(name string, qtype uint16) string {
		t.Helper()
		m := new(dns.Msg)
		m.SetQuestion(name, qtype)
		got, _, err := new(dns.Client).ExchangeContext(t.Context(), m, addr)
		if err != nil {
			t.Fatal(err)
		}
		var have []string
		for _, rr := range got.Answer {
			have = append(have, strings.TrimPrefix(rr.String(), rr.Header().String()))
		}
		slices.Sort(have)
		return strings.Join(have, " ")
	}
	check := func(when, name string, qtype uint16, want string) {
		t.Helper()
		if got := ask(name, qtype); got != want {
			t.Errorf("%s: %s is %q, want %q", when, name, got, want)
		}
	}
	slice := func(name, service string, addresses ...string) *discoveryv1.EndpointSlice {
		s := &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: service}}}
		for _, a := range addresses {
			s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{Addresses: []string{a}})
		}
		return s
	}
	first, second := slice("a", "idle", "10.42.1.1", "10.42.1.2"), slice("b", "idle", "10.42.1.2")
	informer.Add(first)
	informer.Add(second)
	left := slice("a", "idle", "10.42.1.1")
	informer.Update(first, left)
	check("moved", "idle.shop.svc.cluster.local.", dns.TypeA, "10.42.1.1 10.42.1.2")
	check("moved", "2.1.42.10.in-addr.arpa.", dns.TypePTR, "10-42-1-2.idle.shop.svc.cluster.local.")

	given := slice("b", "db", "10.42.1.2")
	informer.Update(second, given)
	check("given away", "idle.shop.svc.cluster.local.", dns.TypeA, "10.42.1.1")
	check("given away", "2.1.42.10.in-addr.arpa.", dns.TypePTR, "10-42-1-2.db.shop.svc.cluster.local.")
	informer.Update(given, slice("b", "", "10.42.1.2"))
	check("nobody's", "2.1.42.10.in-addr.arpa.", dns.TypePTR, "")
}
