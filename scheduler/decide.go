package scheduler

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"

	"github.com/proa-dev/proa/scheduler/core"
	"github.com/proa-dev/proa/scheduler/queue"
)

// decide places one pod. The lock is held; what is returned runs without it.
func (s *Scheduler) decide(it *queue.Item, now time.Time) task {
	pod := it.Pod
	node, why := s.snapshot.Schedule(pod)
	if node == "" {
		return s.reject(it, why, now)
	}
	nominated := s.snapshot.Nominated(pod.UID())
	s.snapshot.PutPod(pod, node)
	s.binding[pod.UID()] = it
	s.joined()
	plan := s.snapshot.PlanVolumes(pod, node)
	if plan == nil {
		return func(ctx context.Context) { s.bind(ctx, pod.Object, node, nominated) }
	}
	s.snapshot.Promise(plan)
	p := &parked{object: pod.Object, plan: plan, nominated: nominated, deadline: now.Add(maxVolumeWait), selected: map[types.UID]bool{}}
	s.parked[pod.UID()] = p
	return func(ctx context.Context) { s.bindVolumes(ctx, pod.UID(), p) }
}

// reject sets a pod aside that fits no node, after making room for it if its
// priority allows.
func (s *Scheduler) reject(it *queue.Item, why *core.Diagnosis, now time.Time) task {
	pod, message := it.Pod, why.Message()
	var way *core.Preemption
	if message == core.NoNodes {
		s.snapshot.Denominate(pod.UID())
	} else {
		var reason string
		var settled bool
		if way, reason, settled = s.snapshot.Preempt(pod, why, s.budgetList()); way != nil {
			s.snapshot.Nominate(pod, way.Node)
			message += fmt.Sprintf(" preemption: found a potential placement for pod on node %v, preempting %d victims", way.Node, len(way.Victims))
			for _, other := range way.Displaced {
				s.snapshot.Denominate(other.UID())
			}
		} else {
			message += " preemption: " + reason
			if !settled {
				s.snapshot.Denominate(pod.UID())
			}
		}
	}
	nominated := s.snapshot.Nominated(pod.UID())
	s.queue.Fail(it, why.Failed, now)
	return func(ctx context.Context) {
		if way != nil && !s.evict(ctx, pod, way) {
			s.again(pod)
		}
		s.report(ctx, pod.Object, corev1.PodReasonUnschedulable, message, nominated)
	}
}

func (s *Scheduler) budgetList() []*policyv1.PodDisruptionBudget {
	return slices.Collect(maps.Values(s.budgets))
}

// again wakes one pod, whose victims could not be evicted.
func (s *Scheduler) again(pod *core.Pod) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wake(func(it *queue.Item) bool { return it.Pod.UID() == pod.UID() })
}

// bind writes a decision, or takes it back.
func (s *Scheduler) bind(ctx context.Context, obj *corev1.Pod, node, nominated string) {
	if err := s.writeBinding(ctx, obj, node); err != nil {
		if !s.forget(obj.UID, node, nominated) || ctx.Err() != nil {
			return
		}
		if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
			s.logger.Debug("pod changed before it was bound", "pod", ctrlKey(obj), "node", node, "error", err)
			return
		}
		s.report(ctx, obj, corev1.PodReasonSchedulerError, `running Bind plugin "DefaultBinder": `+err.Error(), nominated)
		return
	}
	s.mu.Lock()
	delete(s.binding, obj.UID)
	s.mu.Unlock()
	s.recorder.Eventf(obj, corev1.EventTypeNormal, "Scheduled", "Successfully assigned %v/%v to %v", obj.Namespace, obj.Name, node)
}

// forget undoes an assumed bind that failed and lets the pod try again after
// a rest. It returns false if the pod is gone, or bound all the same.
func (s *Scheduler) forget(uid types.UID, node, nominated string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.forgetLocked(uid, node, nominated)
}

func (s *Scheduler) forgetLocked(uid types.UID, node, nominated string) bool {
	it, pending := s.binding[uid]
	if !pending {
		return false // deleted meanwhile
	}
	delete(s.binding, uid)
	pod, _, ok := s.snapshot.Pod(uid)
	if !ok || pod.Object.Spec.NodeName != "" {
		return false // the write took effect although its answer was lost
	}
	s.snapshot.RemovePod(uid)
	s.freed(node)
	if obj := it.Pod.Object; obj.DeletionTimestamp != nil || len(obj.Spec.SchedulingGates) > 0 {
		return false
	}
	if nominated != "" {
		s.snapshot.Nominate(it.Pod, nominated)
	}
	s.queue.Retry(it, time.Now())
	s.wakeUp()
	return true
}
