package nodelifecycle_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proa-dev/proa/controllers/internal/clustertest"
	"github.com/proa-dev/proa/controllers/nodelifecycle"
	"github.com/proa-dev/proa/controllers/tainteviction"
)

func node(name string) *corev1.Node {
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelOSStable: "linux"}},
		Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{
			{Type: corev1.NodeReady, Status: corev1.ConditionTrue, LastHeartbeatTime: metav1.Now()},
		}},
	}
}

func pod(name, node string, tolerations ...corev1.Toleration) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, Finalizers: []string{"test/hold"}},
		Spec:       corev1.PodSpec{NodeName: node, Tolerations: tolerations},
		Status: corev1.PodStatus{Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{
			{Type: corev1.PodReady, Status: corev1.ConditionTrue},
		}},
	}
}

func start(t *testing.T, objs ...client.Object) *clustertest.Cluster {
	t.Helper()
	c := clustertest.New(t, objs...)
	nodes, err := nodelifecycle.New(c.Env(nil), nodelifecycle.Config{})
	c.Do(err)
	taints, err := tainteviction.New(c.Env(nil))
	c.Do(err)
	c.Run(nodes, taints)
	return c
}

// renew is a kubelet that lives.
func renew(t *testing.T, c *clustertest.Cluster, name string) {
	t.Helper()
	l := &coordinationv1.Lease{}
	if !c.Get(l, corev1.NamespaceNodeLease, name) {
		l.Namespace, l.Name = corev1.NamespaceNodeLease, name
		c.Do(c.API.Create(t.Context(), l))
	}
	l.Spec.RenewTime = ptr.To(metav1.NowMicro())
	c.Do(c.API.Update(t.Context(), l))
}

// pass lets time go by in which the kubelets of some nodes live.
func pass(t *testing.T, c *clustertest.Cluster, d time.Duration, living ...string) {
	t.Helper()
	for end := time.Now().Add(d); time.Now().Before(end); {
		for _, n := range living {
			renew(t, c, n)
		}
		time.Sleep(min(10*time.Second, time.Until(end)))
	}
	synctest.Wait()
}

// describe is "Ready status reason: taints" of a node.
func describe(t *testing.T, c *clustertest.Cluster, name string) string {
	t.Helper()
	var n corev1.Node
	c.Get(&n, "", name)
	out := ""
	for _, cond := range n.Status.Conditions {
		if cond.Type == corev1.NodeReady {
			out = fmt.Sprintf("%s %s:", cond.Status, cond.Reason)
		}
	}
	for _, taint := range n.Spec.Taints {
		out += fmt.Sprintf(" %s:%s", strings.TrimPrefix(taint.Key, "node.kubernetes.io/"), taint.Effect)
	}
	return out
}

func want(t *testing.T, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s: %q, want %q", what, got, want)
	}
}

func TestSilentNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		seconds := func(s int64) corev1.Toleration {
			return corev1.Toleration{Key: corev1.TaintNodeUnreachable, Operator: corev1.TolerationOpExists, TolerationSeconds: &s}
		}
		c := start(t, node("dead"), node("alive"), pod("fragile", "dead"), pod("patient", "dead", seconds(300)),
			pod("faithful", "dead", corev1.Toleration{Operator: corev1.TolerationOpExists}))
		pass(t, c, 45*time.Second, "alive")
		want(t, "in its time", describe(t, c, "dead"), "True :")
		pass(t, c, 15*time.Second, "alive")
		want(t, "silent", describe(t, c, "dead"), "Unknown NodeStatusUnknown: unreachable:NoSchedule unreachable:NoExecute")
		want(t, "the other", describe(t, c, "alive"), "True :")

		deleted := func(name string) bool {
			var p corev1.Pod
			c.Get(&p, "ns", name)
			if r := p.Status.Conditions[0]; r.Status != corev1.ConditionFalse {
				t.Errorf("pod %s is still ready", name)
			}
			return p.DeletionTimestamp != nil
		}
		if !deleted("fragile") || deleted("patient") || deleted("faithful") {
			t.Error("only the pod without a toleration goes at once")
		}
		pass(t, c, 290*time.Second, "alive")
		if deleted("patient") {
			t.Error("evicted before its toleration ended")
		}
		pass(t, c, 15*time.Second, "alive")
		if !deleted("patient") || deleted("faithful") {
			t.Error("after 300 s just the patient pod goes")
		}
		for _, e := range []string{
			"Normal NodeNotReady Node dead status is now: NodeNotReady",
			"Warning NodeNotReady Node is not ready",
			"Normal TaintManagerEviction Marking for deletion Pod ns/patient",
		} {
			if !slices.Contains(c.Events(), e) {
				t.Errorf("no event %q in %q", e, c.Events())
			}
		}

		// Its kubelet is back.
		var n corev1.Node
		c.Get(&n, "", "dead")
		for i := range n.Status.Conditions {
			n.Status.Conditions[i].LastHeartbeatTime = metav1.Now()
			if n.Status.Conditions[i].Type == corev1.NodeReady {
				n.Status.Conditions[i].Status, n.Status.Conditions[i].Reason = corev1.ConditionTrue, "KubeletReady"
			}
		}
		c.Do(c.API.Status().Update(t.Context(), &n))
		pass(t, c, time.Second, "alive")
		want(t, "back", describe(t, c, "dead"), "True KubeletReady:")
		if n.Labels["beta.kubernetes.io/os"] != "linux" {
			t.Errorf("labels %v", n.Labels)
		}
	})
}

// ahead is a cluster whose API server knows of a sign of life that no watch
// brings.
type ahead struct {
	*clustertest.Cluster
	node string
}

func (a ahead) Reader() client.Reader { return aheadReader{a.Cluster.Reader(), a.node} }

type aheadReader struct {
	client.Reader
	node string
}

func (a aheadReader) Get(ctx context.Context, key client.ObjectKey, o client.Object, opts ...client.GetOption) error {
	if l, ok := o.(*coordinationv1.Lease); ok && key.Name == a.node {
		l.Name, l.Spec.RenewTime = a.node, ptr.To(metav1.NowMicro())
		return nil
	}
	return a.Reader.Get(ctx, key, o, opts...)
}

// A node that only our watch does not hear is not given up.
func TestSilentWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := clustertest.New(t, node("unheard"), node("dead"), node("alive"))
		env := c.Env(nil)
		env.Cluster = ahead{Cluster: c, node: "unheard"}
		l, err := nodelifecycle.New(env, nodelifecycle.Config{})
		c.Do(err)
		c.Run(l)
		pass(t, c, 3*time.Minute, "alive")
		want(t, "unheard", describe(t, c, "unheard"), "True :")
		want(t, "dead", describe(t, c, "dead"), "Unknown NodeStatusUnknown: unreachable:NoSchedule unreachable:NoExecute")
	})
}

// refusing is an API that lets nobody patch nodes for a while.
type refusing struct {
	client.WithWatch
	refuses *atomic.Bool
}

func (r refusing) Patch(ctx context.Context, o client.Object, p client.Patch, opts ...client.PatchOption) error {
	if _, ok := o.(*corev1.Node); ok && r.refuses.Load() {
		return apierrors.NewInternalError(errors.New("no webhook answers"))
	}
	return r.WithWatch.Patch(ctx, o, p, opts...)
}

// A node that could not be tainted for long is tainted as soon as it can be.
func TestRefusedTaints(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := clustertest.New(t, node("dead"), node("alive"))
		var refuses atomic.Bool
		refuses.Store(true)
		c.API = refusing{c.API, &refuses}
		l, err := nodelifecycle.New(c.Env(nil), nodelifecycle.Config{})
		c.Do(err)
		c.Run(l)
		pass(t, c, time.Hour, "alive")
		want(t, "refused", describe(t, c, "dead"), "Unknown NodeStatusUnknown:")
		refuses.Store(false)
		pass(t, c, 6*time.Second, "alive")
		want(t, "allowed", describe(t, c, "dead"), "Unknown NodeStatusUnknown: unreachable:NoSchedule unreachable:NoExecute")
	})
}

// Nodes that are labelled so say nothing about their zone, dead or alive.
func TestUncountedNodes(t *testing.T) {
	for _, test := range []struct{ living, dead, d string }{
		{"out", "d a", "Unknown NodeStatusUnknown: unreachable:NoSchedule"},                               // all that count are dead
		{"a b c", "d e f out", "Unknown NodeStatusUnknown: unreachable:NoSchedule unreachable:NoExecute"}, // three of six, not four of seven
	} {
		synctest.Test(t, func(t *testing.T) {
			living := strings.Fields(test.living)
			var objs []client.Object
			for _, name := range append(strings.Fields(test.dead), living...) {
				n := node(name)
				if name == "out" {
					n.Labels["node.kubernetes.io/exclude-disruption"] = ""
				}
				objs = append(objs, n)
			}
			c := start(t, objs...)
			pass(t, c, 3*time.Minute, living...)
			want(t, "d", describe(t, c, "d"), test.d)
		})
	}
}

// When no node at all can be heard it is the control plane that is cut off.
func TestAllSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := start(t, node("a"), node("b"), pod("p", "a"))
		pass(t, c, 5*time.Minute)
		want(t, "a", describe(t, c, "a"), "Unknown NodeStatusUnknown: unreachable:NoSchedule")
		want(t, "b", describe(t, c, "b"), "Unknown NodeStatusUnknown: unreachable:NoSchedule")
	})
}

// Of several nodes that are down one loses its pods every ten seconds; when
// most of a small zone is down, none does.
func TestPaceOfEviction(t *testing.T) {
	for _, test := range []struct {
		down, up int
		after    map[time.Duration]int
	}{
		{down: 2, up: 2, after: map[time.Duration]int{56 * time.Second: 1, 70 * time.Second: 2}},
		{down: 4, up: 2, after: map[time.Duration]int{2 * time.Minute: 0}},
	} {
		t.Run(fmt.Sprintf("%d of %d", test.down, test.down+test.up), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var objs []client.Object
				var living, dead []string
				for i := range test.down + test.up {
					name := fmt.Sprint("n", i)
					objs = append(objs, node(name))
					if i < test.down {
						dead = append(dead, name)
					} else {
						living = append(living, name)
					}
				}
				c := start(t, objs...)
				begin := time.Now()
				for _, after := range slices.Sorted(maps.Keys(test.after)) {
					pass(t, c, after-time.Since(begin), living...)
					tainted := 0
					for _, n := range dead {
						if strings.Contains(describe(t, c, n), "NoExecute") {
							tainted++
						}
					}
					if tainted != test.after[after] {
						t.Errorf("after %v %d nodes lose their pods, want %d", after, tainted, test.after[after])
					}
				}
			})
		})
	}
}

func TestConditionTaints(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := node("n")
		n.Spec.Unschedulable = true
		n.Spec.Taints = []corev1.Taint{
			{Key: "mine", Value: "x", Effect: corev1.TaintEffectNoSchedule},
			{Key: corev1.TaintNodeDiskPressure, Effect: corev1.TaintEffectNoSchedule},
		}
		n.Status.Conditions = append(n.Status.Conditions, corev1.NodeCondition{Type: corev1.NodeMemoryPressure, Status: corev1.ConditionTrue})
		c := start(t, n)
		pass(t, c, time.Second)
		want(t, "taints", describe(t, c, "n"), "True : mine:NoSchedule memory-pressure:NoSchedule unschedulable:NoSchedule")
	})
}
