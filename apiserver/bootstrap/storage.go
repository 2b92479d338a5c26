package bootstrap

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proa-dev/proa/internal/localvolume"
)

// ensureClass gives a new cluster its default storage class. Who deletes it has
// done so for good: it is made before the system's namespace, and never once
// that is there.
func ensureClass(ctx context.Context, cfg Config) error {
	err := cfg.Reader.Get(ctx, ctrl.ObjectKey{Name: metav1.NamespaceSystem}, &corev1.Namespace{})
	if err == nil {
		return nil
	}
	if !apierrors.IsNotFound(err) {
		return fmt.Errorf("look for namespace %s: %w", metav1.NamespaceSystem, err)
	}
	return ensure(ctx, cfg.Client, &storagev1.StorageClass{
		ObjectMeta: metav1.ObjectMeta{
			Name:        localvolume.Class,
			Annotations: map[string]string{"storageclass.kubernetes.io/is-default-class": "true"},
		},
		Provisioner:       localvolume.Provisioner,
		ReclaimPolicy:     ptr.To(corev1.PersistentVolumeReclaimDelete),
		VolumeBindingMode: ptr.To(storagev1.VolumeBindingWaitForFirstConsumer),
	})
}
