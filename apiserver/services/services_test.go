package services_test

import (
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/proa-dev/proa/api/builtin"
	"github.com/proa-dev/proa/api/networking"
	"github.com/proa-dev/proa/apiserver/services"
	"github.com/proa-dev/proa/store"
)

type world struct {
	*services.Allocator
	store *store.Store
	t     *testing.T
}

func start(t *testing.T, cidr string) *world {
	t.Helper()
	st, err := store.Open(t.Context(), store.Config{DataDir: t.TempDir(), Scheme: builtin.Scheme(), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = st.Close() })
	return &world{services.New(services.Config{Store: st, CIDR: netip.MustParsePrefix(cidr), PortFirst: 30000, PortLast: 30100, Now: metav1.Now}), st, t}
}

// add stores a ServiceCIDR.
func (w *world) add(name, cidr string, status metav1.ConditionStatus, going bool) {
	w.t.Helper()
	c := &networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: []string{cidr}}}
	if status != "" {
		c.Status.Conditions = []metav1.Condition{{Type: networkingv1.ServiceCIDRConditionReady, Status: status}}
	}
	if going {
		c.DeletionTimestamp = ptr.To(metav1.NewTime(time.Now()))
	}
	c.SetGroupVersionKind(networking.ServiceCIDR().GVK)
	if _, err := w.store.Resource(networking.ServiceCIDR()).Create(w.t.Context(), name, c, 0); err != nil {
		w.t.Fatal(err)
	}
}

// claim returns the address that a Service gets which asks for ip, or the error.
func (w *world) claim(name, ip string) string {
	svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name}, Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeClusterIP, ClusterIP: ip}}
	c, err := w.Claim(w.t.Context(), svc, nil, false)
	if err != nil {
		return err.Error()
	}
	if err := c.Commit(w.t.Context()); err != nil {
		return err.Error()
	}
	return svc.Spec.ClusterIP
}

func TestRanges(t *testing.T) {
	w := start(t, "10.43.0.0/30") // two addresses
	mismatch := "the provided network does not match the current range"
	check := func(ip, want string) {
		t.Helper()
		if got := w.claim("s"+ip, ip); !strings.Contains(got, want) || want == "" {
			t.Errorf("%s: %s, want %s", ip, got, want)
		}
	}
	// Before there is a ServiceCIDR the configured range counts.
	check("10.43.0.1", "10.43.0.1")
	check("10.43.0.1", "failed to allocate IP 10.43.0.1: provided IP is already allocated")
	check("10.43.0.0", mismatch)
	check("10.43.0.3", mismatch)
	check("10.44.0.1", mismatch)
	check("", "10.43.0.2")
	check("", "range is full")

	w.add("kubernetes", "10.43.0.0/30", metav1.ConditionTrue, false)
	w.add("broken", "10.44.0.0/30", metav1.ConditionFalse, false)
	w.add("going", "10.45.0.0/30", metav1.ConditionTrue, true)
	check("10.44.0.1", mismatch)
	check("10.45.0.1", mismatch)
	check("", "range is full")

	w.add("new", "10.46.0.0/30", "", false)
	check("10.46.0.2", "10.46.0.2")
	check("", "10.46.0.1")
	check("", "range is full")
}

// The configured range ends with the ServiceCIDR that names it.
func TestConfiguredRangeGoes(t *testing.T) {
	w := start(t, "10.43.0.0/24")
	w.add("kubernetes", "10.43.0.0/24", metav1.ConditionFalse, true)
	if got := w.claim("a", ""); !strings.Contains(got, "range is full") {
		t.Errorf("an address of a range that is being deleted: %s", got)
	}
	w.add("next", "10.50.0.0/24", metav1.ConditionTrue, false)
	if got := w.claim("a", ""); !strings.HasPrefix(got, "10.50.0.") {
		t.Errorf("the address is %s", got)
	}
}
