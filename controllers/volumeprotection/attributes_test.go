package volumeprotection_test

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proa-dev/proa/controllers/internal/clustertest"
	"github.com/proa-dev/proa/controllers/volumeprotection"
)

// A class of attributes stays as long as a claim or a volume names it, in
// whatever way.
func TestAttributes(t *testing.T) {
	claim := func(change func(*corev1.PersistentVolumeClaim)) client.Object {
		p := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "c"}}
		change(p)
		return p
	}
	for _, test := range []struct {
		name string
		user client.Object
	}{
		{"wanted", claim(func(p *corev1.PersistentVolumeClaim) { p.Spec.VolumeAttributesClassName = ptr.To("gold") })},
		{"had", claim(func(p *corev1.PersistentVolumeClaim) { p.Status.CurrentVolumeAttributesClassName = ptr.To("gold") })},
		{"changing", claim(func(p *corev1.PersistentVolumeClaim) {
			p.Status.ModifyVolumeStatus = &corev1.ModifyVolumeStatus{TargetVolumeAttributesClassName: "gold"}
		})},
		{"volume", &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "v"}, Spec: corev1.PersistentVolumeSpec{VolumeAttributesClassName: ptr.To("gold")}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			gold := &storagev1.VolumeAttributesClass{ObjectMeta: metav1.ObjectMeta{Name: "gold"}}
			free := &storagev1.VolumeAttributesClass{ObjectMeta: metav1.ObjectMeta{Name: "free"}}
			c := clustertest.New(t, gold, free, test.user)
			l, err := volumeprotection.New(c.Env(nil))
			c.Do(err)
			c.Run(l)
			for _, o := range []client.Object{gold, free} {
				c.Eventually(func() (bool, string) { return c.Get(o, "", o.GetName()) && len(o.GetFinalizers()) == 1, "no finalizer" })
				c.Do(c.API.Delete(t.Context(), o))
			}
			c.Eventually(func() (bool, string) { return !c.Get(free, "", "free"), "the unused class stays" })
			if !c.Get(gold, "", "gold") {
				t.Fatal("the class is gone although it is named")
			}
			c.Do(c.API.Delete(t.Context(), test.user))
			c.Eventually(func() (bool, string) { return !c.Get(gold, "", "gold"), "the class stays although nothing names it" })
		})
	}
}
