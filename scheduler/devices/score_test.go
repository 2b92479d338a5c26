package devices_test

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/proa-dev/proa/scheduler/core"
	"github.com/proa-dev/proa/scheduler/devices"
)

// A pod gets the node with what its claim names first, though others have more
// room.
func TestPreference(t *testing.T) {
	const first, second = "device.driver == 'example.com' && device.attributes['example.com'].size == 2", "true"
	d := devices.New(t.Context())
	for name, expression := range map[string]string{"first": first, "second": second} {
		c := class(name, 0, "")
		c.Spec.Selectors = []resourcev1.DeviceSelector{{CEL: &resourcev1.CELDeviceSelector{Expression: expression}}}
		d.SetClass(c)
	}
	s := core.NewSnapshot(1)
	s.SetDevices(d)
	for name, size := range map[string]int64{"roomy": 1, "better": 2, "spacious": 1} {
		d.SetSlice(&resourcev1.ResourceSlice{
			ObjectMeta: node(name).ObjectMeta,
			Spec: resourcev1.ResourceSliceSpec{
				Driver: "example.com", NodeName: &name, Pool: resourcev1.ResourcePool{Name: name, Generation: 1, ResourceSliceCount: 1},
				Devices: []resourcev1.Device{{Name: "d", Attributes: map[resourcev1.QualifiedName]resourcev1.DeviceAttribute{"size": {IntValue: &size}}}},
			},
		})
		n := node(name)
		n.Status.Allocatable = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("4"), corev1.ResourceMemory: resource.MustParse("8Gi"), corev1.ResourcePods: resource.MustParse("10")}
		if name == "better" {
			n.Status.Allocatable[corev1.ResourceCPU] = resource.MustParse("2")
		}
		s.SetNode(n)
	}
	c := claim("one")
	sub := func(name string) resourcev1.DeviceSubRequest {
		return resourcev1.DeviceSubRequest{Name: name, DeviceClassName: name, AllocationMode: resourcev1.DeviceAllocationModeExactCount, Count: 1}
	}
	c.Spec.Devices.Requests = []resourcev1.DeviceRequest{{Name: "r", FirstAvailable: []resourcev1.DeviceSubRequest{sub("first"), sub("second")}}}
	d.SetClaim(c)
	p := containers(pod("p", "one"), "c cpu=1 memory=1Gi")
	if got, why := s.Schedule(core.NewPod(p, core.DefaultProfile())); got != "better" {
		t.Errorf("scheduled to %q: %v", got, why)
	}
	indifferent := core.DefaultProfile()
	indifferent.Name, indifferent.Weights.Devices = "indifferent", 0
	if got, _ := s.Schedule(core.NewPod(p, indifferent)); got == "better" {
		t.Error("the other nodes have more room")
	}
}

// Devices count as the resources that they stand for where the profile packs
// nodes by those.
func TestRoom(t *testing.T) {
	d := devices.New(t.Context())
	c := class("gpu", 0, string(gpu))
	c.Spec.Selectors = []resourcev1.DeviceSelector{{CEL: &resourcev1.CELDeviceSelector{Expression: "device.driver == 'example.com'"}}}
	d.SetClass(c)
	s := core.NewSnapshot(1)
	s.SetDevices(d)
	for name, n := range map[string]int{"empty": 4, "half": 4, "large": 16} {
		offer(d, name, n)
		n := node(name)
		n.Status.Allocatable = corev1.ResourceList{corev1.ResourcePods: resource.MustParse("10")}
		s.SetNode(n)
	}
	other := claim("other")
	other.Status.Allocation = &resourcev1.AllocationResult{Devices: resourcev1.DeviceAllocationResult{Results: []resourcev1.DeviceRequestAllocationResult{
		{Driver: "example.com", Pool: "half", Device: "gpu-0"}, {Driver: "example.com", Pool: "half", Device: "gpu-1"},
	}}}
	d.SetClaim(other)
	p := containers(pod("p"), "c example.com/gpu=1")
	for want, strategy := range map[string]core.Strategy{"half": core.MostAllocated, "large": core.LeastAllocated} {
		packs := core.DefaultProfile()
		packs.Name = want
		packs.Fit = core.Fit{Strategy: strategy, Resources: []core.WeightedResource{{Name: gpu, Weight: 1}}}
		if got, why := s.Schedule(core.NewPod(p, packs)); got != want {
			t.Errorf("scheduled to %q, want %q: %v", got, want, why)
		}
	}
}
