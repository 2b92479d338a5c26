package core

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	ephemeralvolume "k8s.io/component-helpers/storage/ephemeral"
	"k8s.io/component-helpers/storage/volume"
)

// claimsView is what a pod's volumes mean for nodes.
type claimsView struct {
	rules     *Profile
	bound     []*corev1.PersistentVolume
	lost      bool                   // bound to a volume that does not exist
	exclusive []types.NamespacedName // claims for one pod at a time
	delayed   []delayedClaim
	disks     []*corev1.Volume // that only some pods may share
	zones     []zoneDemand
	attached  map[string]string // driver by volume
	required  []string          // drivers among them that must be on the node
}

// delayedClaim waits for its first consumer to have a node.
type delayedClaim struct {
	claim  *corev1.PersistentVolumeClaim
	class  *storagev1.StorageClass
	chosen string // the node that it was promised to
}

// claimsOf looks a pod's volumes up; nil when they matter nowhere. refusal
// says in upstream's words why no node at all will do, by which rule.
func (s *Snapshot) claimsOf(p *Pod) (v *claimsView, f Filter, refusal string) {
	obj, on := p.Object, p.rules.Filters
	matters := false
	for i := range obj.Spec.Volumes {
		vol := &obj.Spec.Volumes[i]
		switch {
		case sharedDisk(vol):
			matters = true
		case vol.PersistentVolumeClaim != nil || vol.Ephemeral != nil:
			matters = true
		default:
			continue
		}
		if vol.PersistentVolumeClaim == nil || !on.Has(VolumeRestrictions) {
			continue
		}
		if _, ok := s.claim(obj, vol); !ok {
			return nil, VolumeRestrictions, notFound("persistentvolumeclaim", vol.PersistentVolumeClaim.ClaimName)
		}
	}
	if !matters {
		return nil, Fits, ""
	}
	v = &claimsView{rules: p.rules}
	for i := range obj.Spec.Volumes {
		vol := &obj.Spec.Volumes[i]
		if sharedDisk(vol) {
			v.disks = append(v.disks, vol)
		}
		if claimName(obj, vol) == "" {
			continue
		}
		if f, refusal = s.addClaim(v, obj, vol); refusal != "" {
			return nil, f, refusal
		}
	}
	if on.Has(NodeVolumeLimits) {
		v.attached = map[string]string{}
		s.attachedBy(obj, v.attached)
		v.required = s.requiredOf(v.attached)
	}
	return v, Fits, ""
}

func notFound(kind, name string) string { return fmt.Sprintf("%s %q not found", kind, name) }

func (s *Snapshot) claim(obj *corev1.Pod, vol *corev1.Volume) (*corev1.PersistentVolumeClaim, bool) {
	claim, ok := s.storage.claims[types.NamespacedName{Namespace: obj.Namespace, Name: claimName(obj, vol)}]
	return claim, ok
}

func (s *Snapshot) addClaim(v *claimsView, obj *corev1.Pod, vol *corev1.Volume) (f Filter, refusal string) {
	name := claimName(obj, vol)
	claim, ok := s.claim(obj, vol)
	switch {
	case !ok && vol.Ephemeral != nil:
		return VolumeBinding, fmt.Sprintf("waiting for ephemeral volume controller to create the persistentvolumeclaim %q", name)
	case !ok:
		return VolumeBinding, notFound("persistentvolumeclaim", name)
	case claim.Status.Phase == corev1.ClaimLost:
		return VolumeBinding, fmt.Sprintf("persistentvolumeclaim %q bound to non-existent persistentvolume %q", name, claim.Spec.VolumeName)
	case claim.DeletionTimestamp != nil:
		return VolumeBinding, fmt.Sprintf("persistentvolumeclaim %q is being deleted", name)
	}
	if vol.Ephemeral != nil {
		if err := ephemeralvolume.VolumeIsForPod(obj, claim); err != nil {
			return VolumeBinding, err.Error()
		}
	}
	if slices.Contains(claim.Spec.AccessModes, corev1.ReadWriteOncePod) {
		v.exclusive = append(v.exclusive, types.NamespacedName{Namespace: obj.Namespace, Name: name})
	}
	if FullyBound(claim) {
		return s.addBound(v, vol, claim.Spec.VolumeName)
	}
	class := s.storage.classes[volume.GetPersistentVolumeClaimClass(claim)]
	if claim.Spec.VolumeName != "" || class == nil || class.VolumeBindingMode == nil || *class.VolumeBindingMode != storagev1.VolumeBindingWaitForFirstConsumer {
		return VolumeBinding, "pod has unbound immediate PersistentVolumeClaims"
	}
	chosen := s.storage.chosen[types.NamespacedName{Namespace: obj.Namespace, Name: name}]
	v.delayed = append(v.delayed, delayedClaim{claim, class, cmp.Or(chosen, claim.Annotations[volume.AnnSelectedNode])})
	return Fits, ""
}

func (s *Snapshot) addBound(v *claimsView, vol *corev1.Volume, name string) (Filter, string) {
	pv, ok := s.storage.volumes[name]
	switch {
	case ok:
		v.bound = append(v.bound, pv)
		if vol.Ephemeral == nil {
			v.zones = append(v.zones, zonesOf(pv)...)
		}
	case vol.Ephemeral == nil && v.rules.Filters.Has(VolumeZone):
		return VolumeZone, notFound("persistentvolume", name)
	default:
		v.lost = true
	}
	return Fits, ""
}

// check applies the volumes to one slot; no reasons mean that they allow it.
func (v *claimsView) check(s *Snapshot, slot int32) (f Filter, reasons []string, hopeless bool) {
	on := v.rules.Filters
	node := s.nodes[slot].node
	if on.Has(VolumeRestrictions) {
		switch {
		case v.sharesDisk(&s.nodes[slot]):
			return VolumeRestrictions, []string{"node(s) had no available disk"}, false
		case slices.ContainsFunc(v.exclusive, func(name types.NamespacedName) bool { return s.storage.users[name] > 0 }):
			return VolumeRestrictions, []string{"node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod access mode already in-use by another pod"}, false
		}
	}
	if reason := v.overLimit(s, slot); reason != "" {
		return NodeVolumeLimits, []string{reason}, false
	}
	if on.Has(VolumeBinding) {
		if reasons := v.unbindable(s, node); len(reasons) > 0 {
			return VolumeBinding, reasons, true
		}
	}
	if on.Has(VolumeZone) && !inZones(v.zones, node.Labels) {
		return VolumeZone, []string{"node(s) had no available volume zone"}, true
	}
	return Fits, nil, false
}

func (v *claimsView) unbindable(s *Snapshot, node *corev1.Node) (reasons []string) {
	for _, pv := range v.bound {
		if volume.CheckNodeAffinity(pv, node.Labels) != nil {
			reasons = append(reasons, "node(s) didn't match PersistentVolume's node affinity")
			break
		}
	}
	if _, reason := v.plan(s, node); reason != "" {
		reasons = append(reasons, reason)
	}
	if v.lost {
		reasons = append(reasons, "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)")
	}
	return reasons
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

	capacities map[string]int64 // known storage, by class
}

// VolumeMatch is a volume for a claim.
type VolumeMatch struct {
	Volume *corev1.PersistentVolume
	Claim  *corev1.PersistentVolumeClaim
}

// PlanVolumes says how the claims of a pod are met on a node that Schedule
// chose; nil when they all are already.
func (s *Snapshot) PlanVolumes(p *Pod, node string) *VolumePlan {
	if len(p.Object.Spec.Volumes) == 0 || !p.rules.Filters.Has(VolumeBinding) {
		return nil
	}
	v, _, refusal := s.claimsOf(p)
	slot, ok := s.slots[node]
	if v == nil || refusal != "" || len(v.delayed) == 0 || !ok || s.nodes[slot].node == nil {
		return nil
	}
	plan, _ := v.plan(s, s.nodes[slot].node)
	return plan
}

const (
	noVolume = "node(s) didn't find available persistent volumes to bind"
	noSpace  = "node(s) did not have enough free storage"
)

// plan finds a volume or a provisioner for every delayed claim.
func (v *claimsView) plan(s *Snapshot, node *corev1.Node) (plan *VolumePlan, reason string) {
	if len(v.delayed) == 0 {
		return nil, ""
	}
	var search, provision []*delayedClaim
	for i := range v.delayed {
		switch d := &v.delayed[i]; d.chosen {
		case "":
			search = append(search, d)
		case node.Name:
			provision = append(provision, d)
		default:
			return nil, noVolume
		}
	}
	slices.SortStableFunc(search, func(a, b *delayedClaim) int { // the smallest volume that does is for the smallest claim
		x, y := a.claim.Spec.Resources.Requests[corev1.ResourceStorage], b.claim.Spec.Resources.Requests[corev1.ResourceStorage]
		return x.Cmp(y)
	})
	plan = &VolumePlan{Node: node.Name, capacities: map[string]int64{}}
	used := map[string]*corev1.PersistentVolume{}
	for _, d := range search {
		if pv := s.findVolume(d.claim, node, used); pv != nil {
			used[pv.Name] = pv
			plan.Bind = append(plan.Bind, VolumeMatch{pv, d.claim})
		} else {
			provision = append(provision, d)
		}
	}
	for _, d := range provision {
		if !provisions(d.class, node) {
			return nil, noVolume
		}
		if !s.hasCapacity(d, node, plan.capacities) {
			return nil, noSpace
		}
		plan.Provision = append(plan.Provision, d.claim)
	}
	return plan, ""
}

// score is high where much storage is left, or where volumes fit tightly.
func (v *claimsView) score(s *Snapshot, slot int32) int64 {
	if len(v.delayed) == 0 || v.rules.Weights.Volumes == 0 || len(v.rules.Capacity) == 0 {
		return 0
	}
	plan, _ := v.plan(s, s.nodes[slot].node)
	if plan == nil {
		return 0
	}
	type use struct{ requested, capacity int64 }
	classes := map[string]use{}
	request := func(c *corev1.PersistentVolumeClaim) int64 {
		q := c.Spec.Resources.Requests[corev1.ResourceStorage]
		return q.Value()
	}
	for _, m := range plan.Bind {
		name := volume.GetPersistentVolumeClass(m.Volume)
		u, have := classes[name], m.Volume.Spec.Capacity[corev1.ResourceStorage]
		classes[name] = use{u.requested + request(m.Claim), u.capacity + have.Value()}
	}
	if len(plan.Bind) == 0 {
		for _, c := range plan.Provision {
			name := volume.GetPersistentVolumeClaimClass(c)
			if have, known := plan.capacities[name]; known {
				classes[name] = use{classes[name].requested + request(c), have}
			}
		}
	}
	if len(classes) == 0 {
		return 0
	}
	var sum int64
	for _, u := range classes {
		sum += ratio(v.rules.Capacity, u.requested, u.capacity)
	}
	return v.rules.Weights.Volumes * int64(math.Round(float64(sum)/float64(len(classes))))
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
	pv, err := volume.FindMatchingVolume(claim, free, node, used, true, true)
	if err != nil { // a selector that cannot be read matches nothing
		return nil
	}
	return pv
}

// provisions says whether a class makes volumes that the node can use.
func provisions(class *storagev1.StorageClass, node *corev1.Node) bool {
	if class.Provisioner == "" || class.Provisioner == volume.NotSupportedProvisioner {
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
		return len(t.MatchLabelExpressions) > 0
	})
}

// hasCapacity asks for storage of drivers that publish what they have. It
// notes the capacity that it found.
func (s *Snapshot) hasCapacity(d *delayedClaim, node *corev1.Node, found map[string]int64) bool {
	need, ok := d.claim.Spec.Resources.Requests[corev1.ResourceStorage]
	driver := s.storage.drivers[d.class.Provisioner]
	if !ok || driver == nil || driver.Spec.StorageCapacity == nil || !*driver.Spec.StorageCapacity {
		return true
	}
	for _, c := range s.storage.capacities {
		limit := c.MaximumVolumeSize
		if limit == nil {
			limit = c.Capacity
		}
		if c.StorageClassName != d.class.Name || c.NodeTopology == nil || limit == nil || limit.Cmp(need) < 0 {
			continue
		}
		selector, err := metav1.LabelSelectorAsSelector(c.NodeTopology)
		if err != nil || !selector.Matches(labels.Set(node.Labels)) {
			continue
		}
		if c.Capacity != nil {
			found[d.class.Name] = c.Capacity.Value()
		}
		return true
	}
	return false
}
