package core

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
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
		taken:   map[string]types.NamespacedName{},
		chosen:  map[types.NamespacedName]string{},
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

// claimNames lists the claims that a pod uses.
func claimNames(obj *corev1.Pod) (names []types.NamespacedName) {
	for i := range obj.Spec.Volumes {
		v := &obj.Spec.Volumes[i]
		switch {
		case v.PersistentVolumeClaim != nil:
			names = append(names, types.NamespacedName{Namespace: obj.Namespace, Name: v.PersistentVolumeClaim.ClaimName})
		case v.Ephemeral != nil:
			names = append(names, types.NamespacedName{Namespace: obj.Namespace, Name: ephemeralvolume.VolumeClaimName(obj, v)})
		}
	}
	return names
}

// FullyBound says whether a claim has its volume for good.
func FullyBound(claim *corev1.PersistentVolumeClaim) bool {
	_, completed := claim.Annotations[volume.AnnBindCompleted]
	return claim.Spec.VolumeName != "" && (completed || claim.Status.Phase == corev1.ClaimBound)
}

// claimsView is what a pod's claims mean for nodes.
type claimsView struct {
	bound   []*corev1.PersistentVolume
	lost    bool // bound to a volume that does not exist
	busy    bool // a claim for one pod only is in use
	delayed []delayedClaim
}

// delayedClaim waits for its first consumer to have a node.
type delayedClaim struct {
	claim  *corev1.PersistentVolumeClaim
	class  *storagev1.StorageClass
	chosen string // the node that it was promised to
}

// claimsOf looks a pod's claims up. refusal says in upstream's words why no
// node at all will do.
func (s *Snapshot) claimsOf(obj *corev1.Pod) (v *claimsView, refusal string) {
	for i := range obj.Spec.Volumes {
		vol := &obj.Spec.Volumes[i]
		if vol.PersistentVolumeClaim == nil && vol.Ephemeral == nil {
			continue
		}
		if v == nil {
			v = &claimsView{}
		}
		if refusal := s.addClaim(v, obj, vol); refusal != "" {
			return nil, refusal
		}
	}
	return v, ""
}

func (s *Snapshot) addClaim(v *claimsView, obj *corev1.Pod, vol *corev1.Volume) (refusal string) {
	name := types.NamespacedName{Namespace: obj.Namespace}
	if vol.Ephemeral != nil {
		name.Name = ephemeralvolume.VolumeClaimName(obj, vol)
	} else {
		name.Name = vol.PersistentVolumeClaim.ClaimName
	}
	claim, ok := s.storage.claims[name]
	switch {
	case !ok && vol.Ephemeral != nil:
		return fmt.Sprintf("waiting for ephemeral volume controller to create the persistentvolumeclaim %q", name.Name)
	case !ok:
		return fmt.Sprintf("persistentvolumeclaim %q not found", name.Name)
	case claim.Status.Phase == corev1.ClaimLost:
		return fmt.Sprintf("persistentvolumeclaim %q bound to non-existent persistentvolume %q", name.Name, claim.Spec.VolumeName)
	case claim.DeletionTimestamp != nil:
		return fmt.Sprintf("persistentvolumeclaim %q is being deleted", name.Name)
	}
	if vol.Ephemeral != nil {
		if err := ephemeralvolume.VolumeIsForPod(obj, claim); err != nil {
			return err.Error()
		}
	}
	if s.storage.users[name] > 0 && slices.Contains(claim.Spec.AccessModes, corev1.ReadWriteOncePod) {
		v.busy = true
	}
	if FullyBound(claim) {
		if pv, ok := s.storage.volumes[claim.Spec.VolumeName]; ok {
			v.bound = append(v.bound, pv)
		} else {
			v.lost = true
		}
		return ""
	}
	class := s.storage.classes[volume.GetPersistentVolumeClaimClass(claim)]
	if claim.Spec.VolumeName != "" || class == nil || class.VolumeBindingMode == nil || *class.VolumeBindingMode != storagev1.VolumeBindingWaitForFirstConsumer {
		return "pod has unbound immediate PersistentVolumeClaims"
	}
	chosen := s.storage.chosen[name]
	if chosen == "" {
		chosen = claim.Annotations[volume.AnnSelectedNode]
	}
	v.delayed = append(v.delayed, delayedClaim{claim, class, chosen})
	return ""
}

// check applies the claims to one node; "" means that they allow it.
func (v *claimsView) check(s *Snapshot, node *corev1.Node) (reason string, hopeless bool) {
	switch {
	case v.busy:
		return "node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod access mode already in-use by another pod", false
	case v.lost:
		return "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)", true
	}
	for _, pv := range v.bound {
		if volume.CheckNodeAffinity(pv, node.Labels) != nil {
			return "node(s) didn't match PersistentVolume's node affinity", true
		}
		if !inZone(pv, node) {
			return "node(s) had no available volume zone", true
		}
	}
	if _, ok := v.plan(s, node); !ok {
		return "node(s) didn't find available persistent volumes to bind", true
	}
	return "", false
}

// zoneKeys are the labels by which older volumes say where they are.
func zoneKeys() [4]string {
	return [4]string{corev1.LabelTopologyZone, corev1.LabelTopologyRegion, corev1.LabelFailureDomainBetaZone, corev1.LabelFailureDomainBetaRegion}
}

// inZone compares a volume's zone labels, which may list several zones, with a
// node that is in any.
func inZone(pv *corev1.PersistentVolume, node *corev1.Node) bool {
	located := slices.ContainsFunc(slices.Collect(maps.Keys(node.Labels)), func(key string) bool {
		keys := zoneKeys()
		return slices.Contains(keys[:], key)
	})
	if !located {
		return true
	}
	for _, key := range zoneKeys() {
		zones, ok := pv.Labels[key]
		if ok && !slices.Contains(strings.Split(zones, "__"), node.Labels[key]) {
			return false
		}
	}
	return true
}

// VolumePlan is what must be written before a pod with unbound claims can be
// bound to a node.
type VolumePlan struct {
	// Node is the node that the plan is for.
	Node string
	// Bind are existing volumes for claims, Provision the claims that need a
	// new one.
	Bind      []VolumeMatch
	Provision []*corev1.PersistentVolumeClaim
}

// VolumeMatch is a volume for a claim.
type VolumeMatch struct {
	Volume *corev1.PersistentVolume
	Claim  *corev1.PersistentVolumeClaim
}

// PlanVolumes says how the claims of a pod are met on a node that Schedule
// chose; nil when they all are already.
func (s *Snapshot) PlanVolumes(p *Pod, node string) *VolumePlan {
	v, refusal := s.claimsOf(p.Object)
	slot, ok := s.slots[node]
	if v == nil || refusal != "" || len(v.delayed) == 0 || !ok || s.nodes[slot].node == nil {
		return nil
	}
	plan, _ := v.plan(s, s.nodes[slot].node)
	return plan
}

// plan finds a volume or a provisioner for every delayed claim.
func (v *claimsView) plan(s *Snapshot, node *corev1.Node) (*VolumePlan, bool) {
	plan := &VolumePlan{Node: node.Name}
	used := map[string]*corev1.PersistentVolume{}
	for i := range v.delayed {
		d := &v.delayed[i]
		if d.chosen != "" && d.chosen != node.Name {
			return nil, false
		}
		if pv := s.findVolume(d.claim, node, used); pv != nil && d.chosen == "" {
			used[pv.Name] = pv
			plan.Bind = append(plan.Bind, VolumeMatch{pv, d.claim})
			continue
		}
		if !provisions(d.class, node) {
			return nil, false
		}
		plan.Provision = append(plan.Provision, d.claim)
	}
	return plan, true
}

// findVolume returns the smallest free volume that meets a claim on a node.
func (s *Snapshot) findVolume(claim *corev1.PersistentVolumeClaim, node *corev1.Node, used map[string]*corev1.PersistentVolume) *corev1.PersistentVolume {
	candidates := s.storage.byClass[volume.GetPersistentVolumeClaimClass(claim)]
	if len(candidates) == 0 {
		return nil
	}
	name := types.NamespacedName{Namespace: claim.Namespace, Name: claim.Name}
	free := make([]*corev1.PersistentVolume, 0, len(candidates))
	for _, pv := range candidates {
		if owner, taken := s.storage.taken[pv.Name]; !taken || owner == name {
			free = append(free, pv)
		}
	}
	slices.SortFunc(free, func(a, b *corev1.PersistentVolume) int { return strings.Compare(a.Name, b.Name) })
	pv, err := volume.FindMatchingVolume(claim, free, node, used, false, true)
	if err != nil { // a selector that cannot be read matches nothing
		return nil
	}
	return pv
}

// provisions says whether a class makes volumes that the node can use.
func provisions(class *storagev1.StorageClass, node *corev1.Node) bool {
	if class.Provisioner == "" || class.Provisioner == "kubernetes.io/no-provisioner" {
		return false
	}
	if len(class.AllowedTopologies) == 0 {
		return true
	}
	return slices.ContainsFunc(class.AllowedTopologies, func(t corev1.TopologySelectorTerm) bool {
		for _, e := range t.MatchLabelExpressions {
			if value, ok := node.Labels[e.Key]; !ok || !slices.Contains(e.Values, value) {
				return false
			}
		}
		return true
	})
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
