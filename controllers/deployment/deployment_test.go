package deployment_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proa-dev/proa/controllers/deployment"
	"github.com/proa-dev/proa/controllers/internal/clustertest"
	"github.com/proa-dev/proa/controllers/replicaset"
)

func web(replicas int32) *appsv1.Deployment {
	l := map[string]string{"app": "web"}
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "web", Annotations: map[string]string{"team": "a"}},
		Spec: appsv1.DeploymentSpec{
			Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: l},
			ProgressDeadlineSeconds: ptr.To[int32](600), RevisionHistoryLimit: ptr.To[int32](1),
			Strategy: appsv1.DeploymentStrategy{
				Type: appsv1.RollingUpdateDeploymentStrategyType,
				RollingUpdate: &appsv1.RollingUpdateDeployment{
					MaxSurge: ptr.To(intstr.FromString("25%")), MaxUnavailable: ptr.To(intstr.FromString("25%")),
				},
			},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: l},
				Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "v1"}}},
			},
		},
	}
}

// works is a kubelet that can run every image but "broken".
func works(p *corev1.Pod) bool { return p.Spec.Containers[0].Image != "broken" }

func start(t *testing.T, objs ...client.Object) *clustertest.Cluster {
	t.Helper()
	c := clustertest.New(t, objs...)
	d, err := deployment.New(c.Env(nil))
	c.Do(err)
	rs, err := replicaset.New(c.Env(nil))
	c.Do(err)
	c.Run(d, rs, c.Kubelet(works))
	return c
}

func change(t *testing.T, c *clustertest.Cluster, fn func(*appsv1.Deployment)) {
	t.Helper()
	c.Eventually(func() (bool, string) {
		var d appsv1.Deployment
		c.Get(&d, "ns", "web")
		fn(&d)
		err := c.API.Update(t.Context(), &d)
		return err == nil, fmt.Sprint(err)
	})
}

func image(v string) func(*appsv1.Deployment) {
	return func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[0].Image = v }
}

// rolledOut waits until all n pods are new and available.
func rolledOut(t *testing.T, c *clustertest.Cluster, n int32) *appsv1.Deployment {
	t.Helper()
	var d appsv1.Deployment
	c.Eventually(func() (bool, string) {
		c.Get(&d, "ns", "web")
		s := d.Status
		return s.ObservedGeneration == d.Generation && s.Replicas == n && s.UpdatedReplicas == n && s.AvailableReplicas == n &&
			reason(&d, appsv1.DeploymentProgressing) == "NewReplicaSetAvailable", fmt.Sprintf("%+v", s)
	})
	return &d
}

func reason(d *appsv1.Deployment, t appsv1.DeploymentConditionType) string {
	for _, c := range d.Status.Conditions {
		if c.Type == t {
			return c.Reason
		}
	}
	return ""
}

func sets(t *testing.T, c *clustertest.Cluster) []appsv1.ReplicaSet {
	t.Helper()
	var list appsv1.ReplicaSetList
	c.Do(c.API.List(t.Context(), &list, client.InNamespace("ns")))
	return list.Items
}

func TestRollsOut(t *testing.T) {
	c := start(t, web(10))
	d := rolledOut(t, c, 10)
	if d.Annotations["deployment.kubernetes.io/revision"] != "1" {
		t.Errorf("revision %q", d.Annotations["deployment.kubernetes.io/revision"])
	}
	rs := sets(t, c)
	if len(rs) != 1 {
		t.Fatalf("%d ReplicaSets", len(rs))
	}
	hash := rs[0].Labels["pod-template-hash"]
	if rs[0].Name != "web-"+hash || rs[0].Spec.Selector.MatchLabels["pod-template-hash"] != hash || rs[0].Annotations["team"] != "a" ||
		rs[0].Annotations["deployment.kubernetes.io/desired-replicas"] != "10" || rs[0].Annotations["deployment.kubernetes.io/max-replicas"] != "13" {
		t.Errorf("ReplicaSet %+v", rs[0].ObjectMeta)
	}

	change(t, c, image("v2"))
	rolledOut(t, c, 10)
	change(t, c, image("v3"))
	rolledOut(t, c, 10)
	c.Eventually(func() (bool, string) {
		n := len(sets(t, c))
		return n == 2, fmt.Sprintf("%d ReplicaSets, revisionHistoryLimit is 1", n)
	})
	// Back to v2: its ReplicaSet becomes revision 4 and remembers that it was 2.
	change(t, c, image("v2"))
	rolledOut(t, c, 10)
	for _, rs := range sets(t, c) {
		if rs.Spec.Template.Spec.Containers[0].Image != "v2" {
			continue
		}
		if a := rs.Annotations; a["deployment.kubernetes.io/revision"] != "4" || a["deployment.kubernetes.io/revision-history"] != "2" {
			t.Errorf("annotations %v", a)
		}
	}
	want := fmt.Sprintf("Normal ScalingReplicaSet Scaled up replica set web-%s from 0 to 10", hash)
	if !slices.Contains(c.Events(), want) {
		t.Errorf("no event %q in %q", want, c.Events())
	}
}

// The annotation that kubectl and clients of extensions/v1beta1 used to ask for
// an earlier revision by asks once, and says how it went.
func TestRollback(t *testing.T) {
	const to = "deprecated.deployment.rollback.to"
	first := web(2)
	first.Annotations["kubernetes.io/change-cause"] = "one"
	c := start(t, first)
	rolledOut(t, c, 2)
	change(t, c, func(d *appsv1.Deployment) {
		image("v2")(d)
		d.Annotations["kubernetes.io/change-cause"] = "two"
		d.Annotations["later"] = "yes"
	})
	rolledOut(t, c, 2)
	for _, step := range []struct{ revision, image, cause, event string }{
		{"9", "v2", "two", "Warning DeploymentRollbackRevisionNotFound Unable to find the revision to rollback to."},
		{"2", "v2", "two", `Warning DeploymentRollbackTemplateUnchanged The rollback revision contains the same template as current deployment "web"`},
		{"0", "v1", "one", `Normal DeploymentRollback Rolled back deployment "web" to revision 1`},
		{"2", "v2", "two", `Normal DeploymentRollback Rolled back deployment "web" to revision 2`},
	} {
		change(t, c, func(d *appsv1.Deployment) { d.Annotations[to] = step.revision })
		c.Eventually(func() (bool, string) {
			var d appsv1.Deployment
			c.Get(&d, "ns", "web")
			_, asked := d.Annotations[to]
			return !asked && slices.Contains(c.Events(), step.event), fmt.Sprintf("to %s: annotations %v, events %q", step.revision, d.Annotations, c.Events())
		})
		d := rolledOut(t, c, 2)
		if got := d.Spec.Template.Spec.Containers[0].Image; got != step.image || d.Annotations["kubernetes.io/change-cause"] != step.cause ||
			d.Annotations["later"] != map[string]string{"two": "yes"}[step.cause] || d.Spec.Template.Labels["pod-template-hash"] != "" {
			t.Errorf("to %s: image %s, labels %v, annotations %v", step.revision, got, d.Spec.Template.Labels, d.Annotations)
		}
	}
}

func TestBrokenRolloutKeepsAvailability(t *testing.T) {
	c := start(t, web(10))
	rolledOut(t, c, 10)
	change(t, c, image("broken"))
	// 25% surge rounds up to 3, 25% unavailable rounds down to 2.
	held := func() (bool, string) {
		var d appsv1.Deployment
		c.Get(&d, "ns", "web")
		s := d.Status
		return s.ObservedGeneration == d.Generation && s.Replicas == 13 && s.AvailableReplicas == 8 && s.UpdatedReplicas == 5, fmt.Sprintf("%+v", s)
	}
	c.Eventually(held)

	// Resizing it shares the difference in proportion to the sizes.
	change(t, c, func(d *appsv1.Deployment) { d.Spec.Replicas = ptr.To[int32](20) })
	c.Eventually(func() (bool, string) {
		var got []string
		for _, rs := range sets(t, c) {
			got = append(got, fmt.Sprintf("%s=%d", rs.Spec.Template.Spec.Containers[0].Image, *rs.Spec.Replicas))
		}
		slices.Sort(got)
		return strings.Join(got, " ") == "broken=10 v1=15", fmt.Sprint(got)
	})
}

func TestPauseHoldsTheRollout(t *testing.T) {
	c := start(t, web(4))
	rolledOut(t, c, 4)
	change(t, c, func(d *appsv1.Deployment) { d.Spec.Paused = true; image("v2")(d) })
	var d appsv1.Deployment
	c.Eventually(func() (bool, string) {
		c.Get(&d, "ns", "web")
		return d.Status.ObservedGeneration == d.Generation && reason(&d, appsv1.DeploymentProgressing) == "DeploymentPaused", fmt.Sprintf("%+v", d.Status)
	})
	if n := len(sets(t, c)); n != 1 {
		t.Fatalf("%d ReplicaSets while paused", n)
	}
	// Paused or not, it can be scaled.
	change(t, c, func(d *appsv1.Deployment) { d.Spec.Replicas = ptr.To[int32](6) })
	c.Eventually(func() (bool, string) {
		c.Get(&d, "ns", "web")
		return d.Status.AvailableReplicas == 6, fmt.Sprintf("%+v", d.Status)
	})
	change(t, c, func(d *appsv1.Deployment) { d.Spec.Paused = false })
	rolledOut(t, c, 6)
}

func TestRecreateStopsOldPodsFirst(t *testing.T) {
	dep := web(3)
	dep.Spec.Strategy = appsv1.DeploymentStrategy{Type: appsv1.RecreateDeploymentStrategyType}
	c := start(t, dep)
	rolledOut(t, c, 3)
	var list corev1.PodList
	c.Do(c.API.List(t.Context(), &list))
	for i := range list.Items { // these take their time to stop
		list.Items[i].Finalizers = []string{"test/hold"}
		c.Do(c.API.Update(t.Context(), &list.Items[i]))
	}
	change(t, c, image("v2"))
	c.Eventually(func() (bool, string) {
		c.Do(c.API.List(t.Context(), &list))
		for _, p := range list.Items {
			if p.Spec.Containers[0].Image != "v1" {
				t.Fatal("a new pod runs beside old ones")
			}
			if p.DeletionTimestamp == nil {
				return false, "an old pod is not being deleted"
			}
		}
		return true, ""
	})
	for i := range list.Items {
		list.Items[i].Finalizers = nil
		c.Do(c.API.Update(t.Context(), &list.Items[i]))
	}
	rolledOut(t, c, 3)
}

func TestProgressDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dep := web(2)
		image("broken")(dep)
		c := start(t, dep)
		progressing := func() string {
			synctest.Wait()
			var d appsv1.Deployment
			c.Get(&d, "ns", "web")
			return reason(&d, appsv1.DeploymentProgressing) + ", " + reason(&d, appsv1.DeploymentAvailable)
		}
		time.Sleep(595 * time.Second)
		if got := progressing(); got != "ReplicaSetUpdated, MinimumReplicasUnavailable" {
			t.Errorf("in its time: %s", got)
		}
		time.Sleep(10 * time.Second)
		if got := progressing(); got != "ProgressDeadlineExceeded, MinimumReplicasUnavailable" {
			t.Errorf("afterwards: %s", got)
		}
		// A template that works ends it.
		change(t, c, image("v2"))
		rolledOut(t, c, 2)
	})
}

// A rollout that was complete has no deadline any more: that its pods fail
// later gives no reason to look at it but their events.
func TestNoDeadlineAfterCompletion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := clustertest.New(t, web(2))
		d, err := deployment.New(c.Env(nil))
		c.Do(err)
		rs, err := replicaset.New(c.Env(nil))
		c.Do(err)
		c.Run(d, rs)
		kill := c.Launch(c.Kubelet(works))
		rolledOut(t, c, 2)
		kill()
		var list corev1.PodList
		c.Do(c.API.List(t.Context(), &list))
		p := &list.Items[0]
		p.Status.Conditions[0].Status = corev1.ConditionFalse
		c.Do(c.API.Status().Update(t.Context(), p))
		time.Sleep(time.Hour)
		synctest.Wait()
		var dep appsv1.Deployment
		c.Get(&dep, "ns", "web")
		if got := reason(&dep, appsv1.DeploymentProgressing); dep.Status.ReadyReplicas != 1 || got != "NewReplicaSetAvailable" {
			t.Errorf("%s, status %+v", got, dep.Status)
		}
		before := c.Gets(&dep)
		time.Sleep(time.Hour)
		synctest.Wait()
		if n := c.Gets(&dep) - before; n > 0 {
			t.Errorf("looked at %d times in an hour", n)
		}
	})
}

// Pods count as available only after minReadySeconds, which nothing but time
// brings about.
func TestMinReadySeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dep := web(2)
		dep.Spec.MinReadySeconds = 30
		c := start(t, dep)
		available := func() int32 {
			synctest.Wait()
			var d appsv1.Deployment
			c.Get(&d, "ns", "web")
			return d.Status.AvailableReplicas
		}
		time.Sleep(25 * time.Second)
		if n := available(); n != 0 {
			t.Errorf("%d available too early", n)
		}
		time.Sleep(10 * time.Second)
		if n := available(); n != 2 {
			t.Errorf("%d available, want 2", n)
		}
	})
}
