package persistentvolume

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/component-helpers/storage/volume"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/api/storage"
	"github.com/proa-dev/proa/controllers/internal/index"
)

// Reasons of events.
const (
	failedBinding        = "FailedBinding"
	volumeMismatch       = "VolumeMismatch"
	waitForFirstConsumer = "WaitForFirstConsumer"
	waitForPodScheduled  = "WaitForPodScheduled"
	externalProvisioning = "ExternalProvisioning"
	provisioningFailed   = "ProvisioningFailed"
	claimLost            = "ClaimLost"
	claimMisbound        = "ClaimMisbound"
)

func (b *binder) syncClaim(ctx context.Context, key types.NamespacedName) (time.Duration, error) {
	claim := &corev1.PersistentVolumeClaim{}
	if err := b.env.Cluster.Client().Get(ctx, key, claim); err != nil {
		return 0, client.IgnoreNotFound(err)
	}
	switch {
	case metav1.HasAnnotation(claim.ObjectMeta, volume.AnnBindCompleted):
		return 0, b.syncBound(ctx, claim)
	case claim.Spec.VolumeName != "":
		return b.syncNamed(ctx, claim)
	}
	return b.syncUnbound(ctx, claim)
}

// syncUnbound finds a volume for a claim that takes any.
func (b *binder) syncUnbound(ctx context.Context, claim *corev1.PersistentVolumeClaim) (time.Duration, error) {
	class, err := b.class(ctx, claim)
	if err != nil {
		return 0, err
	}
	delayed := class != nil && ptr.Deref(class.VolumeBindingMode, "") == storagev1.VolumeBindingWaitForFirstConsumer
	found, err := b.match(ctx, claim, delayed)
	if err != nil {
		return 0, fmt.Errorf("error finding PV for claim %q: %w", claim.Namespace+"/"+claim.Name, err)
	}
	if found != nil {
		return 0, b.bind(ctx, found.DeepCopy(), claim)
	}
	if done, err := b.assignDefaultClass(ctx, claim); done || err != nil {
		return 0, err
	}
	switch {
	case delayed && !volume.IsDelayBindingProvisioning(claim):
		if err := b.tellOfDelay(ctx, claim); err != nil {
			return 0, err
		}
	case volume.GetPersistentVolumeClaimClass(claim) != "":
		return retry, b.provision(ctx, claim, class)
	default:
		b.events.Event(claim, corev1.EventTypeNormal, failedBinding, "no persistent volumes available for this claim and no storage class is set")
	}
	return retry, b.setClaim(ctx, claim, corev1.ClaimPending, nil)
}

// match finds the best volume: of those with the fewest access modes beyond the
// wanted ones the smallest. Nil when none fits.
func (b *binder) match(ctx context.Context, claim *corev1.PersistentVolumeClaim, delayed bool) (*corev1.PersistentVolume, error) {
	volumes, err := b.volumes(ctx, index.Orphan, claim.Namespace+"/"+claim.Name)
	if err != nil {
		return nil, err
	}
	volumes = slices.DeleteFunc(volumes, func(v *corev1.PersistentVolume) bool { return !volume.CheckAccessModes(claim, v) })
	modes := func(v *corev1.PersistentVolume) int { return sets.New(v.Spec.AccessModes...).Len() }
	slices.SortFunc(volumes, func(a, b *corev1.PersistentVolume) int {
		return cmp.Or(cmp.Compare(modes(a), modes(b)), strings.Compare(a.Name, b.Name))
	})
	for len(volumes) > 0 {
		n := slices.IndexFunc(volumes, func(v *corev1.PersistentVolume) bool { return modes(v) != modes(volumes[0]) })
		if n < 0 {
			n = len(volumes)
		}
		if found, err := volume.FindMatchingVolume(claim, volumes[:n], nil, nil, delayed, true); found != nil || err != nil {
			return found, err
		}
		volumes = volumes[n:]
	}
	return nil, nil
}

// class is the claim's class, nil when it has none or it does not exist.
func (b *binder) class(ctx context.Context, claim *corev1.PersistentVolumeClaim) (*storagev1.StorageClass, error) {
	name := volume.GetPersistentVolumeClaimClass(claim)
	if name == "" {
		return nil, nil
	}
	class := &storagev1.StorageClass{}
	err := b.env.Cluster.Client().Get(ctx, types.NamespacedName{Name: name}, class)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	return class, err
}

// assignDefaultClass gives a claim that was made before there was a default
// class the one there is now.
func (b *binder) assignDefaultClass(ctx context.Context, claim *corev1.PersistentVolumeClaim) (bool, error) {
	if volume.PersistentVolumeClaimHasClass(claim) {
		return false, nil
	}
	var classes storagev1.StorageClassList
	if err := b.env.Cluster.Client().List(ctx, &classes, client.UnsafeDisableDeepCopy); err != nil {
		return false, err
	}
	objects := make([]api.Object, len(classes.Items))
	for i := range classes.Items {
		objects[i] = &classes.Items[i]
	}
	best := storage.DefaultClass(objects)
	if best == nil {
		return false, nil
	}
	claim.Spec.StorageClassName = ptr.To(best.GetName())
	return true, b.env.Cluster.Client().Update(ctx, claim)
}

// tellOfDelay says what a claim waits for whose volume depends on its pod's node.
func (b *binder) tellOfDelay(ctx context.Context, claim *corev1.PersistentVolumeClaim) error {
	var pods corev1.PodList
	if err := b.env.Cluster.Client().List(ctx, &pods, index.By(claim.Namespace, index.PodClaim, claim.Name)...); err != nil {
		return err
	}
	var names []string
	for i := range pods.Items {
		p := &pods.Items[i]
		if p.Spec.NodeName == "" && p.Status.Phase != corev1.PodSucceeded && p.Status.Phase != corev1.PodFailed {
			names = append(names, p.Name)
		}
	}
	slices.Sort(names)
	reason, message := waitForPodScheduled, "waiting for pods "+strings.Join(names, ",")+" to be scheduled"
	switch len(names) {
	case 0:
		reason, message = waitForFirstConsumer, "waiting for first consumer to be created before binding"
	case 1:
		message = "waiting for pod " + names[0] + " to be scheduled"
	}
	b.events.Event(claim, corev1.EventTypeNormal, reason, message)
	return nil
}

// provision asks the class's provisioner for a volume.
func (b *binder) provision(ctx context.Context, claim *corev1.PersistentVolumeClaim, class *storagev1.StorageClass) error {
	fail := func(message string) error {
		b.events.Event(claim, corev1.EventTypeWarning, provisioningFailed, message)
		return nil // looked at again when the class changes, and by and by
	}
	if class == nil {
		return fail(fmt.Sprintf("storageclass.storage.k8s.io %q not found", volume.GetPersistentVolumeClaimClass(claim)))
	}
	if strings.HasPrefix(class.Provisioner, "kubernetes.io/") {
		return fail("no volume plugin matched name: " + class.Provisioner)
	}
	if claim.Annotations[volume.AnnStorageProvisioner] != class.Provisioner || claim.Annotations[volume.AnnBetaStorageProvisioner] != class.Provisioner {
		metav1.SetMetaDataAnnotation(&claim.ObjectMeta, volume.AnnStorageProvisioner, class.Provisioner)
		metav1.SetMetaDataAnnotation(&claim.ObjectMeta, volume.AnnBetaStorageProvisioner, class.Provisioner)
		if err := b.env.Cluster.Client().Update(ctx, claim); err != nil {
			return err
		}
	}
	b.events.Event(claim, corev1.EventTypeNormal, externalProvisioning, fmt.Sprintf("Waiting for a volume to be created either by the external provisioner '%s' "+
		"or manually by the system administrator. If volume creation is delayed, please verify that the provisioner is running and correctly registered.", class.Provisioner))
	return nil
}

// syncNamed binds a claim to the volume that it names.
func (b *binder) syncNamed(ctx context.Context, claim *corev1.PersistentVolumeClaim) (time.Duration, error) {
	v, err := b.volume(ctx, claim.Spec.VolumeName)
	if err != nil {
		return 0, err
	}
	pending := func(event, message string) (time.Duration, error) {
		if event != "" {
			b.events.Event(claim, corev1.EventTypeWarning, event, message)
		}
		return retry, b.setClaim(ctx, claim, corev1.ClaimPending, nil)
	}
	switch {
	case v == nil:
		return pending("", "")
	case v.Spec.ClaimRef == nil:
		if why := mismatch(v, claim); why != nil {
			return pending(volumeMismatch, fmt.Sprintf("Cannot bind to requested volume %q: %s", v.Name, why))
		}
		return 0, b.bind(ctx, v, claim)
	case volume.IsVolumeBoundToClaim(v, claim):
		return 0, b.bind(ctx, v, claim)
	}
	return pending(failedBinding, fmt.Sprintf("volume %q already bound to a different claim.", v.Name))
}

// mismatch says why a volume does not meet a claim.
func mismatch(v *corev1.PersistentVolume, claim *corev1.PersistentVolumeClaim) error {
	have, want := v.Spec.Capacity[corev1.ResourceStorage], claim.Spec.Resources.Requests[corev1.ResourceStorage]
	switch {
	case v.DeletionTimestamp != nil:
		return fmt.Errorf("the volume is marked for deletion %q", v.Name)
	case have.Value() < want.Value():
		return errors.New("requested PV is too small")
	case volume.GetPersistentVolumeClass(v) != volume.GetPersistentVolumeClaimClass(claim):
		return errors.New("storageClassName does not match")
	case ptr.Deref(v.Spec.VolumeAttributesClassName, "") != ptr.Deref(claim.Spec.VolumeAttributesClassName, ""):
		return errors.New("volumeAttributesClassName does not match")
	case volume.CheckVolumeModeMismatches(&claim.Spec, &v.Spec):
		return errors.New("incompatible volumeMode")
	case !volume.CheckAccessModes(claim, v):
		return errors.New("incompatible accessMode")
	}
	return nil
}

// syncBound keeps a claim that was bound once.
func (b *binder) syncBound(ctx context.Context, claim *corev1.PersistentVolumeClaim) error {
	lost := func(reason, message string) error {
		if claim.Status.Phase == corev1.ClaimLost {
			return nil
		}
		if err := b.setClaim(ctx, claim, corev1.ClaimLost, nil); err != nil {
			return err
		}
		b.events.Event(claim, corev1.EventTypeWarning, reason, message)
		return nil
	}
	if claim.Spec.VolumeName == "" {
		return lost(claimLost, "Bound claim has lost reference to PersistentVolume. Data on the volume is lost!")
	}
	v, err := b.volume(ctx, claim.Spec.VolumeName)
	switch {
	case err != nil:
		return err
	case v == nil:
		return lost(claimLost, "Bound claim has lost its PersistentVolume. Data on the volume is lost!")
	case v.Spec.ClaimRef == nil || v.Spec.ClaimRef.UID == claim.UID:
		return b.bind(ctx, v, claim)
	case v.Spec.ClaimRef.UID == "" && volume.IsVolumeBoundToClaim(v, claim):
		return b.bind(ctx, v, claim)
	}
	return lost(claimMisbound, "Two claims are bound to the same volume, this one is bound incorrectly")
}

// volume reads a volume; nil means that there is none, which the API server
// itself has said.
func (b *binder) volume(ctx context.Context, name string) (*corev1.PersistentVolume, error) {
	v := &corev1.PersistentVolume{}
	err := b.env.Cluster.Client().Get(ctx, types.NamespacedName{Name: name}, v)
	if apierrors.IsNotFound(err) {
		err = b.env.Cluster.Reader().Get(ctx, types.NamespacedName{Name: name}, v)
	}
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	return v, err
}
