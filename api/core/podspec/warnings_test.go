package podspec_test

import (
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/proa-dev/proa/api/core/podspec"
)

func TestStorageWarnings(t *testing.T) {
	meta := metav1.ObjectMeta{Annotations: map[string]string{"volume.beta.kubernetes.io/storage-class": "x", "volume.beta.kubernetes.io/mount-options": "ro"}}
	class := `metadata.annotations[volume.beta.kubernetes.io/storage-class]: deprecated since v1.8; use "storageClassName" attribute instead`
	if got := podspec.StoredClaimWarnings(&corev1.PersistentVolumeClaim{ObjectMeta: meta}); !slices.Equal(got, []string{class}) {
		t.Errorf("claim: %q", got)
	}
	v := &corev1.PersistentVolume{ObjectMeta: meta, Spec: corev1.PersistentVolumeSpec{
		PersistentVolumeReclaimPolicy: corev1.PersistentVolumeReclaimRecycle,
		PersistentVolumeSource:        corev1.PersistentVolumeSource{RBD: &corev1.RBDPersistentVolumeSource{}},
		NodeAffinity: &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{
			{MatchExpressions: []corev1.NodeSelectorRequirement{{Key: "failure-domain.beta.kubernetes.io/zone"}}},
		}}},
	}}
	want := []string{
		class,
		`metadata.annotations[volume.beta.kubernetes.io/mount-options]: deprecated since v1.31; use "mountOptions" attribute instead`,
		"spec.persistentVolumeReclaimPolicy: The Recycle reclaim policy is deprecated. Instead, the recommended approach is to use dynamic provisioning.",
		`spec.nodeAffinity.required.nodeSelectorTerms[0].matchExpressions[0].key: failure-domain.beta.kubernetes.io/zone is deprecated since v1.17; use "topology.kubernetes.io/zone" instead`,
		"spec.rbd: deprecated in v1.28, non-functional in v1.31+",
	}
	if got := podspec.VolumeWarnings(v); !slices.Equal(got, want) {
		t.Errorf("volume: %q, want %q", got, want)
	}
	if got := podspec.VolumeWarnings(&corev1.PersistentVolume{}); len(got) > 0 {
		t.Errorf("nothing to say: %q", got)
	}
}
