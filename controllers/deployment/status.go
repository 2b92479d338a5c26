package deployment

import (
	"context"
	"fmt"
	"math"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Reasons of the Progressing condition that decisions hang on.
const (
	reasonTimedOut  = "ProgressDeadlineExceeded"
	reasonAvailable = "NewReplicaSetAvailable"
	reasonPaused    = "DeploymentPaused"
)

// newStatus counts what the ReplicaSets report. newSet may be nil.
func (r *rollout) newStatus(newSet *appsv1.ReplicaSet, old []*appsv1.ReplicaSet) appsv1.DeploymentStatus {
	all := append(slices.Clone(old), newSet)
	available := sum(all, func(rs *appsv1.ReplicaSet) int32 { return rs.Status.AvailableReplicas })
	s := appsv1.DeploymentStatus{
		ObservedGeneration:  r.d.Generation,
		Replicas:            sum(all, func(rs *appsv1.ReplicaSet) int32 { return rs.Status.Replicas }),
		ReadyReplicas:       sum(all, func(rs *appsv1.ReplicaSet) int32 { return rs.Status.ReadyReplicas }),
		AvailableReplicas:   available,
		UnavailableReplicas: max(0, sum(all, replicas)-available),
		TerminatingReplicas: terminating(all),
		CollisionCount:      r.d.Status.CollisionCount,
		Conditions:          slices.Clone(r.d.Status.Conditions),
	}
	if newSet != nil {
		s.UpdatedReplicas = newSet.Status.Replicas
	}
	if available >= *r.d.Spec.Replicas-maxUnavailable(r.d) {
		setCondition(&s, r.condition(appsv1.DeploymentAvailable, corev1.ConditionTrue,
			"MinimumReplicasAvailable", "Deployment has minimum availability."))
	} else {
		setCondition(&s, r.condition(appsv1.DeploymentAvailable, corev1.ConditionFalse,
			"MinimumReplicasUnavailable", "Deployment does not have minimum availability."))
	}
	return s
}

// terminating is nil while a ReplicaSet has not counted yet.
func terminating(sets []*appsv1.ReplicaSet) *int32 {
	n := int32(0)
	for _, rs := range sets {
		switch {
		case rs == nil:
		case rs.Status.ObservedGeneration == 0:
		case rs.Status.TerminatingReplicas == nil:
			return nil
		default:
			n += *rs.Status.TerminatingReplicas
		}
	}
	return &n
}

// syncStatus writes the counts.
func (r *rollout) syncStatus(ctx context.Context, newSet *appsv1.ReplicaSet, old []*appsv1.ReplicaSet) error {
	s := r.newStatus(newSet, old)
	if apiequality.Semantic.DeepEqual(r.d.Status, s) {
		return nil
	}
	r.d.Status = s
	return r.updateStatus(ctx)
}

// syncProgress writes the counts and how the rollout gets on.
func (r *rollout) syncProgress(ctx context.Context, newSet *appsv1.ReplicaSet, old []*appsv1.ReplicaSet) error {
	s := r.newStatus(newSet, old)
	if !hasDeadline(r.d) {
		removeCondition(&s, appsv1.DeploymentProgressing)
	} else {
		r.judge(&s, newSet)
	}
	if f := failure(newSet, old); f != nil {
		setCondition(&s, *f)
	} else {
		removeCondition(&s, appsv1.DeploymentReplicaFailure)
	}
	if apiequality.Semantic.DeepEqual(r.d.Status, s) {
		r.again = r.untilDeadline(&s)
		return nil
	}
	r.d.Status = s
	return r.updateStatus(ctx)
}

// judge sets the Progressing condition. A rollout that was once complete stays
// so, whatever becomes of its pods, until its template changes.
func (r *rollout) judge(s *appsv1.DeploymentStatus, newSet *appsv1.ReplicaSet) {
	current := condition(&r.d.Status, appsv1.DeploymentProgressing)
	if s.Replicas == s.UpdatedReplicas && current != nil && current.Reason == reasonAvailable {
		return
	}
	subject := fmt.Sprintf("Deployment %q", r.d.Name)
	if newSet != nil {
		subject = fmt.Sprintf("ReplicaSet %q", newSet.Name)
	}
	switch {
	case finished(r.d, s):
		setCondition(s, r.condition(appsv1.DeploymentProgressing, corev1.ConditionTrue,
			reasonAvailable, subject+" has successfully progressed."))
	case progressed(&r.d.Status, s):
		c := r.condition(appsv1.DeploymentProgressing, corev1.ConditionTrue, "ReplicaSetUpdated", subject+" is progressing.")
		if current != nil {
			if current.Status == corev1.ConditionTrue {
				c.LastTransitionTime = current.LastTransitionTime
			}
			// Replaced even if equal: its update time restarts the deadline.
			removeCondition(s, appsv1.DeploymentProgressing)
		}
		setCondition(s, c)
	case r.timedOut(s):
		setCondition(s, r.condition(appsv1.DeploymentProgressing, corev1.ConditionFalse,
			reasonTimedOut, subject+" has timed out progressing."))
	}
}

// finished reports whether all wanted pods are of the new template and
// available, and none of an old one is left.
func finished(d *appsv1.Deployment, s *appsv1.DeploymentStatus) bool {
	want := *d.Spec.Replicas
	return s.UpdatedReplicas == want && s.Replicas == want && s.AvailableReplicas == want && s.ObservedGeneration >= d.Generation
}

func progressed(old, s *appsv1.DeploymentStatus) bool {
	return s.UpdatedReplicas > old.UpdatedReplicas ||
		s.Replicas-s.UpdatedReplicas < old.Replicas-old.UpdatedReplicas ||
		s.ReadyReplicas > old.ReadyReplicas || s.AvailableReplicas > old.AvailableReplicas
}

func (r *rollout) timedOut(s *appsv1.DeploymentStatus) bool {
	c := condition(s, appsv1.DeploymentProgressing)
	switch {
	case c == nil || c.Reason == reasonAvailable:
		return false
	case c.Reason == reasonTimedOut:
		return true
	}
	return c.LastUpdateTime.Add(deadline(r.d)).Before(r.now)
}

// untilDeadline is when a stuck rollout must be looked at again: nothing else
// would wake us for it.
func (r *rollout) untilDeadline(s *appsv1.DeploymentStatus) time.Duration {
	c := condition(&r.d.Status, appsv1.DeploymentProgressing)
	if !hasDeadline(r.d) || c == nil || c.Reason == reasonTimedOut || c.Reason == reasonAvailable || finished(r.d, s) {
		return 0 // one that was complete once never times out
	}
	// Times in the status are cut to the second.
	return max(0, c.LastUpdateTime.Add(deadline(r.d)).Sub(r.now)) + time.Second
}

// notePause keeps the time that a rollout is paused out of its deadline.
func (r *rollout) notePause(ctx context.Context) error {
	c := condition(&r.d.Status, appsv1.DeploymentProgressing)
	if !hasDeadline(r.d) || (c != nil && c.Reason == reasonTimedOut) {
		return nil
	}
	noted := c != nil && c.Reason == reasonPaused
	switch {
	case r.d.Spec.Paused && !noted:
		setCondition(&r.d.Status, r.condition(appsv1.DeploymentProgressing, corev1.ConditionUnknown,
			reasonPaused, "Deployment is paused"))
	case !r.d.Spec.Paused && noted:
		setCondition(&r.d.Status, r.condition(appsv1.DeploymentProgressing, corev1.ConditionUnknown,
			"DeploymentResumed", "Deployment is resumed"))
	default:
		return nil
	}
	return r.updateStatus(ctx)
}

// failure is the ReplicaFailure condition of the new ReplicaSet, else of an old one.
func failure(newSet *appsv1.ReplicaSet, old []*appsv1.ReplicaSet) *appsv1.DeploymentCondition {
	for _, rs := range append([]*appsv1.ReplicaSet{newSet}, old...) {
		if rs == nil {
			continue
		}
		for _, c := range rs.Status.Conditions {
			if c.Type == appsv1.ReplicaSetReplicaFailure {
				return &appsv1.DeploymentCondition{
					Type: appsv1.DeploymentReplicaFailure, Status: c.Status, Reason: c.Reason, Message: c.Message,
					LastTransitionTime: c.LastTransitionTime, LastUpdateTime: c.LastTransitionTime,
				}
			}
		}
	}
	return nil
}

func (r *rollout) updateStatus(ctx context.Context) error {
	return r.env.Cluster.Client().Status().Update(ctx, r.d)
}

func (r *rollout) condition(t appsv1.DeploymentConditionType, s corev1.ConditionStatus, reason, msg string) appsv1.DeploymentCondition {
	now := metav1.NewTime(r.now)
	return appsv1.DeploymentCondition{Type: t, Status: s, Reason: reason, Message: msg, LastUpdateTime: now, LastTransitionTime: now}
}

func condition(s *appsv1.DeploymentStatus, t appsv1.DeploymentConditionType) *appsv1.DeploymentCondition {
	for i := range s.Conditions {
		if s.Conditions[i].Type == t {
			return &s.Conditions[i]
		}
	}
	return nil
}

// setCondition replaces the condition of c's type unless status and reason are
// equal. The transition time is kept while the status is.
func setCondition(s *appsv1.DeploymentStatus, c appsv1.DeploymentCondition) {
	if current := condition(s, c.Type); current != nil {
		if current.Status == c.Status && current.Reason == c.Reason {
			return
		}
		if current.Status == c.Status {
			c.LastTransitionTime = current.LastTransitionTime
		}
	}
	removeCondition(s, c.Type)
	s.Conditions = append(s.Conditions, c)
}

func removeCondition(s *appsv1.DeploymentStatus, t appsv1.DeploymentConditionType) {
	s.Conditions = slices.DeleteFunc(slices.Clone(s.Conditions), func(c appsv1.DeploymentCondition) bool { return c.Type == t })
	if len(s.Conditions) == 0 {
		s.Conditions = nil
	}
}

func hasDeadline(d *appsv1.Deployment) bool {
	return d.Spec.ProgressDeadlineSeconds != nil && *d.Spec.ProgressDeadlineSeconds != math.MaxInt32
}

func deadline(d *appsv1.Deployment) time.Duration {
	return time.Duration(*d.Spec.ProgressDeadlineSeconds) * time.Second
}
