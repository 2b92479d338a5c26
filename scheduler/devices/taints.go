package devices

import (
	"maps"
	"slices"

	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/equality"

	"github.com/proa-dev/proa/internal/devicetaint"
)

// offer is a slice as its driver published it, and with the taints of rules.
type offer struct{ published, tainted *resourcev1.ResourceSlice }

// SetSlice adds or replaces devices of a node, or of several.
func (d *Devices) SetSlice(s *resourcev1.ResourceSlice) {
	d.offers[s.Name] = offer{s, taint(s, d.ruleList())}
}

// RemoveSlice forgets them.
func (d *Devices) RemoveSlice(name string) { delete(d.offers, name) }

// SetRule adds or replaces a rule that taints devices. It returns whether any
// device is another one to pods.
func (d *Devices) SetRule(r *resourcev1.DeviceTaintRule) bool {
	old := d.rules[r.Name]
	d.rules[r.Name] = r
	if old != nil && equality.Semantic.DeepEqual(old.Spec, r.Spec) {
		return false // its status tells of evictions
	}
	return d.taintAgain(old, r)
}

// RemoveRule forgets a rule and returns the same.
func (d *Devices) RemoveRule(name string) bool {
	old := d.rules[name]
	delete(d.rules, name)
	return d.taintAgain(old)
}

// taintAgain renews the offers that have devices of the rules, which changed.
func (d *Devices) taintAgain(changed ...*resourcev1.DeviceTaintRule) (any bool) {
	changed = slices.DeleteFunc(changed, func(r *resourcev1.DeviceTaintRule) bool { return r == nil })
	rules := d.ruleList()
	for name, o := range d.offers {
		if taint(o.published, changed) != o.published {
			d.offers[name] = offer{o.published, taint(o.published, rules)}
			any = true
		}
	}
	return any
}

// ruleList returns the rules by name: what they add up to is determined.
func (d *Devices) ruleList() []*resourcev1.DeviceTaintRule {
	list := make([]*resourcev1.DeviceTaintRule, 0, len(d.rules))
	for _, name := range slices.Sorted(maps.Keys(d.rules)) {
		list = append(list, d.rules[name])
	}
	return list
}

// taint returns a slice with the taints of rules added; the slice itself when
// they are about none of its devices.
func taint(s *resourcev1.ResourceSlice, rules []*resourcev1.DeviceTaintRule) *resourcev1.ResourceSlice {
	out := s
	for _, r := range rules {
		for i := range s.Spec.Devices {
			if !devicetaint.Selects(r, s.Spec.Driver, s.Spec.Pool.Name, s.Spec.Devices[i].Name) {
				continue
			}
			if out == s {
				out = s.DeepCopy()
			}
			device := &out.Spec.Devices[i]
			device.Taints = append(device.Taints, r.Spec.Taint)
		}
	}
	return out
}

// tainted returns the slices as pods see them.
func (d *Devices) tainted() []*resourcev1.ResourceSlice {
	list := make([]*resourcev1.ResourceSlice, 0, len(d.offers))
	for _, o := range d.offers {
		list = append(list, o.tainted)
	}
	return list
}
