package api

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
)

// schedule creates a pod for the node.
func schedule(t *testing.T, ns, name string, spec corev1.PodSpec) *corev1.Pod {
	t.Helper()
	return get[*corev1.Pod](t)(world.kube.CoreV1().Pods(ns).Create(t.Context(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: spec}, metav1.CreateOptions{}))
}

func bound(t *testing.T, ns, name string) {
	t.Helper()
	eventually(t, func() (bool, any) {
		p := get[*corev1.Pod](t)(world.kube.CoreV1().Pods(ns).Get(t.Context(), name, metav1.GetOptions{}))
		return p.Spec.NodeName != "", p.Status
	})
}

// unschedulable waits for the scheduler's word.
func unschedulable(t *testing.T, ns, name, why string) {
	t.Helper()
	eventually(t, func() (bool, any) {
		p := get[*corev1.Pod](t)(world.kube.CoreV1().Pods(ns).Get(t.Context(), name, metav1.GetOptions{}))
		if p.Spec.NodeName != "" {
			t.Fatalf("%s is on %s", name, p.Spec.NodeName)
		}
		return slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
			return c.Type == corev1.PodScheduled && c.Reason == corev1.PodReasonUnschedulable && strings.Contains(c.Message, why)
		}), p.Status.Conditions
	})
}

func cpu(amount string) []corev1.Container {
	list := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(amount)}
	return []corev1.Container{{Name: "c", Image: "i", Resources: corev1.ResourceRequirements{Requests: list, Limits: list}}}
}

// SchedulerPredicates: resources, the node selector, host ports.
func TestPredicates(t *testing.T) {
	ns := namespace(t)
	node(t, ns, "2")
	schedule(t, ns, "fits", on(ns, corev1.PodSpec{Containers: cpu("1500m")}))
	bound(t, ns, "fits")
	schedule(t, ns, "too-much", on(ns, corev1.PodSpec{Containers: cpu("600m")}))
	unschedulable(t, ns, "too-much", "Insufficient cpu")
	must(t, world.kube.CoreV1().Pods(ns).Delete(t.Context(), "fits", metav1.DeleteOptions{}))
	bound(t, ns, "too-much") // there is room now

	nowhere := on(ns, corev1.PodSpec{})
	nowhere.NodeSelector["label"] = "nonempty"
	schedule(t, ns, "nowhere", nowhere)
	unschedulable(t, ns, "nowhere", "didn't match Pod's node affinity/selector")
	get[*corev1.Node](t)(world.kube.CoreV1().Nodes().Patch(t.Context(), ns, types.MergePatchType, []byte(`{"metadata":{"labels":{"label":"nonempty"}}}`), metav1.PatchOptions{}))
	bound(t, ns, "nowhere")

	port := func(ip string, protocol corev1.Protocol) corev1.PodSpec {
		return on(ns, corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i", Ports: []corev1.ContainerPort{{ContainerPort: 80, HostPort: 54322, Protocol: protocol, HostIP: ip}}}}})
	}
	schedule(t, ns, "port1", port("0.0.0.0", corev1.ProtocolTCP))
	bound(t, ns, "port1")
	schedule(t, ns, "port2", port("127.0.0.1", corev1.ProtocolTCP))
	unschedulable(t, ns, "port2", "didn't have free ports")
	schedule(t, ns, "port3", port("127.0.0.1", corev1.ProtocolUDP))
	bound(t, ns, "port3")
}

// "validates basic preemption works", "… by critical pod", "pod disruption
// condition is added to the preempted pod"
func TestPreemption(t *testing.T) {
	ns, ctx := namespace(t), t.Context()
	node(t, ns, "2")
	class := func(name string, value int32) string {
		name = ns + "-" + name
		get[*schedulingv1.PriorityClass](t)(world.kube.SchedulingV1().PriorityClasses().Create(ctx, &schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Value: value}, metav1.CreateOptions{}))
		t.Cleanup(func() {
			_ = world.kube.SchedulingV1().PriorityClasses().Delete(context.WithoutCancel(ctx), name, metav1.DeleteOptions{})
		})
		return name
	}
	low, high := class("low", 1), class("high", 1000)
	pods := world.kube.CoreV1().Pods(ns)
	get[*corev1.Pod](t)(pods.Create(ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "victim", Finalizers: []string{"example.com/test"}},
		Spec: on(ns, corev1.PodSpec{PriorityClassName: low, Containers: cpu("1")})}, metav1.CreateOptions{}))
	bound(t, ns, "victim")
	schedule(t, ns, "medium", on(ns, corev1.PodSpec{PriorityClassName: high, Containers: cpu("1")}))
	bound(t, ns, "medium")
	schedule(t, ns, "preemptor", on(ns, corev1.PodSpec{PriorityClassName: high, Containers: cpu("1")}))
	eventually(t, func() (bool, any) {
		p := get[*corev1.Pod](t)(pods.Get(ctx, "victim", metav1.GetOptions{}))
		return p.DeletionTimestamp != nil && slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
			return c.Type == corev1.DisruptionTarget && c.Status == corev1.ConditionTrue && c.Reason == corev1.PodReasonPreemptionByScheduler
		}), p.Status.Conditions
	})
	get[*corev1.Pod](t)(pods.Patch(ctx, "victim", types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{}))
	bound(t, ns, "preemptor")
	if p := get[*corev1.Pod](t)(pods.Get(ctx, "medium", metav1.GetOptions{})); p.DeletionTimestamp != nil {
		t.Error("an equal was preempted")
	}
	schedule(t, ns, "critical", on(ns, corev1.PodSpec{PriorityClassName: "system-cluster-critical", Containers: cpu("1")}))
	bound(t, ns, "critical")
}

// "verify PriorityClass endpoints can be operated with different HTTP methods"
func TestPriorityClasses(t *testing.T) {
	ns, ctx := namespace(t), t.Context()
	api := world.kube.SchedulingV1().PriorityClasses()
	for i := range 2 {
		name := fmt.Sprintf("%s-p%d", ns, i)
		pc := get[*schedulingv1.PriorityClass](t)(api.Create(ctx, &schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Value: int32(i + 1)}, metav1.CreateOptions{}))
		t.Cleanup(func() { must(t, api.Delete(context.WithoutCancel(ctx), name, metav1.DeleteOptions{})) })
		pc.Description = "updated"
		get[*schedulingv1.PriorityClass](t)(api.Update(ctx, pc, metav1.UpdateOptions{}))
		if _, err := api.Patch(ctx, name, types.JSONPatchType, []byte(`[{"op":"replace","path":"/value","value":77}]`), metav1.PatchOptions{}); !apierrors.IsInvalid(err) {
			t.Errorf("the value was patched: %v", err)
		}
		pc.PreemptionPolicy = ptr.To(corev1.PreemptNever)
		pc.ResourceVersion = ""
		if _, err := api.Update(ctx, pc, metav1.UpdateOptions{}); !apierrors.IsInvalid(err) {
			t.Errorf("the policy was updated: %v", err)
		}
	}
	if err := api.Delete(ctx, "system-node-critical", metav1.DeleteOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("a system class was deleted: %v", err)
	}
}
