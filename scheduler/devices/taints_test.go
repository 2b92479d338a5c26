package devices_test

import (
	"testing"

	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/proa-dev/proa/scheduler/devices"
)

func slice(name string, gpus ...resourcev1.Device) *resourcev1.ResourceSlice {
	return &resourcev1.ResourceSlice{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: resourcev1.ResourceSliceSpec{
			Driver: "example.com", NodeName: ptr.To("a"), Pool: resourcev1.ResourcePool{Name: "a", Generation: 1, ResourceSliceCount: 1}, Devices: gpus,
		},
	}
}

func rule(effect resourcev1.DeviceTaintEffect, selector *resourcev1.DeviceTaintSelector) *resourcev1.DeviceTaintRule {
	return &resourcev1.DeviceTaintRule{
		ObjectMeta: metav1.ObjectMeta{Name: "rule"},
		Spec:       resourcev1.DeviceTaintRuleSpec{DeviceSelector: selector, Taint: resourcev1.DeviceTaint{Key: "example.com/sick", Value: "very", Effect: effect}},
	}
}

// What a rule taints is not allocated to who does not tolerate it.
func TestTaintRules(t *testing.T) {
	const noSchedule, noExecute, none = resourcev1.DeviceTaintEffectNoSchedule, resourcev1.DeviceTaintEffectNoExecute, resourcev1.DeviceTaintEffectNone
	type selector = resourcev1.DeviceTaintSelector
	exists := resourcev1.DeviceToleration{Key: "example.com/sick", Operator: resourcev1.DeviceTolerationOpExists}
	limited := resourcev1.DeviceToleration{Key: "example.com/sick", Operator: resourcev1.DeviceTolerationOpEqual, Value: "very", Effect: noExecute, TolerationSeconds: ptr.To[int64](5)}
	for _, c := range []struct {
		name       string
		rule       *resourcev1.DeviceTaintRule
		toleration *resourcev1.DeviceToleration
		refused    bool
	}{
		{"all devices", rule(noSchedule, &selector{}), nil, true},
		{"the device", rule(noExecute, &selector{Driver: ptr.To("example.com"), Pool: ptr.To("a"), Device: ptr.To("gpu-0")}), nil, true},
		{"no selector", rule(noSchedule, nil), nil, false},
		{"another driver", rule(noSchedule, &selector{Driver: ptr.To("example.org")}), nil, false},
		{"another pool", rule(noSchedule, &selector{Pool: ptr.To("b")}), nil, false},
		{"another device", rule(noSchedule, &selector{Device: ptr.To("gpu-1")}), nil, false},
		{"no effect", rule(none, &selector{}), nil, false},
		{"tolerated", rule(noSchedule, &selector{}), &exists, false},
		{"tolerated for a while", rule(noExecute, &selector{}), &limited, false},
		{"tolerated with another effect", rule(noSchedule, &selector{}), &limited, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, first := range []string{"rule", "slice"} {
				d := devices.New(t.Context())
				d.SetClass(&resourcev1.DeviceClass{ObjectMeta: metav1.ObjectMeta{Name: "gpu"}})
				wish := claim("one")
				if c.toleration != nil {
					wish.Spec.Devices.Requests[0].Exactly.Tolerations = []resourcev1.DeviceToleration{*c.toleration}
				}
				d.SetClaim(wish)
				if first == "rule" {
					d.SetRule(c.rule)
				}
				d.SetSlice(slice("slice", resourcev1.Device{Name: "gpu-0"}))
				if first == "slice" {
					d.SetRule(c.rule)
				}
				if d.SetRule(c.rule.DeepCopy()) {
					t.Error("the same rule once more changes devices")
				}
				reason := func() string {
					v, refusal := d.For(pod("p", "one"))
					if v == nil {
						t.Fatal(refusal)
					}
					return v.Check(node("a"))
				}
				if got := reason(); (got != "") != c.refused {
					t.Errorf("%s first: %q", first, got)
				}
				d.RemoveRule(c.rule.Name)
				if got := reason(); got != "" {
					t.Errorf("%s first, and the rule is gone: %q", first, got)
				}
			}
		})
	}
}
