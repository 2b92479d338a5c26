package scheduler_test

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// A claim gets its device, and the pod its node, where there is one.
func TestDevices(t *testing.T) { synctest.Test(t, testDevices) }

func testDevices(t *testing.T) {
	c := newFakeCluster(t)
	name := func(s string) *string { return &s }
	claims := func(p *corev1.Pod) {
		p.Spec.ResourceClaims = []corev1.PodResourceClaim{{Name: "gpu", ResourceClaimName: name("claim")}}
	}
	c.add(newNode("a", "8"), newNode("b", "8"),
		&resourcev1.DeviceClass{ObjectMeta: metav1.ObjectMeta{Name: "gpu"}},
		&resourcev1.ResourceClaim{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "claim", UID: "uid-claim"},
			Spec: resourcev1.ResourceClaimSpec{Devices: resourcev1.DeviceClaim{Requests: []resourcev1.DeviceRequest{{
				Name: "r", Exactly: &resourcev1.ExactDeviceRequest{DeviceClassName: "gpu", AllocationMode: resourcev1.DeviceAllocationModeExactCount, Count: 1}}}}},
		})
	start(t, c)
	c.add(newPod("p", "1", claims))
	c.eventually(t, "no device yet", func() bool {
		return c.hasEvent("p Warning FailedScheduling: 0/2 nodes are available: 2 cannot allocate all claims.")
	})
	c.add(&resourcev1.ResourceSlice{
		ObjectMeta: metav1.ObjectMeta{Name: "slice"},
		Spec: resourcev1.ResourceSliceSpec{Driver: "example.com", NodeName: name("b"),
			Pool: resourcev1.ResourcePool{Name: "b", Generation: 1, ResourceSliceCount: 1}, Devices: []resourcev1.Device{{Name: "gpu-0"}}},
	})
	c.eventually(t, "bound where the device is", func() bool { return c.node("p") == "b" })
}

// Of the nodes that have some device for a claim the one is taken that has what
// the claim prefers.
func TestPreferredDevices(t *testing.T) { synctest.Test(t, testPreferredDevices) }

func testPreferredDevices(t *testing.T) {
	c := newFakeCluster(t)
	exactly := func(class string) resourcev1.DeviceSubRequest {
		return resourcev1.DeviceSubRequest{Name: class, DeviceClassName: class, AllocationMode: resourcev1.DeviceAllocationModeExactCount, Count: 1}
	}
	for _, kind := range []string{"large", "small"} {
		c.add(&resourcev1.DeviceClass{ObjectMeta: metav1.ObjectMeta{Name: kind}, Spec: resourcev1.DeviceClassSpec{
			Selectors: []resourcev1.DeviceSelector{{CEL: &resourcev1.CELDeviceSelector{Expression: "device.driver == '" + kind + ".example.com'"}}}}})
	}
	for i := range 9 {
		name, kind := fmt.Sprintf("n%d", i), "small"
		if i == 5 {
			kind = "large"
		}
		c.add(newNode(name, "8"), &resourcev1.ResourceSlice{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: resourcev1.ResourceSliceSpec{
			Driver: kind + ".example.com", NodeName: &name, Pool: resourcev1.ResourcePool{Name: name, Generation: 1, ResourceSliceCount: 1}, Devices: []resourcev1.Device{{Name: "one"}}}})
	}
	c.add(&resourcev1.ResourceClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "claim", UID: "uid-claim"},
		Spec: resourcev1.ResourceClaimSpec{Devices: resourcev1.DeviceClaim{Requests: []resourcev1.DeviceRequest{
			{Name: "r", FirstAvailable: []resourcev1.DeviceSubRequest{exactly("large"), exactly("small")}}}}}})
	start(t, c)
	claim := "claim"
	c.add(newPod("p", "1", func(p *corev1.Pod) {
		p.Spec.ResourceClaims = []corev1.PodResourceClaim{{Name: "gpu", ResourceClaimName: &claim}}
	}))
	c.eventually(t, "bound", func() bool { return c.node("p") != "" })
	if got := c.node("p"); got != "n5" {
		t.Errorf("on %s", got)
	}
}

// Claims that cannot be judged end an attempt at the first node. The pod is tried
// again after a rest: no event may tell that they can.
func TestDevicesBreakOff(t *testing.T) { synctest.Test(t, testDevicesBreakOff) }

func testDevicesBreakOff(t *testing.T) {
	c := newFakeCluster(t)
	claim := "claim"
	c.add(&resourcev1.DeviceClass{ObjectMeta: metav1.ObjectMeta{Name: "gpu"}, Spec: resourcev1.DeviceClassSpec{
		Selectors: []resourcev1.DeviceSelector{{CEL: &resourcev1.CELDeviceSelector{Expression: `device.attributes["example.com"].missing == 1`}}}}},
		&resourcev1.ResourceClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: claim, UID: "uid-claim"},
			Spec: resourcev1.ResourceClaimSpec{Devices: resourcev1.DeviceClaim{Requests: []resourcev1.DeviceRequest{{
				Name: "r", Exactly: &resourcev1.ExactDeviceRequest{DeviceClassName: "gpu", AllocationMode: resourcev1.DeviceAllocationModeExactCount, Count: 1}}}}}})
	for _, name := range []string{"a", "b"} {
		c.add(newNode(name, "8"), &resourcev1.ResourceSlice{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: resourcev1.ResourceSliceSpec{
			Driver: "example.com", NodeName: &name, Pool: resourcev1.ResourcePool{Name: name, Generation: 1, ResourceSliceCount: 1}, Devices: []resourcev1.Device{{Name: "one"}}}})
	}
	start(t, c)
	c.add(newPod("p", "1", func(p *corev1.Pod) {
		p.Spec.ResourceClaims = []corev1.PodResourceClaim{{Name: "gpu", ResourceClaimName: &claim}}
	}))
	c.soon(t, "tried three times", func() bool {
		tries := 0
		for _, e := range c.events {
			if strings.HasPrefix(e, `p Warning FailedScheduling: running "DynamicResources" filter plugin: `) && strings.Contains(e, "no such key: missing") {
				tries++
			}
		}
		return tries == 3 && c.condition("p", corev1.PodScheduled).Reason == corev1.PodReasonSchedulerError
	})
}
