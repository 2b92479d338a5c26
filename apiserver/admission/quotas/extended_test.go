package quotas_test

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

// Devices are charged under the names of the extended resources that they stand
// for too, once for a pod and the claim that was made for it.
func TestExtendedResources(t *testing.T) {
	owner := func(name string) *corev1.Pod {
		p := pod("example.com/gpu=2")
		p.Namespace, p.Name, p.UID = "ns", name, "uid"
		return p
	}
	claim := func(name string, n int64, change ...func(*resourcev1.ResourceClaim)) *resourcev1.ResourceClaim {
		c := &resourcev1.ResourceClaim{
			ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, CreationTimestamp: metav1.NewTime(time.Unix(9, 0))},
			Spec: resourcev1.ResourceClaimSpec{Devices: resourcev1.DeviceClaim{Requests: []resourcev1.DeviceRequest{{Name: "r", Exactly: &resourcev1.ExactDeviceRequest{
				DeviceClassName: "gpu", AllocationMode: resourcev1.DeviceAllocationModeExactCount, Count: n,
			}}}}},
		}
		for _, f := range change {
			f(c)
		}
		return c
	}
	made := func(c *resourcev1.ResourceClaim) {
		c.Annotations = map[string]string{resourcev1.ExtendedResourceClaimAnnotation: "true"}
		c.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Pod", Name: "p", UID: "uid", Controller: ptr.To(true)}}
	}
	earlier := func(c *resourcev1.ResourceClaim) { c.CreationTimestamp = metav1.NewTime(time.Unix(8, 0)) }
	told := owner("p")
	told.Status.ExtendedResourceClaimStatus = &corev1.PodExtendedResourceClaimStatus{ResourceClaimName: "other"}
	for _, c := range []struct {
		name  string
		hard  string
		claim *resourcev1.ResourceClaim
		pod   *corev1.Pod
		other *resourcev1.ResourceClaim
		want  string // what is too much
	}{
		{"none", "requests.example.com/gpu=0", claim("x", 1), nil, nil, "requests.example.com/gpu=1"},
		{"its class's name", "requests.deviceclass.resource.kubernetes.io/gpu=0", claim("x", 1), nil, nil, "requests.deviceclass.resource.kubernetes.io/gpu=1"},
		{"the class", "gpu.deviceclass.resource.k8s.io/devices=1", claim("x", 2), nil, nil, "gpu.deviceclass.resource.k8s.io/devices=2"},
		{"another resource", "requests.example.com/fpga=0", claim("x", 1), nil, nil, ""},
		{"counted for its pod", "requests.example.com/gpu=0", claim("x", 2, made), owner("p"), nil, ""},
		{"more than that", "requests.example.com/gpu=0", claim("x", 3, made), owner("p"), nil, "requests.example.com/gpu=1"},
		{"another pod", "requests.example.com/gpu=0", claim("x", 2, made), owner("q"), nil, "requests.example.com/gpu=2"},
		{"another claim of it", "requests.example.com/gpu=0", claim("x", 2, made), told, nil, "requests.example.com/gpu=2"},
		{"the second one", "requests.example.com/gpu=0", claim("x", 2, made), owner("p"), claim("y", 2, made, earlier), "requests.example.com/gpu=2"},
		{"the first one", "requests.example.com/gpu=0", claim("x", 2, made, earlier), owner("p"), claim("y", 2, made), ""},
	} {
		name, _, _ := strings.Cut(c.hard, "=")
		p, k := start(quota("q", c.hard, name+"=0"))
		k.source.Put(resourcev1.Resource("deviceclasses"), &resourcev1.DeviceClass{
			ObjectMeta: metav1.ObjectMeta{Name: "gpu"}, Spec: resourcev1.DeviceClassSpec{ExtendedResourceName: ptr.To("example.com/gpu")},
		})
		if c.pod != nil {
			k.source.Put(corev1.Resource("pods"), c.pod)
		}
		if c.other != nil {
			k.source.Put(resourcev1.Resource("resourceclaims"), c.other)
		}
		err := p.Validate(t.Context(), create("resourceclaims.resource.k8s.io", c.claim))
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), "requested: "+c.want+",") {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}
