package pods

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Disrupt notes on a pod why the cluster is about to delete it, and reports
// whether that is new. The pod is our own copy.
func Disrupt(pod *corev1.Pod, reason, msg string, now time.Time) bool {
	return SetCondition(&pod.Status, corev1.PodCondition{
		Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: reason, Message: msg,
		LastTransitionTime: metav1.NewTime(now), ObservedGeneration: pod.Generation,
	})
}

// Evict deletes this very pod, after noting on it why. The pod is our own copy.
func Evict(ctx context.Context, c client.Client, pod *corev1.Pod, reason, msg string, now time.Time) error {
	if Disrupt(pod, reason, msg, now) {
		if err := c.Status().Update(ctx, pod); err != nil {
			return err
		}
	}
	uid := pod.UID
	return c.Delete(ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Name}}, client.Preconditions{UID: &uid})
}

// Reference names a pod in events.
func Reference(p *corev1.Pod) *corev1.ObjectReference {
	return &corev1.ObjectReference{APIVersion: "v1", Kind: "Pod", Namespace: p.Namespace, Name: p.Name, UID: p.UID}
}
