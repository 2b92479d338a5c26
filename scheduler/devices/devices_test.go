package devices_test

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/proa-dev/proa/scheduler/devices"
)

func claim(name string) *resourcev1.ResourceClaim {
	return &resourcev1.ResourceClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: types.UID(name)},
		Spec: resourcev1.ResourceClaimSpec{Devices: resourcev1.DeviceClaim{Requests: []resourcev1.DeviceRequest{{
			Name: "r", Exactly: &resourcev1.ExactDeviceRequest{DeviceClassName: "gpu", AllocationMode: resourcev1.DeviceAllocationModeExactCount, Count: 1},
		}}}},
	}
}

func pod(name string, claims ...string) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: types.UID(name)}}
	for _, c := range claims {
		p.Spec.ResourceClaims = append(p.Spec.ResourceClaims, corev1.PodResourceClaim{Name: c, ResourceClaimName: ptr.To(c)})
	}
	return p
}

func node(name string) *corev1.Node {
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"kubernetes.io/hostname": name}}}
}

func TestAllocation(t *testing.T) {
	d := devices.New(t.Context())
	d.SetSlice(&resourcev1.ResourceSlice{
		ObjectMeta: metav1.ObjectMeta{Name: "slice"},
		Spec: resourcev1.ResourceSliceSpec{
			Driver: "example.com", NodeName: ptr.To("a"), Pool: resourcev1.ResourcePool{Name: "a", Generation: 1, ResourceSliceCount: 1},
			Devices: []resourcev1.Device{{Name: "gpu-0"}},
		},
	})
	refused := func(what, want string, p *corev1.Pod) {
		t.Helper()
		if _, got := d.For(p); got != want {
			t.Errorf("%s: got %q, want %q", what, got, want)
		}
	}
	refused("no claim", `resourceclaim.resource.k8s.io "one" not found`, pod("p", "one"))
	one, two := claim("one"), claim("two")
	d.SetClaim(one)
	d.SetClaim(two)
	refused("no class", "request r: device class gpu does not exist", pod("p", "one"))
	d.SetClass(&resourcev1.DeviceClass{ObjectMeta: metav1.ObjectMeta{Name: "gpu"}})

	check := func(what, want string, p *corev1.Pod, n string) {
		t.Helper()
		v, refusal := d.For(p)
		if v == nil {
			t.Fatalf("%s: refused, %s", what, refusal)
		}
		if got := v.Check(node(n)); got != want {
			t.Errorf("%s: got %q, want %q", what, got, want)
		}
	}
	check("the node has it", "", pod("p", "one"), "a")
	check("the node has none", "cannot allocate all claims", pod("p", "one"), "b")
	check("there is but one", "cannot allocate all claims", pod("p", "one", "two"), "a")
	if v, refusal := d.For(pod("plain")); v != nil || refusal != "" {
		t.Errorf("a pod without claims: %v, %q", v, refusal)
	}

	plan, reason := d.Plan(pod("p", "one"), node("a"))
	if reason != "" || plan == nil || len(plan.Claims) != 1 || plan.Claims[0].Allocation.Devices.Results[0].Device != "gpu-0" {
		t.Fatalf("plan %+v", plan)
	}
	refused("under way", "resource claim ns/one is in the process of being allocated", pod("q", "one"))
	check("promised", "cannot allocate all claims", pod("q", "two"), "a")
	d.Withdraw(plan)
	check("withdrawn", "", pod("q", "two"), "a")

	written := one.DeepCopy()
	written.Status.Allocation = plan.Claims[0].Allocation
	d.SetClaim(written)
	check("allocated", "", pod("p", "one"), "a")
	check("allocated elsewhere", "resourceclaim not available on the node", pod("p", "one"), "b")
	if got := d.Idle(pod("p", "one")); got == nil || got.Name != "one" {
		t.Errorf("idle: %v", got)
	}
}

// A search that takes too long is not begun again on other nodes.
func TestSearchTakesTooLong(t *testing.T) {
	d := devices.New(t.Context())
	d.SetLimits("", devices.Limits{Filter: time.Nanosecond})
	d.SetSlice(slice("slice", resourcev1.Device{Name: "gpu-0"}))
	d.SetClass(&resourcev1.DeviceClass{ObjectMeta: metav1.ObjectMeta{Name: "gpu"}})
	d.SetClaim(claim("one"))
	v, refusal := d.For(pod("p", "one"))
	if v == nil {
		t.Fatal(refusal)
	}
	const want = "node a: timed out trying to allocate devices"
	for _, name := range []string{"a", "b"} {
		if got := v.Check(node(name)); got != want {
			t.Errorf("node %s: %q", name, got)
		}
	}
	if v.Err() == nil || v.Err().Error() != want {
		t.Errorf("error %v", v.Err())
	}
}
