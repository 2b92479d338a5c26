package admission

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/proa-dev/proa/internal/podrefs"
)

// driverWants says whether a CSI driver of one of the pod's volumes asks for
// tokens of the pod for an audience.
func (p *NodeRestriction) driverWants(ctx context.Context, pod *corev1.Pod, audience string) bool {
	wants := func(driver string) bool {
		obj, _ := p.lookup.Get(ctx, schema.GroupResource{Group: "storage.k8s.io", Resource: "csidrivers"}, "", driver)
		d, ok := obj.(*storagev1.CSIDriver)
		if !ok {
			return false
		}
		for _, t := range d.Spec.TokenRequests {
			if t.Audience == audience {
				return true
			}
		}
		return false
	}
	for _, v := range pod.Spec.Volumes {
		if v.CSI != nil && wants(v.CSI.Driver) {
			return true
		}
	}
	for name := range podrefs.Claims(pod) {
		obj, _ := p.lookup.Get(ctx, corev1.Resource("persistentvolumeclaims"), pod.Namespace, name)
		claim, ok := obj.(*corev1.PersistentVolumeClaim)
		if !ok {
			continue
		}
		vol, _ := p.lookup.Get(ctx, corev1.Resource("persistentvolumes"), "", claim.Spec.VolumeName)
		if pv, ok := vol.(*corev1.PersistentVolume); ok && pv.Spec.CSI != nil && wants(pv.Spec.CSI.Driver) {
			return true
		}
	}
	return false
}
