package scheduler_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/component-helpers/storage/volume"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proa-dev/proa/scheduler"
	"github.com/proa-dev/proa/scheduler/core"
)

// patchClaim changes the claim that a test has stored under a name.
func (c *fakeCluster) patchClaim(name string, patch ctrl.Patch, body []byte) error {
	claim := c.claim(name)
	if claim == nil {
		return apierrors.NewNotFound(resourcev1.Resource("resourceclaims"), name)
	}
	old, err := json.Marshal(claim)
	if err != nil {
		return err
	}
	merge := jsonpatch.MergePatch
	if patch.Type() == types.StrategicMergePatchType {
		merge = func(old, body []byte) ([]byte, error) {
			return strategicpatch.StrategicMergePatch(old, body, claim)
		}
	}
	merged, err := merge(old, body)
	if err != nil {
		return err
	}
	now := &resourcev1.ResourceClaim{}
	if err := json.Unmarshal(merged, now); err != nil {
		return err
	}
	c.update(now)
	return nil
}

// claim returns a stored claim, nil for none.
func (c *fakeCluster) claim(name string) *resourcev1.ResourceClaim {
	for _, claim := range c.claims() {
		if claim.Name == name {
			return claim.DeepCopy()
		}
	}
	return nil
}

// fabric is a cluster whose only node has two devices that are attached when a
// pod is to have them, and a pod that wants one.
func fabric(t *testing.T, change ...func(*corev1.Pod)) *fakeCluster {
	c := newFakeCluster(t)
	device := func(name string) resourcev1.Device {
		return resourcev1.Device{Name: name, BindingConditions: []string{"attached"}, BindingFailureConditions: []string{"broken"}}
	}
	c.add(newNode("a", "8"), lateClaim("data"), lateClass(), &resourcev1.DeviceClass{ObjectMeta: metav1.ObjectMeta{Name: "gpu"}},
		&resourcev1.ResourceSlice{ObjectMeta: metav1.ObjectMeta{Name: "slice"}, Spec: resourcev1.ResourceSliceSpec{
			Driver: "example.com", AllNodes: ptr.To(true), Pool: resourcev1.ResourcePool{Name: "p", Generation: 1, ResourceSliceCount: 1},
			Devices: []resourcev1.Device{device("gpu-0"), device("gpu-1")},
		}},
		&resourcev1.ResourceClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "claim", UID: "uid-claim"},
			Spec: resourcev1.ResourceClaimSpec{Devices: resourcev1.DeviceClaim{Requests: []resourcev1.DeviceRequest{{
				Name: "r", Exactly: &resourcev1.ExactDeviceRequest{DeviceClassName: "gpu", AllocationMode: resourcev1.DeviceAllocationModeExactCount, Count: 1}}}}}})
	start(t, c, func(cfg *scheduler.Config) {
		p := core.DefaultProfile()
		p.BindingTimeout = time.Minute
		cfg.Profiles = []*core.Profile{p}
	})
	wants := func(p *corev1.Pod) {
		p.Spec.ResourceClaims = []corev1.PodResourceClaim{{Name: "gpu", ResourceClaimName: ptr.To("claim")}}
	}
	c.add(newPod("p", "1", append(change, wants)...))
	c.eventually(t, "the pod waits", func() bool {
		return c.hasEvent("p Normal BindingConditionsPending: waiting for binding conditions for device on node a")
	})
	synctest.Wait()
	return c
}

// lateClaim is a claim to a volume that is made for its first consumer.
func lateClaim(name string) *corev1.PersistentVolumeClaim {
	return &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID("uid-" + name)},
		Spec:       corev1.PersistentVolumeClaimSpec{StorageClassName: ptr.To("late"), AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}},
	}
}

func lateClass() *storagev1.StorageClass {
	return &storagev1.StorageClass{
		ObjectMeta: metav1.ObjectMeta{Name: "late"}, Provisioner: "example.com/p", VolumeBindingMode: ptr.To(storagev1.VolumeBindingWaitForFirstConsumer),
	}
}

// tell writes a condition of the device that the claim has.
func (c *fakeCluster) tell(t *testing.T, kind string) {
	t.Helper()
	claim := c.claim("claim")
	if claim.Status.Allocation == nil || claim.Status.Allocation.AllocationTimestamp == nil || len(claim.Status.ReservedFor) != 1 {
		t.Fatalf("status %+v", claim.Status)
	}
	c.tellOf(claim, kind)
}

// tellOf does so for another claim.
func (c *fakeCluster) tellOf(claim *resourcev1.ResourceClaim, kind string) {
	r := claim.Status.Allocation.Devices.Results[0]
	claim.Status.Devices = []resourcev1.AllocatedDeviceStatus{{Driver: r.Driver, Pool: r.Pool, Device: r.Device, Conditions: []metav1.Condition{
		{Type: kind, Status: metav1.ConditionTrue, Reason: "Told", Message: "by the driver"}}}}
	c.update(claim)
}

func TestDevicesBecomeReady(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := fabric(t)
		time.Sleep(50 * time.Second)
		if got := c.node("p"); got != "" {
			t.Fatalf("bound to %s before the device is attached", got)
		}
		c.tell(t, "attached")
		c.eventually(t, "bound", func() bool { return c.node("p") == "a" })
	})
}

// What is ready in time may wait for volumes as long as these may take.
func TestDevicesBeforeVolumes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := fabric(t, func(p *corev1.Pod) {
			p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "data"}}}}
		})
		c.tell(t, "attached")
		time.Sleep(5 * time.Minute)
		if c.node("p") != "" || c.hasEvent("FailedScheduling") {
			t.Fatalf("on %q: %q", c.node("p"), c.events)
		}
		made := lateClaim("data")
		made.Annotations = map[string]string{volume.AnnSelectedNode: "a", volume.AnnBindCompleted: "yes"}
		made.Spec.VolumeName, made.Status.Phase = "pv", corev1.ClaimBound
		c.update(made)
		c.soon(t, "bound", func() bool { return c.node("p") == "a" })
	})
}

// Devices that cannot be made ready, or are not in time, are given back, and
// the pod gets others.
func TestDevicesNotReady(t *testing.T) {
	for _, test := range []struct {
		name, want string
		fail       func(*testing.T, *fakeCluster)
	}{
		{"failed", `device binding failed: claim=claim, reason=Told, message="by the driver"`, func(t *testing.T, c *fakeCluster) { c.tell(t, "broken") }},
		{"late", "device binding timeout: claim=claim", func(*testing.T, *fakeCluster) { time.Sleep(61 * time.Second) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := fabric(t)
				begin := c.claim("claim").Status.Allocation.AllocationTimestamp
				test.fail(t, c)
				c.soon(t, "given up", func() bool {
					return c.hasEvent(`p Warning FailedScheduling: running PreBind plugin "DynamicResources": ` + test.want)
				})
				c.eventually(t, "given back", func() bool {
					return c.hasEvent("1 resourceclaim not available on the node. deallocation of ResourceClaim completed")
				})
				c.eventually(t, "others", func() bool { return strings.Count(strings.Join(c.events, "\n"), "BindingConditionsPending") == 2 })
				synctest.Wait()
				if again := c.claim("claim").Status.Allocation; again == nil || !again.AllocationTimestamp.After(begin.Time) {
					t.Fatalf("allocation %+v", again)
				}
				c.tell(t, "attached")
				c.eventually(t, "bound", func() bool { return c.node("p") == "a" })
			})
		})
	}
}

// A pod that is deleted while it waits leaves the claim to others.
func TestDevicesOfDeletedPod(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := fabric(t)
		if err := c.change(types.NamespacedName{Namespace: "default", Name: "p"}, "", func(p *corev1.Pod) error {
			p.DeletionTimestamp = ptr.To(metav1.Now())
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if got := fmt.Sprint(c.claim("claim").Status.ReservedFor); got != "[]" {
			t.Errorf("reserved for %s", got)
		}
	})
}
