// Package devicetaint says which devices a DeviceTaintRule is about, for the
// scheduler, which avoids them, and the controller that evicts from them.
package devicetaint

import resourcev1 "k8s.io/api/resource/v1"

// Selects reports whether a rule taints a device. A rule without a selector
// taints none, one with an empty selector all.
func Selects(rule *resourcev1.DeviceTaintRule, driver, pool, device string) bool {
	s := rule.Spec.DeviceSelector
	return s != nil && is(s.Driver, driver) && is(s.Pool, pool) && is(s.Device, device)
}

// is reports whether a value is the one that is wanted, if any is.
func is(wanted *string, value string) bool { return wanted == nil || *wanted == value }
