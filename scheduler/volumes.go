package scheduler

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/component-helpers/storage/volume"
	ctrl "sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proa-dev/proa/scheduler/core"
	"github.com/proa-dev/proa/scheduler/devices"
	"github.com/proa-dev/proa/scheduler/queue"
)

// parked is a pod that has a node and waits for its volumes, of which there may
// be none, or until its devices are ready.
type parked struct {
	item     *queue.Item
	pod      *core.Pod
	plan     *core.VolumePlan
	deadline time.Time
	written  bool // the plan is, and only events are awaited
	// selected says that the choice of node has been seen on a claim. When it
	// is gone later, the provisioner gave the claim back.
	selected map[types.UID]bool
	claims   *devices.Plan // what is written of resource claims; nil: nothing
	waits    bool          // for devices
	devices  awaited
}

func (s *Scheduler) onClaim(obj *corev1.PersistentVolumeClaim) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.snapshot.SetClaim(obj)
	for uid, p := range s.parked {
		s.followClaim(uid, p, obj)
	}
	name := types.NamespacedName{Namespace: obj.Namespace, Name: obj.Name}
	s.wake(eventClaim, func(it *queue.Item) bool { return dependsOnVolumes(it) && it.Pod.Claims(name) })
}

func (s *Scheduler) onClaimGone(obj *corev1.PersistentVolumeClaim) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.snapshot.RemoveClaim(types.NamespacedName{Namespace: obj.Namespace, Name: obj.Name})
	for uid, p := range s.parked {
		for _, c := range p.plan.Claims() {
			if c.UID == obj.UID {
				s.giveUp(uid, p, preBind+fmt.Sprintf("persistentvolumeclaim %q not found", obj.Name))
			}
		}
	}
}

func (s *Scheduler) onVolume(obj *corev1.PersistentVolume) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.snapshot.SetVolume(obj)
	s.wake(eventVolume, dependsOnVolumes)
}

func (s *Scheduler) onVolumeGone(obj *corev1.PersistentVolume) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.snapshot.RemoveVolume(obj.Name, false)
}

func (s *Scheduler) onClass(obj *storagev1.StorageClass) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.snapshot.SetClass(obj)
	s.wake(eventClass, dependsOnVolumes)
}

func (s *Scheduler) onClassGone(obj *storagev1.StorageClass) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.snapshot.RemoveClass(obj.Name)
}

func (s *Scheduler) onDriver(obj *storagev1.CSIDriver) {
	s.storageChanged(func() { s.snapshot.SetDriver(obj) })
}

func (s *Scheduler) onDriverGone(obj *storagev1.CSIDriver) {
	s.storageChanged(func() { s.snapshot.RemoveDriver(obj.Name) })
}

func (s *Scheduler) onStorageNode(obj *storagev1.CSINode) {
	s.storageChanged(func() { s.snapshot.SetStorageNode(obj) })
}

func (s *Scheduler) onStorageNodeGone(obj *storagev1.CSINode) {
	s.storageChanged(func() { s.snapshot.RemoveStorageNode(obj.Name) })
}

func (s *Scheduler) onCapacity(obj *storagev1.CSIStorageCapacity) {
	s.storageChanged(func() { s.snapshot.SetCapacity(obj) })
}

func (s *Scheduler) onCapacityGone(obj *storagev1.CSIStorageCapacity) {
	s.storageChanged(func() { s.snapshot.RemoveCapacity(types.NamespacedName{Namespace: obj.Namespace, Name: obj.Name}) })
}

func (s *Scheduler) onAttachment(obj *storagev1.VolumeAttachment) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.snapshot.SetAttachment(obj) // it takes room, so it helps nobody
}

func (s *Scheduler) onAttachmentGone(obj *storagev1.VolumeAttachment) {
	s.storageChanged(func() { s.snapshot.RemoveAttachment(obj) })
}

// storageChanged notes a change that may help pods with volumes.
func (s *Scheduler) storageChanged(note func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	note()
	s.wake(eventStorage, dependsOnVolumes)
}

func dependsOnVolumes(it *queue.Item) bool { return it.Failed&volumeFilters != 0 }

const volumeFilters core.FilterSet = 1<<core.VolumeBinding | 1<<core.VolumeZone | 1<<core.VolumeRestrictions | 1<<core.NodeVolumeLimits

// followClaim moves a parked pod on when a claim of it changed.
func (s *Scheduler) followClaim(uid types.UID, p *parked, claim *corev1.PersistentVolumeClaim) {
	for _, c := range p.plan.Provision {
		if c.UID != claim.UID {
			continue
		}
		switch node, ok := claim.Annotations[volume.AnnSelectedNode]; {
		case ok && node == p.plan.Node:
			p.selected[c.UID] = true
		case p.selected[c.UID] && !core.FullyBound(claim):
			s.giveUp(uid, p, preBind+fmt.Sprintf("provisioning failed for PVC %q", claim.Name))
			return
		}
	}
	s.unpark(uid, p)
}

// unpark lets the bind be written once every claim has its volume and devices
// are ready.
func (s *Scheduler) unpark(uid types.UID, p *parked) {
	if !p.written || !s.devicesReady(uid, p) || !s.snapshot.ClaimsBound(p.plan) {
		return
	}
	delete(s.parked, uid)
	s.later(uid, func(ctx context.Context) { s.bind(ctx, p.item, p.pod, p.plan.Node) })
}

// giveUp schedules a parked pod anew, and says why.
func (s *Scheduler) giveUp(uid types.UID, p *parked, why string) {
	delete(s.parked, uid)
	s.snapshot.Withdraw(p.plan)
	again := s.forgetLocked(uid, p.plan.Node)
	if !again && !p.waits {
		return
	}
	s.later(uid, func(ctx context.Context) {
		if p.waits {
			s.unreserve(ctx, p.pod.Object, p.claims)
		}
		if again {
			s.report(ctx, p.pod, corev1.PodReasonSchedulerError, why, "")
		}
	})
}

const preBind = `running PreBind plugin "VolumeBinding": binding volumes: `

// expire gives up on the pods whose volumes or devices take too long, and
// returns when the next would.
func (s *Scheduler) expire(now time.Time) (next time.Time) {
	for uid, p := range s.parked {
		deadline, devices := s.due(p)
		if !now.Before(deadline) {
			s.tooLate(uid, p, devices)
		} else if next.IsZero() || deadline.Before(next) {
			next = deadline
		}
	}
	return next
}

// bindVolumes writes a plan. The pod is bound when events tell that the volume
// controller, the provisioners and the drivers of devices have done their part.
func (s *Scheduler) bindVolumes(ctx context.Context, uid types.UID, p *parked) {
	begin := time.Now()
	err := s.writePlan(ctx, p.plan)
	status := statusSuccess
	if err != nil {
		status = statusError
	}
	s.counts.point(pointPreBind, status, p.pod.Profile().Name, begin)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.parked[uid] != p {
		return // the pod is gone, or was given up
	}
	if err != nil {
		if ctx.Err() == nil {
			s.giveUp(uid, p, preBind+err.Error())
		}
		return
	}
	p.written = true
	if p.waits {
		s.await(p)
	}
	s.unpark(uid, p)
}

func (s *Scheduler) writePlan(ctx context.Context, plan *core.VolumePlan) error {
	for _, m := range plan.Bind {
		pv, dirty, err := volume.GetBindVolumeToClaim(m.Volume, m.Claim)
		if err != nil {
			return err
		}
		if dirty {
			if err := s.cluster.Client().Update(ctx, pv); err != nil {
				return err
			}
		}
	}
	for _, c := range plan.Provision {
		if c.Annotations[volume.AnnSelectedNode] == plan.Node {
			continue
		}
		body, err := json.Marshal(map[string]any{"metadata": map[string]any{
			"uid": c.UID, "annotations": map[string]string{volume.AnnSelectedNode: plan.Node},
		}})
		if err != nil {
			return fmt.Errorf("encode annotation: %w", err)
		}
		claim := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: c.Namespace, Name: c.Name}}
		if err := s.cluster.Client().Patch(ctx, claim, ctrl.RawPatch(types.MergePatchType, body)); err != nil {
			if apierrors.IsNotFound(err) {
				return fmt.Errorf("persistentvolumeclaim %q not found", c.Name)
			}
			return err
		}
	}
	return nil
}
