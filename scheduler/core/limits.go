package core

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/component-helpers/storage/volume"
	"k8s.io/utils/ptr"
)

// sharedDisk says that a volume is a disk which a node mounts for one pod, or
// for several that only read.
func sharedDisk(v *corev1.Volume) bool {
	return v.GCEPersistentDisk != nil || v.AWSElasticBlockStore != nil || v.RBD != nil || v.ISCSI != nil
}

// sharesDisk says that a pod on the node holds a disk that v needs.
func (v *claimsView) sharesDisk(row *nodeRow) bool {
	for _, disk := range v.disks {
		for _, at := range row.pods {
			volumes := at.pod.Object.Spec.Volumes
			if slices.ContainsFunc(volumes, func(o corev1.Volume) bool { return conflict(disk, &o) }) {
				return true
			}
		}
	}
	return false
}

func conflict(a, b *corev1.Volume) bool {
	switch {
	case a.GCEPersistentDisk != nil && b.GCEPersistentDisk != nil:
		x, y := a.GCEPersistentDisk, b.GCEPersistentDisk
		return x.PDName == y.PDName && (!x.ReadOnly || !y.ReadOnly)
	case a.AWSElasticBlockStore != nil && b.AWSElasticBlockStore != nil:
		return a.AWSElasticBlockStore.VolumeID == b.AWSElasticBlockStore.VolumeID
	case a.ISCSI != nil && b.ISCSI != nil:
		return a.ISCSI.IQN == b.ISCSI.IQN && (!a.ISCSI.ReadOnly || !b.ISCSI.ReadOnly)
	case a.RBD != nil && b.RBD != nil:
		x, y := a.RBD, b.RBD
		monitor := slices.ContainsFunc(x.CephMonitors, func(m string) bool { return slices.Contains(y.CephMonitors, m) })
		return monitor && x.RBDPool == y.RBDPool && x.RBDImage == y.RBDImage && (!x.ReadOnly || !y.ReadOnly)
	}
	return false
}

// attachedBy adds the volumes that a CSI driver attaches for a pod to into.
func (s *Snapshot) attachedBy(obj *corev1.Pod, into map[string]string) {
	for i := range obj.Spec.Volumes {
		vol := &obj.Spec.Volumes[i]
		if claimName(obj, vol) == "" {
			continue
		}
		claim, ok := s.claim(obj, vol)
		if !ok {
			continue
		}
		if pv, ok := s.storage.volumes[claim.Spec.VolumeName]; ok {
			if csi := pv.Spec.CSI; csi != nil {
				into[csi.Driver+"/"+csi.VolumeHandle] = csi.Driver
			}
		} else if class, ok := s.storage.classes[volume.GetPersistentVolumeClaimClass(claim)]; ok {
			// The volume is still to be made; no handle looks like this.
			into["\x00"+class.Provisioner+"/"+claim.Namespace+"/"+claim.Name] = class.Provisioner
		}
	}
}

// requiredOf lists, in order, the drivers that keep pods off nodes without them.
func (s *Snapshot) requiredOf(attached map[string]string) (required []string) {
	for _, name := range attached {
		if d := s.storage.drivers[name]; d != nil && ptr.Deref(d.Spec.PreventPodSchedulingIfMissing, false) {
			required = append(required, name)
		}
	}
	slices.Sort(required)
	return slices.Compact(required)
}

// overLimit says why the node's drivers cannot attach the pod's volumes.
func (v *claimsView) overLimit(s *Snapshot, slot int32) string {
	if len(v.attached) == 0 {
		return ""
	}
	row := &s.nodes[slot]
	var drivers []storagev1.CSINodeDriver
	if node := s.storage.nodes[row.name]; node != nil {
		drivers = node.Spec.Drivers
	}
	for _, name := range v.required {
		if !slices.ContainsFunc(drivers, func(d storagev1.CSINodeDriver) bool { return d.Name == name }) {
			return fmt.Sprintf("%s CSI driver is not installed on the node", name)
		}
	}
	limits := map[string]int32{}
	for _, d := range drivers {
		if d.Allocatable != nil && d.Allocatable.Count != nil {
			limits[d.Name] = *d.Allocatable.Count
		}
	}
	if len(limits) == 0 {
		return ""
	}
	here := map[string]string{}
	for _, at := range row.pods {
		s.attachedBy(at.pod.Object, here)
	}
	for _, a := range s.storage.attachments[row.name] {
		if name := a.Spec.Source.PersistentVolumeName; name != nil {
			if pv, ok := s.storage.volumes[*name]; ok && pv.Spec.CSI != nil {
				here[pv.Spec.CSI.Driver+"/"+pv.Spec.CSI.VolumeHandle] = pv.Spec.CSI.Driver
			}
		}
	}
	count := map[string]int32{}
	for _, driver := range here {
		count[driver]++
	}
	more := map[string]int32{}
	for name, driver := range v.attached {
		if _, already := here[name]; !already {
			more[driver]++
		}
	}
	for driver, n := range more {
		if limit, ok := limits[driver]; ok && count[driver]+n > limit {
			return "node(s) exceed max volume count"
		}
	}
	return ""
}

// zoneDemand is a label that nodes must have with one of the values, if they
// have any label of this sort.
type zoneDemand struct {
	key    string
	values []string
}

// zoneKeys are the labels by which older volumes say where they are.
func zoneKeys() [4]string {
	return [4]string{corev1.LabelFailureDomainBetaZone, corev1.LabelFailureDomainBetaRegion, corev1.LabelTopologyZone, corev1.LabelTopologyRegion}
}

func zonesOf(pv *corev1.PersistentVolume) (out []zoneDemand) {
	for _, key := range zoneKeys() {
		if value, ok := pv.Labels[key]; ok {
			out = append(out, zoneDemand{key, strings.Split(value, "__")})
		}
	}
	return out
}

func inZones(demands []zoneDemand, set map[string]string) bool {
	keys := zoneKeys()
	if !slices.ContainsFunc(keys[:], func(key string) bool { _, ok := set[key]; return ok }) {
		return true
	}
	current := map[string]string{
		corev1.LabelFailureDomainBetaZone: corev1.LabelTopologyZone, corev1.LabelFailureDomainBetaRegion: corev1.LabelTopologyRegion,
	}
	for _, d := range demands {
		value, ok := set[d.key]
		if !ok {
			value, ok = set[current[d.key]]
		}
		if !ok || !slices.Contains(d.values, value) {
			return false
		}
	}
	return true
}
