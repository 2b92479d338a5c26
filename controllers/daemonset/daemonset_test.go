package daemonset_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proa-dev/proa/api/apps"
	"github.com/proa-dev/proa/controllers/daemonset"
	"github.com/proa-dev/proa/controllers/internal/clustertest"
	"github.com/proa-dev/proa/controllers/internal/pods"
)

func agent(change ...func(*appsv1.DaemonSet)) *appsv1.DaemonSet {
	l := map[string]string{"app": "agent"}
	d := &appsv1.DaemonSet{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "agent", Annotations: map[string]string{appsv1.DeprecatedTemplateGeneration: "1"}},
		Spec: appsv1.DaemonSetSpec{
			Selector: &metav1.LabelSelector{MatchLabels: l},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: l},
				Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "v1"}}},
			},
		},
	}
	for _, f := range change {
		f(d)
	}
	apps.DaemonSet().Default(d)
	return d
}

func rolling(unavailable, surge int32) func(*appsv1.DaemonSet) {
	return func(d *appsv1.DaemonSet) {
		d.Spec.UpdateStrategy = appsv1.DaemonSetUpdateStrategy{
			Type: appsv1.RollingUpdateDaemonSetStrategyType,
			RollingUpdate: &appsv1.RollingUpdateDaemonSet{
				MaxUnavailable: ptr.To(intstr.FromInt32(unavailable)), MaxSurge: ptr.To(intstr.FromInt32(surge)),
			},
		}
	}
}

func node(name string, taints ...corev1.Taint) *corev1.Node {
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"disk": "ssd"}}, Spec: corev1.NodeSpec{Taints: taints}}
}

func nodes(n int) []client.Object {
	var out []client.Object
	for i := range n {
		out = append(out, node(fmt.Sprint("n", i)))
	}
	return out
}

func start(t *testing.T, ok func(*corev1.Pod) bool, objs ...client.Object) *clustertest.Cluster {
	t.Helper()
	c := clustertest.New(t, objs...)
	c.Graceful = true
	l, err := daemonset.New(c.Env(nil))
	c.Do(err)
	if ok == nil {
		ok = func(*corev1.Pod) bool { return true }
	}
	c.Run(l, c.Kubelet(ok))
	return c
}

func target(p *corev1.Pod) string {
	return p.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms[0].MatchFields[0].Values[0]
}

func podsOf(c *clustertest.Cluster) []corev1.Pod {
	var list corev1.PodList
	c.Do(c.API.List(c.Context(), &list, client.InNamespace("ns")))
	return list.Items
}

// layout says which image runs where: "n0=v1 n1=v1".
func layout(c *clustertest.Cluster) string {
	var out []string
	for _, p := range podsOf(c) {
		out = append(out, target(&p)+"="+p.Spec.Containers[0].Image)
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

func become(c *clustertest.Cluster, want string) {
	c.Eventually(func() (bool, string) { return layout(c) == want, layout(c) })
}

func change(c *clustertest.Cluster, f func(*appsv1.DaemonSet)) {
	c.Eventually(func() (bool, string) {
		var d appsv1.DaemonSet
		c.Get(&d, "ns", "agent")
		f(&d)
		err := c.API.Update(c.Context(), &d)
		return err == nil, fmt.Sprint(err)
	})
}

// image changes the template as the API server does.
func image(name, generation string) func(*appsv1.DaemonSet) {
	return func(d *appsv1.DaemonSet) {
		d.Spec.Template.Spec.Containers[0].Image = name
		d.Annotations[appsv1.DeprecatedTemplateGeneration] = generation
	}
}

func reached(c *clustertest.Cluster, want appsv1.DaemonSetStatus) {
	c.Eventually(func() (bool, string) {
		var d appsv1.DaemonSet
		c.Get(&d, "ns", "agent")
		got := d.Status
		want.ObservedGeneration = d.Generation
		return got.DesiredNumberScheduled == want.DesiredNumberScheduled && got.CurrentNumberScheduled == want.CurrentNumberScheduled &&
			got.NumberReady == want.NumberReady && got.NumberAvailable == want.NumberAvailable &&
			got.UpdatedNumberScheduled == want.UpdatedNumberScheduled && got.NumberMisscheduled == want.NumberMisscheduled &&
			got.ObservedGeneration == want.ObservedGeneration, fmt.Sprintf("%+v", got)
	})
}

func all(n int32) appsv1.DaemonSetStatus {
	return appsv1.DaemonSetStatus{DesiredNumberScheduled: n, CurrentNumberScheduled: n, NumberReady: n, NumberAvailable: n, UpdatedNumberScheduled: n}
}

func TestRunsOnEachNode(t *testing.T) {
	noSchedule := corev1.Taint{Key: "keep", Effect: corev1.TaintEffectNoSchedule}
	c := start(t, nil, append(nodes(2), node("tainted", noSchedule),
		node("cordoned", corev1.Taint{Key: corev1.TaintNodeUnschedulable, Effect: corev1.TaintEffectNoSchedule}), agent())...)
	become(c, "cordoned=v1 n0=v1 n1=v1")
	reached(c, all(3))
	p := podsOf(c)[0]
	if p.Labels[appsv1.DefaultDaemonSetUniqueLabelKey] == "" || p.Labels["pod-template-generation"] != "1" || len(p.Spec.Tolerations) != 6 {
		t.Errorf("pod %+v %+v", p.Labels, p.Spec.Tolerations)
	}

	// Nodes come and change.
	c.Do(c.API.Create(t.Context(), node("n2")))
	become(c, "cordoned=v1 n0=v1 n1=v1 n2=v1")
	taint := func(name string, taints ...corev1.Taint) {
		c.Eventually(func() (bool, string) {
			var n corev1.Node
			c.Get(&n, "", name)
			n.Spec.Taints = taints
			err := c.API.Update(t.Context(), &n)
			return err == nil, fmt.Sprint(err)
		})
	}
	taint("n0", corev1.Taint{Key: "keep", Effect: corev1.TaintEffectNoExecute})
	become(c, "cordoned=v1 n1=v1 n2=v1")
	// A taint against scheduling leaves what runs.
	taint("n1", noSchedule)
	reached(c, appsv1.DaemonSetStatus{
		DesiredNumberScheduled: 2, CurrentNumberScheduled: 2, NumberReady: 2, NumberAvailable: 2, UpdatedNumberScheduled: 2, NumberMisscheduled: 1,
	})
	taint("n0")
	taint("n1")
	become(c, "cordoned=v1 n0=v1 n1=v1 n2=v1")
	reached(c, all(4))
	change(c, func(d *appsv1.DaemonSet) { d.Spec.Template.Spec.NodeSelector = map[string]string{"disk": "hdd"} })
	become(c, "")
	reached(c, all(0))
}

func TestReplacesEndedPods(t *testing.T) {
	c := start(t, nil, append(nodes(1), agent())...)
	become(c, "n0=v1")
	reached(c, all(1))
	for _, phase := range []corev1.PodPhase{corev1.PodSucceeded, corev1.PodFailed} {
		p := podsOf(c)[0]
		p.Status.Phase = phase
		c.Do(c.API.Status().Update(t.Context(), &p))
		c.Eventually(func() (bool, string) {
			now := podsOf(c)
			return len(now) == 1 && now[0].UID != p.UID && pods.Ready(&now[0]), "not replaced"
		})
	}
	want := []string{"Normal SucceededDaemonPod Found succeeded daemon pod ns/", "Warning FailedDaemonPod Found failed daemon pod ns/"}
	for _, w := range want {
		if !slices.ContainsFunc(c.Events(), func(e string) bool { return strings.HasPrefix(e, w) }) {
			t.Errorf("no event %q in %q", w, c.Events())
		}
	}
}

func TestUpdatesWithinTheLimits(t *testing.T) {
	for _, limit := range []struct{ unavailable, surge int32 }{{1, 0}, {3, 0}, {0, 2}} {
		t.Run(fmt.Sprint(limit), func(t *testing.T) {
			c := clustertest.New(t, append(nodes(6), agent(rolling(limit.unavailable, limit.surge)))...)
			c.Graceful = true
			c.Before = func(verb string, o client.Object) {
				pod, ok := o.(*corev1.Pod)
				if !ok {
					return
				}
				list := podsOf(c)
				ready := int32(0)
				for _, p := range list {
					if pods.Ready(&p) && p.DeletionTimestamp == nil && p.Name != pod.Name {
						ready++
					}
				}
				switch {
				case verb == "delete" && ready < 6-limit.unavailable:
					t.Errorf("a pod deleted, %d are left", ready)
				case verb == "create" && ready >= 6+limit.surge:
					t.Errorf("a pod too many, %d are ready", ready)
				}
			}
			l, err := daemonset.New(c.Env(nil))
			c.Do(err)
			c.Run(l, c.Kubelet(func(*corev1.Pod) bool { return true }))
			reached(c, all(6))
			change(c, image("v2", "2"))
			become(c, "n0=v2 n1=v2 n2=v2 n3=v2 n4=v2 n5=v2")
			reached(c, all(6))
			// Back again: the first revision gets the highest number.
			change(c, image("v1", "3"))
			become(c, "n0=v1 n1=v1 n2=v1 n3=v1 n4=v1 n5=v1")
			reached(c, all(6))
			var revs appsv1.ControllerRevisionList
			c.Do(c.API.List(t.Context(), &revs))
			if len(revs.Items) != 2 || revs.Items[0].Revision+revs.Items[1].Revision != 5 {
				t.Errorf("revisions %+v", revs.Items)
			}
			if n := c.Gets(&appsv1.DaemonSet{}); n > 6*6*5 {
				t.Errorf("looked %d times", n)
			}
		})
	}
}

func TestBrokenUpdateStops(t *testing.T) {
	c := start(t, func(p *corev1.Pod) bool { return p.Spec.Containers[0].Image != "broken" }, append(nodes(4), agent())...)
	reached(c, all(4))
	change(c, image("broken", "2"))
	c.Eventually(func() (bool, string) {
		return strings.Count(layout(c), "broken") == 1 && strings.Count(layout(c), "v1") == 3, layout(c)
	})
	// Back without touching what still runs.
	before := map[string]bool{}
	for _, p := range podsOf(c) {
		before[string(p.UID)] = p.Spec.Containers[0].Image == "v1"
	}
	change(c, image("v1", "3"))
	become(c, "n0=v1 n1=v1 n2=v1 n3=v1")
	reached(c, all(4))
	kept := 0
	for _, p := range podsOf(c) {
		if before[string(p.UID)] {
			kept++
		}
	}
	if kept != 3 {
		t.Errorf("%d pods were left alone", kept)
	}
}

func TestOnDeleteWaits(t *testing.T) {
	c := start(t, nil, append(nodes(2), agent(func(d *appsv1.DaemonSet) {
		d.Spec.UpdateStrategy.Type = appsv1.OnDeleteDaemonSetStrategyType
	}))...)
	reached(c, all(2))
	change(c, image("v2", "2"))
	reached(c, appsv1.DaemonSetStatus{DesiredNumberScheduled: 2, CurrentNumberScheduled: 2, NumberReady: 2, NumberAvailable: 2})
	if got := layout(c); got != "n0=v1 n1=v1" {
		t.Fatal(got)
	}
	for _, p := range podsOf(c) {
		if target(&p) == "n1" {
			c.Do(c.API.Delete(t.Context(), &p))
		}
	}
	become(c, "n0=v1 n1=v2")
}

func TestRevisionIsMadeAgain(t *testing.T) {
	c := start(t, nil, append(nodes(1), agent())...)
	reached(c, all(1))
	c.Do(c.API.DeleteAllOf(t.Context(), &appsv1.ControllerRevision{}, client.InNamespace("ns")))
	c.Eventually(func() (bool, string) {
		var revs appsv1.ControllerRevisionList
		c.Do(c.API.List(t.Context(), &revs))
		return len(revs.Items) == 1, "no revision"
	})
}
