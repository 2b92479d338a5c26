package servicecidr_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/proa-dev/proa/controllers/internal/clustertest"
	"github.com/proa-dev/proa/controllers/servicecidr"
)

// start runs the controller on a clock that says that every deletion was
// begun long ago.
func start(t *testing.T, ips ...string) *clustertest.Cluster {
	t.Helper()
	c := clustertest.New(t)
	for _, ip := range ips {
		c.Do(c.API.Create(t.Context(), address(ip)))
	}
	l, err := servicecidr.New(c.Env(clocktesting.NewFakeClock(time.Now().Add(time.Hour))), netip.MustParsePrefix("10.43.0.0/16"))
	c.Do(err)
	c.Run(l)
	return c
}

func address(ip string) *networkingv1.IPAddress {
	return &networkingv1.IPAddress{ObjectMeta: metav1.ObjectMeta{Name: ip, Labels: map[string]string{networkingv1.LabelManagedBy: "ipallocator.k8s.io"}}}
}

// state of a range: "gone", "new", or the reason, status and message of its condition.
func state(c *clustertest.Cluster, name string) string {
	s := &networkingv1.ServiceCIDR{}
	if !c.Get(s, "", name) {
		return "gone"
	}
	ready := meta.FindStatusCondition(s.Status.Conditions, "Ready")
	if ready == nil || !slices.Contains(s.Finalizers, "networking.k8s.io/service-cidr-finalizer") {
		return "new"
	}
	return fmt.Sprintf("%s %s%s", ready.Status, ready.Reason, ready.Message)
}

const (
	ready = "True Kubernetes Service CIDR is ready"
	stuck = "False TerminatingThere are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR"
)

func wait(c *clustertest.Cluster, name, want string) {
	c.Eventually(func() (bool, string) {
		got := state(c, name)
		return got == want, fmt.Sprintf("%s is %q, want %q", name, got, want)
	})
}

func declare(c *clustertest.Cluster, name string, cidrs ...string) {
	c.Do(c.API.Create(c.Context(), &networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: cidrs}}))
	wait(c, name, ready)
}

func remove(c *clustertest.Cluster, name string) {
	c.Do(c.API.Delete(c.Context(), &networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: name}}))
}

func TestProtection(t *testing.T) {
	for _, test := range []struct {
		name   string
		cidrs  []string // of "r", which is deleted
		others map[string]string
		ips    []string
		want   string
	}{
		{"nothing in use", []string{"10.1.0.0/24"}, nil, nil, "gone"},
		{"an address in use", []string{"10.1.0.0/24"}, nil, []string{"10.1.0.7"}, stuck},
		{"an address of another range", []string{"10.1.0.0/24"}, nil, []string{"10.2.0.7"}, "gone"},
		{"first and last belong to nobody", []string{"10.1.0.0/24"}, nil, []string{"10.1.0.0", "10.1.0.255"}, "gone"},
		{"within a larger range", []string{"10.1.0.0/24"}, map[string]string{"o": "10.0.0.0/8"}, []string{"10.1.0.7"}, "gone"},
		{"twice the same range", []string{"10.1.0.0/24"}, map[string]string{"o": "10.1.0.0/24"}, []string{"10.1.0.7"}, "gone"},
		{"a smaller range has the address", []string{"10.1.0.0/16"}, map[string]string{"o": "10.1.0.0/24"}, []string{"10.1.0.7"}, "gone"},
		{"a smaller range has it not", []string{"10.1.0.0/16"}, map[string]string{"o": "10.1.1.0/24"}, []string{"10.1.0.7"}, stuck},
		{"of two families", []string{"10.1.0.0/16", "fd00::/112"}, nil, []string{"fd00::7"}, stuck},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := start(t, test.ips...)
			for name, cidr := range test.others {
				declare(c, name, cidr)
			}
			declare(c, "r", test.cidrs...)
			remove(c, "r")
			wait(c, "r", test.want)
		})
	}
}

// What waits goes when the last address does, or another range takes over.
func TestRelease(t *testing.T) {
	c := start(t, "10.1.0.7", "10.2.0.7")
	declare(c, "a", "10.1.0.0/24")
	declare(c, "b", "10.2.0.0/24")
	remove(c, "a")
	remove(c, "b")
	wait(c, "a", stuck)
	wait(c, "b", stuck)
	c.Do(c.API.Delete(t.Context(), address("10.1.0.7")))
	wait(c, "a", "gone")
	declare(c, "larger", "10.2.0.0/16")
	wait(c, "b", "gone")
}

func TestOwn(t *testing.T) {
	c := start(t)
	wait(c, "kubernetes", ready)
	remove(c, "kubernetes")
	c.Eventually(func() (bool, string) {
		s := &networkingv1.ServiceCIDR{}
		ok := c.Get(s, "", "kubernetes") && s.DeletionTimestamp == nil && slices.Equal(s.Spec.CIDRs, []string{"10.43.0.0/16"})
		return ok, "the cluster's own range is not made again"
	})
}

// A range that servers do not agree on is reported, not changed.
func TestInconsistent(t *testing.T) {
	c := clustertest.New(t, &networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: "kubernetes"}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: []string{"10.96.0.0/12"}}})
	l, err := servicecidr.New(c.Env(nil), netip.MustParsePrefix("10.43.0.0/16"))
	c.Do(err)
	c.Run(l)
	wait(c, "kubernetes", ready)
	if e := c.Events(); len(e) != 1 || !strings.HasPrefix(e[0], "Warning KubernetesDefaultServiceCIDRInconsistent The default ServiceCIDR [10.96.0.0/12] does not match") {
		t.Errorf("events: %q", e)
	}
}
