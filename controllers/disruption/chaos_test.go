package disruption_test

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
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
	var users sync.WaitGroup
	for range 3 {
		users.Go(func() {
			for e.done.Load() < rounds && c.Context().Err() == nil {
				if err := e.one(); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for e.done.Load() < rounds && !t.Failed() {
		until := e.done.Load() + rand.Int64N(8)
		c.Eventually(func() (bool, string) { return e.done.Load() >= until || t.Failed(), "no eviction is let through" })
		kill()
		kill = launch()
	}
	users.Wait()
}

// evictor evicts pods of the budget and creates others in their place.
type evictor struct {
	c     *clustertest.Cluster
	least int
	done  atomic.Int64

	// One eviction spends and deletes at a time: the count of those that serve
	// is exact then.
	mu   sync.Mutex
	next int
}

func (e *evictor) one() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	serving, err := e.serving()
	if err != nil || len(serving) == 0 {
		return err
	}
	victim := &serving[rand.IntN(len(serving))]
	ok, err := e.spend(victim.Name)
	if !ok || err != nil {
		return err
	}
	if err := e.c.API.Delete(e.c.Context(), victim); err != nil {
		return err
	}
	if serving, err = e.serving(); err != nil {
		return err
	}
	if len(serving) < e.least {
		return fmt.Errorf("the budget let %s go, and %d are left", victim.Name, len(serving))
	}
	e.next++
	e.done.Add(1)
	return e.c.API.Create(e.c.Context(), pod(fmt.Sprint("n", e.next), true, nil, ""))
}

// serving are the pods that are ready and stay, whatever caches show.
func (e *evictor) serving() ([]corev1.Pod, error) {
	var list corev1.PodList
	if err := e.c.API.List(e.c.Context(), &list, client.InNamespace("ns")); err != nil {
		return nil, err
	}
	var out []corev1.Pod
	for _, p := range list.Items {
		if pods.Ready(&p) && p.DeletionTimestamp == nil {
			out = append(out, p)
		}
	}
	return out, nil
}

// spend takes one disruption from the budget, if it has one.
func (e *evictor) spend(name string) (bool, error) {
	var b policyv1.PodDisruptionBudget
	e.c.Get(&b, "ns", "b")
	if b.Status.ObservedGeneration < b.Generation || b.Status.DisruptionsAllowed <= 0 {
		return false, nil
	}
	b.Status.DisruptionsAllowed--
	if b.Status.DisruptedPods == nil {
		b.Status.DisruptedPods = map[string]metav1.Time{}
	}
	b.Status.DisruptedPods[name] = metav1.Now()
	err := e.c.API.Status().Update(e.c.Context(), &b)
	if apierrors.IsConflict(err) {
		return false, nil
	}
	return err == nil, err
}
