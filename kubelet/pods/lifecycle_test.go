package pods_test

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"

	"github.com/proa-dev/proa/kubelet/images"
	"github.com/proa-dev/proa/kubelet/internal/fakecri"
	"github.com/proa-dev/proa/kubelet/pods"
	"github.com/proa-dev/proa/kubelet/spec"
)

// A changed manifest is another static pod of the same name, which may want the
// same port: it waits for the end of the one before.
func TestStaticPodWaitsForItsPredecessor(t *testing.T) {
	runtime := &fakecri.Runtime{Act: func(string, uint32) fakecri.Behaviour { return fakecri.Behaviour{IgnoresTerm: true} }}
	run(t, runtime, func(b *bench) {
		static := func(uid types.UID) *corev1.Pod {
			p := pod("c")
			p.UID, p.Annotations = uid, map[string]string{pods.AnnotationSource: "file"}
			p.Spec.Containers[0].Ports = []corev1.ContainerPort{{ContainerPort: 80, HostPort: 80}}
			return p
		}
		b.manager.Update(static("a"))
		synctest.Wait()
		b.manager.Remove(static("a"))
		b.manager.Update(static("b"))
		b.manager.Remove(static("b")) // changed again meanwhile
		b.manager.Update(static("c"))
		time.Sleep(29 * time.Second)
		b.wantLog("sandbox p/0", "start c/0", "stop c/0 30s")
		time.Sleep(2 * time.Second)
		b.wantLog("sandbox p/0", "start c/0", "stop c/0 30s", "exit c/0 137", "stop sandbox p/0", "sandbox p/0", "start c/0")
		if all := b.manager.Pods(); len(all) != 1 || all[0].UID != "c" || all[0].Status.Phase != corev1.PodRunning {
			t.Errorf("pods: %v", all)
		}
		b.stop() // and changed once more while no kubelet runs
		b.start(t.TempDir())
		b.runtime.ClearLog()
		b.manager.Update(static("d"))
		if err := b.manager.Reconcile(b.ctx, true); err != nil {
			t.Fatal(err)
		}
		time.Sleep(31 * time.Second)
		b.wantLog("stop c/0 30s", "exit c/0 137", "stop sandbox p/0", "sandbox p/0", "start c/0")
	})
}

// What the node does not know is the cluster's to count: a scheduler's extender
// has, or a claim of devices stands for it.
func TestUnknownResourcesAreNotTheNodes(t *testing.T) {
	run(t, &fakecri.Runtime{}, func(b *bench) {
		p := pod("c")
		p.Spec.Containers[0].Resources.Requests = corev1.ResourceList{"example.com/licence": resource.MustParse("1")}
		b.manager.Update(p)
		b.wantLog("sandbox p/0", "start c/0")
	})
}

func sleepFirst(c *corev1.Container, seconds int64) {
	c.Lifecycle = &corev1.Lifecycle{PreStop: &corev1.LifecycleHandler{Sleep: &corev1.SleepAction{Seconds: seconds}}}
}

// The hooks of all containers run when a pod's end begins; a sidecar is asked to
// end when the containers have, unless it did so by itself.
func TestHooksOfSidecarsDoNotWait(t *testing.T) {
	runtime := &fakecri.Runtime{Act: func(name string, _ uint32) fakecri.Behaviour {
		return fakecri.Behaviour{Exits: name == "ends", For: time.Minute}
	}}
	run(t, runtime, func(b *bench) {
		p := withInit(pod("c"), true, "s", "ends")
		sleepFirst(&p.Spec.InitContainers[0], 5)
		sleepFirst(&p.Spec.Containers[0], 10)
		b.manager.Update(p)
		time.Sleep(58 * time.Second)
		b.runtime.ClearLog()
		b.delete(p, 30)
		time.Sleep(11 * time.Second)
		b.wantLog("exit ends/0 0", "stop ends/0 28s", "stop c/0 20s", "exit c/0 143", "stop s/0 20s", "exit s/0 143", "stop sandbox p/0")
		if !b.removed {
			t.Error("the object was not released")
		}
	})
}

// An init container's own policy says whether its failure is the pod's.
func TestInitContainerWithItsOwnPolicy(t *testing.T) {
	runtime := &fakecri.Runtime{Act: func(name string, attempt uint32) fakecri.Behaviour {
		return fakecri.Behaviour{Exits: name == "i", For: time.Second, Code: int32(1 - attempt)}
	}}
	onFailure := corev1.ContainerRestartPolicyOnFailure
	run(t, runtime, func(b *bench) {
		p := withInit(pod("c"), false, "i")
		p.Spec.RestartPolicy, p.Spec.InitContainers[0].RestartPolicy = corev1.RestartPolicyNever, &onFailure
		b.manager.Update(p)
		time.Sleep(1500 * time.Millisecond)
		if s := b.last(); s.Phase != corev1.PodPending {
			t.Errorf("phase = %s after the first failure", s.Phase)
		}
		time.Sleep(10 * time.Second)
		b.wantLog("sandbox p/0", "start i/0", "exit i/0 1", "start i/1", "exit i/1 0", "start c/0")
	})
}

// While a container waits to be restarted, the previous one is that which ended last.
func TestPreviousContainer(t *testing.T) {
	runtime := &fakecri.Runtime{Act: func(string, uint32) fakecri.Behaviour {
		return fakecri.Behaviour{Exits: true, For: 15 * time.Second, Code: 1}
	}}
	run(t, runtime, func(b *bench) {
		p := pod("c")
		b.manager.Update(p)
		want := func(previous bool, attempt uint32) {
			t.Helper()
			synctest.Wait()
			c, _ := b.manager.Container(p, "c", previous)
			if c == nil || c.Metadata.Attempt != attempt {
				t.Errorf("previous %v: %+v, want attempt %d", previous, c, attempt)
			}
		}
		time.Sleep(time.Second)
		want(false, 0)
		if c, _ := b.manager.Container(p, "c", true); c != nil {
			t.Errorf("previous %+v of the first", c)
		}
		time.Sleep(15 * time.Second)
		want(false, 1)
		want(true, 0)
		time.Sleep(15 * time.Second) // backs off
		want(false, 1)
		want(true, 1)
	})
}

// A container whose postStart hook failed takes no traffic while it is ended.
func TestFailedPostStartHookIsNeverReady(t *testing.T) {
	runtime := &fakecri.Runtime{
		Act:     func(string, uint32) fakecri.Behaviour { return fakecri.Behaviour{IgnoresTerm: true} },
		Command: func(string, []string) int32 { return 1 },
	}
	run(t, runtime, func(b *bench) {
		p := pod("c")
		p.Spec.Containers[0].Lifecycle = &corev1.Lifecycle{PostStart: &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{"fail"}}}}
		b.manager.Update(p)
		for range 40 {
			time.Sleep(time.Second)
			if s := b.last(); ready(s) {
				t.Fatalf("ready: %+v", s.ContainerStatuses)
			}
		}
		b.wantLog("sandbox p/0", "start c/0", "stop c/0 30s", "exit c/0 137", "start c/1", "stop c/1 30s")
	})
}

func withMemory(p *corev1.Pod, generation int64, size string) *corev1.Pod {
	p = p.DeepCopy()
	list := corev1.ResourceList{corev1.ResourceMemory: resource.MustParse(size)}
	p.Generation, p.Spec.Containers[0].Resources = generation, corev1.ResourceRequirements{Limits: list, Requests: list}
	return p
}

func has(s corev1.PodStatus, kind corev1.PodConditionType, reason, message string) bool {
	return slices.ContainsFunc(s.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == kind && c.Reason == reason && c.Message == message
	})
}

// A container does not lose memory that it uses: the kernel would kill it.
func TestMemoryInUseIsNotTakenAway(t *testing.T) {
	runtime := &fakecri.Runtime{UsedMemory: 64 << 20}
	run(t, runtime, func(b *bench) {
		p := pod("c")
		b.manager.Update(withMemory(p, 1, "128Mi"))
		synctest.Wait()
		b.manager.Update(withMemory(p, 2, "64Mi"))
		b.wantLog("sandbox p/0", "start c/0")
		s := b.last()
		if !has(s, corev1.PodResizeInProgress, corev1.PodReasonError,
			`cannot decrease memory limits: [attempting to set pod memory limit (67108864) below current usage (67108864), `+
				`attempting to set container "c" memory limit (67108864) below current usage (67108864)]`) {
			t.Errorf("conditions: %+v", s.Conditions)
		}
		if got := s.ContainerStatuses[0].Resources.Limits.Memory().String(); got != "128Mi" {
			t.Errorf("the status says that the container has %s", got)
		}
		b.manager.Update(withMemory(p, 3, "96Mi"))
		b.wantLog("sandbox p/0", "start c/0", "resize c/0 100663296", "resize c/0 100663296")
		if s := b.last(); s.ContainerStatuses[0].Resources.Limits.Memory().String() != "96Mi" || has(s, corev1.PodResizeInProgress, corev1.PodReasonError, "") {
			t.Errorf("status: %+v", s)
		}
	})
}

// The resources of a pod as a whole change without a word to its containers, if
// these have their own, and not below what they use.
func TestPodLevelResize(t *testing.T) {
	runtime := &fakecri.Runtime{UsedMemory: 64 << 20}
	run(t, runtime, func(b *bench) {
		dir := t.TempDir()
		list := func(cpu, memory string) corev1.ResourceList {
			return corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu), corev1.ResourceMemory: resource.MustParse(memory)}
		}
		p := pod("c")
		p.Spec.Containers[0].Resources = corev1.ResourceRequirements{Requests: list("10m", "80Mi"), Limits: list("20m", "80Mi")}
		sized := func(generation int64, cpu, memory string) *corev1.Pod {
			out := p.DeepCopy()
			out.Generation, out.Spec.Resources = generation, &corev1.ResourceRequirements{Requests: list(cpu, "100Mi"), Limits: list("1", memory)}
			return out
		}
		want := func(cpu, memory string, size spec.Size, events ...string) {
			t.Helper()
			s := b.last()
			if s.Resources == nil || s.Resources.Requests.Cpu().String() != cpu || s.Resources.Limits.Memory().String() != memory || b.group.size != size {
				t.Errorf("resources %+v, group %+v", s.Resources, b.group.size)
			}
			if got := b.events(); !slices.Equal(got, events) {
				t.Errorf("events\n%q\nwant\n%q", got, events)
			}
			b.wantLog("sandbox p/0", "start c/0")
		}
		told := func(generation, more string) string {
			return `: {"containers":[{"name":"c","resources":{"limits":{"cpu":"20m","memory":"80Mi"},"requests":{"cpu":"10m","memory":"80Mi"}}}],"generation":` + generation + more + `}`
		}
		b.manager.Update(sized(1, "100m", "100Mi"))
		b.last()
		b.events()
		want("100m", "100Mi", spec.Size{MilliCPU: 100, MilliCPULimit: 1000, MemoryLimit: 100 << 20})
		b.manager.Update(sized(2, "300m", "200Mi"))
		want("300m", "200Mi", spec.Size{MilliCPU: 300, MilliCPULimit: 1000, MemoryLimit: 200 << 20},
			"Normal ResizeStarted Pod resize started"+told("2", ""), "Normal ResizeCompleted Pod resize completed"+told("2", ""))
		if got := b.last().AllocatedResources; got.Cpu().String() != "300m" || got.Memory().String() != "100Mi" {
			t.Errorf("allocated: %v", got)
		}

		const below = "cannot decrease memory limits: attempting to set pod memory limit (67108864) below current usage (67108864)"
		b.manager.Update(sized(3, "300m", "64Mi"))
		want("300m", "200Mi", spec.Size{MilliCPU: 300, MilliCPULimit: 1000, MemoryLimit: 200 << 20},
			"Normal ResizeStarted Pod resize started"+told("3", ""), "Warning ResizeError Pod resize error"+told("3", `,"error":"`+below+`"`))
		time.Sleep(time.Minute)
		if s := b.last(); !has(s, corev1.PodResizeInProgress, corev1.PodReasonError, below) || len(b.events()) > 0 {
			t.Errorf("conditions: %+v", s.Conditions)
		}

		const beyond = "Node didn't have enough resource: cpu, requested: 9000, used: 0, capacity: 2000"
		more := sized(4, "9", "200Mi")
		b.manager.Update(more)
		pending := "Warning ResizeInfeasible Pod resize Infeasible" + told("4", `,"error":"`+beyond+`"`)
		want("300m", "200Mi", spec.Size{MilliCPU: 300, MilliCPULimit: 1000, MemoryLimit: 200 << 20}, pending)
		for range 2 { // a kubelet that starts anew has nothing to add
			more.Status = b.last()
			b.stop()
			b.start(dir)
			b.manager.Update(more)
			want("300m", "200Mi", spec.Size{MilliCPU: 300, MilliCPULimit: 1000, MemoryLimit: 200 << 20})
		}
	})
}

// A kubelet that starts anew gives a pod no more than it was given before.
func TestDeferredResizeOutlivesTheKubelet(t *testing.T) {
	run(t, &fakecri.Runtime{}, func(b *bench) {
		dir := t.TempDir()
		p := pod("c")
		b.manager.Update(withMemory(p, 1, "1Gi"))
		synctest.Wait()
		more := withMemory(p, 2, "8Gi")
		b.manager.Update(more)
		for range 2 {
			b.wantLog("sandbox p/0", "start c/0")
			s := b.last()
			if s.ContainerStatuses[0].Resources.Limits.Memory().String() != "1Gi" || !slices.ContainsFunc(s.Conditions, func(c corev1.PodCondition) bool {
				return c.Type == corev1.PodResizePending && c.Reason == corev1.PodReasonInfeasible
			}) {
				t.Errorf("status: %+v", s)
			}
			more.Status = s
			b.stop()
			b.start(dir)
			b.manager.Update(more)
		}
	})
}

// A container that is ended for another image or other resources is made anew,
// whatever its policy says of its end.
func TestChangedContainersAreMadeAnew(t *testing.T) {
	for _, policy := range []corev1.RestartPolicy{corev1.RestartPolicyAlways, corev1.RestartPolicyNever} {
		run(t, &fakecri.Runtime{Images: []string{"img:2"}}, func(b *bench) {
			p := pod("c")
			p.Spec.RestartPolicy = policy
			b.manager.Update(p)
			synctest.Wait()
			p = p.DeepCopy()
			p.Generation, p.Spec.Containers[0].Image = 2, "img:2"
			b.manager.Update(p)
			b.wantLog("sandbox p/0", "start c/0", "stop c/0 30s", "exit c/0 143", "start c/1")
			if s := b.last(); s.Phase != corev1.PodRunning || s.ContainerStatuses[0].RestartCount != 1 {
				t.Errorf("%s: %s, %+v", policy, s.Phase, s.ContainerStatuses)
			}
		})
	}
}

// A name that is no image's is looked at again now and then, and no more.
func TestWrongImageNameIsNoBusyLoop(t *testing.T) {
	run(t, &fakecri.Runtime{}, func(b *bench) {
		p := pod("c")
		p.Spec.Containers[0].Image = "Upper/Case"
		b.manager.Update(p)
		time.Sleep(16 * time.Minute)
		s := b.last().ContainerStatuses[0].State.Waiting
		if s == nil || s.Reason != images.ReasonInvalidName {
			t.Errorf("state: %+v", s)
		}
		if n := len(b.recorder.Events); n > 10 {
			t.Errorf("%d events in a quarter of an hour", n)
		}
	})
}

// What one pod gives up is offered to another that waits for it; a container that
// has to be made anew for its resources is, once it has ended.
func TestDeferredResizeGetsWhatAnotherGivesUp(t *testing.T) {
	runtime := &fakecri.Runtime{Act: func(name string, _ uint32) fakecri.Behaviour { return fakecri.Behaviour{IgnoresTerm: true} }}
	run(t, runtime, func(b *bench) {
		giver, taker := pod("giver"), pod("taker")
		taker.Name, taker.UID = "q", "uid-2"
		giver.Spec.Containers[0].ResizePolicy = []corev1.ContainerResizePolicy{{ResourceName: corev1.ResourceMemory, RestartPolicy: corev1.RestartContainer}}
		giver.Spec.RestartPolicy = corev1.RestartPolicyOnFailure
		b.manager.Update(withMemory(giver, 1, "2Gi"))
		synctest.Wait()
		b.manager.Update(withMemory(taker, 1, "1Gi"))
		synctest.Wait()
		b.manager.Update(withMemory(taker, 2, "3Gi"))
		synctest.Wait()
		b.runtime.ClearLog()
		b.manager.Update(withMemory(giver, 2, "1Gi"))
		time.Sleep(31 * time.Second)
		synctest.Wait()
		got := b.runtime.Log()
		slices.Sort(got)
		if want := []string{"exit giver/0 137", "resize taker/0 3221225472", "start giver/1", "stop giver/0 30s"}; !slices.Equal(got, want) {
			t.Errorf("the runtime saw %v, want %v", got, want)
		}
	})
}

// When the node needs room, what is left of pods that have ended goes; what the
// API says of them stays, and pods that run keep all they have.
func TestReclaim(t *testing.T) {
	runtime := &fakecri.Runtime{Act: func(name string, attempt uint32) fakecri.Behaviour {
		return fakecri.Behaviour{Exits: name != "stays" || attempt == 0, For: time.Second, Code: 3}
	}}
	run(t, runtime, func(b *bench) {
		reclaim := func() {
			t.Helper()
			if err := b.manager.Reclaim(b.ctx); err != nil {
				t.Fatal(err)
			}
		}
		p := pod("c")
		p.Spec.RestartPolicy = corev1.RestartPolicyNever
		b.manager.Update(p)
		time.Sleep(2 * time.Second)
		ended := b.last()
		reclaim()
		if c, _ := b.manager.Container(p, "c", false); c == nil {
			t.Fatal("a container went before the API heard of its end")
		}
		p = p.DeepCopy()
		p.ResourceVersion, p.Status = "2", ended
		b.manager.Update(p)
		other := pod("stays")
		other.Name, other.UID = "q", "uid-2"
		b.manager.Update(other)
		time.Sleep(2 * time.Second)
		reclaim()
		synctest.Wait()
		if c, _ := b.manager.Container(p, "c", false); c != nil {
			t.Errorf("what is left: %v", c)
		}
		if c, _ := b.manager.Container(other, "stays", true); c == nil {
			t.Error("a running pod lost its dead container")
		}
		if s := b.manager.Get("ns", "p").Status; !equality.Semantic.DeepEqual(s, ended) {
			t.Errorf("status %+v\nwas %+v", s, ended)
		}
		b.delete(other, 1)
		b.manager.Remove(other)
		b.delete(p, 1)
		b.manager.Remove(p)
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if !b.runtime.Empty() || len(b.manager.Pods()) != 0 {
			t.Errorf("left: %v", b.runtime.Log())
		}
		reclaim()
	})
}

// What fails a probe is made anew, even if it ends well when it is asked to;
// sidecars too, and also for another image.
func TestFailedProbesRestart(t *testing.T) {
	runtime := &fakecri.Runtime{Images: []string{"img:2"}, Command: func(name string, command []string) int32 {
		if name == command[0] {
			return 1
		}
		return 0
	}, Act: func(string, uint32) fakecri.Behaviour { return fakecri.Behaviour{EndsWell: true} }}
	run(t, runtime, func(b *bench) {
		p := withInit(pod("c", "d"), true, "s")
		p.Spec.RestartPolicy = corev1.RestartPolicyOnFailure
		probe := func(of string) *corev1.Probe {
			return &corev1.Probe{InitialDelaySeconds: 1, PeriodSeconds: 60, FailureThreshold: 1, SuccessThreshold: 1,
				ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{of}}}}
		}
		p.Spec.Containers[0].LivenessProbe, p.Spec.InitContainers[0].LivenessProbe = probe("c"), probe("s")
		b.manager.Update(p)
		killed := func(after time.Duration, want ...string) {
			t.Helper()
			time.Sleep(after)
			var got []string
			for _, e := range b.events() {
				if text, ok := strings.CutPrefix(e, "Normal Killing "); ok {
					got = append(got, text)
				}
			}
			slices.Sort(got)
			if !slices.Equal(got, want) {
				t.Errorf("killed: %q, want %q", got, want)
			}
		}
		killed(1500*time.Millisecond, "Container c failed liveness probe, will be restarted", "Init container s failed liveness probe")
		s := b.last()
		if s.Phase != corev1.PodRunning || s.ContainerStatuses[0].RestartCount != 1 || s.InitContainerStatuses[0].RestartCount != 1 || s.ContainerStatuses[1].RestartCount != 0 {
			t.Errorf("%s: %+v %+v", s.Phase, s.InitContainerStatuses, s.ContainerStatuses)
		}
		p = p.DeepCopy()
		p.Generation, p.Spec.InitContainers[0].Image = 2, "img:2"
		b.manager.Update(p)
		killed(100*time.Millisecond, "Init container s definition changed")
	})
}
