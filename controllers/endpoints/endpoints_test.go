package endpoints_test

import (
	"context"
	"fmt"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proa-dev/proa/controllers/endpoints"
	"github.com/proa-dev/proa/controllers/internal/clustertest"
)

// lagging is a cluster whose cache shows some Endpoints as they once were.
type lagging struct {
	*clustertest.Cluster
	mu    sync.Mutex
	shown *corev1.Endpoints
	asked int
}

func (l *lagging) Client() client.WithWatch { return laggingClient{l.Cluster.Client(), l} }

// show makes the cache stop at e; nil lets it go on.
func (l *lagging) show(e *corev1.Endpoints) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.shown = e
}

func (l *lagging) asks() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.asked
}

type laggingClient struct {
	client.WithWatch
	l *lagging
}

func (c laggingClient) Get(ctx context.Context, key client.ObjectKey, o client.Object, opts ...client.GetOption) error {
	c.l.mu.Lock()
	defer c.l.mu.Unlock()
	if e, ok := o.(*corev1.Endpoints); ok && c.l.shown != nil {
		c.l.asked++
		c.l.shown.DeepCopyInto(e)
		return nil
	}
	return c.WithWatch.Get(ctx, key, o, opts...)
}

// A pod that gets unready and ready again while the cache still shows the
// Endpoints of before is ready in the end.
func TestBackAndForth(t *testing.T) {
	svc := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "web"},
		Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeClusterIP, ClusterIP: "10.0.0.1", Selector: map[string]string{"app": "web"},
			Ports: []corev1.ServicePort{{Port: 80, Protocol: corev1.ProtocolTCP}}},
	}
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p", Labels: map[string]string{"app": "web"}},
		Status: corev1.PodStatus{Phase: corev1.PodRunning, PodIP: "10.1.0.1", PodIPs: []corev1.PodIP{{IP: "10.1.0.1"}},
			Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}},
	}
	c := &lagging{Cluster: clustertest.New(t, svc, pod)}
	env := c.Env(nil)
	env.Cluster = c
	l, err := endpoints.New(env)
	c.Do(err)
	c.Run(l)

	var e corev1.Endpoints
	wait := func(ready, notReady int) {
		t.Helper()
		c.Eventually(func() (bool, string) {
			ok := c.Get(&e, "ns", "web") && len(e.Subsets) == 1 && len(e.Subsets[0].Addresses) == ready && len(e.Subsets[0].NotReadyAddresses) == notReady
			return ok, fmt.Sprintf("%+v", e.Subsets)
		})
	}
	set := func(ready corev1.ConditionStatus) {
		t.Helper()
		c.Get(pod, "ns", "p")
		pod.Status.Conditions[0].Status = ready
		c.Do(c.API.Status().Update(t.Context(), pod))
	}
	wait(1, 0)
	c.show(e.DeepCopy())
	set(corev1.ConditionFalse)
	wait(0, 1)
	before := c.asks()
	set(corev1.ConditionTrue)
	c.Eventually(func() (bool, string) { return c.asks() > before, "not looked at" })
	c.show(nil)
	wait(1, 0)
}
