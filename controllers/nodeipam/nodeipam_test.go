package nodeipam_test

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proa-dev/proa/client"
	"github.com/proa-dev/proa/controllers/internal/clustertest"
	"github.com/proa-dev/proa/controllers/nodeipam"
)

func TestFree(t *testing.T) {
	for _, c := range []struct {
		cluster string
		bits    int
		used    []string
		want    string
	}{
		{"10.42.0.0/16", 24, nil, "10.42.0.0/24"},
		{"10.42.0.0/16", 24, []string{"10.42.0.0/24", "10.42.2.0/24"}, "10.42.1.0/24"},
		{"10.42.0.0/16", 24, []string{"10.42.0.0/17"}, "10.42.128.0/24"},
		{"10.42.0.0/16", 24, []string{"10.42.0.0/26"}, "10.42.1.0/24"},
		{"10.42.0.0/23", 24, []string{"10.42.0.0/24", "10.42.1.0/24"}, ""},
		{"255.255.255.0/24", 25, []string{"255.255.255.0/25", "255.255.255.128/25"}, ""},
		{"fd00::/56", 64, []string{"fd00::/64"}, "fd00:0:0:1::/64"},
	} {
		var used []netip.Prefix
		for _, u := range c.used {
			used = append(used, netip.MustParsePrefix(u))
		}
		got := ""
		for p := range nodeipam.Free(netip.MustParsePrefix(c.cluster), c.bits, used) {
			got = p.String()
			break
		}
		if got != c.want {
			t.Errorf("Free(%s, %d, %v) begins with %s; want %q", c.cluster, c.bits, c.used, got, c.want)
		}
	}
}

// looks counts the reads of all nodes.
type looks struct {
	client.Cluster
	n atomic.Int32
}

func (l *looks) Reader() ctrl.Reader { return l }

func (l *looks) Get(ctx context.Context, key ctrl.ObjectKey, o ctrl.Object, opts ...ctrl.GetOption) error {
	return l.Cluster.Reader().Get(ctx, key, o, opts...)
}

func (l *looks) List(ctx context.Context, o ctrl.ObjectList, opts ...ctrl.ListOption) error {
	l.n.Add(1)
	return l.Cluster.Reader().List(ctx, o, opts...)
}

// Nodes that come at once are served by few looks at them all.
func TestManyNodes(t *testing.T) {
	const many = 100
	objs := []ctrl.Object{&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "first"}, Spec: corev1.NodeSpec{PodCIDR: "10.0.1.0/24", PodCIDRs: []string{"10.0.1.0/24"}}}}
	for i := range many {
		objs = append(objs, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("n%03d", i)}})
	}
	c := clustertest.New(t, objs...)
	env := c.Env(nil)
	counted := &looks{Cluster: c}
	env.Cluster = counted
	l, err := nodeipam.New(env, netip.MustParsePrefix("10.0.0.0/8"))
	c.Do(err)
	c.Run(l)
	var nodes corev1.NodeList
	c.Eventually(func() (bool, string) {
		c.Do(c.API.List(t.Context(), &nodes))
		return !slices.ContainsFunc(nodes.Items, func(n corev1.Node) bool { return n.Spec.PodCIDR == "" }), "some have no network"
	})
	seen := map[string]bool{}
	for _, n := range nodes.Items {
		if seen[n.Spec.PodCIDR] || !strings.HasSuffix(n.Spec.PodCIDR, ".0/24") {
			t.Errorf("node %s has %s", n.Name, n.Spec.PodCIDR)
		}
		seen[n.Spec.PodCIDR] = true
	}
	if n := counted.n.Load(); n > many/2 {
		t.Errorf("all nodes were read %d times", n)
	}
}

// A node that found no network gets one within a minute of when there is one.
func TestNetworkComesFree(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "first"}, Spec: corev1.NodeSpec{PodCIDR: "10.0.1.0/24", PodCIDRs: []string{"10.0.1.0/24"}}}
		c := clustertest.New(t, first, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "second"}})
		l, err := nodeipam.New(c.Env(nil), netip.MustParsePrefix("10.0.1.0/24"))
		c.Do(err)
		c.Run(l)
		time.Sleep(2 * time.Hour)
		c.Do(c.API.Delete(t.Context(), first))
		time.Sleep(time.Minute)
		synctest.Wait()
		var second corev1.Node
		if c.Get(&second, "", "second"); second.Spec.PodCIDR != "10.0.1.0/24" {
			t.Errorf("network %q", second.Spec.PodCIDR)
		}
	})
}
