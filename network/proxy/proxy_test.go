package proxy_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/cache/informertest"
	ctrl "sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllertest"

	"github.com/proa-dev/proa/network/proxy"
)

// inside runs fn on a thread of its own in a network namespace.
func inside(ns netns.NsHandle, fn func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if err := netns.Set(ns); err != nil {
			done <- err
			return
		}
		done <- fn()
	}()
	return <-done
}

func newNamespace(t *testing.T) netns.NsHandle {
	t.Helper()
	var ns netns.NsHandle
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		var err error
		ns, err = netns.New()
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatalf("a network namespace (needs root): %v", err)
	}
	t.Cleanup(func() { ns.Close() })
	return ns
}

// bench is a node in a namespace of its own with pods in further ones, each
// on a network of two addresses: 10.42.n.2 is the pod, 10.42.n.1 the node.
type bench struct {
	t        *testing.T
	node     netns.NsHandle
	pods     map[int]netns.NsHandle
	informer *informertest.FakeInformers
	services *controllertest.FakeInformer
	slices   *controllertest.FakeInformer
	ranges   *controllertest.FakeInformer
}

type fakeCluster struct{ cache cache.Cache }

func (c fakeCluster) Client() ctrl.WithWatch               { return nil }
func (c fakeCluster) Reader() ctrl.Reader                  { return nil }
func (c fakeCluster) Cache() cache.Cache                   { return c.cache }
func (c fakeCluster) Recorder(string) record.EventRecorder { return record.NewFakeRecorder(10) }
func (c fakeCluster) Start(context.Context) error          { return nil }

func newBench(t *testing.T, pods ...int) *bench {
	b := &bench{t: t, node: newNamespace(t), pods: map[int]netns.NsHandle{}, informer: &informertest.FakeInformers{}}
	b.must(inside(b.node, func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		if err := netlink.LinkSetUp(lo); err != nil {
			return err
		}
		// A route for cluster IPs, as a default route is on a real node.
		out := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "out0"}, PeerName: "out1"}
		if err := netlink.LinkAdd(out); err != nil {
			return err
		}
		addr, _ := netlink.ParseAddr("192.168.77.1/24")
		peer, err := netlink.LinkByName("out1")
		if err != nil {
			return err
		}
		return errors.Join(netlink.AddrAdd(out, addr), netlink.LinkSetUp(peer), netlink.LinkSetUp(out),
			netlink.RouteAdd(&netlink.Route{LinkIndex: out.Index, Gw: net.IPv4(192, 168, 77, 2)}))
	}))
	for _, n := range pods {
		b.pods[n] = b.addPod(n)
	}
	return b
}

func (b *bench) must(err error) {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) addPod(n int) netns.NsHandle {
	pod := newNamespace(b.t)
	b.must(inside(b.node, func() error {
		v := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: fmt.Sprintf("pod%d", n)}, PeerName: "eth0", PeerNamespace: netlink.NsFd(pod)}
		if err := netlink.LinkAdd(v); err != nil {
			return err
		}
		addr, _ := netlink.ParseAddr(fmt.Sprintf("10.42.%d.1/24", n))
		return errors.Join(netlink.AddrAdd(v, addr), netlink.LinkSetUp(v))
	}))
	b.must(inside(pod, func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		eth, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		addr, _ := netlink.ParseAddr(fmt.Sprintf("10.42.%d.2/24", n))
		return errors.Join(netlink.LinkSetUp(lo), netlink.AddrAdd(eth, addr), netlink.LinkSetUp(eth),
			netlink.RouteAdd(&netlink.Route{LinkIndex: eth.Attrs().Index, Gw: net.IPv4(10, 42, byte(n), 1)}))
	}))
	// Every connection is answered with the pod's number and the client's address.
	var l net.Listener
	var u net.PacketConn
	b.must(inside(pod, func() (err error) {
		if l, err = net.Listen("tcp4", ":8080"); err != nil {
			return err
		}
		u, err = net.ListenPacket("udp4", ":8080")
		return err
	}))
	b.t.Cleanup(func() { l.Close(); u.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			host, _, _ := net.SplitHostPort(c.RemoteAddr().String())
			fmt.Fprintf(c, "%d %s", n, host)
			c.Close()
		}
	}()
	go func() {
		buf := make([]byte, 100)
		for {
			_, from, err := u.ReadFrom(buf)
			if err != nil {
				return
			}
			u.WriteTo([]byte(fmt.Sprint(n)), from)
		}
	}()
	return pod
}

// start runs a proxy on the node until the test ends.
func (b *bench) start() (stop func()) {
	ctx, cancel := context.WithCancel(b.t.Context())
	p := proxy.New(fakeCluster{b.informer}, proxy.Config{
		NodeName: "node", PodCIDR: netip.MustParsePrefix("10.42.0.0/16"), Table: "proa-test",
		Logger: slog.New(slog.NewTextHandler(os.Stderr, nil)),
	})
	var err error
	b.services, err = b.informer.FakeInformerFor(ctx, &corev1.Service{})
	b.must(err)
	b.slices, err = b.informer.FakeInformerFor(ctx, &discoveryv1.EndpointSlice{})
	b.must(err)
	b.ranges, err = b.informer.FakeInformerFor(ctx, &networkingv1.ServiceCIDR{})
	b.must(err)
	ready, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- inside(b.node, func() error { return p.Run(ctx, func() { close(ready) }) }) }()
	select {
	case <-ready:
	case err := <-done:
		b.t.Fatal("proxy ended early:", err)
	}
	stop = func() {
		cancel()
		if err := <-done; err != nil {
			b.t.Error("proxy:", err)
		}
		done <- nil
	}
	b.t.Cleanup(stop)
	return stop
}

func service(change func(*corev1.Service)) *corev1.Service {
	s := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeNodePort, ClusterIP: "10.43.0.7", ClusterIPs: []string{"10.43.0.7"},
			Ports: []corev1.ServicePort{
				{Name: "tcp", Protocol: corev1.ProtocolTCP, Port: 80, NodePort: 30080, TargetPort: intstr.FromInt32(8080)},
				{Name: "udp", Protocol: corev1.ProtocolUDP, Port: 80, NodePort: 30080, TargetPort: intstr.FromInt32(8080)},
			},
		},
	}
	if change != nil {
		change(s)
	}
	return s
}

// endpoints lists pods; a negative number is a pod that terminates and serves.
func endpoints(pods ...int) *discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: "default", Name: "web-1", Labels: map[string]string{discoveryv1.LabelServiceName: "web"}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports: []discoveryv1.EndpointPort{
			{Name: ptr.To("tcp"), Protocol: ptr.To(corev1.ProtocolTCP), Port: ptr.To[int32](8080)},
			{Name: ptr.To("udp"), Protocol: ptr.To(corev1.ProtocolUDP), Port: ptr.To[int32](8080)},
		},
	}
	for _, n := range pods {
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{
			Addresses:  []string{fmt.Sprintf("10.42.%d.2", max(n, -n))},
			NodeName:   ptr.To("node"),
			Conditions: discoveryv1.EndpointConditions{Ready: ptr.To(n > 0), Serving: ptr.To(true), Terminating: ptr.To(n < 0)},
		})
	}
	return s
}

// ask connects from a namespace and returns the answer.
func ask(ns netns.NsHandle, network, addr string) (answer string, err error) {
	err = inside(ns, func() error {
		c, err := net.DialTimeout(network, addr, 2*time.Second)
		if err != nil {
			return err
		}
		defer c.Close()
		if network == "udp" {
			c.SetDeadline(time.Now().Add(time.Second))
			if _, err := c.Write([]byte("?")); err != nil {
				return err
			}
			buf := make([]byte, 100)
			n, err := c.Read(buf)
			answer = string(buf[:n])
			return err
		}
		all, err := io.ReadAll(c)
		answer = string(all)
		return err
	})
	return answer, err
}

// eventually waits for the proxy to have acted.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); runtime.Gosched() {
		if ok() {
			return
		}
	}
	t.Fatal("not in 10 s: ", what)
}

// answers collects who answers n requests.
func answers(ns netns.NsHandle, addr string, n int) map[string]int {
	got := map[string]int{}
	for range n {
		a, err := ask(ns, "tcp", addr)
		if err != nil {
			a = "error: " + err.Error()
		}
		got[strings.Fields(a + " ")[0]]++
	}
	return got
}

func TestServiceAnswers(t *testing.T) {
	b := newBench(t, 1, 2, 3)
	b.start()
	b.services.Add(service(nil))

	refused := func(ns netns.NsHandle, addr string) bool {
		_, err := ask(ns, "tcp", addr)
		return errors.Is(err, syscall.ECONNREFUSED)
	}
	eventually(t, "a Service without endpoints refuses pods", func() bool { return refused(b.pods[3], "10.43.0.7:80") })
	if !refused(b.node, "10.43.0.7:80") {
		t.Error("a Service without endpoints must refuse the node")
	}

	b.slices.Add(endpoints(1, 2))
	eventually(t, "both pods answer", func() bool { return len(answers(b.pods[3], "10.43.0.7:80", 20)) == 2 })
	for _, from := range []struct {
		who  string
		ns   netns.NsHandle
		addr string
	}{
		{"a pod, cluster IP", b.pods[3], "10.43.0.7:80"},
		{"the node, cluster IP", b.node, "10.43.0.7:80"},
		{"the node, node port", b.node, "192.168.77.1:30080"},
		{"the node, node port on loopback", b.node, "127.0.0.1:30080"},
		{"a pod, node port", b.pods[3], "10.42.3.1:30080"},
		{"an endpoint itself (hairpin)", b.pods[1], "10.43.0.7:80"},
	} {
		got := answers(from.ns, from.addr, 40)
		if got["1"]+got["2"] != 40 || got["1"] == 0 || got["2"] == 0 {
			t.Errorf("%s: %v, want 40 answers of 1 and 2", from.who, got)
		}
		if a, err := ask(from.ns, "udp", from.addr); err != nil || a != "1" && a != "2" {
			t.Errorf("%s over UDP: %q, %v", from.who, a, err)
		}
	}
	if a, err := ask(b.pods[3], "tcp", "10.43.0.7:80"); err != nil || !strings.HasSuffix(a, " 10.42.3.2") {
		t.Errorf("a pod's address must be kept: %q, %v", a, err)
	}
	if !refused(b.pods[3], "10.43.0.7:81") {
		t.Error("a port that the Service does not have must be refused")
	}
}

func TestEndpointsChange(t *testing.T) {
	b := newBench(t, 1, 2, 3)
	b.start()
	b.services.Add(service(nil))
	slice := endpoints(1)
	b.slices.Add(slice)
	eventually(t, "pod 1 answers", func() bool { return answers(b.node, "10.43.0.7:80", 1)["1"] == 1 })

	// Requests all the time, while endpoints come and go.
	stop, lost := make(chan struct{}), make(chan map[string]int)
	go func() {
		bad := map[string]int{}
		for {
			select {
			case <-stop:
				lost <- bad
				return
			default:
			}
			for a, n := range answers(b.pods[3], "10.43.0.7:80", 1) {
				if strings.HasPrefix(a, "error") {
					bad[a] += n
				}
			}
		}
	}()
	for i := range 20 {
		next := endpoints([]int{1, 2}[i%2])
		b.slices.Update(slice, next)
		slice = next
		eventually(t, "the new endpoint alone answers", func() bool {
			got := answers(b.node, "10.43.0.7:80", 3)
			return got[fmt.Sprint([]int{1, 2}[i%2])] == 3
		})
	}
	close(stop)
	if bad := <-lost; len(bad) > 0 {
		t.Errorf("requests were lost: %v", bad)
	}

	next := endpoints(-1, -2)
	b.slices.Update(slice, next)
	eventually(t, "pods that terminate serve when there are no others", func() bool {
		return len(answers(b.node, "10.43.0.7:80", 20)) == 2
	})
	b.slices.Delete(next)
	eventually(t, "refused without endpoints", func() bool {
		_, err := ask(b.node, "tcp", "10.43.0.7:80")
		return errors.Is(err, syscall.ECONNREFUSED)
	})
}

// exchange asks over a connection that stays and returns the answer, empty for none.
func exchange(c net.Conn) string {
	c.SetDeadline(time.Now().Add(300 * time.Millisecond))
	buf := make([]byte, 100)
	if _, err := c.Write([]byte("?")); err != nil {
		return ""
	}
	n, err := c.Read(buf)
	if err != nil {
		return ""
	}
	return string(buf[:n])
}

// A client over UDP stays with an endpoint for as long as that serves, and gets
// another one then: its flow never ends by itself.
func TestFlowsFollowEndpoints(t *testing.T) {
	b := newBench(t, 1, 2, 3)
	stop := b.start()
	b.services.Add(service(nil))
	slice := endpoints(1)
	b.slices.Add(slice)
	eventually(t, "an answer", func() bool { return answers(b.pods[3], "10.43.0.7:80", 1)["1"] == 1 })
	dial := func(ns netns.NsHandle, addr string) (c net.Conn) {
		b.must(inside(ns, func() (err error) { c, err = net.Dial("udp", addr); return err }))
		t.Cleanup(func() { c.Close() })
		return c
	}
	clients := map[string]net.Conn{
		"by the cluster IP": dial(b.pods[3], "10.43.0.7:80"), "by a node port": dial(b.pods[3], "192.168.77.1:30080"), "from the node": dial(b.node, "10.43.0.7:80"),
	}
	all := func(want string) {
		t.Helper()
		for who, c := range clients {
			eventually(t, who+": pod "+want, func() bool { return exchange(c) == want })
		}
	}
	all("1")
	update := func(pods ...int) {
		next := endpoints(pods...)
		b.slices.Update(slice, next)
		slice = next
	}
	update(-1, 2)
	eventually(t, "pod 2 alone gets new clients", func() bool { return answers(b.node, "10.43.0.7:80", 5)["2"] == 5 })
	for who, c := range clients {
		var got string
		eventually(t, who+": an answer", func() bool { got = exchange(c); return got != "" })
		if got != "1" {
			t.Errorf("%s: %q answers, not pod 1, which still serves", who, got)
		}
	}
	update(2)
	all("2")

	// The endpoint changes while no proxy runs.
	stop()
	b.informer = &informertest.FakeInformers{}
	b.start()
	b.services.Add(service(nil))
	b.slices.Add(endpoints(1))
	all("1")
}

// A slice is its Service's by a label alone, which may change.
func TestSliceChangesHands(t *testing.T) {
	b := newBench(t, 1, 3)
	b.start()
	b.services.Add(service(nil))
	b.services.Add(service(func(s *corev1.Service) {
		s.Name, s.Spec.ClusterIP, s.Spec.ClusterIPs, s.Spec.Type = "other", "10.43.0.8", []string{"10.43.0.8"}, corev1.ServiceTypeClusterIP
		s.Spec.Ports[0].NodePort, s.Spec.Ports[1].NodePort = 0, 0
	}))
	slice := endpoints(1)
	b.slices.Add(slice)
	eventually(t, "the first Service answers", func() bool { return answers(b.node, "10.43.0.7:80", 1)["1"] == 1 })
	next := endpoints(1)
	next.Labels = map[string]string{discoveryv1.LabelServiceName: "other"}
	b.slices.Update(slice, next)
	eventually(t, "the second Service answers, the first does not", func() bool {
		return answers(b.node, "10.43.0.8:80", 1)["1"] == 1 && answers(b.node, "10.43.0.7:80", 1)["1"] == 0
	})
	last := endpoints(1)
	last.Labels = nil
	b.slices.Update(next, last)
	eventually(t, "neither answers", func() bool { return answers(b.node, "10.43.0.8:80", 1)["1"] == 0 })
}

// A connection that was tried before its Service came must not spoil later
// ones from the same port: the kernel keeps what it decided for a flow.
func TestConnectionBeforeService(t *testing.T) {
	b := newBench(t, 1, 2)
	b.start()
	b.ranges.Add(&networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: "kubernetes"}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: []string{"10.43.0.0/16", "fd00::/112"}}})
	eventually(t, "what no Service has goes nowhere", func() bool {
		_, err := ask(b.node, "udp", "10.43.0.9:80")
		return errors.Is(err, syscall.EPERM)
	})
	// But what the node holds itself is there, as DNS is.
	var dns net.PacketConn
	b.must(inside(b.node, func() error {
		out, err := netlink.LinkByName("out0")
		if err != nil {
			return err
		}
		addr, _ := netlink.ParseAddr("10.43.0.10/32")
		if err := netlink.AddrAdd(out, addr); err != nil {
			return err
		}
		dns, err = net.ListenPacket("udp4", "10.43.0.10:53")
		return err
	}))
	defer dns.Close()
	go func() {
		if _, from, err := dns.ReadFrom(make([]byte, 10)); err == nil {
			dns.WriteTo([]byte("!"), from)
		}
	}()
	if answer, err := ask(b.node, "udp", "10.43.0.10:53"); answer != "!" {
		t.Errorf("an address that the node holds: %q, %v", answer, err)
	}
	dial := func(ns netns.NsHandle, timeout time.Duration) error {
		return inside(ns, func() error {
			d := net.Dialer{Timeout: timeout, LocalAddr: &net.TCPAddr{Port: 33333}}
			c, err := d.Dial("tcp4", "10.43.0.7:80")
			if err != nil {
				return err
			}
			c.(*net.TCPConn).SetLinger(0) // frees the port
			return c.Close()
		})
	}
	for who, ns := range map[string]netns.NsHandle{"the node": b.node, "a pod": b.pods[2]} {
		var late net.Error
		if err := dial(ns, 100*time.Millisecond); !errors.As(err, &late) || !late.Timeout() {
			t.Errorf("%s, without a Service: %v, want a timeout", who, err)
		}
	}
	b.services.Add(service(nil))
	b.slices.Add(endpoints(1))
	eventually(t, "the Service answers", func() bool { return answers(b.node, "10.43.0.7:80", 1)["1"] == 1 })
	for who, ns := range map[string]netns.NsHandle{"the node": b.node, "a pod": b.pods[2]} {
		if err := dial(ns, 5*time.Second); err != nil {
			t.Errorf("%s, from the port that was in use before: %v", who, err)
		}
	}
}

func TestSessionAffinity(t *testing.T) {
	b := newBench(t, 1, 2, 3)
	b.start()
	b.services.Add(service(func(s *corev1.Service) { s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP }))
	slice := endpoints(1, 2)
	b.slices.Add(slice)
	eventually(t, "an answer", func() bool {
		return answers(b.pods[3], "10.43.0.7:80", 1)["1"]+answers(b.pods[3], "10.43.0.7:80", 1)["2"] > 0
	})
	got := answers(b.pods[3], "10.43.0.7:80", 30)
	if len(got) != 1 {
		t.Fatalf("one client got several endpoints: %v", got)
	}
	leaves, stays := 1, 2
	if got["2"] > 0 {
		leaves, stays = 2, 1
	}
	b.slices.Update(slice, endpoints(stays))
	eventually(t, fmt.Sprintf("pod %d takes over from %d", stays, leaves), func() bool {
		return answers(b.pods[3], "10.43.0.7:80", 3)[fmt.Sprint(stays)] == 3
	})
}

func TestExternalTrafficPolicyLocal(t *testing.T) {
	b := newBench(t, 1, 3)
	b.start()
	b.services.Add(service(func(s *corev1.Service) {
		s.Spec.Type, s.Spec.ExternalTrafficPolicy, s.Spec.HealthCheckNodePort = corev1.ServiceTypeLoadBalancer, corev1.ServiceExternalTrafficPolicyLocal, 30099
	}))
	slice := endpoints(1)
	b.slices.Add(slice)
	eventually(t, "the node port answers", func() bool { return answers(b.node, "192.168.77.1:30080", 1)["1"] == 1 })

	// Somebody outside, behind a link of the node's.
	outside := newNamespace(t)
	b.must(inside(b.node, func() error {
		v := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "lan0"}, PeerName: "eth0", PeerNamespace: netlink.NsFd(outside)}
		if err := netlink.LinkAdd(v); err != nil {
			return err
		}
		addr, _ := netlink.ParseAddr("10.99.0.1/24")
		second, _ := netlink.ParseAddr("10.99.0.9/24")
		return errors.Join(netlink.AddrAdd(v, addr), netlink.AddrAdd(v, second), netlink.LinkSetUp(v))
	}))
	b.must(inside(outside, func() error {
		eth, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		addr, _ := netlink.ParseAddr("10.99.0.2/24")
		return errors.Join(netlink.AddrAdd(eth, addr), netlink.LinkSetUp(eth))
	}))
	if a, err := ask(outside, "tcp", "10.99.0.1:30080"); err != nil || a != "1 10.99.0.2" {
		t.Errorf("the client's address must be kept: %q, %v", a, err)
	}

	// The load balancer's address lets in whom the Service names, spaces or not.
	balancer := func(ranges ...string) *corev1.Service {
		return service(func(s *corev1.Service) {
			s.Spec.Type, s.Spec.ExternalTrafficPolicy, s.Spec.HealthCheckNodePort = corev1.ServiceTypeLoadBalancer, corev1.ServiceExternalTrafficPolicyLocal, 30099
			s.Spec.LoadBalancerSourceRanges = ranges
			s.Spec.ExternalIPs = []string{"10.99.0.9", "10.99.0.1"}
			s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "10.99.0.1"}}
		})
	}
	open, closed := balancer(" 10.99.0.0/16 "), balancer(" 10.98.0.0/16 ")
	b.services.Update(closed, open)
	eventually(t, "the load balancer's address answers", func() bool { return answers(outside, "10.99.0.1:80", 1)["1"] == 1 })
	b.services.Update(open, closed)
	eventually(t, "it does not answer who is not named", func() bool { return answers(outside, "10.99.0.1:80", 1)["1"] == 0 })
	if got := answers(outside, "10.99.0.9:80", 1); got["1"] != 1 { // the ranges are the load balancer's alone
		t.Errorf("the external address answers %v", got)
	}

	// A load balancer is told to look elsewhere while those that terminate still serve.
	health := func() (code int, weight string) {
		b.must(inside(b.node, func() error {
			c, err := net.Dial("tcp", "127.0.0.1:30099")
			if err != nil {
				return err
			}
			defer c.Close()
			if _, err := io.WriteString(c, "GET / HTTP/1.0\r\n\r\n"); err != nil {
				return err
			}
			resp, err := http.ReadResponse(bufio.NewReader(c), nil)
			if err != nil {
				return err
			}
			code, weight = resp.StatusCode, resp.Header.Get("X-Load-Balancing-Endpoint-Weight")
			return resp.Body.Close()
		}))
		return code, weight
	}
	if code, weight := health(); code != http.StatusOK || weight != "1" {
		t.Errorf("health with a ready endpoint: %d, weight %q", code, weight)
	}
	b.slices.Update(slice, endpoints(-1))
	eventually(t, "no health without a ready endpoint", func() bool {
		code, weight := health()
		return code == http.StatusServiceUnavailable && weight == "0"
	})
	if a, err := ask(outside, "tcp", "10.99.0.1:30080"); err != nil || a != "1 10.99.0.2" {
		t.Errorf("an endpoint that terminates must serve: %q, %v", a, err)
	}
}

func TestRestartAndCleanup(t *testing.T) {
	b := newBench(t, 1, 3)
	stop := b.start()
	b.services.Add(service(nil))
	b.slices.Add(endpoints(1))
	eventually(t, "an answer", func() bool { return answers(b.pods[3], "10.43.0.7:80", 1)["1"] == 1 })
	stop()
	if got := answers(b.pods[3], "10.43.0.7:80", 5); got["1"] != 5 {
		t.Errorf("rules must stay while Proa is away: %v", got)
	}
	b.must(inside(b.node, func() error { return proxy.Cleanup("proa-test") }))
	b.must(inside(b.node, func() error { return proxy.Cleanup("proa-test") })) // nothing there is fine
	if got := answers(b.pods[3], "10.43.0.7:80", 1); got["1"] != 0 {
		t.Error("Cleanup left rules behind")
	}
}
