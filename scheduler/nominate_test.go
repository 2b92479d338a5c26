package scheduler_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/storage/volume"

	"github.com/proa-dev/proa/scheduler"
)

func (c *fakeCluster) nominated(pod string) string {
	return c.pods[key(newPod(pod, "1"))].Status.NominatedNodeName
}

// A pod whose volumes are still to be made says where it will be, until it is
// there or the decision is taken back. One that is bound at once does not.
func TestAnnouncesNodes(t *testing.T) { synctest.Test(t, testAnnouncesNodes) }

func testAnnouncesNodes(t *testing.T) {
	c := newFakeCluster(t)
	c.onPatch = func(pod string) {
		if pod == "plain" {
			t.Error("the status of a pod that is bound at once was written")
		}
	}
	claim := lateClaim("data")
	c.add(newNode("n", "4"), claim, lateClass())
	registry := prometheus.NewRegistry()
	start(t, c, func(cfg *scheduler.Config) { cfg.Metrics = registry })
	c.add(newPod("plain", "1"), newPod("p", "1", func(p *corev1.Pod) {
		p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "data"}}}}
	}))
	annotate := func(annotations map[string]string) {
		synctest.Wait()
		claim = claim.DeepCopy()
		claim.Annotations = maps.Clone(annotations)
		c.update(claim)
	}
	selected := map[string]string{volume.AnnSelectedNode: "n"}
	c.eventually(t, "the node is announced", func() bool { return c.nominated("p") == "n" && c.node("p") == "" })
	annotate(selected)
	annotate(nil) // the provisioner gives the claim back
	c.eventually(t, "the announcement is withdrawn", func() bool {
		return c.nominated("p") == "" && c.condition("p", corev1.PodScheduled).Reason == corev1.PodReasonSchedulerError
	})
	c.eventually(t, "the node is announced again", func() bool { return c.nominated("p") == "n" })
	claim.Spec.VolumeName, claim.Status.Phase = "pv", corev1.ClaimBound
	selected[volume.AnnBindCompleted] = "yes"
	annotate(selected)
	c.eventually(t, "bound", func() bool { return c.node("p") == "n" && c.node("plain") == "n" && c.nominated("p") == "" })

	// What has to be done first was asked of each placement: of one pod something, of the other nothing.
	for status, want := range map[string]bool{"Success": true, "Skip": true, "Error": false} {
		const name = "scheduler_framework_extension_point_duration_seconds"
		seen := false
		families, err := registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range families {
			for _, m := range f.GetMetric() {
				labels := map[string]string{}
				for _, l := range m.GetLabel() {
					labels[l.GetName()] = l.GetValue()
				}
				seen = seen || f.GetName() == name && labels["extension_point"] == "PreBindPreFlight" && labels["status"] == status && m.GetHistogram().GetSampleCount() > 0
			}
		}
		if seen != want {
			t.Errorf("PreBindPreFlight with status %s: %v", status, seen)
		}
	}
}

// Another component may keep a node for a pod before there is that node.
func TestNodeToCome(t *testing.T) { synctest.Test(t, testNodeToCome) }

func testNodeToCome(t *testing.T) {
	c := newFakeCluster(t)
	c.add(newNode("small", "1"))
	start(t, c)
	for _, name := range []string{"first", "expected"} {
		c.add(newPod(name, "4"))
		c.eventually(t, "refused", func() bool { return c.refused(name) })
	}
	c.write(t, "expected", func(p *corev1.Pod) { p.Status.NominatedNodeName = "large" })
	synctest.Wait()
	c.add(newNode("large", "4"))
	c.soon(t, "the node goes to the pod that it was kept for", func() bool { return c.node("expected") == "large" })
	synctest.Wait()
	if node := c.node("first"); node != "" {
		t.Errorf("the other pod is on %q", node)
	}
}

// A nomination is withdrawn once preemption has been found to be of no help. A
// pod that may preempt nobody keeps what others nominated it to.
func TestNominationInVain(t *testing.T) {
	for policy, want := range map[corev1.PreemptionPolicy]string{corev1.PreemptNever: "large", corev1.PreemptLowerPriority: ""} {
		t.Run(string(policy), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newFakeCluster(t)
				c.add(newNode("small", "1"))
				start(t, c)
				c.add(newPod("p", "4", func(p *corev1.Pod) {
					p.Spec.PreemptionPolicy, p.Status.NominatedNodeName = &policy, "large"
				}))
				c.eventually(t, "refused", func() bool { return c.refused("p") })
				synctest.Wait()
				if got := c.nominated("p"); got != want {
					t.Errorf("nominated to %q, want %q", got, want)
				}
			})
		})
	}
}

// A pod that waits for a node to be cleared gives it up to one of higher
// priority, and says so.
func TestDisplaced(t *testing.T) { synctest.Test(t, testDisplaced) }

func testDisplaced(t *testing.T) {
	c := newFakeCluster(t)
	c.graceful = true
	c.add(newNode("n", "4"))
	start(t, c)
	c.add(newPod("low", "4", priority(1)))
	c.eventually(t, "low is placed", func() bool { return c.node("low") == "n" })
	for i, name := range []string{"middle", "high"} {
		c.add(newPod(name, "4", priority(int32(2+i))))
		c.eventually(t, "nominated", func() bool { return c.nominated(name) == "n" })
		synctest.Wait()
	}
	c.soon(t, "the nomination is withdrawn", func() bool { return c.nominated("middle") == "" })
	if err := c.delete(newPod("low", "4")); err != nil {
		t.Fatal(err)
	}
	c.soon(t, "high gets the node", func() bool { return c.node("high") == "n" })
}

// A scheduler that starts goes on with what another one announced.
func TestAnnouncedByAnother(t *testing.T) { synctest.Test(t, testAnnouncedByAnother) }

func testAnnouncedByAnother(t *testing.T) {
	c := newFakeCluster(t)
	c.add(newNode("idle", "8"), newNode("small", "1"))
	c.add(newPod("p", "1", func(p *corev1.Pod) { p.Status.NominatedNodeName = "small" }))
	start(t, c)
	c.eventually(t, "the node that was announced", func() bool { return c.node("p") == "small" })
}

// While another pod's victim is still to be evicted from the node, a pod whose
// own has gone finds its room reserved. It waits, and evicts nobody else.
func TestFewestVictims(t *testing.T) { synctest.Test(t, testFewestVictims) }

func testFewestVictims(t *testing.T) {
	c := newFakeCluster(t)
	evict := []chan struct{}{make(chan struct{}), make(chan struct{}), nil}
	var victims []string
	c.onPatch = func(pod string) {
		if !strings.HasPrefix(pod, "low") {
			return
		}
		c.mu.Lock()
		if !slices.Contains(victims, pod) {
			victims = append(victims, pod)
		}
		wait := evict[min(slices.Index(victims, pod), 2)]
		c.mu.Unlock()
		if wait != nil {
			<-wait
		}
	}
	c.add(newNode("n", "4"))
	start(t, c)
	for i := range 4 {
		name := fmt.Sprint("low-", i)
		c.add(newPod(name, "1"))
		c.eventually(t, "low is placed", func() bool { return c.node(name) == "n" })
	}
	for _, name := range []string{"a", "b"} {
		c.add(newPod(name, "1", priority(1)))
		c.eventually(t, "nominated", func() bool { return c.nominated(name) == "n" })
		synctest.Wait()
	}
	close(evict[0])
	synctest.Wait()
	c.write(t, "a", func(p *corev1.Pod) { p.Labels = map[string]string{"try": "again"} })
	time.Sleep(time.Minute) // as often as it likes
	close(evict[1])
	c.soon(t, "both are placed", func() bool { return c.node("a") == "n" && c.node("b") == "n" })
	c.mu.Lock()
	defer c.mu.Unlock()
	var attempts []string
	for _, e := range c.events {
		if strings.Contains(e, "found a potential placement") {
			attempts = append(attempts, e)
		}
	}
	if len(victims) != 2 || len(attempts) != 2 {
		t.Errorf("victims: %v, attempts: %q", victims, attempts)
	}
}
