package daemonset_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proa-dev/proa/controllers/daemonset"
	"github.com/proa-dev/proa/controllers/internal/clustertest"
	"github.com/proa-dev/proa/controllers/internal/pods"
)

// limits checks each write of a set without surge against the pods as they are:
// one is created where there is none, and no more than so many nodes wait for
// another one because theirs was taken.
type limits struct {
	t           *testing.T
	c           *clustertest.Cluster
	unavailable int
	writes      atomic.Int64

	mu      sync.Mutex
	down    map[string]bool    // nodes whose Ready pod the controller took
	ignored map[types.UID]bool // pods that others take
}

func (l *limits) before(verb string, obj client.Object) {
	pod, ok := obj.(*corev1.Pod)
	if !ok {
		return
	}
	l.writes.Add(1)
	l.mu.Lock()
	defer l.mu.Unlock()
	list := podsOf(l.c)
	if verb == "create" {
		for i := range list {
			if target(&list[i]) == target(pod) {
				l.t.Errorf("a pod is created on %s beside %s", target(pod), list[i].Name)
			}
		}
		return
	}
	serving, nodes := map[string]bool{}, map[string]bool{}
	i := slices.IndexFunc(list, func(p corev1.Pod) bool { return p.Name == pod.Name })
	if i < 0 {
		return
	}
	pod = &list[i]
	for _, p := range list {
		serving[target(&p)] = pods.Ready(&p) && p.DeletionTimestamp == nil
	}
	var all corev1.NodeList
	l.c.Do(l.c.API.List(l.c.Context(), &all))
	for i := range all.Items {
		nodes[all.Items[i].Name] = true
	}
	if l.ignored[pod.UID] || !nodes[target(pod)] || !pods.Ready(pod) {
		return
	}
	for n := range l.down {
		if serving[n] || !nodes[n] {
			delete(l.down, n)
		}
	}
	l.down[target(pod)] = true
	if len(l.down) > l.unavailable {
		l.t.Errorf("%s is taken while others are waited for on %v", pod.Name, l.down)
	}
}

// TestFollowsNodesOverCrashes kills and restarts the controller at random
// moments while nodes come and go and the template changes.
func TestFollowsNodesOverCrashes(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))

	c := clustertest.New(t, append(nodes(4), agent(rolling(2, 0)))...)
	c.Graceful = true
	l := &limits{t: t, c: c, unavailable: 2, down: map[string]bool{}, ignored: map[types.UID]bool{}}
	c.Before = l.before
	c.Run(c.Kubelet(func(*corev1.Pod) bool { return true }))
	launch := func() func() {
		l, err := daemonset.New(c.Env(nil))
		c.Do(err)
		return c.Launch(l)
	}
	kill := launch()
	here := []string{"n0", "n1", "n2", "n3"}
	for round := range 24 {
		switch rnd.IntN(3) {
		case 0:
			change(c, image(fmt.Sprint("i", round), fmt.Sprint(round+2)))
		case 1:
			name := fmt.Sprint("n", 4+round)
			c.Do(c.API.Create(t.Context(), node(name)))
			here = append(here, name)
		case 2:
			if len(here) > 1 {
				i := rnd.IntN(len(here))
				l.leave(here[i])
				here = slices.Delete(here, i, i+1)
			}
		}
		// Up to so many writes later, or when there is nothing left to do.
		until := l.writes.Load() + rnd.Int64N(5)
		c.Eventually(func() (bool, string) {
			l.collect(here)
			var d appsv1.DaemonSet
			c.Get(&d, "ns", "agent")
			return l.writes.Load() >= until || idle(c, &d, len(here)), fmt.Sprintf("%s status %+v", layout(c), d.Status)
		})
		if rnd.IntN(2) == 0 {
			kill()
			kill = launch()
		}
		if t.Failed() {
			return
		}
	}
	change(c, image("last", "99"))
	slices.Sort(here)
	c.Eventually(func() (bool, string) {
		l.collect(here)
		want := strings.Join(here, "=last ") + "=last"
		return layout(c) == want, layout(c) + ", want " + want
	})
	reached(c, all(int32(len(here))))
}

// leave removes a node.
func (l *limits) leave(name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.c.Do(l.c.API.Delete(l.c.Context(), node(name)))
}

// collect deletes the pods of nodes that are gone, as the collector of pods
// does.
func (l *limits) collect(here []string) {
	for _, p := range podsOf(l.c) {
		if slices.Contains(here, target(&p)) || p.DeletionTimestamp != nil {
			continue
		}
		l.mu.Lock()
		l.ignored[p.UID] = true
		l.mu.Unlock()
		l.c.Do(client.IgnoreNotFound(l.c.API.Delete(l.c.Context(), &p)))
	}
}

// idle reports whether a set has all that it asks for.
func idle(c *clustertest.Cluster, d *appsv1.DaemonSet, nodes int) bool {
	s, n := d.Status, int32(nodes)
	return s.ObservedGeneration == d.Generation && s.DesiredNumberScheduled == n && s.UpdatedNumberScheduled == n &&
		s.NumberAvailable == n && len(podsOf(c)) == nodes
}
