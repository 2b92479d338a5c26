package endpointslicemirroring_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proa-dev/proa/controllers/endpointslicemirroring"
	"github.com/proa-dev/proa/controllers/internal/clustertest"
)

func endpoints(name string, ready, notReady []string) *corev1.Endpoints {
	e := &corev1.Endpoints{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, Labels: map[string]string{"team": "a"}},
		Subsets:    []corev1.EndpointSubset{{Ports: []corev1.EndpointPort{{Name: "http", Port: 80, Protocol: corev1.ProtocolTCP}}}},
	}
	for _, ip := range ready {
		e.Subsets[0].Addresses = append(e.Subsets[0].Addresses, corev1.EndpointAddress{IP: ip})
	}
	for _, ip := range notReady {
		e.Subsets[0].NotReadyAddresses = append(e.Subsets[0].NotReadyAddresses, corev1.EndpointAddress{IP: ip})
	}
	return e
}

func service(name string, selector map[string]string) *corev1.Service {
	return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name}, Spec: corev1.ServiceSpec{Selector: selector}}
}

// mirrored waits until a Service's slices are as described: "family port:
// address/ready …".
func mirrored(t *testing.T, c *clustertest.Cluster, svc, want string) {
	t.Helper()
	c.Eventually(func() (bool, string) {
		var list discoveryv1.EndpointSliceList
		c.Do(c.API.List(t.Context(), &list, client.MatchingLabels{discoveryv1.LabelServiceName: svc}))
		var all []string
		for _, s := range list.Items {
			line := fmt.Sprintf("%s %d:", s.AddressType, *s.Ports[0].Port)
			for _, e := range s.Endpoints {
				line += fmt.Sprintf(" %s/%t", e.Addresses[0], *e.Conditions.Ready)
			}
			all = append(all, line)
		}
		slices.Sort(all)
		got := strings.Join(all, "; ")
		return got == want, fmt.Sprintf("%s: %q, want %q", svc, got, want)
	})
}

func TestMirrors(t *testing.T) {
	skipped := endpoints("skipped", []string{"10.0.0.1"}, nil)
	skipped.Labels[discoveryv1.LabelSkipMirror] = "true"
	twice := endpoints("twice", []string{"10.0.0.1", "10.0.0.2", "10.0.0.2"}, nil)
	twice.Subsets = append(twice.Subsets, endpoints("twice", nil, []string{"10.0.0.1"}).Subsets...)
	c := clustertest.New(t, service("twice", nil), twice, service("db", nil), endpoints("db", []string{"10.0.0.2", "10.0.0.1", "fd00::1", "nonsense"}, []string{"10.0.0.3"}),
		service("web", map[string]string{"app": "web"}), endpoints("web", []string{"10.0.0.1"}, nil),
		service("skipped", nil), skipped, endpoints("alone", []string{"10.0.0.1"}, nil))
	l, err := endpointslicemirroring.New(c.Env(nil))
	c.Do(err)
	c.Run(l)
	mirrored(t, c, "db", "IPv4 80: 10.0.0.1/true 10.0.0.2/true 10.0.0.3/false; IPv6 80: fd00::1/true")
	if want := "Warning InvalidIPAddress Skipped 1 invalid IP addresses when mirroring to EndpointSlices"; !slices.Contains(c.Events(), want) {
		t.Errorf("events %q", c.Events())
	}
	mirrored(t, c, "twice", "IPv4 80: 10.0.0.1/false 10.0.0.2/true")
	for _, name := range []string{"web", "skipped", "alone"} {
		mirrored(t, c, name, "")
	}

	var e corev1.Endpoints
	c.Get(&e, "ns", "db")
	e.Subsets[0].Addresses = []corev1.EndpointAddress{{IP: "10.0.0.9"}}
	e.Subsets[0].NotReadyAddresses = nil
	e.Subsets[0].Ports[0].Port = 81
	c.Do(c.API.Update(t.Context(), &e))
	mirrored(t, c, "db", "IPv4 81: 10.0.0.9/true")

	// A Service comes to Endpoints that were there before.
	c.Do(c.API.Create(t.Context(), service("alone", nil)))
	mirrored(t, c, "alone", "IPv4 80: 10.0.0.1/true")
	c.Do(c.API.Delete(t.Context(), &e))
	mirrored(t, c, "db", "")
}
