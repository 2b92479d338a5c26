package datastore

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/utils/ptr"

	"github.com/proa-dev/proa/test/cluster"
)

// pair is two servers on one etcd, with one authority.
type pair struct {
	t     *testing.T
	flags []string
}

func (p *pair) server(port int, authority string) *cluster.Cluster {
	p.t.Helper()
	c, err := cluster.New("../../bin")
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() {
		if err := c.Remove(context.WithoutCancel(p.t.Context())); err != nil {
			p.t.Error(err)
		}
	})
	if authority != "" {
		if out, err := exec.CommandContext(p.t.Context(), "cp", "-a", filepath.Join(authority, "tls"), c.Dir).CombinedOutput(); err != nil {
			p.t.Fatalf("%v: %s", err, out)
		}
	}
	c.Port = port
	p.start(c)
	return c
}

func (p *pair) start(c *cluster.Cluster) {
	p.t.Helper()
	if err := c.Start(p.t.Context(), p.flags...); err != nil {
		p.t.Fatal(err)
	}
}

func (p *pair) client(c *cluster.Cluster) *kubernetes.Clientset {
	p.t.Helper()
	api, err := c.Client()
	if err != nil {
		p.t.Fatal(err)
	}
	return api
}

// until waits for a condition that a server shows.
func (p *pair) until(c *cluster.Cluster, limit time.Duration, what string, ok func() bool) {
	p.t.Helper()
	begin := time.Now()
	if err := c.Until(p.t.Context(), limit, ok); err != nil {
		p.t.Fatalf("%s: %v", what, err)
	}
	p.t.Logf("%s after %s", what, time.Since(begin).Round(10*time.Millisecond))
}

// leads says whether the server at port holds both Leases.
func leads(ctx context.Context, api *kubernetes.Clientset, port int) bool {
	for _, name := range []string{"kube-controller-manager", "kube-scheduler"} {
		l, err := api.CoordinationV1().Leases("kube-system").Get(ctx, name, metav1.GetOptions{})
		if err != nil || !strings.HasSuffix(ptr.Deref(l.Spec.HolderIdentity, ""), fmt.Sprint(":", port)) {
			return false
		}
	}
	return true
}

// scale sets the number of replicas and waits until so many pods have a node.
func (p *pair) scale(c *cluster.Cluster, n int, limit time.Duration) {
	p.t.Helper()
	api, ctx := p.client(c), p.t.Context()
	if _, err := api.AppsV1().Deployments("default").Patch(ctx, "d", types.MergePatchType, fmt.Appendf(nil, `{"spec":{"replicas":%d}}`, n), metav1.PatchOptions{}); err != nil {
		p.t.Fatal(err)
	}
	p.until(c, limit, fmt.Sprint(n, " pods have a node"), func() bool {
		list, err := api.CoreV1().Pods("default").List(ctx, metav1.ListOptions{FieldSelector: "spec.nodeName=n"})
		return err == nil && len(list.Items) == n
	})
}

// TestLeaders: of two servers one runs the controllers and one schedules. The
// other goes on within seconds of a crash, and sooner after a clean stop.
func TestLeaders(t *testing.T) {
	p := &pair{t, []string{"--disable-agent", "--datastore-endpoint", startEtcd(t)}}
	first := p.server(6443, "")
	second := p.server(7443, first.Dir)
	api, ctx := p.client(second), t.Context()
	if _, err := api.CoreV1().Nodes().Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	status := []byte(`{"status":{"allocatable":{"pods":"110","cpu":"8","memory":"8Gi"},"conditions":[{"type":"Ready","status":"True"}]}}`)
	if _, err := api.CoreV1().Nodes().Patch(ctx, "n", types.MergePatchType, status, metav1.PatchOptions{}, "status"); err != nil {
		t.Fatal(err)
	}
	labels := map[string]string{"app": "d"}
	if _, err := api.AppsV1().Deployments("default").Create(ctx, &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "d"}, Spec: appsv1.DeploymentSpec{
		Replicas: ptr.To[int32](0), Selector: &metav1.LabelSelector{MatchLabels: labels},
		Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{
			Containers:  []corev1.Container{{Name: "c", Image: "i"}},
			Tolerations: []corev1.Toleration{{Operator: corev1.TolerationOpExists}}, // nobody renews the node
		}},
	}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	p.until(second, 10*time.Second, "the first server leads", func() bool { return leads(ctx, api, 6443) })
	p.scale(second, 3, 10*time.Second)

	if err := first.Kill(); err != nil {
		t.Fatal(err)
	}
	p.scale(second, 6, 20*time.Second)
	if !leads(ctx, api, 7443) {
		t.Error("the second server does not lead")
	}
	p.until(second, 5*time.Second, "events tell of it", func() bool {
		list, err := api.CoreV1().Events("kube-system").List(ctx, metav1.ListOptions{FieldSelector: "reason=LeaderElection"})
		return err == nil && slices.ContainsFunc(list.Items, func(e corev1.Event) bool {
			return e.InvolvedObject.Name == "kube-scheduler" && strings.HasSuffix(e.Message, ":7443 became leader")
		})
	})

	p.start(first)
	if err := second.Stop(); err != nil {
		t.Fatal(err)
	}
	p.scale(first, 9, 10*time.Second)
	if !leads(ctx, p.client(first), 6443) {
		t.Error("the first server does not lead")
	}
}
