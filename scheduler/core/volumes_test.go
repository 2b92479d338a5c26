package core_test

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/proa-dev/proa/scheduler/core"
)

func claims(names ...string) podOption {
	return func(p *corev1.Pod) {
		for _, name := range names {
			p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{
				PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: name}}})
		}
	}
}

func claim(name, class, bound string, modes ...corev1.PersistentVolumeAccessMode) *corev1.PersistentVolumeClaim {
	c := &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name},
		Spec: corev1.PersistentVolumeClaimSpec{StorageClassName: &class, VolumeName: bound, AccessModes: modes,
			Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{"storage": resource.MustParse("1Gi")}}},
	}
	if bound != "" {
		c.Status.Phase = corev1.ClaimBound
		c.Annotations = map[string]string{"pv.kubernetes.io/bind-completed": "yes"}
	}
	return c
}

func disk(name, class, size, zone string) *corev1.PersistentVolume {
	return &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PersistentVolumeSpec{StorageClassName: class, Capacity: corev1.ResourceList{"storage": resource.MustParse(size)},
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			NodeAffinity: &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
				MatchExpressions: []corev1.NodeSelectorRequirement{{Key: "zone", Operator: corev1.NodeSelectorOpIn, Values: []string{zone}}}}}}}},
		Status: corev1.PersistentVolumeStatus{Phase: corev1.VolumeAvailable},
	}
}

func TestVolumes(t *testing.T) {
	late := storagev1.VolumeBindingWaitForFirstConsumer
	setup := func() *core.Snapshot {
		s := snapshot([]*corev1.Node{node("a", "4", "8Gi", labeled("zone", "a")), node("b", "4", "8Gi", labeled("zone", "b"))}, nil)
		s.SetClass(&storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "static"}, Provisioner: "kubernetes.io/no-provisioner", VolumeBindingMode: &late})
		s.SetClass(&storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "made"}, Provisioner: "example.com/p", VolumeBindingMode: &late,
			AllowedTopologies: []corev1.TopologySelectorTerm{{MatchLabelExpressions: []corev1.TopologySelectorLabelRequirement{{Key: "zone", Values: []string{"b"}}}}}})
		return s
	}
	t.Run("a promised volume is taken", func(t *testing.T) {
		s := setup()
		s.SetVolume(disk("v", "static", "1Gi", "b"))
		s.SetClaim(claim("c", "static", "", corev1.ReadWriteOnce))
		s.SetClaim(claim("d", "static", "", corev1.ReadWriteOnce))
		plan := s.PlanVolumes(pod("p", claims("c")), "b")
		if plan == nil || len(plan.Bind) != 1 || plan.Bind[0].Volume.Name != "v" {
			t.Fatalf("plan %+v", plan)
		}
		s.Promise(plan)
		if got, why := s.Schedule(pod("q", claims("d"))); why == nil {
			t.Fatalf("the volume was given twice, %s", got)
		}
		s.Withdraw(plan)
		if _, why := s.Schedule(pod("q", claims("d"))); why != nil {
			t.Errorf("not free again: %s", why.Message())
		}
	})

	t.Run("one pod only", func(t *testing.T) {
		s := setup()
		s.SetVolume(disk("v", "", "1Gi", "a"))
		s.SetClaim(claim("c", "", "v", corev1.ReadWriteOncePod))
		s.PutPod(pod("x", claims("c")), "a")
		if _, why := s.Schedule(pod("p", claims("c"))); why == nil || why.Message() !=
			"0/2 nodes are available: 2 node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod access mode already in-use by another pod." {
			t.Errorf("got %v", why)
		}
		s.RemovePod("x")
		if got, _ := s.Schedule(pod("p", claims("c"))); got != "a" {
			t.Errorf("got %q", got)
		}
	})
}
