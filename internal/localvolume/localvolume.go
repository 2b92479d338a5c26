// Package localvolume is what the provisioner of the class local-path, the nodes
// that hold its volumes and the API server that guards them agree on.
package localvolume

import (
	"crypto/sha256"
	"encoding/hex"

	corev1 "k8s.io/api/core/v1"
)

const (
	// Provisioner is who makes the volumes.
	Provisioner = "rancher.io/local-path"
	// Class is the name of the storage class that every new cluster has.
	Class = "local-path"
	// NodeAnnotation on a volume names the node that holds it.
	NodeAnnotation = "local.path.provisioner/selected-node"
	// NodeLabel on a volume tells the node that holds it, see Selector.
	NodeLabel = "local.path.provisioner/node"
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

// Selector is the labels of the volumes that a node holds, by which the node
// asks for them. A name may be longer than a label: the label is its hash.
func Selector(node string) map[string]string {
	return map[string]string{NodeLabel: Label(node)}
}

// Label is the value of NodeLabel for a node.
func Label(node string) string {
	sum := sha256.Sum256([]byte(node))
	return hex.EncodeToString(sum[:20])
}
