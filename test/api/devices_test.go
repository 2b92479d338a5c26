package api

import (
	"context"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

// devices publishes some on the node that is called like the namespace, and
// makes a class of them. Their driver is called like it, too.
func devices(t *testing.T, ns string, list ...resourcev1.Device) {
	t.Helper()
	node(t, ns, "2")
	driver := ns + ".example.com"
	get[*resourcev1.ResourceSlice](t)(world.kube.ResourceV1().ResourceSlices().Create(t.Context(), &resourcev1.ResourceSlice{
		ObjectMeta: metav1.ObjectMeta{Name: ns},
		Spec: resourcev1.ResourceSliceSpec{Driver: driver, NodeName: &ns, Devices: list,
			Pool: resourcev1.ResourcePool{Name: ns, Generation: 1, ResourceSliceCount: 1}},
	}, metav1.CreateOptions{}))
	get[*resourcev1.DeviceClass](t)(world.kube.ResourceV1().DeviceClasses().Create(t.Context(), &resourcev1.DeviceClass{
		ObjectMeta: metav1.ObjectMeta{Name: ns},
		Spec:       resourcev1.DeviceClassSpec{Selectors: []resourcev1.DeviceSelector{{CEL: &resourcev1.CELDeviceSelector{Expression: "device.driver == '" + driver + "'"}}}},
	}, metav1.CreateOptions{}))
}

// claimant creates a pod and its claim to one device.
func claimant(t *testing.T, ns, name string) {
	t.Helper()
	get[*resourcev1.ResourceClaim](t)(world.kube.ResourceV1().ResourceClaims(ns).Create(t.Context(), &resourcev1.ResourceClaim{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       resourcev1.ResourceClaimSpec{Devices: resourcev1.DeviceClaim{Requests: []resourcev1.DeviceRequest{{Name: "r", Exactly: &resourcev1.ExactDeviceRequest{DeviceClassName: ns}}}}},
	}, metav1.CreateOptions{}))
	schedule(t, ns, name, on(ns, corev1.PodSpec{
		ResourceClaims: []corev1.PodResourceClaim{{Name: "c", ResourceClaimName: &name}},
		Containers:     []corev1.Container{{Name: "c", Image: "i", Resources: corev1.ResourceRequirements{Claims: []corev1.ResourceClaim{{Name: "c"}}}}},
	}))
}

// Devices that a rule taints are not given to pods, and taken from them.
func TestDeviceTaintRules(t *testing.T) {
	ns := namespace(t)
	devices(t, ns, resourcev1.Device{Name: "one"}, resourcev1.Device{Name: "two"})
	rules := world.kube.ResourceV1().DeviceTaintRules()
	taint := func(device string, effect resourcev1.DeviceTaintEffect) *resourcev1.DeviceTaintRule {
		t.Helper()
		rule := get[*resourcev1.DeviceTaintRule](t)(rules.Create(t.Context(), &resourcev1.DeviceTaintRule{
			ObjectMeta: metav1.ObjectMeta{GenerateName: ns + "-"},
			Spec: resourcev1.DeviceTaintRuleSpec{DeviceSelector: &resourcev1.DeviceTaintSelector{Driver: ptr.To(ns + ".example.com"), Device: &device},
				Taint: resourcev1.DeviceTaint{Key: "example.com/sick", Effect: effect}},
		}, metav1.CreateOptions{}))
		t.Cleanup(func() { _ = rules.Delete(context.WithoutCancel(t.Context()), rule.Name, metav1.DeleteOptions{}) })
		return rule
	}
	tells := func(name, reason, message string) {
		t.Helper()
		eventually(t, func() (bool, any) {
			r := get[*resourcev1.DeviceTaintRule](t)(rules.Get(t.Context(), name, metav1.GetOptions{}))
			c := meta.FindStatusCondition(r.Status.Conditions, resourcev1.DeviceTaintConditionEvictionInProgress)
			return c != nil && c.Reason == reason && strings.Contains(c.Message, message), r.Status
		})
	}
	tells(taint("one", resourcev1.DeviceTaintEffectNoSchedule).Name, "OtherEffect", "Eviction only happens for the NoExecute effect.")
	claimant(t, ns, "p")
	bound(t, ns, "p")
	c := get[*resourcev1.ResourceClaim](t)(world.kube.ResourceV1().ResourceClaims(ns).Get(t.Context(), "p", metav1.GetOptions{}))
	if got := c.Status.Allocation.Devices.Results[0].Device; got != "two" {
		t.Fatalf("given %s", got)
	}
	claimant(t, ns, "q")
	unschedulable(t, ns, "q", "cannot allocate all claims")

	trial := taint("two", resourcev1.DeviceTaintEffectNone)
	tells(trial.Name, "NoEffect", "1 published device selected. 1 allocated device selected. 1 pod would be evicted in 1 namespace if the effect was NoExecute.")
	trial = get[*resourcev1.DeviceTaintRule](t)(rules.Get(t.Context(), trial.Name, metav1.GetOptions{}))
	trial.Spec.Taint.Effect = resourcev1.DeviceTaintEffectNoExecute
	get[*resourcev1.DeviceTaintRule](t)(rules.Update(t.Context(), trial, metav1.UpdateOptions{}))
	eventually(t, func() (bool, any) {
		p, err := world.kube.CoreV1().Pods(ns).Get(t.Context(), "p", metav1.GetOptions{})
		return apierrors.IsNotFound(err), p
	})
	eventually(t, func() (bool, any) {
		c := get[*resourcev1.ResourceClaim](t)(world.kube.ResourceV1().ResourceClaims(ns).Get(t.Context(), "p", metav1.GetOptions{}))
		return c.Status.Allocation == nil && len(c.Status.ReservedFor) == 0, c.Status
	})
	eventually(t, func() (bool, any) {
		list := get[*corev1.EventList](t)(world.kube.CoreV1().Events(ns).List(t.Context(), metav1.ListOptions{FieldSelector: "reason=DeviceTaintManagerEviction"}))
		return len(list.Items) == 1 && list.Items[0].Message == "Marking for deletion" && list.Items[0].InvolvedObject.Name == "p", list.Items
	})
}

// A pod is bound when its device is ready.
func TestDeviceBindingConditions(t *testing.T) {
	ns := namespace(t)
	devices(t, ns, resourcev1.Device{Name: "one", BindingConditions: []string{"example.com/attached"}, BindingFailureConditions: []string{"example.com/broken"}})
	claimant(t, ns, "p")
	claims := world.kube.ResourceV1().ResourceClaims(ns)
	tell := func(condition string) {
		t.Helper()
		eventually(t, func() (bool, any) {
			c := get[*resourcev1.ResourceClaim](t)(claims.Get(t.Context(), "p", metav1.GetOptions{}))
			if c.Status.Allocation == nil || len(c.Status.ReservedFor) == 0 {
				return false, c.Status
			}
			if p := get[*corev1.Pod](t)(world.kube.CoreV1().Pods(ns).Get(t.Context(), "p", metav1.GetOptions{})); p.Spec.NodeName != "" {
				t.Fatal("bound before the device is ready")
			}
			r := c.Status.Allocation.Devices.Results[0]
			c.Status.Devices = []resourcev1.AllocatedDeviceStatus{{Driver: r.Driver, Pool: r.Pool, Device: r.Device, Conditions: []metav1.Condition{
				{Type: condition, Status: metav1.ConditionTrue, Reason: "Told", LastTransitionTime: metav1.Now()}}}}
			_, err := claims.UpdateStatus(t.Context(), c, metav1.UpdateOptions{})
			if !apierrors.IsConflict(err) {
				must(t, err)
			}
			return err == nil, err
		})
	}
	tell("example.com/broken")
	eventually(t, func() (bool, any) {
		c := get[*resourcev1.ResourceClaim](t)(claims.Get(t.Context(), "p", metav1.GetOptions{}))
		return len(c.Status.Devices) == 0, c.Status // given back
	})
	tell("example.com/attached")
	bound(t, ns, "p")
}
