package status_test

import (
	"context"
	"log/slog"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	ctrl "sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/proa-dev/proa/kubelet/status"
)

func writing(t *testing.T, pod *corev1.Pod, fail int) (*status.Writer, ctrl.Client, chan *corev1.Pod) {
	t.Helper()
	written := make(chan *corev1.Pod, 10)
	client := fake.NewClientBuilder().WithObjects(pod).WithStatusSubresource(pod).WithInterceptorFuncs(interceptor.Funcs{
		SubResourcePatch: func(ctx context.Context, c ctrl.Client, sub string, obj ctrl.Object, patch ctrl.Patch, opts ...ctrl.SubResourcePatchOption) error {
			if fail > 0 {
				if fail--; fail == 0 { // others wrote the pod all the time
					return apierrors.NewConflict(schema.GroupResource{Resource: "pods"}, obj.GetName(), context.DeadlineExceeded)
				}
				return apierrors.NewInternalError(context.DeadlineExceeded)
			}
			err := c.SubResource(sub).Patch(ctx, obj, patch, opts...)
			if p, ok := obj.(*corev1.Pod); ok && err == nil {
				written <- p.DeepCopy()
			}
			return err
		},
	}).Build()
	w := status.NewWriter(client, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { w.Run(ctx); close(done) }()
	t.Cleanup(func() { cancel(); <-done })
	return w, client, written
}

func next(t *testing.T, written chan *corev1.Pod) *corev1.Pod {
	t.Helper()
	select {
	case p := <-written:
		return p
	case <-time.After(10 * time.Second):
		t.Fatal("nothing was written")
		return nil
	}
}

func TestWriterKeepsOthersConditionsAndFinalPhases(t *testing.T) {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "ns", UID: "u", ResourceVersion: "5"}, Status: corev1.PodStatus{
		Conditions: []corev1.PodCondition{{Type: "example.com/gate", Status: corev1.ConditionTrue}, {Type: corev1.PodReady, Status: corev1.ConditionFalse}}}}
	w, _, written := writing(t, pod, 2)
	ready := []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
	w.Set(pod, corev1.PodStatus{Phase: corev1.PodRunning, Conditions: ready}, false)
	got := next(t, written)
	if got.Status.Phase != corev1.PodRunning || len(got.Status.Conditions) != 2 || got.Status.Conditions[1].Status != corev1.ConditionTrue {
		t.Errorf("status = %+v", got.Status)
	}
	w.Set(got, corev1.PodStatus{Phase: corev1.PodFailed, Reason: "Evicted"}, false)
	failed := next(t, written)
	w.Set(failed, corev1.PodStatus{Phase: corev1.PodRunning, PodIP: "10.0.0.1"}, false)
	if got := next(t, written); got.Status.Phase != corev1.PodFailed || got.Status.Reason != "Evicted" || got.Status.PodIP != "10.0.0.1" {
		t.Errorf("a final phase was left: %+v", got.Status)
	}
}

func TestWriterReleasesTheObjectAfterItsLastStatus(t *testing.T) {
	now := metav1.Now()
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "ns", UID: "u", ResourceVersion: "5", DeletionTimestamp: &now, Finalizers: []string{"x/y"}}}
	pod.Finalizers = []string{"example.com/held"}
	deleted := make(chan *ctrl.DeleteOptions, 1)
	client := interceptor.NewClient(fake.NewClientBuilder().WithObjects(pod).WithStatusSubresource(pod).Build(), interceptor.Funcs{
		Delete: func(_ context.Context, _ ctrl.WithWatch, _ ctrl.Object, opts ...ctrl.DeleteOption) error {
			deleted <- (&ctrl.DeleteOptions{}).ApplyOptions(opts)
			return nil
		}})
	w := status.NewWriter(client, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { w.Run(ctx); close(done) }()
	defer func() { cancel(); <-done }()
	w.Set(pod, corev1.PodStatus{Phase: corev1.PodSucceeded}, true)
	select {
	case o := <-deleted:
		if *o.GracePeriodSeconds != 0 || *o.Preconditions.UID != "u" {
			t.Errorf("options = %+v", o)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("not deleted")
	}
	var left corev1.Pod
	if err := client.Get(ctx, ctrl.ObjectKeyFromObject(pod), &left); err != nil || left.Status.Phase != corev1.PodSucceeded {
		t.Errorf("the last status is %s (%v)", left.Status.Phase, err)
	}
}
