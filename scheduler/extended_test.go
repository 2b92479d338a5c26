package scheduler_test

import (
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

// claims are the resource claims that there are.
func (c *fakeCluster) claims() (out []resourcev1.ResourceClaim) {
	list, err := c.sources["*v1.ResourceClaim"].List(metav1.ListOptions{})
	if err != nil {
		return nil
	}
	for _, obj := range list.(*corev1.List).Items {
		if claim, ok := obj.Object.(*resourcev1.ResourceClaim); ok {
			out = append(out, *claim)
		}
	}
	return out
}

func TestExtendedResources(t *testing.T) { synctest.Test(t, testExtendedResources) }

// testExtendedResources gives devices to pods that ask for them by the name of
// an extended resource.
func testExtendedResources(t *testing.T) {
	c := newFakeCluster(t)
	const gpu corev1.ResourceName = "example.com/gpu"
	wants := func(name corev1.ResourceName, n string) func(*corev1.Pod) {
		return func(p *corev1.Pod) { p.Spec.Containers[0].Resources.Requests[name] = resource.MustParse(n) }
	}
	plain, own := newNode("plain", "1"), newNode("own", "8")
	own.Status.Allocatable[gpu] = resource.MustParse("1")
	class := &resourcev1.DeviceClass{ObjectMeta: metav1.ObjectMeta{Name: "gpu"}}
	c.add(plain, own, class, &resourcev1.ResourceSlice{
		ObjectMeta: metav1.ObjectMeta{Name: "slice"},
		Spec: resourcev1.ResourceSliceSpec{
			Driver: "gpu.example.com", NodeName: ptr.To("plain"), Pool: resourcev1.ResourcePool{Name: "plain", Generation: 1, ResourceSliceCount: 1},
			Devices: []resourcev1.Device{{Name: "gpu-0"}, {Name: "gpu-1"}},
		},
	})
	failures := 1
	c.bindFail = func(pod, _ string) error {
		if pod == "second" && failures > 0 {
			failures--
			return errors.New("out of order")
		}
		return nil
	}
	start(t, c)
	bound := func(pod, node string) {
		t.Helper()
		c.eventually(t, pod+" is bound to "+node, func() bool { return c.node(pod) == node })
	}

	c.add(newPod("first", "1", wants(gpu, "1")))
	bound("first", "own")
	if list := c.claims(); len(list) != 0 {
		t.Fatalf("the node has it, and yet a claim was made: %+v", list)
	}

	c.add(newPod("second", "100m", wants(gpu, "1")))
	c.eventually(t, "nobody has another", func() bool { return c.hasEvent("2 Insufficient example.com/gpu") })
	named := class.DeepCopy()
	named.Spec.ExtendedResourceName = ptr.To(string(gpu))
	c.update(named)
	bound("second", "plain")
	if failures != 0 {
		t.Error("the bind did not fail")
	}
	list := c.claims()
	if len(list) != 1 || list[0].Status.Allocation == nil || len(list[0].Status.ReservedFor) != 1 || !slices.Contains(list[0].Finalizers, resourcev1.Finalizer) {
		t.Fatalf("claims: %+v", list)
	}
	c.mu.Lock()
	status := c.pods[key(newPod("second", "1"))].Status.ExtendedResourceClaimStatus
	c.mu.Unlock()
	want := corev1.ContainerExtendedResourceRequest{ContainerName: "c", ResourceName: string(gpu), RequestName: "container-0-request-1"}
	if status == nil || status.ResourceClaimName != list[0].Name || !slices.Equal(status.RequestMappings, []corev1.ContainerExtendedResourceRequest{want}) {
		t.Errorf("status %+v", status)
	}

	// The class's own name is an extended resource too. Its devices are the same.
	c.add(newPod("third", "100m", wants("deviceclass.resource.kubernetes.io/gpu", "2")))
	c.eventually(t, "there is but one left", func() bool {
		return c.hasEvent("third Warning FailedScheduling: 0/2 nodes are available: 2 cannot allocate all claims.")
	})
	c.add(newPod("fourth", "100m", wants("deviceclass.resource.kubernetes.io/gpu", "1")))
	bound("fourth", "plain")
}

func TestExtendedResourcesBecomeReady(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := fabric(t)
		c.tell(t, "attached")
		c.eventually(t, "the other pod is bound", func() bool { return c.node("p") == "a" })
		c.add(newPod("q", "1", func(p *corev1.Pod) {
			p.Spec.Containers[0].Resources.Requests["deviceclass.resource.kubernetes.io/gpu"] = resource.MustParse("1")
		}))
		c.eventually(t, "the pod waits", func() bool { return c.hasEvent("q Normal BindingConditionsPending") })
		synctest.Wait()
		made := func() *resourcev1.ResourceClaim {
			list := slices.DeleteFunc(c.claims(), func(claim resourcev1.ResourceClaim) bool { return claim.Name == "claim" })
			if len(list) != 1 {
				t.Fatalf("claims: %+v", list)
			}
			return &list[0]
		}
		first := made()
		c.tellOf(first, "broken")
		c.eventually(t, "it is told why", func() bool { return c.hasEvent("device binding failed: claim=" + first.Name) })
		time.Sleep(time.Minute)
		second := made()
		if second.Name == first.Name {
			t.Fatal("the claim with the broken device is still there")
		}
		c.tellOf(second, "attached")
		c.eventually(t, "bound", func() bool { return c.node("q") == "a" })
	})
}
