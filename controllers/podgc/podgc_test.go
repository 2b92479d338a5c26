package podgc_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proa-dev/proa/controllers/internal/clustertest"
	"github.com/proa-dev/proa/controllers/podgc"
)

func pod(name, node string, phase corev1.PodPhase, age time.Duration) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, CreationTimestamp: metav1.NewTime(time.Now().Add(-age))},
		Spec:       corev1.PodSpec{NodeName: node},
		Status:     corev1.PodStatus{Phase: phase},
	}
}

func start(t *testing.T, objs ...client.Object) *clustertest.Cluster {
	t.Helper()
	c := clustertest.New(t, objs...)
	l, err := podgc.New(c.Env(nil), podgc.Config{TerminatedThreshold: 2})
	c.Do(err)
	c.Run(l)
	return c
}

func left(t *testing.T, c *clustertest.Cluster) string {
	t.Helper()
	synctest.Wait()
	var list corev1.PodList
	c.Do(c.API.List(t.Context(), &list))
	var names []string
	for _, p := range list.Items {
		names = append(names, p.Name)
	}
	slices.Sort(names)
	return fmt.Sprint(names)
}

func TestOrphans(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}}
		held := pod("held", "gone", corev1.PodRunning, 0)
		held.Finalizers = []string{"test/hold"}
		failed := pod("failed", "gone", corev1.PodFailed, 0)
		failed.Finalizers = held.Finalizers
		c := start(t, node, held, failed, pod("a", "n1", corev1.PodRunning, 0), pod("b", "gone", corev1.PodRunning, 0), pod("waiting", "", corev1.PodPending, 0))
		time.Sleep(39 * time.Second)
		if got := left(t, c); got != "[a b failed held waiting]" {
			t.Errorf("in quarantine: %v", got)
		}
		time.Sleep(10 * time.Second)
		if got := left(t, c); got != "[a failed held waiting]" {
			t.Errorf("afterwards: %v", got)
		}
		c.Get(held, "ns", "held")
		cond := held.Status.Conditions[0]
		if held.Status.Phase != corev1.PodFailed || cond.Type != corev1.DisruptionTarget || cond.Reason != "DeletionByPodGC" || cond.Message != "PodGC: node no longer exists" {
			t.Errorf("status %+v", held.Status)
		}
		c.Get(failed, "ns", "failed")
		if failed.DeletionTimestamp == nil || len(failed.Status.Conditions) > 0 {
			t.Errorf("a pod that failed by itself: %+v", failed.Status)
		}
	})
}

// held is an API that lets nobody delete a pod.
type held struct {
	client.WithWatch
	name string
}

func (h held) Delete(ctx context.Context, o client.Object, opts ...client.DeleteOption) error {
	if o.GetName() == h.name {
		return apierrors.NewInternalError(errors.New("no webhook answers"))
	}
	return h.WithWatch.Delete(ctx, o, opts...)
}

// A pod that cannot be removed, however long, does not keep others.
func TestOneThatStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := clustertest.New(t, pod("stuck", "gone", corev1.PodRunning, 0))
		c.API = held{c.API, "stuck"}
		l, err := podgc.New(c.Env(nil), podgc.Config{})
		c.Do(err)
		c.Run(l)
		time.Sleep(time.Hour)
		c.Do(c.API.Create(t.Context(), pod("b", "elsewhere", corev1.PodRunning, 0)))
		time.Sleep(70 * time.Second)
		if got := left(t, c); got != "[stuck]" {
			t.Errorf("left %s", got)
		}
	})
}

func TestTerminatedThreshold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		evicted := pod("evicted", "n1", corev1.PodFailed, time.Minute)
		evicted.Status.Reason = "Evicted"
		c := start(t, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}}, evicted,
			pod("older", "n1", corev1.PodSucceeded, 3*time.Hour), pod("old", "n1", corev1.PodSucceeded, 2*time.Hour),
			pod("new", "n1", corev1.PodFailed, time.Hour), pod("runs", "n1", corev1.PodRunning, 9*time.Hour))
		time.Sleep(time.Second)
		if got := left(t, c); got != "[new old runs]" {
			t.Errorf("left %v", got)
		}
	})
}

func TestOutOfService(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}}
		node.Spec.Taints = []corev1.Taint{{Key: corev1.TaintNodeOutOfService, Effect: corev1.TaintEffectNoExecute}}
		terminating, running := pod("terminating", "n1", corev1.PodRunning, 0), pod("running", "n1", corev1.PodRunning, 0)
		terminating.Finalizers = []string{"test/hold"}
		c := start(t, terminating, running)
		c.Do(c.API.Delete(t.Context(), terminating))
		c.Do(c.API.Create(t.Context(), node))
		time.Sleep(time.Second)
		synctest.Wait()
		c.Get(terminating, "ns", "terminating")
		if terminating.Status.Phase != corev1.PodFailed || len(terminating.Status.Conditions) > 0 {
			t.Errorf("status %+v", terminating.Status)
		}
		c.Get(running, "ns", "running")
		if running.Status.Phase != corev1.PodRunning {
			t.Error("a pod that is not being deleted is left alone")
		}
	})
}
