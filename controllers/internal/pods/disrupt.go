package pods

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Disrupt notes on a pod why the cluster is about to delete it, and reports
// whether that is new. The pod is our own copy.
func Disrupt(pod *corev1.Pod, reason, msg string, now time.Time) bool {
	return SetCondition(&pod.Status, corev1.PodCondition{
		Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: reason, Message: msg,
		LastTransitionTime: metav1.NewTime(now), ObservedGeneration: pod.Generation,
	})
}
