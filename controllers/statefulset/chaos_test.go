package statefulset_test

import (
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proa-dev/proa/controllers/internal/clustertest"
	"github.com/proa-dev/proa/controllers/internal/pods"
	"github.com/proa-dev/proa/controllers/statefulset"
)

// highest is the highest ordinal of these tests.
const highest = 4

// order checks each write of an ordered set against the pods as they are: a
// pod is created when all before it serve, and deleted when all others do or
// when it is the last.
type order struct {
	t      *testing.T
	c      *clustertest.Cluster
	writes atomic.Int64
}

func (o *order) before(verb string, obj client.Object) {
	pod, ok := obj.(*corev1.Pod)
	if !ok {
		return
	}
	o.writes.Add(1)
	have := map[string]*corev1.Pod{}
	list := podsOf(o.c)
	for i := range list {
		have[list[i].Name] = &list[i]
	}
	var n int
	if _, err := fmt.Sscanf(pod.Name, "web-%d", &n); err != nil {
		o.t.Error(err)
	}
	if verb == "delete" {
		for i := n + 1; have[fmt.Sprint("web-", i)] == nil; i++ {
			if i > highest {
				return
			}
		}
		for name, p := range have {
			if name != pod.Name && (!pods.Ready(p) || p.DeletionTimestamp != nil) {
				o.t.Errorf("%s deleted while %s does not serve", pod.Name, name)
			}
		}
		return
	}
	for i := range n {
		p := have[fmt.Sprint("web-", i)]
		if p == nil || !pods.Ready(p) || p.DeletionTimestamp != nil {
			o.t.Errorf("%s created while web-%d does not serve", pod.Name, i)
		}
	}
}

// TestOrderHoldsOverCrashes kills and restarts the controller at random moments
// while the set is scaled and its template changes.
func TestOrderHoldsOverCrashes(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))

	c := clustertest.New(t, web(3))
	c.Graceful = true
	o := &order{t: t, c: c}
	c.Before = o.before
	c.Run(c.Kubelet(func(*corev1.Pod) bool { return true }))
	launch := func() func() {
		l, err := statefulset.New(c.Env(nil))
		c.Do(err)
		return c.Launch(l)
	}
	kill := launch()
	for round := range 40 {
		switch rnd.IntN(3) {
		case 0:
			change(c, func(s *appsv1.StatefulSet) { s.Spec.Replicas = ptr.To(rnd.Int32N(highest + 2)) })
		case 1:
			change(c, func(s *appsv1.StatefulSet) { s.Spec.Template.Spec.Containers[0].Image = fmt.Sprint("i", round) })
		case 2:
			change(c, func(s *appsv1.StatefulSet) {
				s.Spec.UpdateStrategy.RollingUpdate.Partition = ptr.To(rnd.Int32N(3))
			})
		}
		// Up to so many writes later, or when there is nothing left to do.
		until := o.writes.Load() + rnd.Int64N(6)
		c.Eventually(func() (bool, string) {
			var s appsv1.StatefulSet
			c.Get(&s, "ns", "web")
			return o.writes.Load() >= until || idle(c, &s), fmt.Sprintf("%s status %+v", images(c), s.Status)
		})
		if rnd.IntN(2) == 0 {
			kill()
			kill = launch()
		}
		if t.Failed() {
			return
		}
	}
	change(c, func(s *appsv1.StatefulSet) {
		s.Spec.Replicas = ptr.To[int32](4)
		s.Spec.Template.Spec.Containers[0].Image = "last"
		s.Spec.UpdateStrategy.RollingUpdate.Partition = ptr.To[int32](0)
	})
	c.Eventually(func() (bool, string) { return images(c) == "web-0=last web-1=last web-2=last web-3=last", images(c) })
	rolledOut(c, 4)
}

// idle reports whether a set has all that it asks for.
func idle(c *clustertest.Cluster, s *appsv1.StatefulSet) bool {
	n := *s.Spec.Replicas
	st, partition := s.Status, *s.Spec.UpdateStrategy.RollingUpdate.Partition
	return st.ObservedGeneration == s.Generation && st.ReadyReplicas == n && st.Replicas == n &&
		len(podsOf(c)) == int(n) && st.UpdatedReplicas >= n-partition
}

// TestLooksSeldom bounds how often a set is looked at: a few times for each
// change of a pod.
func TestLooksSeldom(t *testing.T) {
	c := start(t, nil, web(5))
	rolledOut(c, 5)
	change(c, func(s *appsv1.StatefulSet) { s.Spec.Template.Spec.Containers[0].Image = "v2" })
	c.Eventually(func() (bool, string) { return images(c) == "web-0=v2 web-1=v2 web-2=v2 web-3=v2 web-4=v2", images(c) })
	rolledOut(c, 5)
	// Five are created and made ready, then deleted, gone, created and ready.
	const changes = 5*2 + 5*4
	if n := c.Gets(&appsv1.StatefulSet{}); n > 5*changes {
		t.Errorf("looked %d times for %d changes", n, changes)
	} else {
		t.Logf("looked %d times for %d changes", n, changes)
	}
}
