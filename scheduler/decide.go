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
	"github.com/proa-dev/proa/scheduler/devices"
	"github.com/proa-dev/proa/scheduler/queue"
)

// decide places one pod. The lock is held; what is returned runs without it.
func (s *Scheduler) decide(it *queue.Item, now time.Time) step {
	pod := it.Pod
	if s.snapshot.WantsDevices(pod) && s.devices.Lacks(pod.Object) {
		s.queue.Hold(it, core.FilterSet(0).With(core.DynamicResources), now)
		return step{}
	}
	if s.interested(pod.Object) {
		s.leaveFor(it)
		return step{alone: func(ctx context.Context) step { return s.consult(ctx, it) }}
	}
	node, why := s.snapshot.Schedule(pod)
	s.counts.algorithm.Observe(time.Since(now).Seconds())
	if node == "" {
		return s.reject(it, why, now)
	}
	return s.assign(it, node, now)
}

// assign takes the pod to be on the node, and returns what makes it so.
func (s *Scheduler) assign(it *queue.Item, node string, now time.Time) step {
	pod := it.Pod
	nominated := s.snapshot.Nominated(pod.UID())
	begin := time.Now()
	volumes := s.snapshot.PlanVolumes(pod, node)
	var claims *devices.Plan
	var awaited []types.NamespacedName
	if obj := s.snapshot.Node(node); obj != nil && s.snapshot.WantsDevices(pod) {
		var reason string
		if claims, reason = s.devices.Plan(pod.Object, obj); reason != "" {
			return s.setAside(it, core.FilterSet(0).With(core.DynamicResources), reason, now)
		}
		awaited, _ = s.devices.Awaited(pod.Object, claims, now)
	}
	s.counts.planned(pod.Profile().Name, volumes != nil || claims != nil, time.Since(begin))
	s.snapshot.PutPod(pod, node)
	s.binding[pod.UID()] = it
	s.joined(pod)
	if nominated != "" && nominated != node {
		s.freed(pod, nominated)
	}
	do := func(ctx context.Context) { s.bind(ctx, it, pod, node) }
	if volumes == nil && len(awaited) > 0 {
		volumes = &core.VolumePlan{Node: node}
	}
	if volumes != nil {
		s.snapshot.Promise(volumes)
		p := &parked{item: it, pod: pod, plan: volumes, deadline: now.Add(pod.Profile().BindTimeout), selected: map[types.UID]bool{},
			claims: claims, waits: len(awaited) > 0}
		s.parked[pod.UID()] = p
		do = func(ctx context.Context) { s.bindVolumes(ctx, pod.UID(), p) }
	}
	if claims != nil {
		do = s.withClaims(pod, node, claims, do)
	}
	if volumes != nil || claims != nil {
		do = s.announce(pod, node, do)
	}
	return step{do: s.inOrder(pod.UID(), do)}
}

// reject sets a pod aside that fits no node, after making room for it if its
// priority allows.
func (s *Scheduler) reject(it *queue.Item, why *core.Diagnosis, now time.Time) step {
	pod, message := it.Pod, why.Message()
	if why.Err != nil {
		return s.fail(it, why.Err, now)
	}
	if why.NoNodes() {
		s.denominate(pod.UID())
		return s.setAside(it, why.Failed, message, now)
	}
	if why.Failed.Has(core.DynamicResources) {
		if claim := s.devices.Stale(pod.Object); claim != nil {
			aside := s.setAside(it, why.Failed, message+" deletion of ResourceClaim completed", now)
			return step{do: func(ctx context.Context) { s.discard(ctx, claim); aside.do(ctx) }}
		}
		if claim := s.devices.Idle(pod.Object); claim != nil {
			aside := s.setAside(it, why.Failed, message+" deallocation of ResourceClaim completed", now)
			return step{do: func(ctx context.Context) { s.release(ctx, claim); aside.do(ctx) }}
		}
	}
	if !pod.Profile().Preempts {
		s.denominate(pod.UID())
		return s.setAside(it, why.Failed, message, now)
	}
	begin := time.Now()
	ways, reason, settled := s.snapshot.Ways(pod, why, s.budgetList())
	status := statusSuccess
	if len(ways) == 0 {
		status = statusUnschedulable
	}
	s.counts.point(pointPostFilter, status, pod.Profile().Name, begin)
	switch {
	case len(ways) == 0:
		if !settled {
			s.denominate(pod.UID())
		}
		return s.setAside(it, why.Failed, message+" preemption: "+reason, now)
	case s.preemptionInterested(pod.Object):
		s.leaveFor(it)
		return step{alone: func(ctx context.Context) step { return s.consultWays(ctx, it, why, ways) }}
	}
	return s.clear(it, why, s.snapshot.Choose(pod, ways))
}

// fail lets a pod try again after a rest about which nothing could be decided,
// and says why.
func (s *Scheduler) fail(it *queue.Item, err error, now time.Time) step {
	pod := it.Pod
	s.queue.Retry(it, now)
	s.counts.tried(it, pod.Profile().Name, resultError, now)
	s.denominate(pod.UID())
	return step{do: s.inOrder(pod.UID(), func(ctx context.Context) {
		s.report(ctx, pod, corev1.PodReasonSchedulerError, err.Error(), "")
	})}
}

// setAside lets a pod wait until something changes, and says why.
func (s *Scheduler) setAside(it *queue.Item, failed core.FilterSet, message string, now time.Time) step {
	pod := it.Pod
	nominated := s.snapshot.Nominated(pod.UID())
	s.queue.Fail(it, failed, now)
	s.counts.tried(it, pod.Profile().Name, resultUnschedulable, now)
	return step{do: s.inOrder(pod.UID(), func(ctx context.Context) {
		s.report(ctx, pod, corev1.PodReasonUnschedulable, message, nominated)
	})}
}

// clear makes room for a pod on a node. Until all victims are evicted the pod
// does not try again: it would only choose more of them.
func (s *Scheduler) clear(it *queue.Item, why *core.Diagnosis, way *core.Preemption) step {
	pod := it.Pod
	s.counts.preempts.Inc()
	s.counts.victims.Observe(float64(len(way.Victims)))
	s.counts.tried(it, pod.Profile().Name, resultUnschedulable, time.Now())
	s.nominateTo(pod, way.Node)
	s.displace(way)
	for _, victim := range way.Victims {
		if victim.Object.DeletionTimestamp == nil {
			s.snapshot.Leaves(victim.UID(), true)
		}
	}
	s.away[pod.UID()] = &absence{item: it, node: way.Node}
	message := fmt.Sprintf("%s preemption: found a potential placement for pod on node %v, preempting %d victims", why.Message(), way.Node, len(way.Victims))
	return step{do: s.inOrder(pod.UID(), func(ctx context.Context) {
		s.report(ctx, pod, corev1.PodReasonUnschedulable, message, way.Node)
		evicted := s.evict(ctx, pod, way)
		s.mu.Lock()
		defer s.mu.Unlock()
		if a, ok := s.back(it); ok {
			s.queue.Fail(it, why.Failed, time.Now())
			if a.missed || !evicted || a.freed && s.snapshot.Passes(it.Pod, way.Node) {
				s.again(pod.UID())
			}
		}
	})}
}

// leaveFor takes a popped pod away while extenders are asked about it.
func (s *Scheduler) leaveFor(it *queue.Item) {
	s.asked = &absence{item: it}
	s.away[it.Pod.UID()] = s.asked
}

// back ends a pod's absence; false says that it is not wanted any more.
func (s *Scheduler) back(it *queue.Item) (*absence, bool) {
	if s.asked != nil && s.asked.item == it {
		s.asked = nil
	}
	a, ok := s.away[it.Pod.UID()]
	if !ok || a.item != it {
		return nil, false
	}
	delete(s.away, it.Pod.UID())
	return a, true
}

func (s *Scheduler) budgetList() []*policyv1.PodDisruptionBudget {
	return slices.Collect(maps.Values(s.budgets))
}

// maxNoted bounds what is remembered of what happens while a pod is away.
const maxNoted = 256

// note keeps a condition on which pods were woken.
func (a *absence) note(f func(*queue.Item) bool) {
	if a.missed = a.missed || len(a.noted) == maxNoted; !a.missed {
		a.noted = append(a.noted, f)
	}
}

// catchUp wakes a pod that failed, if what happened while it was away would have.
func (s *Scheduler) catchUp(a *absence) {
	if still, ok := s.away[a.item.Pod.UID()]; ok { // extenders are asked once more
		still.missed, still.noted = still.missed || a.missed, append(a.noted, still.noted...)
		return
	}
	if a.missed || len(a.noted) > 0 && a.item.Failed.Has(core.Extenders) || slices.ContainsFunc(a.noted, func(f func(*queue.Item) bool) bool { return f(a.item) }) {
		s.again(a.item.Pod.UID())
	}
}

// again wakes one pod.
func (s *Scheduler) again(uid types.UID) {
	s.wake(eventPodUpdate, func(it *queue.Item) bool { return it.Pod.UID() == uid })
}

// bind writes a decision, or takes it back.
func (s *Scheduler) bind(ctx context.Context, it *queue.Item, pod *core.Pod, node string) {
	obj := pod.Object
	begin := time.Now()
	err := s.writeBinding(ctx, obj, node)
	now := time.Now()
	s.counts.bound(obj.Spec.SchedulerName, now.Sub(begin), err)
	if err != nil {
		if !s.forget(obj.UID, node) || ctx.Err() != nil {
			return
		}
		if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
			s.logger.Debug("pod changed before it was bound", "pod", ctrlKey(obj), "node", node, "error", err)
			return
		}
		s.report(ctx, pod, corev1.PodReasonSchedulerError, `running Bind plugin "DefaultBinder": `+err.Error(), "")
		return
	}
	s.mu.Lock()
	delete(s.binding, obj.UID)
	s.mu.Unlock()
	s.counts.tried(it, obj.Spec.SchedulerName, resultScheduled, now)
	s.recorder(obj).Eventf(obj, corev1.EventTypeNormal, "Scheduled", "Successfully assigned %v/%v to %v", obj.Namespace, obj.Name, node)
}

// forget undoes an assumed bind that failed and lets the pod try again after
// a rest, without a nomination. It returns false if the pod is gone, or bound
// all the same.
func (s *Scheduler) forget(uid types.UID, node string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.forgetLocked(uid, node)
}

func (s *Scheduler) forgetLocked(uid types.UID, node string) bool {
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
	s.freed(pod, node)
	if obj := it.Pod.Object; obj.DeletionTimestamp != nil || len(obj.Spec.SchedulingGates) > 0 {
		return false
	}
	s.queue.Retry(it, time.Now())
	s.counts.tried(it, pod.Profile().Name, resultError, time.Now())
	s.wakeUp()
	return true
}
