package scheduler_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	configv1 "k8s.io/kube-scheduler/config/v1"
	extenderv1 "k8s.io/kube-scheduler/extender/v1"

	"github.com/proa-dev/proa/scheduler"
)

// soon is eventually without the help of the queue, which lets every pod try
// again after five minutes.
func (c *fakeCluster) soon(t *testing.T, what string, f func() bool) {
	t.Helper()
	begin := time.Now()
	c.eventually(t, what, f)
	if took := time.Since(begin); took > time.Minute {
		t.Errorf("%s: only after %v", what, took)
	}
}

func (c *fakeCluster) refused(pod string) bool {
	return c.condition(pod, corev1.PodScheduled).Reason == corev1.PodReasonUnschedulable
}

// write changes a pod as another component would.
func (c *fakeCluster) write(t *testing.T, name string, f func(*corev1.Pod)) {
	t.Helper()
	p := newPod(name, "1")
	if err := c.change(key(p), p.UID, func(pod *corev1.Pod) error { f(pod); return nil }); err != nil {
		t.Fatal(err)
	}
}

// A pod is tried again as soon as something happens that may help it.
func TestWakes(t *testing.T) {
	tests := []struct {
		name  string
		setup func(t *testing.T, c *fakeCluster)
		event func(t *testing.T, c *fakeCluster)
	}{
		{"the kubelet learns what the pod needs", func(_ *testing.T, c *fakeCluster) {
			c.add(newNode("n", "4"))
			c.add(newPod("p", "1", func(p *corev1.Pod) {
				p.Spec.Containers[0].RestartPolicyRules = []corev1.ContainerRestartRule{{Action: corev1.ContainerRestartRuleActionRestartAllContainers}}
			}))
		}, func(_ *testing.T, c *fakeCluster) {
			n := newNode("n", "4")
			n.Status.DeclaredFeatures = []string{"RestartAllContainersOnContainerExits"}
			c.update(n)
		}},
		{"a pod with a nomination is deleted", nominated, func(t *testing.T, c *fakeCluster) {
			if err := c.delete(newPod("high", "4")); err != nil {
				t.Fatal(err)
			}
		}},
		{"a nomination is withdrawn", nominated, func(t *testing.T, c *fakeCluster) {
			c.write(t, "high", func(p *corev1.Pod) { p.Status.NominatedNodeName = "" })
		}},
		{"a nominated pod is too large now", nominated, func(t *testing.T, c *fakeCluster) {
			c.write(t, "high", func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{"no": "such"} })
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newFakeCluster(t)
				start(t, c)
				tt.setup(t, c)
				c.eventually(t, "refused", func() bool { return c.refused("p") })
				synctest.Wait()
				tt.event(t, c)
				c.soon(t, "p gets its node", func() bool { return c.node("p") == "n" })
			})
		})
	}
}

// nominated makes a pod p that would fit, were the room not reserved for another,
// which waits for a third to end.
func nominated(t *testing.T, c *fakeCluster) {
	c.graceful = true
	c.add(newNode("n", "4"))
	c.add(newPod("low", "2", priority(1)))
	c.eventually(t, "low is placed", func() bool { return c.node("low") == "n" })
	c.add(newPod("high", "4", priority(2)))
	c.eventually(t, "low ends for high", func() bool { return c.hasEvent("Preempted by pod uid-high") })
	c.add(newPod("p", "1"))
}

// The pods that wait for their victims to end do not try at every step: what
// is freed is reserved for others.
func TestReservedRoomWakesNobody(t *testing.T) { synctest.Test(t, testReservedRoomWakesNobody) }

func testReservedRoomWakesNobody(t *testing.T) {
	const pods = 4
	c := newFakeCluster(t)
	c.graceful = true
	c.add(newNode("n", "4"))
	start(t, c)
	for i := range pods {
		c.add(newPod(fmt.Sprintf("low-%d", i), "1", priority(1)))
		c.eventually(t, "placed", func() bool { return c.node(fmt.Sprintf("low-%d", i)) == "n" })
	}
	for i := range pods {
		c.add(newPod(fmt.Sprintf("high-%d", i), "1", priority(2)))
	}
	synctest.Wait()
	attempts := func() (n int) {
		c.mu.Lock()
		defer c.mu.Unlock()
		for _, e := range c.events {
			if strings.Contains(e, "FailedScheduling") {
				n++
			}
		}
		return n
	}
	time.Sleep(time.Minute)
	before := attempts()
	for i := range pods {
		time.Sleep(time.Second)
		if n := attempts(); n != before {
			t.Errorf("%d attempts in vain after %d victims ended", n-before, i)
		}
		if err := c.delete(newPod(fmt.Sprintf("low-%d", i), "1")); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
	}
	c.soon(t, "all have their room", func() bool {
		for i := range pods {
			if c.node(fmt.Sprintf("high-%d", i)) != "n" {
				return false
			}
		}
		return true
	})
}

// A report that is slow to be written is not written over a bind.
func TestReportsBeforeBinds(t *testing.T) { synctest.Test(t, testReportsBeforeBinds) }

func testReportsBeforeBinds(t *testing.T) {
	c := newFakeCluster(t)
	slow := make(chan struct{})
	c.onPatch = func(string) { <-slow }
	start(t, c)
	c.add(newPod("p", "1"))
	synctest.Wait()
	c.add(newNode("n", "4"))
	synctest.Wait()
	close(slow)
	c.eventually(t, "bound", func() bool { return c.node("p") == "n" })
	synctest.Wait()
	if now := c.condition("p", corev1.PodScheduled); now.Status != corev1.ConditionTrue {
		t.Errorf("it is bound and says: %s", now.Message)
	}
}

// What happens while an extender is asked about a pod is not lost on it.
func TestWakesThoseAway(t *testing.T) {
	asked, answer := make(chan struct{}, 8), make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var args extenderv1.ExtenderArgs
		if err := json.NewDecoder(r.Body).Decode(&args); err != nil {
			t.Error(err)
			return
		}
		if strings.HasSuffix(r.URL.Path, "preempt") {
			asked <- struct{}{}
			<-answer
			w.WriteHeader(http.StatusInternalServerError)
		}
	}))
	defer server.Close()
	c := newFakeCluster(t)
	c.add(newNode("a", "2"))
	start(t, c, func(cfg *scheduler.Config) {
		cfg.Extenders = []configv1.Extender{{URLPrefix: server.URL, PreemptVerb: "preempt", NodeCacheCapable: true}}
	})
	c.add(newPod("low", "2", priority(1)))
	c.eventually(t, "low is placed", func() bool { return c.node("low") == "a" })
	c.add(newPod("high", "2", priority(2)))
	<-asked
	c.add(newNode("b", "2"))
	close(answer)
	c.eventually(t, "high gets the new node", func() bool { return c.node("high") == "b" })
}
