package pods

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Disrupt notes on a pod why it is about to be deleted by the cluster. fail
// also ends it, for pods that no kubelet will. The pod is our own copy.
func Disrupt(ctx context.Context, c client.Client, pod *corev1.Pod, reason, msg string, fail bool, now time.Time) error {
	changed := SetCondition(&pod.Status, corev1.PodCondition{
		Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: reason, Message: msg,
		LastTransitionTime: metav1.NewTime(now), ObservedGeneration: pod.Generation,
	})
	if fail && !Finished(pod) {
		pod.Status.Phase = corev1.PodFailed
		changed = true
	}
	if !changed {
		return nil
	}
	return c.Status().Update(ctx, pod)
}
