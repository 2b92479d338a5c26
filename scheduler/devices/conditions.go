package devices

import (
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/dynamic-resource-allocation/resourceclaim"
	"k8s.io/utils/ptr"
)

// Limits bound how long pods take.
type Limits struct {
	// Filter is for the search on one node; zero is no limit.
	Filter time.Duration
	// Binding is how long devices may take to be ready once they are allocated.
	Binding time.Duration
}

// SetLimits sets those of the pods that name a scheduler.
func (d *Devices) SetLimits(scheduler string, l Limits) { d.limits[scheduler] = l }

// limitsOf returns those of a pod, upstream's if nobody set any.
func (d *Devices) limitsOf(pod *corev1.Pod) Limits {
	if l, ok := d.limits[pod.Spec.SchedulerName]; ok {
		return l
	}
	return Limits{Filter: 10 * time.Second, Binding: 10 * time.Minute}
}

// Awaited returns the claims of a pod, with what a plan allocates, that have
// devices which must be ready before the pod is bound, and when to give up.
func (d *Devices) Awaited(pod *corev1.Pod, plan *Plan, now time.Time) (names []types.NamespacedName, deadline time.Time) {
	if plan == nil && len(pod.Spec.ResourceClaims) == 0 && pod.Status.ExtendedResourceClaimStatus == nil {
		return nil, time.Time{}
	}
	found := map[types.NamespacedName]*resourcev1.AllocationResult{}
	for name := range resourceclaim.PodClaims(pod) {
		key := types.NamespacedName{Namespace: pod.Namespace, Name: name}
		if c := d.claims[key]; c != nil {
			found[key] = c.Status.Allocation
		}
	}
	if plan != nil {
		for _, r := range plan.Claims {
			if r.Allocation != nil {
				found[keyOf(r.Claim)] = r.Allocation
			}
		}
	}
	for name, a := range found {
		if !conditional(a) {
			continue
		}
		names = append(names, name)
		begin := now
		if a.AllocationTimestamp != nil {
			begin = a.AllocationTimestamp.Time
		}
		if end := begin.Add(d.limitsOf(pod).Binding); deadline.IsZero() || end.Before(deadline) {
			deadline = end
		}
	}
	slices.SortFunc(names, func(a, b types.NamespacedName) int { return strings.Compare(a.Name, b.Name) })
	return names, deadline
}

// Ready says whether all devices of a claim are; an error is why they will not
// be. A claim that is not known to have devices waits for them.
func (d *Devices) Ready(name types.NamespacedName) (bool, error) {
	if c := d.claims[name]; c != nil && c.Status.Allocation != nil {
		return ready(c)
	}
	return false, nil
}

// Reserved returns the claims that are reserved for a pod.
func (d *Devices) Reserved(pod *corev1.Pod) (list []*resourcev1.ResourceClaim) {
	for name := range resourceclaim.PodClaims(pod) {
		c := d.claims[types.NamespacedName{Namespace: pod.Namespace, Name: name}]
		if c != nil && resourceclaim.IsReservedForPod(pod, c, false) {
			list = append(list, c)
		}
	}
	return list
}

// Drivers returns those of a claim's devices, and how many of the devices of
// each have conditions.
func (d *Devices) Drivers(name types.NamespacedName) map[string]int {
	c := d.claims[name]
	if c == nil || c.Status.Allocation == nil {
		return nil
	}
	drivers := map[string]int{}
	for _, r := range c.Status.Allocation.Devices.Results {
		drivers[r.Driver] += min(len(r.BindingConditions), 1)
	}
	return drivers
}

// conditional says whether some device has to become ready.
func conditional(a *resourcev1.AllocationResult) bool {
	return a != nil && slices.ContainsFunc(a.Devices.Results, func(r resourcev1.DeviceRequestAllocationResult) bool { return len(r.BindingConditions) > 0 })
}

// ready is Ready of an allocated claim.
func ready(c *resourcev1.ResourceClaim) (bool, error) {
	all := true
	for i := range c.Status.Allocation.Devices.Results {
		r := &c.Status.Allocation.Devices.Results[i]
		if len(r.BindingConditions) == 0 {
			continue
		}
		conditions := statusOf(c, r)
		for _, name := range r.BindingFailureConditions {
			if f := meta.FindStatusCondition(conditions, name); f != nil && f.Status == metav1.ConditionTrue {
				return false, fmt.Errorf("device binding failed: claim=%s, reason=%s, message=%q", c.Name, f.Reason, f.Message)
			}
		}
		for _, name := range r.BindingConditions {
			all = all && meta.IsStatusConditionTrue(conditions, name)
		}
	}
	return all, nil
}

// statusOf returns what the driver says of an allocated device.
func statusOf(c *resourcev1.ResourceClaim, r *resourcev1.DeviceRequestAllocationResult) []metav1.Condition {
	for _, d := range c.Status.Devices {
		if d.Driver == r.Driver && d.Pool == r.Pool && d.Device == r.Device && ptr.Deref(d.ShareID, "") == string(ptr.Deref(r.ShareID, "")) {
			return d.Conditions
		}
	}
	return nil
}

// spoiled says whether an allocated claim is of no use to a pod: some device
// will not be ready, or not in time.
func (d *Devices) spoiled(pod *corev1.Pod, c *resourcev1.ResourceClaim) bool {
	a := c.Status.Allocation
	if !conditional(a) {
		return false
	}
	ok, err := ready(c)
	return err != nil || !ok && a.AllocationTimestamp != nil && time.Now().After(a.AllocationTimestamp.Add(d.limitsOf(pod).Binding))
}
