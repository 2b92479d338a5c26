// Package deviceclass tells which devices stand for an extended resource: those
// of a class that names the resource, or that the resource names.
package deviceclass

import (
	"cmp"
	"iter"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
)

// Names yields the extended resources that a class may stand for: its own name
// makes one, and it may name another.
func Names(c *resourcev1.DeviceClass) iter.Seq[corev1.ResourceName] {
	return func(yield func(corev1.ResourceName) bool) {
		if yield(corev1.ResourceName(resourcev1.ResourceDeviceClassPrefix+c.Name)) && c.Spec.ExtendedResourceName != nil {
			yield(corev1.ResourceName(*c.Spec.ExtendedResourceName))
		}
	}
}

// Resources returns the class behind each extended resource that has one. Of
// several classes that name the same resource it is the newest, so that there
// may be another class for it; then the first by name.
func Resources(classes iter.Seq[*resourcev1.DeviceClass]) map[corev1.ResourceName]*resourcev1.DeviceClass {
	out := map[corev1.ResourceName]*resourcev1.DeviceClass{}
	for c := range classes {
		for name := range Names(c) {
			if other, ok := out[name]; !ok || before(c, other) {
				out[name] = c
			}
		}
	}
	return out
}

func before(a, b *resourcev1.DeviceClass) bool {
	return cmp.Or(b.CreationTimestamp.Compare(a.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name)) < 0
}
