package servicelb_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proa-dev/proa/controllers/internal/clustertest"
	"github.com/proa-dev/proa/controllers/servicelb"
)

// node has the internal address 10.0.0.<n>, and what change gives it.
func node(n int, change ...func(*corev1.Node)) *corev1.Node {
	o := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("n", n), Labels: map[string]string{}}}
	o.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeHostName, Address: o.Name}, {Type: corev1.NodeInternalIP, Address: fmt.Sprint("10.0.0.", n)}}
	o.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}
	o.Status.DaemonEndpoints.KubeletEndpoint.Port = 10250
	for _, c := range change {
		c(o)
	}
	return o
}

func silent(n *corev1.Node)   { n.Status.Conditions[0].Status = corev1.ConditionUnknown }
func excluded(n *corev1.Node) { n.Labels[corev1.LabelNodeExcludeBalancers] = "" }
func external(n *corev1.Node) {
	n.Status.Addresses = append(n.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeExternalIP, Address: "192.0.2." + n.Name[1:]})
}

func also(ip string) func(*corev1.Node) {
	return func(n *corev1.Node) {
		n.Status.Addresses = append(n.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: ip})
	}
}

// service is a balanced one with port 80, made so many seconds after the first.
func service(name string, age int, change ...func(*corev1.Service)) *corev1.Service {
	s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, CreationTimestamp: metav1.Unix(int64(1000+age), 0)}}
	s.Spec = corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer, Ports: []corev1.ServicePort{{Port: 80, Protocol: corev1.ProtocolTCP}}}
	for _, c := range change {
		c(s)
	}
	return s
}

func port(n int32, p corev1.Protocol) func(*corev1.Service) {
	return func(s *corev1.Service) { s.Spec.Ports[0].Port, s.Spec.Ports[0].Protocol = n, p }
}

func class(name string) func(*corev1.Service) {
	return func(s *corev1.Service) { s.Spec.LoadBalancerClass = ptr.To(name) }
}

func local(s *corev1.Service) {
	s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
}

func holding(ip string) func(*corev1.Service) {
	return func(s *corev1.Service) {
		s.Status.LoadBalancer.Ingress = append(s.Status.LoadBalancer.Ingress, corev1.LoadBalancerIngress{IP: ip})
	}
}

// slice has an endpoint on each node, ready or not.
func slice(namespace, service string, port int32, on map[string]bool) *discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: service + "-1", Labels: map[string]string{discoveryv1.LabelServiceName: service}}}
	s.AddressType = discoveryv1.AddressTypeIPv4
	s.Ports = []discoveryv1.EndpointPort{{Port: ptr.To(port)}}
	for n, ready := range on {
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{NodeName: ptr.To(n), Addresses: []string{"10.0.0.1"}, Conditions: discoveryv1.EndpointConditions{Ready: ptr.To(ready)}})
	}
	return s
}

func TestPlan(t *testing.T) {
	for _, test := range []struct {
		name     string
		nodes    []*corev1.Node
		services []*corev1.Service
		slices   []*discoveryv1.EndpointSlice
		want     map[string]string // addresses, or who is in the way
	}{
		{"every ready node", []*corev1.Node{node(2), node(1), node(3, silent), node(4, excluded)}, []*corev1.Service{service("a", 0)}, nil,
			map[string]string{"a": "10.0.0.1 10.0.0.2"}},
		{"external addresses first", []*corev1.Node{node(1, external), node(2)}, []*corev1.Service{service("a", 0)}, nil,
			map[string]string{"a": "10.0.0.2 192.0.2.1"}},
		{"the family", []*corev1.Node{node(1)}, []*corev1.Service{service("a", 0, func(s *corev1.Service) { s.Spec.IPFamilies = []corev1.IPFamily{corev1.IPv6Protocol} })}, nil,
			map[string]string{"a": ""}},
		{"no node", nil, []*corev1.Service{service("a", 0)}, nil, map[string]string{"a": ""}},
		{"no node is ready", []*corev1.Node{node(1, silent), node(2, silent)}, []*corev1.Service{service("a", 0, holding("10.0.0.2"), holding("10.9.9.9")), service("b", 0, port(81, "TCP"))}, nil,
			map[string]string{"a": "10.0.0.2", "b": ""}},
		{"others are left alone", []*corev1.Node{node(1)}, []*corev1.Service{
			service("foreign", 0, class("example.com/lb")), service("own", 1, class(servicelb.Class)),
			service("plain", 0, func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeNodePort }),
			service("going", 0, func(s *corev1.Service) { s.DeletionTimestamp = ptr.To(metav1.Now()) }),
		}, nil, map[string]string{"own": "10.0.0.1"}},
		{"local traffic", []*corev1.Node{node(1), node(2), node(3)}, []*corev1.Service{service("a", 0, local), service("b", 0, local, port(81, "TCP"))},
			[]*discoveryv1.EndpointSlice{slice("ns", "a", 8080, map[string]bool{"n1": true, "n2": false})}, map[string]string{"a": "10.0.0.1", "b": ""}},
		{"local traffic, no pod for a moment", []*corev1.Node{node(1), node(2)}, []*corev1.Service{service("a", 0, local, holding("10.0.0.2"), holding("10.9.9.9")), service("b", 1)},
			[]*discoveryv1.EndpointSlice{slice("ns", "a", 8080, map[string]bool{"n1": false, "n2": false})}, map[string]string{"a": "10.0.0.2", "b": "10.0.0.1"}},
		{"one port, two Services", []*corev1.Node{node(1)}, []*corev1.Service{service("b", 0), service("a", 1), service("udp", 2, port(80, "UDP")), service("c", 3, port(81, "TCP"))}, nil,
			map[string]string{"b": "10.0.0.1", "a": "port 80/TCP of 10.0.0.1 is taken by Service ns/b", "udp": "10.0.0.1", "c": "10.0.0.1"}},
		{"who has an address keeps it", []*corev1.Node{node(1), node(2)}, []*corev1.Service{service("old", 0), service("young", 1, holding("10.0.0.2"))}, nil,
			map[string]string{"old": "10.0.0.1", "young": "10.0.0.2"}},
		{"all ports or none", []*corev1.Node{node(1)}, []*corev1.Service{service("a", 0, port(443, "TCP")), service("b", 1, func(s *corev1.Service) {
			s.Spec.Ports = append(s.Spec.Ports, corev1.ServicePort{Port: 443, Protocol: corev1.ProtocolTCP})
		}), service("c", 2)}, nil, map[string]string{"a": "10.0.0.1", "b": "port 443/TCP of 10.0.0.1 is taken by Service ns/a", "c": "10.0.0.1"}},
		{"the kubelet's port", []*corev1.Node{node(1)}, []*corev1.Service{service("a", 0, port(10250, "TCP"))}, nil,
			map[string]string{"a": "port 10250/TCP of 10.0.0.1 is taken by the kubelet of node n1"}},
		{"the API server's port", []*corev1.Node{node(1), node(2)}, []*corev1.Service{service("a", 0, port(6443, "TCP"))},
			[]*discoveryv1.EndpointSlice{slice("default", "kubernetes", 6443, map[string]bool{"x": true})}, map[string]string{"a": "10.0.0.2"}},
		{"a node port", []*corev1.Node{node(1)}, []*corev1.Service{service("a", 0, port(30080, "TCP")), service("own", 0, port(30081, "TCP")), service("udp", 0, port(30080, "UDP"))}, nil,
			map[string]string{"a": "port 30080/TCP of 10.0.0.1 is taken by the node port of Service ns/ported", "own": "10.0.0.1", "udp": "10.0.0.1"}},
		{"what is no address", []*corev1.Node{node(1, also("fe80::1%eth0")), node(2, also("0.0.0.0")), node(3, also("::ffff:10.9.0.3"))}, []*corev1.Service{service("a", 0)}, nil,
			map[string]string{"a": "10.0.0.1 10.0.0.2 10.0.0.3 10.9.0.3"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := servicelb.State{NodePorts: map[servicelb.Port]types.NamespacedName{
				{Protocol: "TCP", Number: 30080}: {Namespace: "ns", Name: "ported"}, {Protocol: "TCP", Number: 30081}: {Namespace: "ns", Name: "own"},
			}, Services: test.services, Nodes: test.nodes, Slices: map[types.NamespacedName][]*discoveryv1.EndpointSlice{}}
			for _, x := range test.slices {
				key := types.NamespacedName{Namespace: x.Namespace, Name: x.Labels[discoveryv1.LabelServiceName]}
				s.Slices[key] = append(s.Slices[key], x)
			}
			got := servicelb.Plan(s)
			if len(got) != len(test.want) {
				t.Errorf("%d Services have a plan: %v", len(got), got)
			}
			for name, want := range test.want {
				g := got[types.NamespacedName{Namespace: "ns", Name: name}]
				text := g.Taken
				for _, a := range g.Addresses {
					text += " " + a.String()
				}
				if strings.TrimSpace(text) != want {
					t.Errorf("%s: %q, want %q", name, text, want)
				}
			}
		})
	}
}

// start runs the controller; shown tells a Service's addresses and finalizers.
func start(t *testing.T, off bool, objs ...client.Object) (c *clustertest.Cluster, shown func(name, want string)) {
	t.Helper()
	c = clustertest.New(t, objs...)
	l, err := servicelb.New(c.Env(nil), off)
	c.Do(err)
	c.Run(l)
	return c, func(name, want string) {
		t.Helper()
		c.Eventually(func() (bool, string) {
			s, got := &corev1.Service{}, "gone"
			if c.Get(s, "ns", name) {
				got = strings.Join(s.Finalizers, " ")
				for _, in := range s.Status.LoadBalancer.Ingress {
					got += fmt.Sprintf(" %s/%s", in.IP, ptr.Deref(in.IPMode, ""))
				}
			}
			return strings.TrimSpace(got) == want, fmt.Sprintf("%s: %q, want %q", name, got, want)
		})
	}
}

const cleanup = "service.kubernetes.io/load-balancer-cleanup"

func TestLife(t *testing.T) {
	c, shown := start(t, false, node(1), node(2, silent))
	c.Do(c.API.Create(t.Context(), service("a", 0)))
	shown("a", cleanup+" 10.0.0.1/VIP")
	c.Do(c.API.Create(t.Context(), service("b", 1)))
	wantEvent := func(want string) {
		t.Helper()
		c.Eventually(func() (bool, string) { return slices.Contains(c.Events(), want), "no event " + want })
	}
	wantEvent("Warning SyncLoadBalancerFailed Error syncing load balancer: failed to ensure load balancer: port 80/TCP of 10.0.0.1 is taken by Service ns/a")
	shown("b", "")

	n := node(2)
	c.Do(c.API.Get(t.Context(), client.ObjectKey{Name: "n2"}, n))
	n.Status.Conditions[0].Status = corev1.ConditionTrue
	c.Do(c.API.Status().Update(t.Context(), n))
	shown("a", cleanup+" 10.0.0.1/VIP 10.0.0.2/VIP")

	c.Do(c.API.Delete(t.Context(), service("a", 0)))
	shown("a", "gone")
	shown("b", cleanup+" 10.0.0.1/VIP 10.0.0.2/VIP")

	b := &corev1.Service{}
	c.Do(c.API.Get(t.Context(), client.ObjectKey{Namespace: "ns", Name: "b"}, b))
	b.Spec.Type = corev1.ServiceTypeClusterIP
	c.Do(c.API.Update(t.Context(), b))
	shown("b", "")
	for _, want := range []string{
		"Normal EnsuringLoadBalancer Ensuring load balancer", "Normal EnsuredLoadBalancer Ensured load balancer",
		"Normal UpdatedLoadBalancer Updated load balancer with new hosts",
		"Normal DeletingLoadBalancer Deleting load balancer", "Normal DeletedLoadBalancer Deleted load balancer",
	} {
		wantEvent(want)
	}
}

// A Service that cannot have its port is told so once, however often all is
// looked at.
func TestToldOnce(t *testing.T) {
	c, shown := start(t, false, node(1), service("a", 0), service("b", 1))
	shown("a", cleanup+" 10.0.0.1/VIP")
	for i := range 5 {
		name := fmt.Sprint("x", i)
		c.Do(c.API.Create(t.Context(), service(name, 10+i, port(int32(1000+i), "TCP"))))
		shown(name, cleanup+" 10.0.0.1/VIP")
	}
	told := 0
	for _, e := range c.Events() {
		if strings.HasPrefix(e, "Warning") {
			told++
		}
	}
	if told != 1 {
		t.Errorf("%d warnings: %q", told, c.Events())
	}
}

// Switched off, the controller takes back what it gave, and nothing else.
func TestOff(t *testing.T) {
	held := func(s *corev1.Service) { s.Finalizers = []string{cleanup} }
	_, shown := start(t, true, node(1), service("ours", 0, held, holding("10.0.0.1")), service("theirs", 1, held, holding("203.0.113.7")),
		service("fresh", 2))
	shown("ours", "")
	shown("theirs", cleanup+" 203.0.113.7/")
	shown("fresh", "")
}

// A node port stays its Service's: no load balancer takes what comes for it.
func TestNodePorts(t *testing.T) {
	c, shown := start(t, false, node(1), service("a", 0, port(30080, "TCP")))
	shown("a", cleanup+" 10.0.0.1/VIP")
	other := service("other", 1)
	other.Spec.Type, other.Spec.Ports[0].NodePort = corev1.ServiceTypeNodePort, 30080
	c.Do(c.API.Create(t.Context(), other))
	shown("a", cleanup)
	c.Do(c.API.Delete(t.Context(), other))
	shown("a", cleanup+" 10.0.0.1/VIP")
}

// A plan for many nodes and Services takes no time to speak of.
func BenchmarkPlan(b *testing.B) {
	s := servicelb.State{}
	for n := range 500 {
		s.Nodes = append(s.Nodes, node(n, func(o *corev1.Node) { o.Status.Addresses[1].Address = fmt.Sprintf("10.0.%d.%d", n/250, n%250+1) }))
	}
	for n := range 100 {
		s.Services = append(s.Services, service(fmt.Sprint("s", n), n, port(int32(1000+n), "TCP")))
		for i := range 500 {
			holding(fmt.Sprintf("10.0.%d.%d", i/250, i%250+1))(s.Services[n])
		}
	}
	for b.Loop() {
		servicelb.Plan(s)
	}
}
