package disruption_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proa-dev/proa/api/apps"
	"github.com/proa-dev/proa/controllers/disruption"
	"github.com/proa-dev/proa/controllers/internal/clustertest"
	"github.com/proa-dev/proa/controllers/internal/pods"
)

// TestBudgetHoldsOverCrashes evicts pods as fast as the budget lets it, as the
// API server does, while the controller is killed and restarted.
func TestBudgetHoldsOverCrashes(t *testing.T) {
	const size, least, rounds = 6, 4, 30
	objs := []client.Object{budget(func(s *policyv1.PodDisruptionBudgetSpec) { s.MinAvailable = ptr.To(intstr.FromInt32(least)) })}
	for i := range size {
		objs = append(objs, pod(fmt.Sprint("p", i), true, nil, ""))
	}
	c := clustertest.New(t, objs...)
	c.Graceful = true
	c.Run(c.Kubelet(func(*corev1.Pod) bool { return true }))
	launch := func() func() {
		l, err := disruption.New(c.Env(nil), apps.Kinds)
		c.Do(err)
		return c.Launch(l)
	}
	kill := launch()

	e := &evictor{c: c, least: least}
	for range rounds {
		for range rand.IntN(3) {
			c.Eventually(func() (bool, string) { return e.one(), "no eviction is let through" })
		}
		kill()
		kill = launch()
	}
}

// evictor evicts pods of the budget and creates others in their place.
type evictor struct {
	c     *clustertest.Cluster
	least int
	next  int
}

// one evicts a pod if the budget lets it.
func (e *evictor) one() bool {
	serving := e.serving()
	victim := &serving[rand.IntN(len(serving))]
	if !e.spend(victim.Name) {
		return false
	}
	e.c.Do(e.c.API.Delete(e.c.Context(), victim))
	if n := len(e.serving()); n < e.least {
		e.c.Do(fmt.Errorf("the budget let %s go, and %d are left", victim.Name, n))
	}
	e.next++
	e.c.Do(e.c.API.Create(e.c.Context(), pod(fmt.Sprint("n", e.next), true, nil, "")))
	return true
}

// serving are the pods that are ready and stay, whatever caches show.
func (e *evictor) serving() []corev1.Pod {
	var list corev1.PodList
	e.c.Do(e.c.API.List(e.c.Context(), &list, client.InNamespace("ns")))
	return slices.DeleteFunc(list.Items, func(p corev1.Pod) bool { return !pods.Ready(&p) || p.DeletionTimestamp != nil })
}

// spend takes one disruption from the budget, if it has one.
func (e *evictor) spend(name string) bool {
	var b policyv1.PodDisruptionBudget
	e.c.Get(&b, "ns", "b")
	if b.Status.ObservedGeneration < b.Generation || b.Status.DisruptionsAllowed <= 0 {
		return false
	}
	b.Status.DisruptionsAllowed--
	if b.Status.DisruptedPods == nil {
		b.Status.DisruptedPods = map[string]metav1.Time{}
	}
	b.Status.DisruptedPods[name] = metav1.Now()
	err := e.c.API.Status().Update(e.c.Context(), &b)
	if !apierrors.IsConflict(err) {
		e.c.Do(err)
	}
	return err == nil
}
