package persistentvolume_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/utils/clock"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proa-dev/proa/controllers/internal/clustertest"
	"github.com/proa-dev/proa/controllers/persistentvolume"
)

func pv(name, size string, change ...func(*corev1.PersistentVolume)) *corev1.PersistentVolume {
	v := &corev1.PersistentVolume{Spec: corev1.PersistentVolumeSpec{
		Capacity: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(size)}, StorageClassName: "manual",
		AccessModes:                   []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
		PersistentVolumeReclaimPolicy: corev1.PersistentVolumeReclaimRetain,
		PersistentVolumeSource:        corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/x"}},
	}}
	v.Name, v.UID = name, "uid-of-"+"pv"
	v.Status.Phase = corev1.VolumeAvailable
	for _, f := range change {
		f(v)
	}
	return v
}

func pvc(name, size, class string, change ...func(*corev1.PersistentVolumeClaim)) *corev1.PersistentVolumeClaim {
	c := &corev1.PersistentVolumeClaim{Spec: corev1.PersistentVolumeClaimSpec{
		AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, StorageClassName: ptr.To(class),
		Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(size)}},
	}}
	c.Namespace, c.Name, c.UID = "ns", name, "uid-of-claim"
	c.Status.Phase = corev1.ClaimPending
	for _, f := range change {
		f(c)
	}
	return c
}

func TestBinding(t *testing.T) {
	class := &storagev1.StorageClass{Provisioner: "example.com/p", VolumeBindingMode: ptr.To(storagev1.VolumeBindingImmediate)}
	class.Name = "fast"
	later := &storagev1.StorageClass{Provisioner: "example.com/p", VolumeBindingMode: ptr.To(storagev1.VolumeBindingWaitForFirstConsumer)}
	later.Name = "later"
	for _, c := range []struct {
		name   string
		claim  *corev1.PersistentVolumeClaim
		others []client.Object
		want   string // the claim's phase, volume and the volume's phase
		event  string
	}{
		{"the smallest that fits", pvc("c", "2Gi", "manual"), []client.Object{pv("big", "9Gi"), pv("fits", "3Gi"), pv("small", "1Gi")}, "Bound fits Bound", ""},
		{"the closest access modes before the smallest", pvc("c", "1Gi", "manual"), []client.Object{pv("close", "9Gi"), pv("wide", "1Gi", func(v *corev1.PersistentVolume) {
			v.Spec.AccessModes = append(v.Spec.AccessModes, corev1.ReadWriteMany)
		})}, "Bound close Bound", ""},
		{"none fits", pvc("c", "5Gi", ""), []client.Object{pv("small", "1Gi")}, "Pending  ", "FailedBinding no persistent volumes available for this claim and no storage class is set"},
		{"a volume by name", pvc("c", "1Gi", "manual", func(c *corev1.PersistentVolumeClaim) { c.Spec.VolumeName = "big" }),
			[]client.Object{pv("big", "9Gi"), pv("fits", "1Gi")}, "Bound big Bound", ""},
		{"a volume by name that is too small", pvc("c", "1Gi", "manual", func(c *corev1.PersistentVolumeClaim) { c.Spec.VolumeName = "small" }),
			[]client.Object{pv("small", "1Mi")}, "Pending small Available", `VolumeMismatch Cannot bind to requested volume "small": requested PV is too small`},
		{"a volume that waits for the claim", pvc("c", "1Gi", "later"), []client.Object{later, pv("mine", "1Gi", func(v *corev1.PersistentVolume) {
			v.Spec.StorageClassName = "later"
			v.Spec.ClaimRef = &corev1.ObjectReference{Namespace: "ns", Name: "c"}
		})}, "Bound mine Bound", ""},
		{"a provisioner is asked", pvc("c", "1Gi", "fast"), []client.Object{class}, "Pending  ", "ExternalProvisioning Waiting for a volume to be created either by the external provisioner 'example.com/p'"},
		{"the first consumer is awaited", pvc("c", "1Gi", "later"), []client.Object{later}, "Pending  ", "WaitForFirstConsumer waiting for first consumer to be created before binding"},
		{"a lost volume", pvc("c", "1Gi", "manual", func(c *corev1.PersistentVolumeClaim) {
			c.Spec.VolumeName, c.Status.Phase = "gone", corev1.ClaimBound
			c.Annotations = map[string]string{"pv.kubernetes.io/bind-completed": "yes"}
		}), nil, "Lost gone ", "ClaimLost Bound claim has lost its PersistentVolume. Data on the volume is lost!"},
	} {
		t.Run(c.name, func(t *testing.T) {
			cluster := start(t, append(c.others, c.claim)...)
			cluster.Eventually(func() (bool, string) {
				got := &corev1.PersistentVolumeClaim{}
				cluster.Get(got, "ns", "c")
				v := &corev1.PersistentVolume{}
				if got.Spec.VolumeName != "" {
					cluster.Get(v, "", got.Spec.VolumeName)
				}
				is := fmt.Sprintf("%s %s %s", got.Status.Phase, got.Spec.VolumeName, v.Status.Phase)
				told := c.event == "" || slices.ContainsFunc(cluster.Events(), func(e string) bool { return strings.Contains(e, c.event) })
				return is == c.want && told, fmt.Sprintf("claim is %q, want %q; events %q", is, c.want, cluster.Events())
			})
		})
	}
}

func TestRelease(t *testing.T) {
	bound := func(policy corev1.PersistentVolumeReclaimPolicy) *corev1.PersistentVolume {
		return pv("v", "1Gi", func(v *corev1.PersistentVolume) {
			v.Spec.PersistentVolumeReclaimPolicy = policy
			v.Status.Phase = corev1.VolumeBound
			v.Spec.ClaimRef = &corev1.ObjectReference{Namespace: "ns", Name: "gone", UID: "gone"}
		})
	}
	for policy, want := range map[corev1.PersistentVolumeReclaimPolicy]corev1.PersistentVolumePhase{
		corev1.PersistentVolumeReclaimRetain: corev1.VolumeReleased, corev1.PersistentVolumeReclaimDelete: corev1.VolumeFailed,
	} {
		t.Run(string(policy), func(t *testing.T) {
			cluster := start(t, bound(policy))
			cluster.Eventually(func() (bool, string) {
				v := &corev1.PersistentVolume{}
				cluster.Get(v, "", "v")
				return v.Status.Phase == want, fmt.Sprintf("volume is %s, want %s", v.Status.Phase, want)
			})
		})
	}
}

func start(t *testing.T, objs ...client.Object) *clustertest.Cluster {
	cluster := clustertest.New(t, objs...)
	l, err := persistentvolume.New(cluster.Env(clock.RealClock{}))
	cluster.Do(err)
	cluster.Run(l)
	return cluster
}
