package persistentvolume

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/component-helpers/storage/volume"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

func (b *binder) syncVolume(ctx context.Context, key types.NamespacedName) (time.Duration, error) {
	v := &corev1.PersistentVolume{}
	if err := b.env.Cluster.Client().Get(ctx, key, v); err != nil {
		return 0, client.IgnoreNotFound(err)
	}
	ref := v.Spec.ClaimRef
	if ref == nil || ref.UID == "" { // free, or kept for a claim that is not bound yet
		return 0, b.setVolume(ctx, v, corev1.VolumeAvailable, "")
	}
	claim, err := b.owner(ctx, ref)
	switch {
	case err != nil:
		return 0, err
	case claim == nil:
		return 0, b.release(ctx, v)
	case claim.Spec.VolumeName == "":
		// The claim's own turn binds them, unless they cannot be.
		if volume.CheckVolumeModeMismatches(&claim.Spec, &v.Spec) {
			b.events.Event(v, corev1.EventTypeWarning, volumeMismatch,
				fmt.Sprintf("Cannot bind PersistentVolume to requested PersistentVolumeClaim %q due to incompatible volumeMode.", claim.Name))
			b.events.Event(claim, corev1.EventTypeWarning, volumeMismatch,
				fmt.Sprintf("Cannot bind PersistentVolume %q to requested PersistentVolumeClaim due to incompatible volumeMode.", v.Name))
		}
		return 0, nil
	case claim.Spec.VolumeName == v.Name:
		return 0, b.setVolume(ctx, v, corev1.VolumeBound, "")
	case metav1.HasAnnotation(v.ObjectMeta, volume.AnnDynamicallyProvisioned) && v.Spec.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimDelete:
		return 0, b.release(ctx, v) // made for a claim that took another
	}
	return 0, b.unbind(ctx, v)
}

// owner is the claim that a volume is bound to; nil means that it is gone,
// which the API server itself has said: a cache that lags must not release data.
func (b *binder) owner(ctx context.Context, ref *corev1.ObjectReference) (*corev1.PersistentVolumeClaim, error) {
	key := types.NamespacedName{Namespace: ref.Namespace, Name: ref.Name}
	for _, reader := range []client.Reader{b.env.Cluster.Client(), b.env.Cluster.Reader()} {
		claim := &corev1.PersistentVolumeClaim{}
		err := reader.Get(ctx, key, claim)
		if err == nil && claim.UID == ref.UID {
			return claim, nil
		}
		if client.IgnoreNotFound(err) != nil {
			return nil, err
		}
	}
	return nil, nil
}

// release notes that a volume's claim is gone, and does what its policy says.
func (b *binder) release(ctx context.Context, v *corev1.PersistentVolume) error {
	if v.Status.Phase != corev1.VolumeReleased && v.Status.Phase != corev1.VolumeFailed {
		if err := b.setVolume(ctx, v, corev1.VolumeReleased, ""); err != nil {
			return err
		}
	}
	switch v.Spec.PersistentVolumeReclaimPolicy {
	case corev1.PersistentVolumeReclaimRetain:
		return nil
	case corev1.PersistentVolumeReclaimDelete:
		if metav1.HasAnnotation(v.ObjectMeta, volume.AnnDynamicallyProvisioned) {
			return nil // whoever made it deletes it
		}
		return b.fail(ctx, v, "VolumeFailedDelete", fmt.Sprintf("error getting deleter volume plugin for volume %q: no deletable volume plugin matched", v.Name))
	case corev1.PersistentVolumeReclaimRecycle:
		return b.fail(ctx, v, "VolumeFailedRecycle", "No recycler plugin found for the volume!")
	}
	return b.fail(ctx, v, "VolumeUnknownReclaimPolicy", "Volume has unrecognized PersistentVolumeReclaimPolicy")
}

func (b *binder) fail(ctx context.Context, v *corev1.PersistentVolume, reason, message string) error {
	if v.Status.Phase == corev1.VolumeFailed && v.Status.Message == message {
		return nil
	}
	if err := b.setVolume(ctx, v, corev1.VolumeFailed, message); err != nil {
		if apierrors.IsNotFound(err) {
			return nil
		}
		return err
	}
	b.events.Event(v, corev1.EventTypeWarning, reason, message)
	return nil
}
