package clustertest

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"github.com/proa-dev/proa/controllers/internal/loop"
	"github.com/proa-dev/proa/controllers/internal/pods"
)

// grace is the finalizer by which a Graceful cluster keeps deleted pods.
const grace = "test/kubelet"

// Kubelet is a loop that makes every pod ready for which ok reports true, and
// lets terminating pods go.
func (c *Cluster) Kubelet(ok func(*corev1.Pod) bool) loop.Loop {
	c.t.Helper()
	l, err := loop.New(c.Env(nil), "kubelet", 1, func(ctx context.Context, key types.NamespacedName) (time.Duration, error) {
		pod := &corev1.Pod{}
		if err := c.API.Get(ctx, key, pod); err != nil {
			return 0, client.IgnoreNotFound(err)
		}
		if pod.DeletionTimestamp != nil {
			if !controllerutil.RemoveFinalizer(pod, grace) {
				return 0, nil
			}
			return 0, client.IgnoreNotFound(c.API.Update(ctx, pod))
		}
		if pods.Ready(pod) || pods.Finished(pod) || !ok(pod) {
			return 0, nil
		}
		pod.Status.Phase = corev1.PodRunning
		pods.SetCondition(&pod.Status, corev1.PodCondition{
			Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Now(),
		})
		return 0, c.API.Status().Update(ctx, pod)
	}, loop.Self(c, &corev1.Pod{}))
	if err != nil {
		c.t.Fatal(err)
	}
	return l
}
