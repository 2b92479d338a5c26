// Package localvolume is what the provisioner of the class local-path, the nodes
// that hold its volumes and the API server that guards them agree on.
package localvolume

import (
	"errors"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

const (
	// Provisioner is who makes the volumes.
	Provisioner = "rancher.io/local-path"
	// Class is the name of the storage class that every new cluster has.
	Class = "local-path"
	// NodeAnnotation on a volume names the node that holds it.
	NodeAnnotation = "local.path.provisioner/selected-node"
	// RootAnnotation on a node is the directory below which it keeps volumes.
	RootAnnotation = "local.path.provisioner/directory"
	// provisionedBy on a volume says who made it.
	provisionedBy = "pv.kubernetes.io/provisioned-by"
)

// HeldBy says whether v is such a volume and on the named node.
func HeldBy(v *corev1.PersistentVolume, node string) bool {
	return v.Annotations[provisionedBy] == Provisioner && v.Annotations[NodeAnnotation] == node && v.Spec.Local != nil
}

// Reclaimable says whether the node that holds v is to remove it, data and all.
func Reclaimable(v *corev1.PersistentVolume) bool {
	return v.Status.Phase == corev1.VolumeReleased && v.Spec.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimDelete
}

// Directory is a volume's directory below its node's root. Names of objects
// have no underscores, and volumes of the provisioner are named by UIDs.
func Directory(volume, namespace, claim string) string {
	name := volume + "_" + namespace + "_" + claim
	if len(name) > maxName {
		name = name[:maxName] // the volume's name alone is unique
	}
	return name
}

const maxName = 255 // of a file

// Volume is the name of the volume whose directory has the given name.
func Volume(directory string) (string, error) {
	name, rest, ok := strings.Cut(directory, "_")
	if !ok || name == "" || rest == "" {
		return "", errors.New("no directory of a volume")
	}
	return name, nil
}
