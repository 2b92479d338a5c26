package devicetainteviction_test

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proa-dev/proa/controllers/devicetainteviction"
	"github.com/proa-dev/proa/controllers/internal/clustertest"
)

const (
	noExecute  = resourcev1.DeviceTaintEffectNoExecute
	noSchedule = resourcev1.DeviceTaintEffectNoSchedule
	none       = resourcev1.DeviceTaintEffectNone
)

// use makes a pod on a node, and the claim with the device that it uses.
func use(namespace, name, device string, tolerations ...resourcev1.DeviceToleration) []client.Object {
	uid := types.UID("uid-" + name)
	return []client.Object{
		&corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, UID: uid},
			Spec:       corev1.PodSpec{NodeName: "n", ResourceClaims: []corev1.PodResourceClaim{{Name: "c", ResourceClaimName: ptr.To(name)}}},
		},
		&resourcev1.ResourceClaim{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
			Status: resourcev1.ResourceClaimStatus{
				ReservedFor: []resourcev1.ResourceClaimConsumerReference{{Resource: "pods", Name: name, UID: uid}},
				Allocation: &resourcev1.AllocationResult{Devices: resourcev1.DeviceAllocationResult{Results: []resourcev1.DeviceRequestAllocationResult{
					{Request: "r", Driver: "d", Pool: "p", Device: device, Tolerations: tolerations},
				}}},
			},
		},
	}
}

func slice(name string, generation int64, devices ...resourcev1.Device) *resourcev1.ResourceSlice {
	return &resourcev1.ResourceSlice{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: resourcev1.ResourceSliceSpec{
		Driver: "d", Pool: resourcev1.ResourcePool{Name: "p", Generation: generation, ResourceSliceCount: 1}, Devices: devices}}
}

func device(name string, taints ...resourcev1.DeviceTaint) resourcev1.Device {
	return resourcev1.Device{Name: name, Taints: taints}
}

func taint(effect resourcev1.DeviceTaintEffect) resourcev1.DeviceTaint {
	return resourcev1.DeviceTaint{Key: "sick", Value: "very", Effect: effect, TimeAdded: ptr.To(metav1.Now())}
}

func rule(name string, effect resourcev1.DeviceTaintEffect, selector *resourcev1.DeviceTaintSelector) *resourcev1.DeviceTaintRule {
	return &resourcev1.DeviceTaintRule{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: resourcev1.DeviceTaintRuleSpec{DeviceSelector: selector, Taint: taint(effect)}}
}

func tolerates(effect resourcev1.DeviceTaintEffect, seconds *int64) resourcev1.DeviceToleration {
	return resourcev1.DeviceToleration{Key: "sick", Operator: resourcev1.DeviceTolerationOpExists, Effect: effect, TolerationSeconds: seconds}
}

func start(t *testing.T, objs ...client.Object) *clustertest.Cluster {
	t.Helper()
	c := clustertest.New(t, objs...)
	l, err := devicetainteviction.New(c.Env(nil))
	c.Do(err)
	c.Run(l)
	time.Sleep(time.Second) // caches are asked from time to time whether they are filled
	return c
}

func left(t *testing.T, c *clustertest.Cluster) string {
	t.Helper()
	synctest.Wait()
	var list corev1.PodList
	c.Do(c.API.List(t.Context(), &list))
	var names []string
	for _, p := range list.Items {
		names = append(names, p.Name)
	}
	slices.Sort(names)
	return fmt.Sprint(names)
}

// status is the condition of a rule: status, reason and message.
func status(t *testing.T, c *clustertest.Cluster, name string) string {
	t.Helper()
	synctest.Wait()
	var r resourcev1.DeviceTaintRule
	if !c.Get(&r, "", name) {
		return "gone"
	}
	cond := meta.FindStatusCondition(r.Status.Conditions, resourcev1.DeviceTaintConditionEvictionInProgress)
	if cond == nil {
		return "untold"
	}
	return fmt.Sprintf("%s %s: %s", cond.Status, cond.Reason, cond.Message)
}

func want(t *testing.T, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %q, want %q", what, got, want)
	}
}

func TestTolerations(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		objs := slices.Concat(
			use("ns", "plain", "one"), use("ns", "ever", "one", tolerates(noExecute, nil)), use("ns", "any", "one", tolerates("", nil)),
			use("ns", "other", "one", tolerates(noSchedule, nil)), use("ns", "soon", "one", tolerates(noExecute, ptr.To[int64](5))),
			use("ns", "shortest", "one", tolerates(noExecute, ptr.To[int64](60)), tolerates(noExecute, ptr.To[int64](5))),
			use("ns", "negative", "one", tolerates(noExecute, ptr.To[int64](-1))), use("ns", "later", "one", tolerates(noExecute, ptr.To[int64](60))),
			use("ns", "elsewhere", "two"))
		c := start(t, append(objs, slice("s", 1, device("one"), device("two")))...)
		want(t, "no taint", left(t, c), "[any elsewhere ever later negative other plain shortest soon]")
		tainted := func(effect resourcev1.DeviceTaintEffect) {
			t.Helper()
			s := &resourcev1.ResourceSlice{}
			c.Get(s, "", "s")
			s.Spec.Devices[0].Taints = []resourcev1.DeviceTaint{taint(effect)}
			c.Do(c.API.Update(t.Context(), s))
		}
		tainted(noSchedule)
		want(t, "NoSchedule", left(t, c), "[any elsewhere ever later negative other plain shortest soon]")
		tainted(noExecute)
		want(t, "NoExecute", left(t, c), "[any elsewhere ever later shortest soon]")
		time.Sleep(6 * time.Second)
		want(t, "after six seconds", left(t, c), "[any elsewhere ever later]")
		if e := "Normal DeviceTaintManagerEviction Marking for deletion"; !slices.Contains(c.Events(), e) {
			t.Errorf("events %q", c.Events())
		}
		tainted(none)
		time.Sleep(time.Hour)
		want(t, "the taint is gone", left(t, c), "[any elsewhere ever later]")
		if e := "Normal DeviceTaintManagerEviction Cancelling deletion"; !slices.Contains(c.Events(), e) {
			t.Errorf("events %q", c.Events())
		}
	})
}

// Slices of an older generation do not count, and neither do claims of others.
func TestWhoseDevice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		objs := slices.Concat(use("ns", "p", "one"), use("ns", "unscheduled", "two"), use("ns", "stranger", "two"))
		objs[2].(*corev1.Pod).Spec.NodeName = ""
		objs[5].(*resourcev1.ResourceClaim).Status.ReservedFor[0].UID = "another"
		c := start(t, append(objs, slice("new", 2, device("one"), device("two", taint(noExecute))), slice("old", 1, device("one", taint(noExecute))))...)
		want(t, "pods", left(t, c), "[p stranger unscheduled]")
		s := &resourcev1.ResourceSlice{}
		c.Get(s, "", "new")
		c.Do(c.API.Delete(t.Context(), s))
		want(t, "the old slice is the newest", left(t, c), "[stranger unscheduled]")
	})
}

func TestRules(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		minute := tolerates(noExecute, ptr.To[int64](60))
		objs := slices.Concat(use("a", "at-once", "one"), use("a", "later", "one", minute), use("b", "too", "two", minute))
		c := start(t, append(objs, slice("s", 1, device("one"), device("two"), device("three")))...)
		c.Do(c.API.Create(t.Context(), rule("r", none, &resourcev1.DeviceTaintSelector{Driver: ptr.To("d")})))
		want(t, "tried", status(t, c, "r"), "False NoEffect: 3 published devices selected. 3 allocated devices selected. 3 pods would be evicted in 2 different namespaces "+
			"if the effect was NoExecute. This information will not be updated again. Recreate the DeviceTaintRule to trigger an update.")
		want(t, "nobody goes", left(t, c), "[at-once later too]")

		r := &resourcev1.DeviceTaintRule{}
		c.Get(r, "", "r")
		r.Spec.Taint = taint(noExecute)
		c.Do(c.API.Update(t.Context(), r))
		want(t, "who tolerates it stays", left(t, c), "[later too]")
		time.Sleep(11 * time.Second)
		want(t, "under way", status(t, c, "r"), "True PodsPendingEviction: 2 pods need to be evicted in 2 different namespaces. 1 pod evicted since starting the controller.")
		time.Sleep(time.Minute)
		want(t, "all are gone", left(t, c), "[]")
		time.Sleep(11 * time.Second)
		want(t, "done", status(t, c, "r"), "False Completed: 3 pods evicted since starting the controller.")

		c.Do(c.API.Create(t.Context(), rule("keep", noSchedule, &resourcev1.DeviceTaintSelector{})))
		want(t, "another effect", status(t, c, "keep"), "False OtherEffect: Eviction only happens for the NoExecute effect.")
		c.Do(c.API.Create(t.Context(), rule("idle", noExecute, &resourcev1.DeviceTaintSelector{Device: ptr.To("three")})))
		want(t, "nobody has it", status(t, c, "idle"), "False NotStarted: ")
	})
}

// A rule that is gone in time evicts nobody, and one without a selector never.
func TestRuleRemovedInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		objs := append(use("ns", "p", "one", tolerates(noExecute, ptr.To[int64](60))), slice("s", 1, device("one")))
		c := start(t, append(objs, rule("r", noExecute, &resourcev1.DeviceTaintSelector{Pool: ptr.To("p")}), rule("nothing", noExecute, nil))...)
		time.Sleep(30 * time.Second)
		want(t, "under way", status(t, c, "r"), "True PodsPendingEviction: 1 pod needs to be evicted in 1 namespace.")
		r := &resourcev1.DeviceTaintRule{}
		c.Get(r, "", "r")
		c.Do(c.API.Delete(t.Context(), r))
		time.Sleep(time.Hour)
		want(t, "pods", left(t, c), "[p]")
		want(t, "events", fmt.Sprint(c.Events()), "[Normal DeviceTaintManagerEviction Cancelling deletion]")
	})
}
