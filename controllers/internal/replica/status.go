package replica

import (
	"context"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/proa-dev/proa/controllers/internal/pods"
)

// newStatus counts pods. syncErr is what creating or deleting them failed with.
func newStatus(set *Set, active, terminating []*corev1.Pod, syncErr error, now time.Time) appsv1.ReplicaSetStatus {
	template := labels.SelectorFromSet(set.Template.Labels)
	gone := int32(len(terminating))
	s := appsv1.ReplicaSetStatus{
		Replicas:            int32(len(active)),
		TerminatingReplicas: &gone,
		ObservedGeneration:  set.Object.GetGeneration(),
		Conditions:          slices.Clone(set.Status.Conditions),
	}
	for _, p := range active {
		if template.Matches(labels.Set(p.Labels)) {
			s.FullyLabeledReplicas++
		}
		if pods.Ready(p) {
			s.ReadyReplicas++
			if ok, _ := pods.Available(p, set.MinReady, now); ok {
				s.AvailableReplicas++
			}
		}
	}
	isFailure := func(c appsv1.ReplicaSetCondition) bool { return c.Type == appsv1.ReplicaSetReplicaFailure }
	failing := slices.ContainsFunc(s.Conditions, isFailure)
	switch {
	case syncErr == nil && failing:
		s.Conditions = slices.DeleteFunc(s.Conditions, isFailure)
	case syncErr != nil && !failing:
		reason := "FailedCreate"
		if len(active) > int(set.Replicas) {
			reason = "FailedDelete"
		}
		s.Conditions = append(s.Conditions, appsv1.ReplicaSetCondition{
			Type: appsv1.ReplicaSetReplicaFailure, Status: corev1.ConditionTrue,
			Reason: reason, Message: syncErr.Error(), LastTransitionTime: metav1.NewTime(now),
		})
	}
	return s
}

func (c *Controller) writeStatus(ctx context.Context, set *Set, status appsv1.ReplicaSetStatus) error {
	if set.NoTerminating {
		status.TerminatingReplicas = nil
	}
	if apiequality.Semantic.DeepEqual(set.Status, status) {
		return nil
	}
	return c.adapter.WriteStatus(ctx, set, status)
}
