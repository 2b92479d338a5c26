package scheduler_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	configv1 "k8s.io/kube-scheduler/config/v1"
	extenderv1 "k8s.io/kube-scheduler/extender/v1"
	"k8s.io/utils/ptr"

	"github.com/proa-dev/proa/scheduler"
	"github.com/proa-dev/proa/scheduler/core"
)

func TestBindsAndSaysSo(t *testing.T) { synctest.Test(t, testBindsAndSaysSo) }

func testBindsAndSaysSo(t *testing.T) {
	c := newFakeCluster(t)
	c.add(newNode("n1", "4"), newPod("before", "1"))
	start(t, c)
	c.add(newPod("after", "1"), newPod("other", "1", func(p *corev1.Pod) { p.Spec.SchedulerName = "mine" }))
	for _, name := range []string{"before", "after"} {
		c.eventually(t, name+" bound", func() bool {
			return c.node(name) == "n1" &&
				c.hasEvent(name+" Normal Scheduled: Successfully assigned default/"+name+" to n1")
		})
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if n := c.node("other"); n != "" {
		t.Errorf("pod of another scheduler was bound to %q", n)
	}
}

func TestUnschedulableUntilSomethingChanges(t *testing.T) {
	synctest.Test(t, testUnschedulableUntilSomethingChanges)
}

func testUnschedulableUntilSomethingChanges(t *testing.T) {
	c := newFakeCluster(t)
	start(t, c)
	c.add(newPod("p", "3"))
	c.eventually(t, "no nodes", func() bool {
		return c.hasEvent("p Warning FailedScheduling: no nodes available to schedule pods") &&
			c.condition("p", corev1.PodScheduled).Reason == "Unschedulable"
	})
	tainted := newNode("tainted", "8")
	tainted.Spec.Taints = []corev1.Taint{{Key: "k", Value: "v", Effect: corev1.TaintEffectNoSchedule}}
	c.add(tainted, newNode("small", "2"))
	want := "0/2 nodes are available: 1 Insufficient cpu, 1 node(s) had untolerated taint(s). " +
		"preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling."
	c.eventually(t, "reasons", func() bool {
		cond := c.condition("p", corev1.PodScheduled)
		return cond.Status == corev1.ConditionFalse && cond.Message == want
	})
	tainted = tainted.DeepCopy()
	tainted.Spec.Taints = nil
	c.update(tainted)
	c.eventually(t, "bound after the taint went", func() bool { return c.node("p") == "tainted" })
}

func TestFreedRoomIsUsed(t *testing.T) { synctest.Test(t, testFreedRoomIsUsed) }

func testFreedRoomIsUsed(t *testing.T) {
	c := newFakeCluster(t)
	c.add(newNode("n", "1"), newPod("first", "1"))
	start(t, c)
	c.eventually(t, "first bound", func() bool { return c.node("first") == "n" })
	c.add(newPod("second", "1"))
	c.eventually(t, "second waits", func() bool {
		return c.condition("second", corev1.PodScheduled).Message == "0/1 nodes are available: 1 Insufficient cpu. "+
			"preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod."
	})
	if err := c.delete(newPod("first", "1")); err != nil {
		t.Fatal(err)
	}
	c.eventually(t, "second bound", func() bool { return c.node("second") == "n" })
}

func TestFailedBindIsRetried(t *testing.T) { synctest.Test(t, testFailedBindIsRetried) }

func testFailedBindIsRetried(t *testing.T) {
	c := newFakeCluster(t)
	fails := 1
	c.bindFail = func(string, string) error {
		if fails--; fails >= 0 {
			return errors.New("storage is away")
		}
		return nil
	}
	c.add(newNode("n", "1"))
	start(t, c)
	c.add(newPod("p", "1"))
	c.eventually(t, "error reported", func() bool {
		return c.condition("p", corev1.PodScheduled).Reason == "SchedulerError" || c.node("p") == "n"
	})
	c.eventually(t, "bound at the second try", func() bool { return c.node("p") == "n" })
}

func TestGates(t *testing.T) { synctest.Test(t, testGates) }

func testGates(t *testing.T) {
	c := newFakeCluster(t)
	c.add(newNode("n", "1"))
	start(t, c)
	c.add(newPod("p", "1", func(p *corev1.Pod) { p.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "g"}} }))
	c.eventually(t, "gated", func() bool { return c.condition("p", corev1.PodScheduled).Reason == "SchedulingGated" })
	if err := c.change(types.NamespacedName{Namespace: "default", Name: "p"}, "", func(p *corev1.Pod) error {
		p.Spec.SchedulingGates = nil
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	c.eventually(t, "bound", func() bool { return c.node("p") == "n" })
}

func TestPreemption(t *testing.T) { synctest.Test(t, testPreemption) }

func testPreemption(t *testing.T) {
	c := newFakeCluster(t)
	c.add(newNode("n", "2"), newPod("low", "1", priority(1)), newPod("lowest", "1", priority(0)))
	start(t, c)
	c.eventually(t, "node full", func() bool { return c.node("low") == "n" && c.node("lowest") == "n" })
	c.add(newPod("high", "1", priority(1000)))
	c.eventually(t, "preempted", func() bool {
		return c.node("high") == "n" && c.node("lowest") == "gone" && c.node("low") == "n" &&
			c.hasEvent("lowest Normal Preempted: Preempted by pod uid-high on node n")
	})
}

// The node of a pod decides where its volume is made, and the pod is bound once
// it is there.
func TestVolumesFollowTheFirstConsumer(t *testing.T) {
	synctest.Test(t, testVolumesFollowTheFirstConsumer)
}

func testVolumesFollowTheFirstConsumer(t *testing.T) {
	late := storagev1.VolumeBindingWaitForFirstConsumer
	class := "local"
	claim := &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "data", UID: "uid-data"},
		Spec:       corev1.PersistentVolumeClaimSpec{StorageClassName: &class, AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}},
	}
	c := newFakeCluster(t)
	c.add(newNode("n", "2"), claim)
	start(t, c)
	c.add(newPod("p", "1", func(p *corev1.Pod) {
		p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "data"}}}}
	}))
	c.eventually(t, "claim has no class yet", func() bool {
		return c.hasEvent("0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims. preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.")
	})
	c.add(&storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: class}, Provisioner: "example.com/p", VolumeBindingMode: &late})
	c.eventually(t, "node chosen", func() bool {
		return c.hasEvent(`patched data: {"metadata":{"annotations":{"volume.kubernetes.io/selected-node":"n"},"uid":"uid-data"}}`)
	})
	c.mu.Lock()
	if c.node("p") != "" {
		t.Error("bound before its volume")
	}
	c.mu.Unlock()
	claim = claim.DeepCopy()
	claim.Annotations = map[string]string{"volume.kubernetes.io/selected-node": "n", "pv.kubernetes.io/bind-completed": "yes"}
	claim.Spec.VolumeName, claim.Status.Phase = "pv", corev1.ClaimBound
	c.update(claim)
	c.eventually(t, "bound", func() bool { return c.node("p") == "n" })
}

// A scheduler that starts beside pods that are bound counts them in.
func TestRestart(t *testing.T) { synctest.Test(t, testRestart) }

func testRestart(t *testing.T) {
	c := newFakeCluster(t)
	c.add(newNode("n", "2"))
	for i := range 2 {
		c.add(newPod(fmt.Sprintf("old-%d", i), "1", func(p *corev1.Pod) { p.Spec.NodeName = "n" }))
	}
	start(t, c)
	c.add(newPod("new", "1"))
	c.eventually(t, "full", func() bool { return c.condition("new", corev1.PodScheduled).Reason == "Unschedulable" })
}

// A pod follows the rules of the profile that it names.
func TestProfiles(t *testing.T) { synctest.Test(t, testProfiles) }

func testProfiles(t *testing.T) {
	c := newFakeCluster(t)
	tainted := newNode("n", "4")
	tainted.Spec.Taints = []corev1.Taint{{Key: "k", Effect: corev1.TaintEffectNoSchedule}}
	c.add(tainted)
	free := core.DefaultProfile()
	free.Name, free.Filters = "free", free.Filters.Without(core.TaintToleration)
	start(t, c, func(cfg *scheduler.Config) { cfg.Profiles = []*core.Profile{core.DefaultProfile(), free} })
	c.add(newPod("bound", "1", func(p *corev1.Pod) { p.Spec.SchedulerName = "free" }), newPod("waits", "1"), newPod("other", "1", func(p *corev1.Pod) { p.Spec.SchedulerName = "else" }))
	c.eventually(t, "each by its rules", func() bool {
		return c.node("bound") == "n" && c.condition("waits", corev1.PodScheduled).Reason == "Unschedulable"
	})
}

// Extenders turn nodes down and prefer others.
func TestExtenders(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var args extenderv1.ExtenderArgs
		if err := json.NewDecoder(r.Body).Decode(&args); err != nil {
			t.Error(err)
			return
		}
		var answer any
		switch {
		case r.URL.Path == "/prioritize":
			answer = extenderv1.HostPriorityList{{Host: "b", Score: 10}}
		case args.Pod.Name == "refused":
			answer = extenderv1.ExtenderFilterResult{NodeNames: &[]string{}, FailedNodes: map[string]string{"a": "not now", "b": "not now", "c": "not now"}}
		default:
			kept := slices.DeleteFunc(*args.NodeNames, func(n string) bool { return n == "c" })
			answer = extenderv1.ExtenderFilterResult{NodeNames: &kept, FailedNodes: map[string]string{"c": "not now"}}
		}
		if err := json.NewEncoder(w).Encode(answer); err != nil {
			t.Error(err)
		}
	}))
	defer server.Close()
	c := newFakeCluster(t)
	c.add(newNode("a", "8"), newNode("b", "4"), newNode("c", "8"))
	start(t, c, func(cfg *scheduler.Config) {
		cfg.Extenders = []configv1.Extender{{URLPrefix: server.URL, FilterVerb: "filter", PrioritizeVerb: "prioritize", Weight: 100, NodeCacheCapable: true}}
	})
	c.add(newPod("p", "1"), newPod("refused", "1"))
	for pod, node := range map[string]string{"expected": "a", "elsewhere": "c"} {
		c.add(newPod(pod, "1", func(p *corev1.Pod) { p.Status.NominatedNodeName = node }))
	}
	c.eventually(t, "the nominated node, unless an extender turns it down", func() bool { return c.node("expected") == "a" && c.node("elsewhere") == "b" })
	c.eventually(t, "the preferred node, or none", func() bool {
		return c.node("p") == "b" && c.condition("refused", corev1.PodScheduled).Message ==
			"0/3 nodes are available: 3 not now. preemption: 0/3 nodes are available: 3 No preemption victims found for incoming pod."
	})
}

// A pod for which others are being evicted does not choose more of them.
func TestPreemptionIsNotRepeated(t *testing.T) { synctest.Test(t, testPreemptionIsNotRepeated) }

func testPreemptionIsNotRepeated(t *testing.T) {
	c := newFakeCluster(t)
	c.add(newNode("n", "4"), newNode("m", "4"))
	for i := range 8 {
		c.add(newPod(fmt.Sprintf("low-%d", i), "1", priority(1)))
	}
	start(t, c)
	c.eventually(t, "nodes full", func() bool {
		for i := range 8 {
			if c.node(fmt.Sprintf("low-%d", i)) == "" {
				return false
			}
		}
		return true
	})
	c.add(newPod("high", "3", priority(1000)))
	c.eventually(t, "bound", func() bool { n := c.node("high"); return n == "n" || n == "m" })
	c.mu.Lock()
	defer c.mu.Unlock()
	if left := len(c.pods); left != 6 {
		t.Errorf("%d pods are left, want 6: no more than 3 victims", left)
	}
}

// A pod waits for those that end for it, and gets their room when they are
// gone; pods that take their place wait in turn.
func TestGracefulVictims(t *testing.T) { synctest.Test(t, testGracefulVictims) }

func testGracefulVictims(t *testing.T) {
	c := newFakeCluster(t)
	c.graceful = true
	c.add(newNode("n", "1000"))
	start(t, c)
	for i, cpu := range []string{"200", "300", "450"} {
		c.add(newPod(fmt.Sprintf("low-%d", i), cpu, priority(int32(i+1))))
		c.eventually(t, "bound", func() bool { return c.node(fmt.Sprintf("low-%d", i)) == "n" })
	}
	c.add(newPod("high", "500", priority(4)))
	c.eventually(t, "victims end", func() bool {
		ends := func(name string) bool {
			return c.pods[types.NamespacedName{Namespace: "default", Name: name}].DeletionTimestamp != nil
		}
		return ends("low-0") && ends("low-1") && c.condition("high", corev1.PodScheduled).Reason == "Unschedulable"
	})
	c.add(newPod("new-0", "200", priority(1)), newPod("new-1", "300", priority(2)))
	synctest.Wait()
	for _, name := range []string{"low-0", "low-1"} {
		if err := c.delete(newPod(name, "1")); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
	}
	c.eventually(t, "bound in their room", func() bool { return c.node("high") == "n" })
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.node("low-2") != "n" || c.node("new-0") != "" || c.node("new-1") != "" {
		t.Errorf("low-2 on %q, new-0 on %q, new-1 on %q", c.node("low-2"), c.node("new-0"), c.node("new-1"))
	}
}

// A pod whose claim is to be made from a template does not try before, and
// loses no time then.
func TestClaimFromTemplate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newFakeCluster(t)
		c.add(newNode("n", "4"))
		start(t, c)
		c.add(newPod("p", "1", func(p *corev1.Pod) {
			p.Spec.ResourceClaims = []corev1.PodResourceClaim{{Name: "gpu", ResourceClaimTemplateName: ptr.To("t")}}
		}))
		time.Sleep(10 * time.Minute) // pods that are set aside are tried again after five
		c.add(&resourcev1.ResourceClaim{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "p-gpu", UID: "claim", OwnerReferences: []metav1.OwnerReference{{
				APIVersion: "v1", Kind: "Pod", Name: "p", UID: "uid-p", Controller: ptr.To(true)}}},
			Status: resourcev1.ResourceClaimStatus{Allocation: &resourcev1.AllocationResult{}},
		})
		synctest.Wait()
		c.write(t, "p", func(p *corev1.Pod) {
			p.Status.ResourceClaimStatuses = []corev1.PodResourceClaimStatus{{Name: "gpu", ResourceClaimName: ptr.To("p-gpu")}}
		})
		synctest.Wait()
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.node("p") != "n" || c.hasEvent("FailedScheduling") {
			t.Errorf("p is on %q, events %q", c.node("p"), c.events)
		}
	})
}

// Whatever fails and vanishes meanwhile: in the end every pod that is left has
// a node, and at no time was a node given more than it has.
func TestChaos(t *testing.T) { synctest.Test(t, testChaos) }

func testChaos(t *testing.T) {
	c := newFakeCluster(t)
	dice, faults := rand.New(rand.NewPCG(1, 2)), rand.New(rand.NewPCG(3, 4))
	c.bindFail = func(string, string) error {
		if faults.IntN(4) == 0 {
			return errors.New("storage is away")
		}
		return nil
	}
	c.onChange = func() {
		used := map[string]int64{}
		for _, p := range c.pods {
			used[p.Spec.NodeName] += p.Spec.Containers[0].Resources.Requests.Cpu().Value()
		}
		for node, cpu := range used {
			if node != "" && cpu > 8 {
				t.Errorf("%d cpu of 8 given on %s", cpu, node)
			}
		}
	}
	for i := range 10 {
		c.add(newNode(fmt.Sprintf("n%d", i), "8"))
	}
	start(t, c)
	for i := range 160 { // twice what fits at once
		c.add(newPod(fmt.Sprintf("p%d", i), fmt.Sprint(1+i%2), priority(int32(i%3))))
		if i%20 == 0 {
			synctest.Wait() // let it all be decided, and preempted
		}
	}
	for i := range 100 { // leave room for the rest
		if name := fmt.Sprintf("p%d", i); dice.IntN(2) == 0 {
			if err := c.delete(newPod(name, "1")); err != nil && !apierrors.IsNotFound(err) {
				t.Fatal(err)
			}
			cordon := newNode(fmt.Sprintf("n%d", i%10), "8")
			cordon.Spec.Unschedulable = dice.IntN(2) == 0
			c.update(cordon)
		}
	}
	for i := range 10 {
		c.update(newNode(fmt.Sprintf("n%d", i), "8"))
	}
	for i := range 25 { // room for all 240, even with one cpu wasted on each node
		c.add(newNode(fmt.Sprintf("late%d", i), "8"))
	}
	c.eventually(t, "every pod has a node", func() bool {
		for _, p := range c.pods {
			if p.Spec.NodeName == "" {
				return false
			}
		}
		return true
	})
}

// BenchmarkDeployment is 3,000 alike pods on 500 nodes, informers and calls
// (which cost nothing here) included.
func BenchmarkDeployment(b *testing.B) {
	for b.Loop() {
		b.StopTimer()
		c := newFakeCluster(b)
		for i := range 500 {
			c.add(newNode(fmt.Sprintf("node-%d", i), "32"))
		}
		start(b, c)
		b.StartTimer()
		begin := time.Now()
		for i := range 3000 {
			c.add(newPod(fmt.Sprintf("pod-%d", i), "100m"))
		}
		c.eventually(b, "all bound", func() bool { return len(c.events) == 3000 })
		b.ReportMetric(3000/time.Since(begin).Seconds(), "pods/s")
	}
}
