package disruption_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	clocktesting "k8s.io/utils/clock/testing"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proa-dev/proa/api/apps"
	"github.com/proa-dev/proa/controllers/disruption"
	"github.com/proa-dev/proa/controllers/internal/clustertest"
)

var web = map[string]string{"app": "web"}

func budget(change func(*policyv1.PodDisruptionBudgetSpec)) *policyv1.PodDisruptionBudget {
	b := &policyv1.PodDisruptionBudget{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "b"},
		Spec:       policyv1.PodDisruptionBudgetSpec{Selector: &metav1.LabelSelector{MatchLabels: web}},
	}
	change(&b.Spec)
	return b
}

func pod(name string, ready bool, owner client.Object, kind string) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, Labels: web},
		Status:     corev1.PodStatus{Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionFalse}}},
	}
	if ready {
		p.Status.Conditions[0].Status = corev1.ConditionTrue
	}
	if owner != nil {
		p.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(owner, appsv1.SchemeGroupVersion.WithKind(kind))}
	}
	return p
}

// deployment returns a Deployment and its ReplicaSet.
func deployment(replicas int32) (*appsv1.Deployment, *appsv1.ReplicaSet) {
	d := &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "web", UID: "d"},
		Spec:       appsv1.DeploymentSpec{Replicas: ptr.To(replicas)},
	}
	rs := &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "ns", Name: "web-1", UID: "rs",
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(d, appsv1.SchemeGroupVersion.WithKind("Deployment"))},
		},
		Spec: appsv1.ReplicaSetSpec{Replicas: ptr.To[int32](1)},
	}
	return d, rs
}

func start(t *testing.T, clk *clocktesting.FakeClock, objs ...client.Object) *clustertest.Cluster {
	t.Helper()
	c := clustertest.New(t, objs...)
	env := c.Env(nil)
	if clk != nil {
		env = c.Env(clk)
	}
	l, err := disruption.New(env, apps.Kinds)
	c.Do(err)
	c.Run(l)
	return c
}

// allows waits for a status: "expected pods/desired/healthy allowed reason".
func allows(c *clustertest.Cluster, want string) *policyv1.PodDisruptionBudget {
	b := &policyv1.PodDisruptionBudget{}
	c.Eventually(func() (bool, string) {
		c.Get(b, "ns", "b")
		s := b.Status
		reason := ""
		if len(s.Conditions) > 0 {
			reason = s.Conditions[0].Reason
		}
		got := fmt.Sprintf("%d/%d/%d %d %s", s.ExpectedPods, s.DesiredHealthy, s.CurrentHealthy, s.DisruptionsAllowed, reason)
		return got == want && s.ObservedGeneration == b.Generation, got
	})
	return b
}

func TestAllows(t *testing.T) {
	d, rs := deployment(4)
	ready := func(n int) []client.Object {
		out := []client.Object{d, rs}
		for i := range n {
			out = append(out, pod(fmt.Sprint("p", i), true, rs, "ReplicaSet"))
		}
		return out
	}
	for _, x := range []struct {
		name string
		spec func(*policyv1.PodDisruptionBudgetSpec)
		objs []client.Object
		want string
	}{
		{"at least so many", func(s *policyv1.PodDisruptionBudgetSpec) { s.MinAvailable = ptr.To(intstr.FromInt32(2)) },
			ready(3), "3/2/3 1 SufficientPods"},
		{"at least so many, too few", func(s *policyv1.PodDisruptionBudgetSpec) { s.MinAvailable = ptr.To(intstr.FromInt32(3)) },
			append(ready(2), pod("sick", false, rs, "ReplicaSet")), "3/3/2 0 InsufficientPods"},
		{"at least a part, rounded up, of what the Deployment wants", func(s *policyv1.PodDisruptionBudgetSpec) { s.MinAvailable = ptr.To(intstr.FromString("30%")) },
			ready(3), "4/2/3 1 SufficientPods"},
		{"at most so many missing", func(s *policyv1.PodDisruptionBudgetSpec) { s.MaxUnavailable = ptr.To(intstr.FromInt32(1)) },
			ready(4), "4/3/4 1 SufficientPods"},
		{"at most a part missing, rounded up", func(s *policyv1.PodDisruptionBudgetSpec) { s.MaxUnavailable = ptr.To(intstr.FromString("30%")) },
			ready(4), "4/2/4 2 SufficientPods"},
		{"over nothing", func(s *policyv1.PodDisruptionBudgetSpec) { s.MinAvailable = ptr.To(intstr.FromInt32(0)) },
			nil, "0/0/0 0 InsufficientPods"},
		{"pods without an owner count only by number", func(s *policyv1.PodDisruptionBudgetSpec) { s.MaxUnavailable = ptr.To(intstr.FromInt32(1)) },
			append(ready(1), pod("alone", true, nil, "")), "4/3/2 0 InsufficientPods"},
		{"a gone owner closes the budget", func(s *policyv1.PodDisruptionBudgetSpec) { s.MaxUnavailable = ptr.To(intstr.FromInt32(1)) },
			[]client.Object{pod("p", true, rs, "ReplicaSet")}, "0/0/0 0 SyncFailed"},
	} {
		t.Run(x.name, func(t *testing.T) {
			b := budget(x.spec)
			b.Generation = 0
			c := clustertest.New(t, append(x.objs, b)...)
			l, err := disruption.New(c.Env(nil), apps.Kinds)
			c.Do(err)
			c.Run(l)
			if strings.HasSuffix(x.want, "SyncFailed") {
				c.Eventually(func() (bool, string) {
					c.Get(b, "ns", "b")
					return len(b.Status.Conditions) == 1 && b.Status.Conditions[0].Reason == "SyncFailed" && b.Status.DisruptionsAllowed == 0, fmt.Sprint(b.Status)
				})
				return
			}
			allows(c, x.want)
		})
	}
}

func TestUnscalableOwnerIsNamed(t *testing.T) {
	ds := &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "d", UID: "ds"}}
	c := start(t, nil, budget(func(s *policyv1.PodDisruptionBudgetSpec) { s.MaxUnavailable = ptr.To(intstr.FromInt32(1)) }),
		ds, pod("p", true, ds, "DaemonSet"))
	c.Eventually(func() (bool, string) {
		var b policyv1.PodDisruptionBudget
		c.Get(&b, "ns", "b")
		conds := b.Status.Conditions
		return len(conds) == 1 && conds[0].Message == "daemonsets.apps does not implement the scale subresource", fmt.Sprint(conds)
	})
}

func TestGrantedEvictionsCountUntilTheyRunOut(t *testing.T) {
	clk := clocktesting.NewFakeClock(time.Now())
	p0, p1, p2 := pod("p0", true, nil, ""), pod("p1", true, nil, ""), pod("p2", true, nil, "")
	c := start(t, clk, budget(func(s *policyv1.PodDisruptionBudgetSpec) { s.MinAvailable = ptr.To(intstr.FromInt32(1)) }), p0, p1, p2)
	b := allows(c, "3/1/3 2 SufficientPods")
	// As the API server does it.
	c.Eventually(func() (bool, string) {
		c.Get(b, "ns", "b")
		b.Status.DisruptionsAllowed--
		b.Status.DisruptedPods = map[string]metav1.Time{"p0": metav1.NewTime(clk.Now())}
		err := c.API.Status().Update(t.Context(), b)
		return err == nil, fmt.Sprint(err)
	})
	b = allows(c, "3/1/2 1 SufficientPods")
	if len(b.Status.DisruptedPods) != 1 {
		t.Errorf("disrupted pods %v", b.Status.DisruptedPods)
	}
	// The eviction never comes: the pod counts again.
	clk.Step(2*time.Minute + 2*time.Second)
	c.Do(c.API.Delete(t.Context(), p2)) // something to look for
	if b = allows(c, "2/1/2 1 SufficientPods"); len(b.Status.DisruptedPods) != 0 {
		t.Errorf("disrupted pods %v", b.Status.DisruptedPods)
	}
}

func TestFollowsPods(t *testing.T) {
	p := pod("p0", false, nil, "")
	c := start(t, nil, budget(func(s *policyv1.PodDisruptionBudgetSpec) { s.MinAvailable = ptr.To(intstr.FromInt32(1)) }), p, pod("p1", true, nil, ""))
	allows(c, "2/1/1 0 InsufficientPods")
	c.Get(p, "ns", "p0")
	p.Status.Conditions[0].Status = corev1.ConditionTrue
	c.Do(c.API.Status().Update(t.Context(), p))
	allows(c, "2/1/2 1 SufficientPods")
	c.Get(p, "ns", "p0")
	p.Labels = map[string]string{"app": "other"}
	c.Do(c.API.Update(t.Context(), p))
	allows(c, "1/1/1 0 InsufficientPods")
	if n := c.Gets(&policyv1.PodDisruptionBudget{}); n > 20 {
		t.Errorf("looked %d times", n)
	}
}

func TestStaleMarksAreTakenBack(t *testing.T) {
	clk := clocktesting.NewFakeClock(time.Now())
	mark := func(reason string) *corev1.Pod {
		p := pod(strings.ToLower(reason), true, nil, "")
		p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{
			Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: reason,
			LastTransitionTime: metav1.NewTime(clk.Now().Add(-3 * time.Minute)),
		})
		return p
	}
	c := start(t, clk, mark("EvictionByEvictionAPI"), mark(corev1.PodReasonTerminationByKubelet))
	status := func(name string) corev1.ConditionStatus {
		var p corev1.Pod
		c.Get(&p, "ns", name)
		return p.Status.Conditions[1].Status
	}
	c.Eventually(func() (bool, string) { return status("evictionbyevictionapi") == corev1.ConditionFalse, "still marked" })
	if status("terminationbykubelet") != corev1.ConditionTrue {
		t.Error("the kubelet's mark is gone")
	}
}
