// Package localpath provisions volumes of the class local-path: directories on
// the node that the scheduler chose for the claim's first pod.
//
// This half makes the PersistentVolumes. The other half is the kubelet of the
// node: it makes the directory when the volume is first mounted, removes it when
// the volume was released, and then deletes the PersistentVolume.
package localpath

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/tools/reference"
	"k8s.io/component-helpers/storage/volume"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proa-dev/proa/controllers/internal/loop"
	"github.com/proa-dev/proa/internal/localvolume"
)

// Name is the controller's name in logs.
const Name = "local-path-provisioner"

type provisioner struct {
	env    loop.Env
	events record.EventRecorder
}

// New makes the controller.
func New(env loop.Env) (loop.Loop, error) {
	env = env.Named(Name)
	p := &provisioner{env: env, events: env.Cluster.Recorder(localvolume.Provisioner)}
	return loop.New(env, Name, 4, p.reconcile, loop.Self(env.Cluster, &corev1.PersistentVolumeClaim{}))
}

func (p *provisioner) reconcile(ctx context.Context, key types.NamespacedName) (time.Duration, error) {
	api := p.env.Cluster.Client()
	claim := &corev1.PersistentVolumeClaim{}
	if err := api.Get(ctx, key, claim); err != nil {
		return 0, client.IgnoreNotFound(err)
	}
	if claim.Annotations[volume.AnnStorageProvisioner] != localvolume.Provisioner || claim.Spec.VolumeName != "" || claim.DeletionTimestamp != nil {
		return 0, nil
	}
	class := &storagev1.StorageClass{}
	if err := api.Get(ctx, types.NamespacedName{Name: volume.GetPersistentVolumeClaimClass(claim)}, class); err != nil {
		return 0, client.IgnoreNotFound(err)
	}
	if class.Provisioner != localvolume.Provisioner {
		return 0, nil
	}
	name := claim.Annotations[volume.AnnSelectedNode]
	if name == "" {
		return 0, p.refuse(claim, class, "configuration error, no node was specified")
	}
	node := &corev1.Node{}
	err := api.Get(ctx, types.NamespacedName{Name: name}, node)
	if apierrors.IsNotFound(err) {
		return 0, p.reschedule(ctx, claim)
	}
	if err != nil {
		return 0, err
	}
	v, err := volumeFor(claim, class, node)
	if err != nil {
		if err := p.refuse(claim, class, err.Error()); err != nil {
			return 0, err
		}
		return 0, p.reschedule(ctx, claim)
	}
	if err := api.Create(ctx, v); err != nil {
		if apierrors.IsAlreadyExists(err) {
			return 0, nil // the binder has it
		}
		return 0, err
	}
	p.events.Event(claim, corev1.EventTypeNormal, "ProvisioningSucceeded", "Successfully provisioned volume "+v.Name)
	return 0, nil
}

func (p *provisioner) refuse(claim *corev1.PersistentVolumeClaim, class *storagev1.StorageClass, why string) error {
	p.events.Eventf(claim, corev1.EventTypeWarning, "ProvisioningFailed", "failed to provision volume with StorageClass %q: %s", class.Name, why)
	return nil
}

// reschedule gives the choice of a node back to the scheduler.
func (p *provisioner) reschedule(ctx context.Context, claim *corev1.PersistentVolumeClaim) error {
	delete(claim.Annotations, volume.AnnSelectedNode)
	return p.env.Cluster.Client().Update(ctx, claim)
}

// volumeFor is the volume that a claim gets on a node.
func volumeFor(claim *corev1.PersistentVolumeClaim, class *storagev1.StorageClass, node *corev1.Node) (*corev1.PersistentVolume, error) {
	root, host := node.Annotations[localvolume.RootAnnotation], node.Labels[corev1.LabelHostname]
	oneNode := func(m corev1.PersistentVolumeAccessMode) bool {
		return m == corev1.ReadWriteOnce || m == corev1.ReadWriteOncePod
	}
	switch {
	case claim.Spec.Selector != nil:
		return nil, errors.New("claim.Spec.Selector is not supported")
	case ptr.Deref(claim.Spec.VolumeMode, corev1.PersistentVolumeFilesystem) != corev1.PersistentVolumeFilesystem:
		return nil, errors.New("block volumes are not supported")
	case claim.Spec.DataSource != nil || claim.Spec.DataSourceRef != nil:
		return nil, errors.New("data sources are not supported")
	case !slices.ContainsFunc(claim.Spec.AccessModes, oneNode) || slices.ContainsFunc(claim.Spec.AccessModes, func(m corev1.PersistentVolumeAccessMode) bool { return !oneNode(m) }):
		return nil, errors.New("only ReadWriteOnce and ReadWriteOncePod access modes are supported")
	case !filepath.IsAbs(root):
		return nil, fmt.Errorf("node %q has no directory for volumes", node.Name)
	case host == "":
		return nil, fmt.Errorf("node %q has no label %s", node.Name, corev1.LabelHostname)
	}
	name := "pvc-" + string(claim.UID)
	ref, err := reference.GetReference(scheme.Scheme, claim)
	if err != nil {
		return nil, err
	}
	v := &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: localvolume.Selector(node.Name), Annotations: map[string]string{
			volume.AnnDynamicallyProvisioned: localvolume.Provisioner,
			localvolume.NodeAnnotation:       node.Name,
		}},
		Spec: corev1.PersistentVolumeSpec{
			PersistentVolumeReclaimPolicy: ptr.Deref(class.ReclaimPolicy, corev1.PersistentVolumeReclaimDelete),
			AccessModes:                   claim.Spec.AccessModes,
			VolumeMode:                    ptr.To(corev1.PersistentVolumeFilesystem),
			StorageClassName:              class.Name,
			Capacity:                      corev1.ResourceList{corev1.ResourceStorage: claim.Spec.Resources.Requests[corev1.ResourceStorage]},
			ClaimRef:                      ref,
			PersistentVolumeSource: corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{
				Path: filepath.Join(root, localvolume.Directory(name, claim.Namespace, claim.Name)),
			}},
			NodeAffinity: &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
				MatchExpressions: []corev1.NodeSelectorRequirement{{
					Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{host},
				}},
			}}}},
		},
	}
	return v, nil
}
