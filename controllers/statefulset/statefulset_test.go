package statefulset_test

import (
	"fmt"
	"math"
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
	"github.com/proa-dev/proa/controllers/internal/clustertest"
	"github.com/proa-dev/proa/controllers/statefulset"
)

func web(replicas int32, change ...func(*appsv1.StatefulSet)) *appsv1.StatefulSet {
	l := map[string]string{"app": "web"}
	s := &appsv1.StatefulSet{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "web"},
		Spec: appsv1.StatefulSetSpec{
			Replicas: ptr.To(replicas), ServiceName: "web", Selector: &metav1.LabelSelector{MatchLabels: l},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: l},
				Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "v1"}}},
			},
			VolumeClaimTemplates: []corev1.PersistentVolumeClaim{{ObjectMeta: metav1.ObjectMeta{Name: "data"}}},
		},
	}
	for _, f := range change {
		f(s)
	}
	apps.StatefulSet().Default(s)
	return s
}

func parallel(s *appsv1.StatefulSet) { s.Spec.PodManagementPolicy = appsv1.ParallelPodManagement }

// start runs the controller and a kubelet.
func start(t *testing.T, ok func(*corev1.Pod) bool, objs ...client.Object) *clustertest.Cluster {
	t.Helper()
	c := clustertest.New(t, objs...)
	c.Graceful = true
	l, err := statefulset.New(c.Env(nil))
	c.Do(err)
	if ok == nil {
		ok = func(*corev1.Pod) bool { return true }
	}
	c.Run(l, c.Kubelet(ok))
	return c
}

func change(c *clustertest.Cluster, f func(*appsv1.StatefulSet)) {
	c.Eventually(func() (bool, string) {
		var s appsv1.StatefulSet
		c.Get(&s, "ns", "web")
		f(&s)
		err := c.API.Update(c.Context(), &s)
		return err == nil, fmt.Sprint(err)
	})
}

func podsOf(c *clustertest.Cluster) []corev1.Pod {
	var list corev1.PodList
	c.Do(c.API.List(c.Context(), &list, client.InNamespace("ns")))
	return list.Items
}

// settled waits until the status tells of n ready pods and the generation.
func settled(c *clustertest.Cluster, n int32) *appsv1.StatefulSet {
	s := &appsv1.StatefulSet{}
	c.Eventually(func() (bool, string) {
		c.Get(s, "ns", "web")
		st := s.Status
		return st.Replicas == n && st.ReadyReplicas == n && st.AvailableReplicas == n && st.ObservedGeneration == s.Generation &&
			len(podsOf(c)) == int(n), fmt.Sprintf("%d pods, status %+v", len(podsOf(c)), st)
	})
	return s
}

// rolledOut waits until the rollout is complete.
func rolledOut(c *clustertest.Cluster, n int32) *appsv1.StatefulSet {
	c.Eventually(func() (bool, string) {
		s := settled(c, n)
		return s.Status.CurrentRevision == s.Status.UpdateRevision && s.Status.UpdatedReplicas == n, fmt.Sprintf("%+v", s.Status)
	})
	return settled(c, n)
}

func images(c *clustertest.Cluster) string {
	var out []string
	for _, p := range podsOf(c) {
		out = append(out, p.Name+"="+p.Spec.Containers[0].Image)
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

// creations and deletions are the pods of the events, in their order.
func happened(c *clustertest.Cluster, verb string) string {
	var out []string
	for _, e := range c.Events() {
		if rest, ok := strings.CutPrefix(e, "Normal Successful"+verb+" "+verb+" Pod "); ok {
			name, _, _ := strings.Cut(rest, " ")
			out = append(out, name)
		}
	}
	return strings.Join(out, " ")
}

func TestGivesIdentityInOrder(t *testing.T) {
	c := start(t, nil, web(3))
	s := rolledOut(c, 3)
	if got := happened(c, "Create"); got != "web-0 web-1 web-2" {
		t.Errorf("created %s", got)
	}
	var p corev1.Pod
	c.Get(&p, "ns", "web-1")
	if p.Spec.Hostname != "web-1" || p.Spec.Subdomain != "web" || p.Labels[appsv1.StatefulSetPodNameLabel] != "web-1" ||
		p.Labels[appsv1.PodIndexLabel] != "1" || p.Labels[appsv1.StatefulSetRevisionLabel] != s.Status.UpdateRevision {
		t.Errorf("identity: %+v %+v", p.Labels, p.Spec)
	}
	if v := p.Spec.Volumes[0]; v.Name != "data" || v.PersistentVolumeClaim.ClaimName != "data-web-1" {
		t.Errorf("volume %+v", v)
	}
	var claim corev1.PersistentVolumeClaim
	if !c.Get(&claim, "ns", "data-web-1") || claim.Labels["app"] != "web" || len(claim.OwnerReferences) != 0 {
		t.Errorf("claim %+v", claim.ObjectMeta)
	}
	var rev appsv1.ControllerRevision
	if !c.Get(&rev, "ns", s.Status.CurrentRevision) || rev.Revision != 1 || metav1.GetControllerOf(&rev).UID != s.UID {
		t.Errorf("revision %+v", rev)
	}
	change(c, func(s *appsv1.StatefulSet) { s.Spec.Replicas = ptr.To[int32](1) })
	settled(c, 1)
	if got := happened(c, "Delete"); got != "web-2 web-1" {
		t.Errorf("deleted %s", got)
	}
	if !c.Get(&claim, "ns", "data-web-2") {
		t.Error("the claim of a pod that was scaled away is gone")
	}
}

func TestRollsWithPartitionAndBack(t *testing.T) {
	c := start(t, nil, web(3))
	first := rolledOut(c, 3).Status.CurrentRevision
	change(c, func(s *appsv1.StatefulSet) {
		s.Spec.Template.Spec.Containers[0].Image = "v2"
		s.Spec.UpdateStrategy.RollingUpdate.Partition = ptr.To[int32](2)
	})
	c.Eventually(func() (bool, string) {
		s := settled(c, 3)
		return images(c) == "web-0=v1 web-1=v1 web-2=v2" && s.Status.UpdatedReplicas == 1 && s.Status.CurrentReplicas == 2, images(c)
	})
	// A pod below the partition comes back as it was.
	var p corev1.Pod
	c.Get(&p, "ns", "web-0")
	c.Do(c.API.Delete(t.Context(), &p))
	c.Eventually(func() (bool, string) {
		var now corev1.Pod
		return c.Get(&now, "ns", "web-0") && now.UID != p.UID && now.Spec.Containers[0].Image == "v1", images(c)
	})
	settled(c, 3)
	change(c, func(s *appsv1.StatefulSet) { s.Spec.UpdateStrategy.RollingUpdate.Partition = ptr.To[int32](0) })
	c.Eventually(func() (bool, string) { return images(c) == "web-0=v2 web-1=v2 web-2=v2", images(c) })
	if second := rolledOut(c, 3).Status.CurrentRevision; second == first {
		t.Error("the revision did not change")
	}
	// Back to the first template is the first revision again, with a new number.
	change(c, func(s *appsv1.StatefulSet) { s.Spec.Template.Spec.Containers[0].Image = "v1" })
	c.Eventually(func() (bool, string) { return images(c) == "web-0=v1 web-1=v1 web-2=v1", images(c) })
	if s := rolledOut(c, 3); s.Status.CurrentRevision != first {
		t.Errorf("revision %s, not %s", s.Status.CurrentRevision, first)
	}
	var rev appsv1.ControllerRevision
	if c.Get(&rev, "ns", first); rev.Revision != 3 {
		t.Errorf("number %d", rev.Revision)
	}
}

func TestRevisionHistoryIsLimited(t *testing.T) {
	c := start(t, nil, web(1, func(s *appsv1.StatefulSet) { s.Spec.RevisionHistoryLimit = ptr.To[int32](2) }))
	for i := range 6 {
		change(c, func(s *appsv1.StatefulSet) { s.Spec.Template.Spec.Containers[0].Image = fmt.Sprint("i", i) })
		c.Eventually(func() (bool, string) { return images(c) == fmt.Sprint("web-0=i", i), images(c) })
		rolledOut(c, 1)
	}
	c.Eventually(func() (bool, string) {
		var list appsv1.ControllerRevisionList
		c.Do(c.API.List(t.Context(), &list))
		return len(list.Items) == 3, fmt.Sprint(len(list.Items), " revisions")
	})
}

func TestParallelIgnoresOrderAndSize(t *testing.T) {
	stuck := func(p *corev1.Pod) bool { return p.Name != "web-0" }
	c := start(t, stuck, web(5, parallel))
	c.Eventually(func() (bool, string) { return len(podsOf(c)) == 5, images(c) })
	// A broken pod does not stop an update of itself.
	change(c, func(s *appsv1.StatefulSet) {
		s.Spec.Template.Spec.Containers[0].Image = "v2"
		s.Spec.UpdateStrategy.RollingUpdate.MaxUnavailable = ptr.To(intstr.FromInt32(2))
	})
	c.Eventually(func() (bool, string) {
		return images(c) == "web-0=v2 web-1=v2 web-2=v2 web-3=v2 web-4=v2", images(c)
	})
}

func TestOrderedWaitsForTheBrokenOne(t *testing.T) {
	c := start(t, func(p *corev1.Pod) bool { return p.Spec.Containers[0].Image != "broken" }, web(2))
	rolledOut(c, 2)
	change(c, func(s *appsv1.StatefulSet) { s.Spec.Template.Spec.Containers[0].Image = "broken" })
	c.Eventually(func() (bool, string) { return images(c) == "web-0=v1 web-1=broken", images(c) })
	// As upstream: the fixed template waits until somebody deletes the broken pod.
	change(c, func(s *appsv1.StatefulSet) { s.Spec.Template.Spec.Containers[0].Image = "v3" })
	c.Eventually(func() (bool, string) {
		var s appsv1.StatefulSet
		c.Get(&s, "ns", "web")
		return s.Status.ObservedGeneration == s.Generation, "not observed"
	})
	if got := images(c); got != "web-0=v1 web-1=broken" {
		t.Fatal(got)
	}
	c.Do(c.API.Delete(t.Context(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "web-1"}}))
	c.Eventually(func() (bool, string) { return images(c) == "web-0=v3 web-1=v3", images(c) })
}

func TestReplacesFailedPods(t *testing.T) {
	c := start(t, nil, web(1))
	rolledOut(c, 1)
	var p corev1.Pod
	c.Get(&p, "ns", "web-0")
	p.Status.Phase = corev1.PodFailed
	c.Do(c.API.Status().Update(t.Context(), &p))
	c.Eventually(func() (bool, string) {
		var now corev1.Pod
		return c.Get(&now, "ns", "web-0") && now.UID != p.UID, "not replaced"
	})
	settled(c, 1)
}

func TestClaimsFollowTheRetentionPolicy(t *testing.T) {
	const drop = appsv1.DeletePersistentVolumeClaimRetentionPolicyType
	policy := func(deleted, scaled appsv1.PersistentVolumeClaimRetentionPolicyType) func(*appsv1.StatefulSet) {
		return func(s *appsv1.StatefulSet) {
			s.Spec.PersistentVolumeClaimRetentionPolicy = &appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy{WhenDeleted: deleted, WhenScaled: scaled}
		}
	}
	c := start(t, nil, web(3, policy(drop, drop)))
	rolledOut(c, 3)
	owners := func(claim string) string {
		var pvc corev1.PersistentVolumeClaim
		c.Get(&pvc, "ns", claim)
		var out []string
		for _, r := range pvc.OwnerReferences {
			out = append(out, r.Kind+"/"+r.Name)
		}
		return strings.Join(out, " ")
	}
	c.Eventually(func() (bool, string) { return owners("data-web-2") == "StatefulSet/web", owners("data-web-2") })
	change(c, func(s *appsv1.StatefulSet) { s.Spec.Replicas = ptr.To[int32](2) })
	settled(c, 2)
	if got := owners("data-web-2"); got != "Pod/web-2" {
		t.Errorf("owners of a condemned pod's claim: %s", got)
	}
	// Until the garbage collector has taken it, it is in the way of a new pod.
	change(c, func(s *appsv1.StatefulSet) { s.Spec.Replicas = ptr.To[int32](3) })
	c.Eventually(func() (bool, string) {
		var s appsv1.StatefulSet
		c.Get(&s, "ns", "web")
		return s.Status.ObservedGeneration == s.Generation, "not observed"
	})
	if n := len(podsOf(c)); n != 2 {
		t.Errorf("%d pods", n)
	}
	c.Do(c.API.Delete(t.Context(), &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "data-web-2"}}))
	settled(c, 3)
	change(c, policy(appsv1.RetainPersistentVolumeClaimRetentionPolicyType, appsv1.RetainPersistentVolumeClaimRetentionPolicyType))
	c.Eventually(func() (bool, string) { return owners("data-web-0") == "", owners("data-web-0") })
}

func TestStartOrdinalMoves(t *testing.T) {
	c := start(t, nil, web(2, func(s *appsv1.StatefulSet) { s.Spec.Ordinals = &appsv1.StatefulSetOrdinals{Start: 3} }))
	rolledOut(c, 2)
	if got := images(c); got != "web-3=v1 web-4=v1" {
		t.Fatal(got)
	}
	change(c, func(s *appsv1.StatefulSet) { s.Spec.Ordinals = nil })
	c.Eventually(func() (bool, string) { return images(c) == "web-0=v1 web-1=v1", images(c) })
}

func TestHugeSetsCostNothing(t *testing.T) {
	broken := func(*corev1.Pod) bool { return false }
	c := start(t, broken, web(math.MaxInt32))
	c.Eventually(func() (bool, string) {
		var s appsv1.StatefulSet
		c.Get(&s, "ns", "web")
		return s.Status.Replicas == 1 && images(c) == "web-0=v1", images(c)
	})
}
