package scheduler

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proa-dev/proa/scheduler/core"
	"github.com/proa-dev/proa/scheduler/devices"
	"github.com/proa-dev/proa/scheduler/queue"
)

func (s *Scheduler) onResourceClaim(obj *resourcev1.ResourceClaim) {
	s.devicesChanged(func() { s.devices.SetClaim(obj); s.followDevices(obj) })
}

func (s *Scheduler) onResourceClaimGone(obj *resourcev1.ResourceClaim) {
	s.devicesChanged(func() { s.devices.RemoveClaim(obj); s.missDevices(obj) })
}

func (s *Scheduler) onSlice(obj *resourcev1.ResourceSlice) {
	s.devicesChanged(func() { s.devices.SetSlice(obj) })
}

func (s *Scheduler) onSliceGone(obj *resourcev1.ResourceSlice) {
	s.devicesChanged(func() { s.devices.RemoveSlice(obj.Name) })
}

func (s *Scheduler) onDeviceClass(obj *resourcev1.DeviceClass) {
	s.classChanged(func() bool { return s.devices.SetClass(obj) })
}

func (s *Scheduler) onDeviceClassGone(obj *resourcev1.DeviceClass) {
	s.classChanged(func() bool { return s.devices.RemoveClass(obj.Name) })
}

func (s *Scheduler) onTaintRule(obj *resourcev1.DeviceTaintRule) {
	s.taintsChanged(func() bool { return s.devices.SetRule(obj) })
}

func (s *Scheduler) onTaintRuleGone(obj *resourcev1.DeviceTaintRule) {
	s.taintsChanged(func() bool { return s.devices.RemoveRule(obj.Name) })
}

func (s *Scheduler) taintsChanged(note func() bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if note() {
		s.wake(eventSlices, dependsOnDevices)
	}
}

func (s *Scheduler) devicesChanged(note func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	note()
	s.wake(eventDevices, dependsOnDevices)
}

func dependsOnDevices(it *queue.Item) bool { return it.Failed.Has(core.DynamicResources) }

// withClaims writes the reservations of a pod's resource claims, and then what
// follows. When they cannot be written the pod is scheduled anew.
func (s *Scheduler) withClaims(pod *core.Pod, node string, plan *devices.Plan, then task) task {
	return func(ctx context.Context) {
		for i := range plan.Claims {
			if err := s.grant(ctx, pod.Object, &plan.Claims[i]); err != nil {
				s.abandon(ctx, plan)
				s.mu.Lock()
				s.devices.Withdraw(plan)
				s.wake(eventDevices, dependsOnDevices)
				s.leave(pod.UID())
				again := s.forgetLocked(pod.UID(), node)
				s.mu.Unlock()
				if again && ctx.Err() == nil {
					s.report(ctx, pod, corev1.PodReasonSchedulerError, preBindDevices+err.Error(), "")
				}
				return
			}
		}
		then(ctx)
	}
}

// reserve writes that a pod uses a claim, and which devices the claim has. The
// finalizer comes first: a claim with devices must not vanish.
func (s *Scheduler) reserve(ctx context.Context, pod *corev1.Pod, r *devices.Reservation) error {
	claim := r.Claim.DeepCopy()
	name := claim.Namespace + "/" + claim.Name
	if r.Allocation != nil {
		if !slices.Contains(claim.Finalizers, resourcev1.Finalizer) {
			claim.Finalizers = append(claim.Finalizers, resourcev1.Finalizer)
			if err := s.cluster.Client().Update(ctx, claim); err != nil {
				return fmt.Errorf("add finalizer to claim %s: %w", name, err)
			}
		}
		claim.Status.Allocation = r.Allocation.DeepCopy() // which others look at
		claim.Status.Allocation.AllocationTimestamp = ptr.To(metav1.Now())
	}
	claim.Status.ReservedFor = append(claim.Status.ReservedFor, resourcev1.ResourceClaimConsumerReference{Resource: "pods", Name: pod.Name, UID: pod.UID})
	if err := s.cluster.Client().SubResource("status").Update(ctx, claim); err != nil {
		return fmt.Errorf("add reservation to claim %s: %w", name, err)
	}
	r.Claim = claim
	return nil
}

// release gives the devices of an idle claim back, so that a pod which fits on
// no node with them may get others.
func (s *Scheduler) release(ctx context.Context, claim *resourcev1.ResourceClaim) {
	body, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": claim.UID, "resourceVersion": claim.ResourceVersion},
		"status":   map[string]any{"allocation": nil, "reservedFor": nil, "devices": nil},
	})
	if err != nil {
		s.logger.Error("encode status of claim", "error", err)
		return
	}
	bare := &resourcev1.ResourceClaim{}
	bare.Namespace, bare.Name = claim.Namespace, claim.Name
	err = s.cluster.Client().SubResource("status").Patch(ctx, bare, ctrl.RawPatch(types.MergePatchType, body))
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		s.logger.Warn("release devices of claim", "claim", claim.Namespace+"/"+claim.Name, "error", err)
	}
}
