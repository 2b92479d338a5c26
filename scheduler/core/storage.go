package core

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	ephemeralvolume "k8s.io/component-helpers/storage/ephemeral"
	"k8s.io/component-helpers/storage/volume"
)

// volumeIndex is what the snapshot knows of storage.
type volumeIndex struct {
	claims  map[types.NamespacedName]*corev1.PersistentVolumeClaim
	volumes map[string]*corev1.PersistentVolume
	byClass map[string]map[string]*corev1.PersistentVolume
	classes map[string]*storagev1.StorageClass
	users   map[types.NamespacedName]int // pods on nodes, by claim

	drivers     map[string]*storagev1.CSIDriver
	capacities  map[types.NamespacedName]*storagev1.CSIStorageCapacity
	nodes       map[string]*storagev1.CSINode
	attachments map[string]map[string]*storagev1.VolumeAttachment // by node and name

	// Promised to claims whose binding is still being written.
	taken  map[string]types.NamespacedName // volumes
	chosen map[types.NamespacedName]string // nodes
}

func newVolumeIndex() volumeIndex {
	return volumeIndex{
		claims:  map[types.NamespacedName]*corev1.PersistentVolumeClaim{},
		volumes: map[string]*corev1.PersistentVolume{},
		byClass: map[string]map[string]*corev1.PersistentVolume{},
		classes: map[string]*storagev1.StorageClass{},
		users:   map[types.NamespacedName]int{},

		drivers:     map[string]*storagev1.CSIDriver{},
		capacities:  map[types.NamespacedName]*storagev1.CSIStorageCapacity{},
		nodes:       map[string]*storagev1.CSINode{},
		attachments: map[string]map[string]*storagev1.VolumeAttachment{},

		taken:  map[string]types.NamespacedName{},
		chosen: map[types.NamespacedName]string{},
	}
}

// SetClaim adds or replaces a claim.
func (s *Snapshot) SetClaim(claim *corev1.PersistentVolumeClaim) {
	name := types.NamespacedName{Namespace: claim.Namespace, Name: claim.Name}
	s.storage.claims[name] = claim
	if claim.Spec.VolumeName != "" {
		delete(s.storage.chosen, name)
	}
}

// RemoveClaim forgets a claim.
func (s *Snapshot) RemoveClaim(name types.NamespacedName) {
	delete(s.storage.claims, name)
	delete(s.storage.chosen, name)
}

// SetVolume adds or replaces a persistent volume.
func (s *Snapshot) SetVolume(v *corev1.PersistentVolume) {
	s.RemoveVolume(v.Name, v.Spec.ClaimRef == nil)
	s.storage.volumes[v.Name] = v
	class := volume.GetPersistentVolumeClass(v)
	if s.storage.byClass[class] == nil {
		s.storage.byClass[class] = map[string]*corev1.PersistentVolume{}
	}
	s.storage.byClass[class][v.Name] = v
}

// RemoveVolume forgets a persistent volume. keepPromise is for one that is
// about to be replaced by a version without a claim: its promise stands.
func (s *Snapshot) RemoveVolume(name string, keepPromise bool) {
	if !keepPromise {
		delete(s.storage.taken, name)
	}
	old, ok := s.storage.volumes[name]
	if !ok {
		return
	}
	delete(s.storage.volumes, name)
	class := volume.GetPersistentVolumeClass(old)
	if delete(s.storage.byClass[class], name); len(s.storage.byClass[class]) == 0 {
		delete(s.storage.byClass, class)
	}
}

// SetClass adds or replaces a storage class.
func (s *Snapshot) SetClass(c *storagev1.StorageClass) { s.storage.classes[c.Name] = c }

// RemoveClass forgets a storage class.
func (s *Snapshot) RemoveClass(name string) { delete(s.storage.classes, name) }

// SetDriver adds or replaces a CSI driver.
func (s *Snapshot) SetDriver(d *storagev1.CSIDriver) { s.storage.drivers[d.Name] = d }

// RemoveDriver forgets a CSI driver.
func (s *Snapshot) RemoveDriver(name string) { delete(s.storage.drivers, name) }

// SetCapacity tells the storage that is left of a class somewhere.
func (s *Snapshot) SetCapacity(c *storagev1.CSIStorageCapacity) {
	s.storage.capacities[types.NamespacedName{Namespace: c.Namespace, Name: c.Name}] = c
}

// RemoveCapacity forgets it.
func (s *Snapshot) RemoveCapacity(name types.NamespacedName) { delete(s.storage.capacities, name) }

// SetStorageNode tells the drivers of a node and how many volumes they attach.
func (s *Snapshot) SetStorageNode(n *storagev1.CSINode) { s.storage.nodes[n.Name] = n }

// RemoveStorageNode forgets them.
func (s *Snapshot) RemoveStorageNode(name string) { delete(s.storage.nodes, name) }

// SetAttachment tells that a volume is or will be attached to a node.
func (s *Snapshot) SetAttachment(a *storagev1.VolumeAttachment) {
	on := s.storage.attachments[a.Spec.NodeName]
	if on == nil {
		on = map[string]*storagev1.VolumeAttachment{}
		s.storage.attachments[a.Spec.NodeName] = on
	}
	on[a.Name] = a
}

// RemoveAttachment forgets it; the node of an attachment never changes.
func (s *Snapshot) RemoveAttachment(a *storagev1.VolumeAttachment) {
	on := s.storage.attachments[a.Spec.NodeName]
	if delete(on, a.Name); len(on) == 0 {
		delete(s.storage.attachments, a.Spec.NodeName)
	}
}

// claimName is the claim that a volume of a pod uses, "" for none.
func claimName(obj *corev1.Pod, v *corev1.Volume) string {
	switch {
	case v.PersistentVolumeClaim != nil:
		return v.PersistentVolumeClaim.ClaimName
	case v.Ephemeral != nil:
		return ephemeralvolume.VolumeClaimName(obj, v)
	}
	return ""
}

// claimNames lists the claims that a pod uses.
func claimNames(obj *corev1.Pod) (names []types.NamespacedName) {
	for i := range obj.Spec.Volumes {
		if name := claimName(obj, &obj.Spec.Volumes[i]); name != "" {
			names = append(names, types.NamespacedName{Namespace: obj.Namespace, Name: name})
		}
	}
	return names
}

// FullyBound says whether a claim has its volume for good.
func FullyBound(claim *corev1.PersistentVolumeClaim) bool {
	return claim.Spec.VolumeName != "" && metav1.HasAnnotation(claim.ObjectMeta, volume.AnnBindCompleted)
}

// Promise keeps what a plan uses from other pods until it is written.
func (s *Snapshot) Promise(plan *VolumePlan) {
	for _, m := range plan.Bind {
		s.storage.taken[m.Volume.Name] = types.NamespacedName{Namespace: m.Claim.Namespace, Name: m.Claim.Name}
	}
	for _, c := range plan.Provision {
		s.storage.chosen[types.NamespacedName{Namespace: c.Namespace, Name: c.Name}] = plan.Node
	}
}

// Withdraw takes a promise back.
func (s *Snapshot) Withdraw(plan *VolumePlan) {
	for _, m := range plan.Bind {
		delete(s.storage.taken, m.Volume.Name)
	}
	for _, c := range plan.Provision {
		delete(s.storage.chosen, types.NamespacedName{Namespace: c.Namespace, Name: c.Name})
	}
}

// Claims are the claims of the plan.
func (p *VolumePlan) Claims() []*corev1.PersistentVolumeClaim {
	out := slices.Clone(p.Provision)
	for _, m := range p.Bind {
		out = append(out, m.Claim)
	}
	return out
}

// ClaimsBound says whether every claim of a plan has its volume.
func (s *Snapshot) ClaimsBound(plan *VolumePlan) bool {
	for _, c := range plan.Claims() {
		now, ok := s.storage.claims[types.NamespacedName{Namespace: c.Namespace, Name: c.Name}]
		if !ok || now.UID != c.UID || !FullyBound(now) {
			return false
		}
	}
	return true
}
