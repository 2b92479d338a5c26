package scheduler

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	ctrl "sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proa-dev/proa/scheduler/core"
	"github.com/proa-dev/proa/scheduler/devices"
	"github.com/proa-dev/proa/scheduler/queue"
)

// classChanged notes a device class. Pods that no node had an extended resource
// for may be given devices for it from now on.
func (s *Scheduler) classChanged(note func() (remapped bool)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	remapped := note()
	if remapped {
		s.snapshot.Remapped()
	}
	s.wake(eventDeviceClass, func(it *queue.Item) bool {
		return dependsOnDevices(it) || remapped && it.Failed.Has(core.NodeResourcesFit) && s.snapshot.WantsDevices(it.Pod)
	})
}

// grant writes one reservation of a pod. The claim for extended resources is
// made first, and last the pod is told of it.
func (s *Scheduler) grant(ctx context.Context, pod *corev1.Pod, r *devices.Reservation) error {
	if r.Mappings == nil {
		return s.reserve(ctx, pod, r)
	}
	claim := r.Claim.DeepCopy()
	claim.UID = ""
	if err := s.cluster.Client().Create(ctx, claim); err != nil {
		return fmt.Errorf("create claim for extended resources %s/%s: %w", claim.Namespace, claim.GenerateName, err)
	}
	s.mu.Lock()
	s.devices.Made(r, claim)
	s.mu.Unlock()
	if err := s.reserve(ctx, pod, r); err != nil {
		return err
	}
	err := s.patchStatus(ctx, pod, map[string]any{"extendedResourceClaimStatus": &corev1.PodExtendedResourceClaimStatus{
		RequestMappings: r.Mappings, ResourceClaimName: r.Claim.Name,
	}})
	if err != nil {
		return fmt.Errorf("update pod %s ExtendedResourceClaimStatus: %w", ctrlKey(pod), err)
	}
	return nil
}

// abandon removes the claim that a plan made for extended resources: whether its
// devices suit the next attempt nobody knows.
func (s *Scheduler) abandon(ctx context.Context, plan *devices.Plan) {
	for i := range plan.Claims {
		if r := &plan.Claims[i]; r.Mappings != nil && r.Claim.Name != "" {
			s.discard(ctx, r.Claim)
		}
	}
}

// discard deletes a claim that was made for a pod's extended resources. If it
// changed meanwhile, it is found again by the pod's next attempt.
func (s *Scheduler) discard(ctx context.Context, claim *resourcev1.ResourceClaim) {
	err := s.unprotect(ctx, claim)
	if err == nil {
		err = s.cluster.Client().Delete(ctx, claim, ctrl.Preconditions{UID: &claim.UID})
	}
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		s.logger.Warn("delete claim for extended resources", "claim", claim.Namespace+"/"+claim.Name, "error", err)
	}
}

// unprotect takes off the finalizer that keeps a claim with devices.
func (s *Scheduler) unprotect(ctx context.Context, claim *resourcev1.ResourceClaim) error {
	i := slices.Index(claim.Finalizers, resourcev1.Finalizer)
	if i < 0 {
		return nil
	}
	bare := claim.DeepCopy()
	bare.Finalizers = slices.Delete(bare.Finalizers, i, i+1)
	return s.cluster.Client().Update(ctx, bare)
}
