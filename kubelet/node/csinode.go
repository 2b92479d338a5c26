package node

import (
	"context"
	"errors"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime/pkg/client"
)

// migrated are the volume plugins of old whose volumes are those of a CSI driver
// here, if of anything. Attachers and provisioners from elsewhere read it.
const migrated = "kubernetes.io/aws-ebs,kubernetes.io/azure-disk,kubernetes.io/azure-file,kubernetes.io/cinder," +
	"kubernetes.io/gce-pd,kubernetes.io/portworx-volume,kubernetes.io/vsphere-volume"

// publishCSINode makes the object that lists the CSI drivers of the node: none
// so far. Whoever schedules tells by it that a driver is not here. One that
// belonged to an earlier node of this name is replaced, one of this node is
// left to the drivers.
func (n *Node) publishCSINode(ctx context.Context, node types.UID) error {
	const attempts = 3
	owner := metav1.OwnerReference{APIVersion: "v1", Kind: "Node", Name: n.cfg.Name, UID: node}
	for range attempts {
		err := n.cfg.Client.Create(ctx, &storagev1.CSINode{
			ObjectMeta: metav1.ObjectMeta{
				Name: n.cfg.Name, OwnerReferences: []metav1.OwnerReference{owner},
				Annotations: map[string]string{corev1.MigratedPluginsAnnotationKey: migrated},
			},
			Spec: storagev1.CSINodeSpec{Drivers: []storagev1.CSINodeDriver{}},
		})
		if !apierrors.IsAlreadyExists(err) {
			return err
		}
		have := &storagev1.CSINode{}
		err = n.cfg.Reader.Get(ctx, ctrl.ObjectKey{Name: n.cfg.Name}, have)
		if apierrors.IsNotFound(err) {
			continue
		}
		if err != nil {
			return err
		}
		if slices.ContainsFunc(have.OwnerReferences, func(o metav1.OwnerReference) bool {
			return o.Kind == owner.Kind && o.Name == owner.Name && o.UID == owner.UID
		}) {
			return n.annotateCSINode(ctx, have)
		}
		if err := n.cfg.Client.Delete(ctx, have, ctrl.Preconditions{UID: &have.UID}); ctrl.IgnoreNotFound(err) != nil {
			return fmt.Errorf("delete that of another node: %w", err)
		}
	}
	return errors.New("others keep making and deleting it")
}

func (n *Node) annotateCSINode(ctx context.Context, have *storagev1.CSINode) error {
	if have.Annotations[corev1.MigratedPluginsAnnotationKey] == migrated {
		return nil
	}
	next := have.DeepCopy()
	metav1.SetMetaDataAnnotation(&next.ObjectMeta, corev1.MigratedPluginsAnnotationKey, migrated)
	return n.cfg.Client.Patch(ctx, next, ctrl.MergeFrom(have))
}
