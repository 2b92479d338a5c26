package devices

import (
	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/dynamic-resource-allocation/cel"
	"k8s.io/dynamic-resource-allocation/structured"
	"k8s.io/utils/ptr"
)

// places are the slices by where their devices are.
type places struct {
	on   map[string][]*resourcev1.ResourceSlice // one node
	wide []*resourcev1.ResourceSlice            // several
}

// Room implements core.DeviceView: how many devices a node has that stand for a
// resource, and how many of them are taken. What cannot be told counts nothing.
func (v *view) Room(node *corev1.Node, name corev1.ResourceName) (have, taken int64) {
	class := v.devices.resources[name]
	if class == nil {
		return 0, 0
	}
	if v.places == nil {
		v.places = placesOf(v.devices.tainted())
	}
	for _, list := range [][]*resourcev1.ResourceSlice{v.places.on[node.Name], v.places.wide} {
		for _, s := range list {
			if !reaches(node, s.Spec.NodeName, s.Spec.AllNodes, s.Spec.NodeSelector) && !ptr.Deref(s.Spec.PerDeviceNodeSelection, false) {
				continue
			}
			for i := range s.Spec.Devices {
				if !v.suits(node, s, &s.Spec.Devices[i], class) {
					continue
				}
				have++
				if structured.IsDeviceAllocated(structured.MakeDeviceID(s.Spec.Driver, s.Spec.Pool.Name, s.Spec.Devices[i].Name), v.taken) {
					taken++
				}
			}
		}
	}
	return have, taken
}

func placesOf(all []*resourcev1.ResourceSlice) *places {
	p := &places{on: map[string][]*resourcev1.ResourceSlice{}}
	for _, s := range all {
		if s.Spec.NodeName != nil {
			p.on[*s.Spec.NodeName] = append(p.on[*s.Spec.NodeName], s)
		} else {
			p.wide = append(p.wide, s)
		}
	}
	return p
}

// reaches says whether devices that are there for some nodes are for this one.
func reaches(node *corev1.Node, name *string, all *bool, selector *corev1.NodeSelector) bool {
	switch {
	case name != nil:
		return *name == node.Name
	case ptr.Deref(all, false):
		return true
	case selector == nil:
		return false
	}
	s, err := nodeaffinity.NewNodeSelector(selector)
	return err == nil && s.Match(node)
}

// suits says whether the node has the device, and whether it is of the class.
func (v *view) suits(node *corev1.Node, s *resourcev1.ResourceSlice, d *resourcev1.Device, class *resourcev1.DeviceClass) bool {
	if ptr.Deref(s.Spec.PerDeviceNodeSelection, false) && !reaches(node, d.NodeName, d.AllNodes, d.NodeSelector) {
		return false
	}
	for _, selector := range class.Spec.Selectors {
		if selector.CEL == nil {
			continue
		}
		compiled := v.devices.cache.GetOrCompile(selector.CEL.Expression)
		if compiled.Error != nil {
			return false
		}
		matches, _, err := compiled.DeviceMatches(v.devices.ctx, cel.Device{
			Driver: s.Spec.Driver, AllowMultipleAllocations: d.AllowMultipleAllocations, Attributes: d.Attributes, Capacity: d.Capacity,
		})
		if err != nil || !matches {
			return false
		}
	}
	return true
}
