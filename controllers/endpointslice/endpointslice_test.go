package endpointslice_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proa-dev/proa/controllers/endpoints"
	"github.com/proa-dev/proa/controllers/endpointslice"
	"github.com/proa-dev/proa/controllers/internal/clustertest"
)

func service(name string, change func(*corev1.Service)) *corev1.Service {
	s := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, Labels: map[string]string{"team": "a"}},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeClusterIP, ClusterIP: "10.0.0.1", ClusterIPs: []string{"10.0.0.1"},
			IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol}, Selector: map[string]string{"app": "web"},
			Ports: []corev1.ServicePort{{Name: "http", Port: 80, Protocol: corev1.ProtocolTCP, TargetPort: intstr.FromString("web")}},
		},
	}
	if change != nil {
		change(s)
	}
	return s
}

func pod(name string, n int, ready corev1.ConditionStatus) *corev1.Pod {
	ip := fmt.Sprintf("10.1.%d.%d", n/256, n%256)
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, Labels: map[string]string{"app": "web"}},
		Spec: corev1.PodSpec{NodeName: "n1", Containers: []corev1.Container{{
			Name: "c", Ports: []corev1.ContainerPort{{Name: "web", ContainerPort: 8080, Protocol: corev1.ProtocolTCP}},
		}}},
		Status: corev1.PodStatus{
			Phase: corev1.PodRunning, PodIP: ip, PodIPs: []corev1.PodIP{{IP: ip}},
			Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: ready}},
		},
	}
}

func start(t *testing.T, objs ...client.Object) *clustertest.Cluster {
	t.Helper()
	zone := map[string]string{corev1.LabelTopologyZone: "z1"}
	c := clustertest.New(t, append(objs, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1", Labels: zone}})...)
	s, err := endpointslice.New(c.Env(nil))
	c.Do(err)
	e, err := endpoints.New(c.Env(nil))
	c.Do(err)
	c.Run(s, e)
	return c
}

// summary is "port: address/ready-serving-terminating …" of a Service's slices.
func summary(t *testing.T, c *clustertest.Cluster, svc string) string {
	t.Helper()
	var list discoveryv1.EndpointSliceList
	c.Do(c.API.List(t.Context(), &list, client.MatchingLabels{discoveryv1.LabelServiceName: svc}))
	var all []string
	for _, s := range list.Items {
		var eps []string
		for _, e := range s.Endpoints {
			eps = append(eps, fmt.Sprintf("%s/%t-%t-%t", e.Addresses[0], *e.Conditions.Ready, *e.Conditions.Serving, *e.Conditions.Terminating))
		}
		slices.Sort(eps)
		port := "-"
		if len(s.Ports) > 0 {
			port = fmt.Sprint(*s.Ports[0].Port)
		}
		all = append(all, port+": "+strings.Join(eps, " "))
	}
	slices.Sort(all)
	return strings.Join(all, "; ")
}

// legacy is "port: ready … | not ready …" of a Service's Endpoints.
func legacy(c *clustertest.Cluster, svc string) string {
	var e corev1.Endpoints
	if !c.Get(&e, "ns", svc) {
		return "none"
	}
	var all []string
	for _, s := range e.Subsets {
		line := "-:"
		if len(s.Ports) > 0 {
			line = fmt.Sprintf("%d:", s.Ports[0].Port)
		}
		for _, a := range s.Addresses {
			line += " " + a.IP
		}
		line += " |"
		for _, a := range s.NotReadyAddresses {
			line += " " + a.IP
		}
		all = append(all, line)
	}
	return strings.Join(all, "; ")
}

func wait(t *testing.T, c *clustertest.Cluster, svc, slices, endpoints string) {
	t.Helper()
	c.Eventually(func() (bool, string) {
		s, e := summary(t, c, svc), legacy(c, svc)
		return s == slices && e == endpoints, fmt.Sprintf("%s: slices %q, endpoints %q", svc, s, e)
	})
}

func TestFollowsPods(t *testing.T) {
	a, b := pod("a", 1, corev1.ConditionTrue), pod("b", 2, corev1.ConditionFalse)
	b.Finalizers = []string{"test/hold"}
	c := start(t, service("web", nil), a, b,
		service("all", func(s *corev1.Service) { s.Spec.PublishNotReadyAddresses = true }),
		service("headless", func(s *corev1.Service) { s.Spec.ClusterIP = corev1.ClusterIPNone; s.Spec.Ports = nil }),
		service("none", func(s *corev1.Service) { s.Spec.Selector = map[string]string{"app": "db"} }))
	wait(t, c, "web", "8080: 10.1.0.1/true-true-false 10.1.0.2/false-false-false", "8080: 10.1.0.1 | 10.1.0.2")
	wait(t, c, "all", "8080: 10.1.0.1/true-true-false 10.1.0.2/true-false-false", "8080: 10.1.0.1 10.1.0.2 |")
	wait(t, c, "headless", "-: 10.1.0.1/true-true-false 10.1.0.2/false-false-false", "-: 10.1.0.1 | 10.1.0.2")
	wait(t, c, "none", "-: ", "")

	var list discoveryv1.EndpointSliceList
	c.Do(c.API.List(t.Context(), &list, client.MatchingLabels{discoveryv1.LabelServiceName: "web"}))
	s := list.Items[0]
	if s.Labels[discoveryv1.LabelManagedBy] != "endpointslice-controller.k8s.io" || s.Labels["team"] != "a" ||
		*s.Endpoints[0].NodeName != "n1" || *s.Endpoints[0].Zone != "z1" || metav1.GetControllerOf(&s).Name != "web" {
		t.Errorf("slice %+v", s)
	}
	var e corev1.Endpoints
	c.Get(&e, "ns", "headless")
	if _, ok := e.Labels[corev1.IsHeadlessService]; !ok || e.Labels["endpoints.kubernetes.io/managed-by"] != "endpoint-controller" {
		t.Errorf("labels %v", e.Labels)
	}

	c.Do(c.API.Delete(t.Context(), b)) // held: terminating
	wait(t, c, "web", "8080: 10.1.0.1/true-true-false 10.1.0.2/false-false-true", "8080: 10.1.0.1 |")
	c.Do(c.API.Delete(t.Context(), a))
	wait(t, c, "web", "8080: 10.1.0.2/false-false-true", "")

	var svc corev1.Service
	c.Get(&svc, "ns", "web")
	c.Do(c.API.Delete(t.Context(), &svc))
	c.Eventually(func() (bool, string) { return legacy(c, "web") == "none", "Endpoints stay" })
}

func TestCapacity(t *testing.T) {
	var objs []client.Object
	for i := range 1100 {
		objs = append(objs, pod(fmt.Sprint("p", i), i+1, corev1.ConditionTrue))
	}
	c := start(t, append(objs, service("web", nil))...)
	c.Eventually(func() (bool, string) {
		var list discoveryv1.EndpointSliceList
		c.Do(c.API.List(t.Context(), &list, client.MatchingLabels{discoveryv1.LabelServiceName: "web"}))
		n := 0
		for _, s := range list.Items {
			if len(s.Endpoints) > 100 {
				t.Fatalf("%d endpoints in a slice", len(s.Endpoints))
			}
			n += len(s.Endpoints)
		}
		var e corev1.Endpoints
		c.Get(&e, "ns", "web")
		return n == 1100 && len(list.Items) == 11 && len(e.Subsets) == 1 && len(e.Subsets[0].Addresses) == 1000 &&
			e.Annotations[corev1.EndpointsOverCapacity] == "truncated", fmt.Sprintf("%d endpoints in %d slices", n, len(list.Items))
	})
}

// late is a cluster whose nodes are listed when known is closed.
type late struct {
	*clustertest.Cluster
	known chan struct{}
}

func (l late) Client() client.WithWatch { return lateClient{l.Cluster.Client(), l.known} }

type lateClient struct {
	client.WithWatch
	known chan struct{}
}

func (l lateClient) List(ctx context.Context, list client.ObjectList, opts ...client.ListOption) error {
	if _, ok := list.(*corev1.NodeList); ok {
		<-l.known
	}
	return l.WithWatch.List(ctx, list, opts...)
}

// A controller that starts does not take hints away because it has yet to
// learn of the nodes.
func TestHintsAtStart(t *testing.T) {
	objs := []client.Object{service("web", func(s *corev1.Service) {
		s.Annotations = map[string]string{corev1.AnnotationTopologyMode: "Auto"}
	})}
	for i := range 2 {
		name := fmt.Sprint("n", i)
		objs = append(objs, &corev1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelTopologyZone: fmt.Sprint("z", i)}},
			Status: corev1.NodeStatus{
				Conditions:  []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}},
				Allocatable: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("4")},
			},
		})
		for j := range 4 {
			p := pod(fmt.Sprint(name, "-", j), 4*i+j+1, corev1.ConditionTrue)
			p.Spec.NodeName = name
			objs = append(objs, p)
		}
	}
	c := late{clustertest.New(t, objs...), make(chan struct{})}
	env := c.Env(nil)
	env.Cluster = c
	l, err := endpointslice.New(env)
	c.Do(err)
	c.Run(l)
	c.Eventually(func() (bool, string) { return c.Gets(&corev1.Service{}) > 1, "nothing is looked at" })
	close(c.known)
	c.Eventually(func() (bool, string) {
		var list discoveryv1.EndpointSliceList
		c.Do(c.API.List(t.Context(), &list))
		hints := 0
		for _, s := range list.Items {
			for _, e := range s.Endpoints {
				if e.Hints != nil && e.Hints.ForZones[0].Name == *e.Zone {
					hints++
				}
			}
		}
		return hints == 8, fmt.Sprintf("%d hints", hints)
	})
	if events := strings.Join(c.Events(), "; "); strings.Contains(events, "Disabled") {
		t.Error(events)
	}
}
