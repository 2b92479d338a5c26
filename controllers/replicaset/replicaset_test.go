package replicaset_test

import (
	"fmt"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proa-dev/proa/controllers/internal/clustertest"
	"github.com/proa-dev/proa/controllers/replicaset"
)

func web(replicas int32) *appsv1.ReplicaSet {
	l := map[string]string{"app": "web"}
	return &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "web"},
		Spec: appsv1.ReplicaSetSpec{
			Replicas: ptr.To(replicas), Selector: &metav1.LabelSelector{MatchLabels: l},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: l}},
		},
	}
}

func start(t *testing.T, objs ...client.Object) *clustertest.Cluster {
	t.Helper()
	c := clustertest.New(t, objs...)
	l, err := replicaset.New(c.Env(nil))
	c.Do(err)
	c.Run(l)
	return c
}

func podsOf(t *testing.T, c *clustertest.Cluster) []corev1.Pod {
	t.Helper()
	var list corev1.PodList
	c.Do(c.API.List(t.Context(), &list, client.InNamespace("ns")))
	return list.Items
}

// settled waits until the status tells of n pods and that many exist.
func settled(t *testing.T, c *clustertest.Cluster, n int) []corev1.Pod {
	t.Helper()
	var pods []corev1.Pod
	c.Eventually(func() (bool, string) {
		var rs appsv1.ReplicaSet
		c.Get(&rs, "ns", "web")
		pods = podsOf(t, c)
		return len(pods) == n && int(rs.Status.Replicas) == n && rs.Status.ObservedGeneration == rs.Generation,
			fmt.Sprintf("%d pods, status %+v", len(pods), rs.Status)
	})
	return pods
}

func TestScalesAndHeals(t *testing.T) {
	c := start(t, web(3))
	pods := settled(t, c, 3)
	for _, p := range pods {
		if ref := metav1.GetControllerOf(&p); ref == nil || ref.Name != "web" || !*ref.BlockOwnerDeletion {
			t.Fatalf("owner %+v", p.OwnerReferences)
		}
	}
	c.Do(c.API.Delete(t.Context(), &pods[0]))
	c.Eventually(func() (bool, string) {
		for _, p := range podsOf(t, c) {
			if p.UID == pods[0].UID {
				return false, "still there"
			}
		}
		return len(podsOf(t, c)) == 3, "not replaced"
	})

	var rs appsv1.ReplicaSet
	c.Eventually(func() (bool, string) {
		c.Get(&rs, "ns", "web")
		rs.Spec.Replicas = ptr.To[int32](20)
		err := c.API.Update(t.Context(), &rs)
		return err == nil, fmt.Sprint(err)
	})
	settled(t, c, 20)
	c.Eventually(func() (bool, string) {
		c.Get(&rs, "ns", "web")
		rs.Spec.Replicas = ptr.To[int32](1)
		err := c.API.Update(t.Context(), &rs)
		return err == nil, fmt.Sprint(err)
	})
	settled(t, c, 1)

	created := 0
	for _, e := range c.Events() {
		if len(e) > 24 && e[:24] == "Normal SuccessfulCreate " {
			created++
		}
	}
	if created != 21 {
		t.Errorf("%d pods were created for 21 needed: reads that lag must not make duplicates", created)
	}
}

func TestAdoptsAndReleases(t *testing.T) {
	orphan := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "orphan", Labels: map[string]string{"app": "web"}}}
	other := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "other", Labels: map[string]string{"app": "db"}}}
	c := start(t, web(1), orphan, other)
	c.Eventually(func() (bool, string) {
		var p corev1.Pod
		c.Get(&p, "ns", "orphan")
		return metav1.GetControllerOf(&p) != nil, "not adopted"
	})
	if n := len(podsOf(t, c)); n != 2 {
		t.Fatalf("%d pods: the adopted one is enough", n)
	}
	// A pod whose labels match no more is set free and replaced.
	var p corev1.Pod
	c.Get(&p, "ns", "orphan")
	p.Labels = map[string]string{"app": "debug"}
	c.Do(c.API.Update(t.Context(), &p))
	c.Eventually(func() (bool, string) {
		c.Get(&p, "ns", "orphan")
		return metav1.GetControllerOf(&p) == nil && len(podsOf(t, c)) == 3, "not released and replaced"
	})
}
