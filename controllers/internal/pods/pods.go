// Package pods tells controllers what state a pod is in, makes pods of
// templates, and picks the ones to give up first.
package pods

import (
	"time"

	corev1 "k8s.io/api/core/v1"
)

// Active reports whether a pod counts as running work: neither finished nor
// being deleted.
func Active(p *corev1.Pod) bool { return !Finished(p) && p.DeletionTimestamp == nil }

// Finished reports whether no container of a pod will ever run again.
func Finished(p *corev1.Pod) bool {
	return p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
}

// Terminating reports whether a pod is on its way out but not finished.
func Terminating(p *corev1.Pod) bool { return !Finished(p) && p.DeletionTimestamp != nil }

// Condition returns a pod's condition of a type, or nil.
func Condition(s *corev1.PodStatus, t corev1.PodConditionType) *corev1.PodCondition {
	for i := range s.Conditions {
		if s.Conditions[i].Type == t {
			return &s.Conditions[i]
		}
	}
	return nil
}

// Ready reports whether a pod takes traffic.
func Ready(p *corev1.Pod) bool {
	c := Condition(&p.Status, corev1.PodReady)
	return c != nil && c.Status == corev1.ConditionTrue
}

// Available reports whether a pod has been ready for minReady seconds. If only
// time is missing, wait is how much.
func Available(p *corev1.Pod, minReady int32, now time.Time) (ok bool, wait time.Duration) {
	c := Condition(&p.Status, corev1.PodReady)
	if c == nil || c.Status != corev1.ConditionTrue {
		return false, 0
	}
	if minReady == 0 {
		return true, 0
	}
	if c.LastTransitionTime.IsZero() {
		return false, 0
	}
	wait = c.LastTransitionTime.Add(time.Duration(minReady) * time.Second).Sub(now)
	return wait <= 0, max(wait, 0)
}

// SetCondition puts a condition into a status and reports whether it changed
// anything. The transition time is kept while the condition's status is.
func SetCondition(s *corev1.PodStatus, c corev1.PodCondition) bool {
	old := Condition(s, c.Type)
	if old == nil {
		s.Conditions = append(s.Conditions, c)
		return true
	}
	if old.Status == c.Status {
		c.LastTransitionTime = old.LastTransitionTime
	}
	changed := old.Status != c.Status || old.Reason != c.Reason || old.Message != c.Message ||
		old.ObservedGeneration != c.ObservedGeneration || !old.LastProbeTime.Equal(&c.LastProbeTime)
	*old = c
	return changed
}
