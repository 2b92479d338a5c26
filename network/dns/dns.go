// Package dns answers for the cluster's names on a node, by the Kubernetes DNS
// specification 1.1.0, and forwards all other names to the host's resolvers.
//
//	query ──> in the cluster's domain ──> records: a pure function of the
//	      │                              Services and EndpointSlices
//	      └─> elsewhere ──> cache ──> forward (CoreDNS's plugins)
//
// Every node has a server of its own on the cluster's DNS address, held by a
// link of its own, so that a query never leaves the node.
package dns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"runtime/debug"
	"strings"
	"time"

	"github.com/coredns/coredns/plugin/pkg/edns"
	"github.com/miekg/dns"
	"github.com/vishvananda/netlink"
	"golang.org/x/net/netutil"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/proa-dev/proa/client"
)

// Config describes the server.
type Config struct {
	// Address is where it answers: the cluster's DNS address.
	Address netip.Addr
	// Port is 53 but in tests.
	Port uint16
	// Domain is the cluster's, "cluster.local".
	Domain string
	// Link is the name of the link that is made to hold the address; empty
	// when something else holds it.
	Link string
	// ResolvConf names the resolvers for all other names; empty for none.
	ResolvConf string
	Logger     *slog.Logger
}

// ttl of cluster records, in seconds: as CoreDNS has it for Kubernetes.
const ttl = 5

// Limits of the server.
const (
	maxQueries  = 1000 // at a time; more are refused
	maxConns    = 1000 // over TCP; more wait, and take no file descriptors from the rest of Proa
	idleTimeout = 10 * time.Second
)

// Server is the DNS server of one node.
type Server struct {
	cfg     Config
	cluster client.Cluster
	zone    *zone
	forward *forwarder
	slots   chan struct{}
}

// New makes a Server; it touches nothing before Run.
func New(cluster client.Cluster, cfg Config) *Server {
	if cfg.Port == 0 {
		cfg.Port = 53
	}
	return &Server{
		cfg: cfg, cluster: cluster,
		zone:    newZone(cfg.Domain, cfg.Address),
		forward: newForwarder(cfg.ResolvConf, cfg.Address, cfg.Logger),
		slots:   make(chan struct{}, maxQueries),
	}
}

// Run answers until ctx ends.
func (s *Server) Run(ctx context.Context, ready func()) error {
	if s.cfg.Link != "" {
		if err := holdAddress(s.cfg.Link, s.cfg.Address); err != nil {
			return fmt.Errorf("link %s for the DNS address %s: %w", s.cfg.Link, s.cfg.Address, err)
		}
	}
	if err := s.zone.follow(ctx, s.cluster.Cache()); err != nil {
		return err
	}
	defer s.forward.close()

	at := netip.AddrPortFrom(s.cfg.Address, s.cfg.Port).String()
	listen := net.ListenConfig{}
	udp, err := listen.ListenPacket(ctx, "udp", at)
	if err != nil {
		return fmt.Errorf("DNS: %w", err)
	}
	tcp, err := listen.Listen(ctx, "tcp", at)
	if err != nil {
		udp.Close()
		return fmt.Errorf("DNS: %w", err)
	}
	tcp = netutil.LimitListener(tcp, maxConns)
	servers := []*dns.Server{
		{PacketConn: udp, Handler: s, UDPSize: dns.MaxMsgSize},
		{Listener: tcp, Handler: s, IdleTimeout: func() time.Duration { return idleTimeout }, MaxTCPQueries: -1},
	}
	ended := make(chan error, len(servers))
	for _, srv := range servers {
		go func() { ended <- srv.ActivateAndServe() }()
	}
	ready()
	select {
	case <-ctx.Done():
		err = nil
	case err = <-ended:
		ended <- err
	}
	for _, srv := range servers {
		stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		if e := srv.ShutdownContext(stop); e != nil && !errors.Is(e, context.DeadlineExceeded) {
			s.cfg.Logger.Debug("stop DNS", "error", e)
		}
		cancel()
	}
	for range servers {
		<-ended //nolint:errcheck // the first of them was taken above
	}
	return err
}

// ServeDNS implements dns.Handler.
func (s *Server) ServeDNS(w dns.ResponseWriter, r *dns.Msg) {
	// CoreDNS's own server catches what its plugins trip over. One question must
	// not end a process that is much more than a DNS server.
	defer func() {
		if p := recover(); p != nil {
			s.cfg.Logger.Error("a DNS query panicked", "panic", p, "stack", string(debug.Stack()))
			s.refuse(w, r, dns.RcodeServerFailure)
		}
	}()
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	default:
		s.refuse(w, r, dns.RcodeRefused)
		return
	}
	if m, err := edns.Version(r); err != nil {
		s.write(w, m)
		return
	}
	if len(r.Question) != 1 || r.Opcode != dns.OpcodeQuery {
		s.refuse(w, r, dns.RcodeNotImplemented)
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 6*time.Second) // a query has no context of its own
	defer cancel()
	q := r.Question[0]
	name := strings.ToLower(q.Name)
	if q.Qclass == dns.ClassINET || q.Qclass == dns.ClassANY {
		if a, ok := s.zone.answer(name, q.Name, q.Qtype); ok {
			s.reply(ctx, w, r, a)
			return
		}
	}
	s.forward.serve(ctx, w, r)
}

func (s *Server) refuse(w dns.ResponseWriter, r *dns.Msg, rcode int) {
	m := new(dns.Msg)
	m.SetRcode(r, rcode)
	s.write(w, m)
}

func (s *Server) write(w dns.ResponseWriter, m *dns.Msg) {
	if err := w.WriteMsg(m); err != nil {
		s.cfg.Logger.Debug("write a DNS answer", "error", err)
	}
}

// Service is the Service under whose address DNS answers, as clients look for
// it. Its label tells the Service proxies to leave the address alone.
func Service(address netip.Addr) *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: metav1.NamespaceSystem,
			Name:      "kube-dns",
			Labels: map[string]string{
				"k8s-app":                                  "kube-dns",
				"kubernetes.io/name":                       "CoreDNS",
				"kubernetes.io/cluster-service":            "true",
				"service.kubernetes.io/service-proxy-name": "proa-dns",
			},
		},
		Spec: corev1.ServiceSpec{
			ClusterIP:  address.String(),
			ClusterIPs: []string{address.String()},
			Ports: []corev1.ServicePort{
				{Name: "dns", Port: 53, Protocol: corev1.ProtocolUDP, TargetPort: intstr.FromInt32(53)},
				{Name: "dns-tcp", Port: 53, Protocol: corev1.ProtocolTCP, TargetPort: intstr.FromInt32(53)},
			},
		},
	}
}

// holdAddress makes a link without ports that holds the address. A bridge is
// there on every kernel that can run pods; dummy links are not.
func holdAddress(name string, ip netip.Addr) error {
	link, err := netlink.LinkByName(name)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		link = &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: name}}
		err = netlink.LinkAdd(link)
	}
	if err != nil {
		return err
	}
	addr := &netlink.Addr{IPNet: &net.IPNet{IP: ip.AsSlice(), Mask: net.CIDRMask(ip.BitLen(), ip.BitLen())}}
	if err := netlink.AddrReplace(link, addr); err != nil {
		return err
	}
	return netlink.LinkSetUp(link)
}

// Cleanup removes the link; none is fine.
func Cleanup(link string) error {
	l, err := netlink.LinkByName(link)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil
	}
	if err != nil {
		return err
	}
	return netlink.LinkDel(l)
}
