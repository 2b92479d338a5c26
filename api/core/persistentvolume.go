package core

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/utils/ptr"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/api/core/podspec"
)

// PersistentVolume is the kind of persistent volumes.
func PersistentVolume() *api.Kind {
	return &api.Kind{
		GVK:         gvk("PersistentVolume"),
		Resource:    "persistentvolumes",
		ShortNames:  []string{"pv"},
		New:         api.Maker[corev1.PersistentVolume](),
		NewList:     api.ListMaker[corev1.PersistentVolumeList](),
		StoragePath: "persistentvolumes",

		Default: api.On(func(v *corev1.PersistentVolume) {
			if v.Status.Phase == "" {
				v.Status.Phase = corev1.VolumePending
			}
			if v.Spec.PersistentVolumeReclaimPolicy == "" {
				v.Spec.PersistentVolumeReclaimPolicy = corev1.PersistentVolumeReclaimRetain
			}
			if v.Spec.VolumeMode == nil {
				v.Spec.VolumeMode = ptr.To(corev1.PersistentVolumeFilesystem)
			}
			if h := v.Spec.HostPath; h != nil && h.Type == nil {
				h.Type = ptr.To(corev1.HostPathUnset)
			}
		}),
		PrepareCreate: api.On(func(v *corev1.PersistentVolume) {
			v.Status = corev1.PersistentVolumeStatus{Phase: corev1.VolumePending}
		}),
		PrepareUpdate: api.OnUpdate(func(v, old *corev1.PersistentVolume) { v.Status = old.Status }),
		Status: &api.Status{
			PrepareUpdate: api.OnUpdate(func(v, old *corev1.PersistentVolume) { v.Spec = old.Spec }),
		},
		Fields: api.FieldsOf(func(v *corev1.PersistentVolume) fields.Set {
			return fields.Set{"name": v.Name}
		}),
		FieldNames: []string{"name"},
		ResetFields: map[string][]string{
			"": {"status"}, "status": {"spec"},
		},
	}
}

// PersistentVolumeClaim is the kind of claims to persistent volumes.
func PersistentVolumeClaim() *api.Kind {
	return &api.Kind{
		GVK:         gvk("PersistentVolumeClaim"),
		Resource:    "persistentvolumeclaims",
		ShortNames:  []string{"pvc"},
		Namespaced:  true,
		New:         api.Maker[corev1.PersistentVolumeClaim](),
		NewList:     api.ListMaker[corev1.PersistentVolumeClaimList](),
		StoragePath: "persistentvolumeclaims",

		Default: api.On(func(c *corev1.PersistentVolumeClaim) {
			if c.Status.Phase == "" {
				c.Status.Phase = corev1.ClaimPending
			}
			podspec.DefaultClaim(&c.Spec)
		}),
		PrepareCreate: api.On(func(c *corev1.PersistentVolumeClaim) {
			c.Status = corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimPending}
		}),
		PrepareUpdate: api.OnUpdate(func(c, old *corev1.PersistentVolumeClaim) { c.Status = old.Status }),
		Status: &api.Status{
			PrepareUpdate: api.OnUpdate(func(c, old *corev1.PersistentVolumeClaim) { c.Spec = old.Spec }),
		},
		Fields: api.FieldsOf(func(c *corev1.PersistentVolumeClaim) fields.Set {
			return fields.Set{"name": c.Name}
		}),
		FieldNames: []string{"name"},
		ResetFields: map[string][]string{
			"": {"status"}, "status": {"spec"},
		},
	}
}
