package persistentvolume

import (
	"context"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-helpers/storage/volume"
)

// bind makes v and claim one another's. Both are the caller's own and change
// with what was written.
func (b *binder) bind(ctx context.Context, v *corev1.PersistentVolume, claim *corev1.PersistentVolumeClaim) error {
	api := b.env.Cluster.Client()
	next, dirty, err := volume.GetBindVolumeToClaim(v, claim)
	if err != nil {
		return err
	}
	if dirty {
		if err := api.Update(ctx, next); err != nil {
			return err
		}
	}
	if err := b.setVolume(ctx, next, corev1.VolumeBound, ""); err != nil {
		return err
	}
	dirty = false
	if claim.Spec.VolumeName != next.Name {
		claim.Spec.VolumeName = next.Name
		metav1.SetMetaDataAnnotation(&claim.ObjectMeta, volume.AnnBoundByController, "yes")
		dirty = true
	}
	if !metav1.HasAnnotation(claim.ObjectMeta, volume.AnnBindCompleted) {
		metav1.SetMetaDataAnnotation(&claim.ObjectMeta, volume.AnnBindCompleted, "yes")
		dirty = true
	}
	if dirty {
		if err := api.Update(ctx, claim); err != nil {
			return err
		}
	}
	return b.setClaim(ctx, claim, corev1.ClaimBound, next)
}

// unbind takes the claim from a volume. One that its maker meant for the claim
// stays reserved for its name.
func (b *binder) unbind(ctx context.Context, v *corev1.PersistentVolume) error {
	if metav1.HasAnnotation(v.ObjectMeta, volume.AnnBoundByController) {
		v.Spec.ClaimRef = nil
		delete(v.Annotations, volume.AnnBoundByController)
	} else {
		v.Spec.ClaimRef.UID = ""
	}
	if err := b.env.Cluster.Client().Update(ctx, v); err != nil {
		return err
	}
	return b.setVolume(ctx, v, corev1.VolumeAvailable, "")
}

// setClaim writes a claim's phase and what it has of its volume, if that is news.
func (b *binder) setClaim(ctx context.Context, claim *corev1.PersistentVolumeClaim, phase corev1.PersistentVolumeClaimPhase, v *corev1.PersistentVolume) error {
	status := claim.Status.DeepCopy()
	first := status.Phase != corev1.ClaimBound
	status.Phase = phase
	if v == nil {
		status.AccessModes, status.Capacity, status.CurrentVolumeAttributesClassName = nil, nil, nil
	} else {
		if !slices.Equal(status.AccessModes, v.Spec.AccessModes) {
			status.AccessModes = slices.Clone(v.Spec.AccessModes)
		}
		// Later the capacity is the resizer's.
		if _, ok := status.Capacity[corev1.ResourceStorage]; !ok || first {
			status.Capacity = corev1.ResourceList{corev1.ResourceStorage: v.Spec.Capacity[corev1.ResourceStorage]}
		}
		if first {
			status.CurrentVolumeAttributesClassName = v.Spec.VolumeAttributesClassName
		}
	}
	if equality.Semantic.DeepEqual(&claim.Status, status) {
		return nil
	}
	claim.Status = *status
	return b.env.Cluster.Client().Status().Update(ctx, claim)
}

// setVolume writes a volume's phase, if that is news.
func (b *binder) setVolume(ctx context.Context, v *corev1.PersistentVolume, phase corev1.PersistentVolumePhase, message string) error {
	if v.Status.Phase == phase && v.Status.Message == message {
		return nil
	}
	v.Status.Phase, v.Status.Message = phase, message
	return b.env.Cluster.Client().Status().Update(ctx, v)
}
