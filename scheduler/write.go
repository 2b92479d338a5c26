package scheduler

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	ctrl "sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proa-dev/proa/scheduler/core"
)

// maxNote is the length of an event's message.
const maxNote = 1024

func ctrlKey(obj *corev1.Pod) string { return obj.Namespace + "/" + obj.Name }

// inOrder makes a task wait for the one before it that concerns the same pod,
// lest an old report overwrite what a bind says. The lock is held, and the
// task is begun after those that it waits for.
func (s *Scheduler) inOrder(uid types.UID, do task) task {
	before, done := s.writing[uid], make(chan struct{})
	s.writing[uid] = done
	return func(ctx context.Context) {
		defer close(done)
		if before != nil {
			<-before
		}
		do(ctx)
	}
}

// later has a task done that an informer or another task wants, after those that
// concern the same pod already. The lock is held.
func (s *Scheduler) later(uid types.UID, do task) {
	if first := s.chores[uid]; first != nil {
		second := do
		do = func(ctx context.Context) { first(ctx); second(ctx) }
	}
	s.chores[uid] = do
	s.wakeUp()
}

// bare is the pod by name, for calls that write their answer into it.
func bare(obj *corev1.Pod) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: obj.Namespace, Name: obj.Name, UID: obj.UID}}
}

// recorder is that of the pod's profile.
func (s *Scheduler) recorder(obj *corev1.Pod) record.EventRecorder {
	return s.profiles[obj.Spec.SchedulerName].recorder
}

func (s *Scheduler) writeBinding(ctx context.Context, obj *corev1.Pod, node string) error {
	for _, e := range s.extenders {
		if e.Binds() && e.Wants(obj) {
			return e.Bind(ctx, obj, node)
		}
	}
	return s.cluster.Client().SubResource("binding").Create(ctx, bare(obj), &corev1.Binding{
		ObjectMeta: metav1.ObjectMeta{Namespace: obj.Namespace, Name: obj.Name, UID: obj.UID},
		Target:     corev1.ObjectReference{Kind: "Node", Name: node},
	})
}

// announce says on a pod where it is about to be bound, before work begins that
// takes a while: others keep the node for it meanwhile, and whoever takes over
// from this scheduler chooses that node again.
func (s *Scheduler) announce(pod *core.Pod, node string, then task) task {
	return func(ctx context.Context) {
		if obj := pod.Object; obj.Status.NominatedNodeName != node {
			if err := s.patchStatus(ctx, obj, map[string]any{"nominatedNodeName": node}); err != nil {
				s.logger.Warn("nominate pod", "pod", ctrlKey(obj), "node", node, "error", err)
			}
		}
		then(ctx)
	}
}

// report tells the user why a pod waits: an event, and the condition if it
// says something else so far. After an error there is no nomination, though one
// may have been announced since the pod was read.
func (s *Scheduler) report(ctx context.Context, pod *core.Pod, reason, message, nominated string) {
	obj := pod.Object
	s.recorder(obj).Event(obj, corev1.EventTypeWarning, "FailedScheduling", note(message))
	status := map[string]any{}
	if c := changedCondition(obj, corev1.PodScheduled, corev1.ConditionFalse, reason, message); c != nil {
		status["conditions"] = []*corev1.PodCondition{c}
	}
	if obj.Status.NominatedNodeName != nominated || reason == corev1.PodReasonSchedulerError {
		status["nominatedNodeName"] = nominated
		if nominated == "" {
			status["nominatedNodeName"] = nil
		}
	}
	if err := s.patchStatus(ctx, obj, status); err != nil {
		s.logger.Warn("update pod status", "pod", ctrlKey(obj), "error", err)
	}
}

// reportGated says on the pod that it waits for its gates.
func (s *Scheduler) reportGated(obj *corev1.Pod) {
	c := changedCondition(obj, corev1.PodScheduled, corev1.ConditionFalse, corev1.PodReasonSchedulingGated,
		"Scheduling is blocked due to non-empty scheduling gates")
	if c == nil {
		return
	}
	s.later(obj.UID, func(ctx context.Context) {
		if err := s.patchStatus(ctx, obj, map[string]any{"conditions": []*corev1.PodCondition{c}}); err != nil {
			s.logger.Warn("update pod status", "pod", ctrlKey(obj), "error", err)
		}
	})
}

func note(message string) string {
	if len(message) <= maxNote {
		return message
	}
	const more = " ..."
	return message[:maxNote-len(more)] + more
}

// changedCondition returns the condition to write, nil when it stands already.
func changedCondition(obj *corev1.Pod, kind corev1.PodConditionType, status corev1.ConditionStatus, reason, message string) *corev1.PodCondition {
	c := &corev1.PodCondition{
		Type: kind, Status: status, Reason: reason, Message: message,
		ObservedGeneration: obj.Generation,
		LastTransitionTime: metav1.NewTime(time.Now()),
	}
	i := slices.IndexFunc(obj.Status.Conditions, func(o corev1.PodCondition) bool { return o.Type == kind })
	if i < 0 {
		return c
	}
	old := &obj.Status.Conditions[i]
	if old.Status == status {
		c.LastTransitionTime = old.LastTransitionTime
		if old.Reason == reason && old.Message == message && old.ObservedGeneration == obj.Generation {
			return nil
		}
	}
	return c
}

// patchStatus merges into the status of this very pod, not of one that took
// its name. A pod that is gone needs nothing.
func (s *Scheduler) patchStatus(ctx context.Context, obj *corev1.Pod, status map[string]any) error {
	if len(status) == 0 {
		return nil
	}
	body, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": obj.UID},
		"status":   status,
	})
	if err != nil {
		return fmt.Errorf("encode status of %s: %w", ctrlKey(obj), err)
	}
	err = s.cluster.Client().SubResource("status").Patch(ctx, bare(obj), ctrl.RawPatch(types.StrategicMergePatchType, body))
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	return err
}

// evict makes room for a pod. It returns false if a victim could not be
// evicted: the pod should then not wait for it.
func (s *Scheduler) evict(ctx context.Context, pod *core.Pod, way *core.Preemption) bool {
	ok := true
	for _, victim := range way.Victims {
		if victim.Object.DeletionTimestamp != nil || s.evictParked(pod, victim, way.Node) {
			continue
		}
		if err := s.evictOne(ctx, pod, victim.Object, way.Node); err != nil {
			s.logger.Warn("preempt pod", "victim", ctrlKey(victim.Object), "for", ctrlKey(pod.Object), "error", err)
			s.mu.Lock()
			s.snapshot.Leaves(victim.UID(), false)
			s.mu.Unlock()
			ok = false
		}
	}
	return ok
}

// displace withdraws the nominations of lower pods to a node that is cleared,
// and lets them look for another. The lock is held.
func (s *Scheduler) displace(way *core.Preemption) {
	for _, other := range way.Displaced {
		s.snapshot.Denominate(other.UID())
		s.later(other.UID(), func(ctx context.Context) {
			if err := s.patchStatus(ctx, other.Object, map[string]any{"nominatedNodeName": nil}); err != nil {
				s.logger.Warn("withdraw nomination", "pod", ctrlKey(other.Object), "error", err)
			}
		})
		if a, ok := s.away[other.UID()]; ok {
			a.missed = true // it tries again when it is back
		}
		s.again(other.UID())
	}
}

// evictParked takes back a decision that waits for volumes or devices: that pod
// runs nowhere yet, so it need not be deleted.
func (s *Scheduler) evictParked(pod, victim *core.Pod, node string) bool {
	s.mu.Lock()
	p, ok := s.parked[victim.UID()]
	if ok {
		s.giveUp(victim.UID(), p, p.doing()+"preempted by DefaultPreemption")
	}
	s.mu.Unlock()
	if ok {
		s.recorder(pod.Object).Eventf(victim.Object, corev1.EventTypeNormal, "Preempted", "Preempted by pod %v on node %v (in kube-scheduler memory).", pod.UID(), node)
	}
	return ok
}

func (s *Scheduler) evictOne(ctx context.Context, pod *core.Pod, victim *corev1.Pod, node string) error {
	c := changedCondition(victim, corev1.DisruptionTarget, corev1.ConditionTrue, corev1.PodReasonPreemptionByScheduler,
		pod.Object.Spec.SchedulerName+": preempting to accommodate a higher priority pod")
	if c != nil {
		if err := s.patchStatus(ctx, victim, map[string]any{"conditions": []*corev1.PodCondition{c}}); err != nil {
			return err
		}
	}
	err := s.cluster.Client().Delete(ctx, bare(victim), ctrl.Preconditions{UID: &victim.UID})
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	if err == nil {
		s.recorder(pod.Object).Eventf(victim, corev1.EventTypeNormal, "Preempted", "Preempted by pod %v on node %v", pod.UID(), node)
	}
	return err
}
