package api

import (
	"fmt"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
)

// census counts the pods of a namespace, event by event: those that are there
// to stay, and those of them that are Ready.
type census struct {
	staying, ready map[types.UID]bool
	most, fewest   int // since begin
	events         int
}

func (c *census) note(e watch.EventType, p *corev1.Pod) {
	c.events++
	delete(c.staying, p.UID)
	delete(c.ready, p.UID)
	if e != watch.Deleted && p.DeletionTimestamp == nil {
		c.staying[p.UID] = true
		for _, cond := range p.Status.Conditions {
			if cond.Type == corev1.PodReady && cond.Status == corev1.ConditionTrue {
				c.ready[p.UID] = true
			}
		}
	}
	c.most, c.fewest = max(c.most, len(c.staying)), min(c.fewest, len(c.ready))
}

// begin forgets the extremes.
func (c *census) begin() { c.most, c.fewest = len(c.staying), len(c.ready) }

// TestRolloutOfAThousand updates a Deployment of 1,000 on bare nodes, and again
// in mid-rollout. At no time are there more pods than maxSurge allows or fewer
// Ready ones than maxUnavailable does.
func TestRolloutOfAThousand(t *testing.T) {
	const size, most, fewest = 1000, 1250, 750
	ns, ctx := namespace(t), t.Context()
	for i := range 12 {
		nodeOf(t, ns, fmt.Sprintf("%s-%d", ns, i), "64")
	}
	a := apps{t, ns, ns, world.kube.AppsV1()}
	w, err := world.kube.CoreV1().Pods(ns).Watch(ctx, metav1.ListOptions{})
	must(t, err)
	defer w.Stop()

	c := &census{staying: map[types.UID]bool{}, ready: map[types.UID]bool{}}
	late := time.After(2 * time.Minute)
	// follow counts until the Deployment has got that far.
	follow := func(what string, done func(s *appsv1.DeploymentStatus) bool) {
		t.Helper()
		began := time.Now()
		look := time.NewTicker(100 * time.Millisecond)
		defer look.Stop()
		for {
			select {
			case e, ok := <-w.ResultChan():
				p, isPod := e.Object.(*corev1.Pod)
				if !ok || !isPod {
					t.Fatalf("the watch ended with %v", e.Object)
				}
				c.note(e.Type, p)
			case <-look.C:
				d := get[*appsv1.Deployment](t)(a.Deployments(ns).Get(ctx, "web", metav1.GetOptions{}))
				if d.Status.ObservedGeneration == d.Generation && done(&d.Status) {
					t.Logf("%s: %s, %d events", what, time.Since(began).Round(time.Millisecond), c.events)
					return
				}
			case <-late:
				t.Fatalf("%s: there are %d pods, %d of them Ready", what, len(c.staying), len(c.ready))
			}
		}
	}
	all := func(s *appsv1.DeploymentStatus) bool {
		return s.UpdatedReplicas == size && s.Replicas == size && s.AvailableReplicas == size && len(c.ready) == size
	}
	a.deploy(size, nil)
	follow("created", all)
	if c.most > size {
		t.Errorf("%d pods were made for %d", c.most, size)
	}
	c.begin()
	a.image("v2")
	follow("half updated", func(s *appsv1.DeploymentStatus) bool { return s.UpdatedReplicas >= size/2 })
	a.image("v3")
	follow("updated", all)
	t.Logf("between %d Ready and %d pods", c.fewest, c.most)
	if c.most > most || c.fewest < fewest {
		t.Errorf("there were %d pods, want at most %d, and %d Ready, want at least %d", c.most, most, c.fewest, fewest)
	}
	for _, p := range a.pods() {
		if p.DeletionTimestamp == nil && p.Spec.Containers[0].Image != "v3" {
			t.Errorf("%s runs %s", p.Name, p.Spec.Containers[0].Image)
		}
	}
}
