package tainteviction_test

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proa-dev/proa/controllers/internal/clustertest"
	"github.com/proa-dev/proa/controllers/tainteviction"
)

func pod(name string, seconds *int64) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name},
		Spec: corev1.PodSpec{NodeName: "n1", Tolerations: []corev1.Toleration{
			{Key: "evict", Operator: corev1.TolerationOpEqual, Value: "yes", Effect: corev1.TaintEffectNoExecute, TolerationSeconds: seconds},
		}},
	}
}

func start(t *testing.T, objs ...client.Object) *clustertest.Cluster {
	t.Helper()
	c := clustertest.New(t, append(objs, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}})...)
	l, err := tainteviction.New(c.Env(nil))
	c.Do(err)
	c.Run(l)
	synctest.Wait()
	return c
}

func taint(t *testing.T, c *clustertest.Cluster, taints ...corev1.Taint) {
	t.Helper()
	var n corev1.Node
	c.Get(&n, "", "n1")
	n.Spec.Taints = taints
	c.Do(c.API.Update(t.Context(), &n))
}

func left(t *testing.T, c *clustertest.Cluster) string {
	t.Helper()
	synctest.Wait()
	var list corev1.PodList
	c.Do(c.API.List(t.Context(), &list))
	var names []string
	for _, p := range list.Items {
		names = append(names, p.Name)
	}
	slices.Sort(names)
	return fmt.Sprint(names)
}

var evict = corev1.Taint{Key: "evict", Value: "yes", Effect: corev1.TaintEffectNoExecute}

func TestTolerationSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := start(t, pod("never", nil), pod("soon", ptr.To[int64](5)), pod("later", ptr.To[int64](60)), pod("at-once", ptr.To[int64](0)))
		taint(t, c, corev1.Taint{Key: "other", Effect: corev1.TaintEffectNoSchedule})
		if got := left(t, c); got != "[at-once later never soon]" {
			t.Errorf("NoSchedule evicts nobody: %s", got)
		}
		taint(t, c, evict)
		for _, step := range []struct {
			pass time.Duration
			want string
		}{{time.Second, "[later never soon]"}, {5 * time.Second, "[later never]"}, {50 * time.Second, "[later never]"}, {5 * time.Second, "[never]"}} {
			time.Sleep(step.pass)
			if got := left(t, c); got != step.want {
				t.Errorf("after another %v: %s, want %s", step.pass, got, step.want)
			}
		}
		taint(t, c, evict, corev1.Taint{Key: "evict", Value: "all", Effect: corev1.TaintEffectNoExecute})
		if got := left(t, c); got != "[]" {
			t.Errorf("a taint that is not tolerated: %s", got)
		}
	})
}

// A pod that comes to a node which was tainted long ago has its full time
// there, from when it was placed, though no kubelet has started it yet.
func TestPlacedOnTaintedNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := start(t)
		long := metav1.NewTime(time.Now().Add(-time.Hour))
		taint(t, c, corev1.Taint{Key: evict.Key, Value: evict.Value, Effect: evict.Effect, TimeAdded: &long})
		synctest.Wait()
		bare, waited := pod("bare", ptr.To[int64](60)), pod("waited", ptr.To[int64](60))
		waited.CreationTimestamp = long
		waited.Status.Conditions = []corev1.PodCondition{{
			Type: corev1.PodScheduled, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Now(),
		}}
		c.Do(c.API.Create(t.Context(), bare))
		c.Do(c.API.Create(t.Context(), waited))
		time.Sleep(50 * time.Second)
		if got := left(t, c); got != "[bare waited]" {
			t.Errorf("left %s", got)
		}
		time.Sleep(15 * time.Second)
		if got := left(t, c); got != "[]" {
			t.Errorf("left %s", got)
		}
	})
}

func TestTaintRemovedInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := start(t, pod("p", ptr.To[int64](60)))
		taint(t, c, evict)
		time.Sleep(30 * time.Second)
		taint(t, c)
		time.Sleep(time.Minute)
		if got := left(t, c); got != "[p]" {
			t.Errorf("left %s", got)
		}
		if want := "Normal TaintManagerEviction Cancelling deletion of Pod ns/p"; !slices.Contains(c.Events(), want) {
			t.Errorf("events %q", c.Events())
		}
		// Tainted anew, it has its full time again.
		taint(t, c, evict)
		time.Sleep(50 * time.Second)
		if got := left(t, c); got != "[p]" {
			t.Errorf("left %s", got)
		}
		time.Sleep(15 * time.Second)
		if got := left(t, c); got != "[]" {
			t.Errorf("left %s", got)
		}
	})
}
