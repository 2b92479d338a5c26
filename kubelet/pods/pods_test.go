package pods_test

import (
	"context"
	"errors"
	"log/slog"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/clock"

	"github.com/proa-dev/proa/kubelet/images"
	"github.com/proa-dev/proa/kubelet/internal/fakecri"
	"github.com/proa-dev/proa/kubelet/objects"
	"github.com/proa-dev/proa/kubelet/pods"
	"github.com/proa-dev/proa/kubelet/spec"
	"github.com/proa-dev/proa/kubelet/volumes"
)

// bench is a manager over a runtime in memory, in a bubble of its own time.
type bench struct {
	t        *testing.T
	runtime  *fakecri.Runtime
	manager  *pods.Manager
	ctx      context.Context
	cancel   context.CancelFunc
	recorder *record.FakeRecorder
	group    group // of the last pod that was resized

	mu      sync.Mutex
	status  corev1.PodStatus
	removed bool
}

// group is that of the bench's pod.
type group struct{ size spec.Size }

func (*group) Parent(*corev1.Pod) string { return "/test" }
func (*group) Remove(types.UID) error    { return nil }
func (*group) UIDs() []types.UID         { return nil }

func (g *group) Ensure(p *corev1.Pod) error {
	g.size = spec.SizeOf(p)
	return nil
}

func (b *bench) Set(_ *corev1.Pod, s corev1.PodStatus, remove bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.status, b.removed = s, b.removed || remove
}

func (b *bench) Forget(types.UID) {}

func (b *bench) last() corev1.PodStatus {
	synctest.Wait()
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.status
}

const image = "img:1"

// start begins with a manager, as a kubelet's start does.
func (b *bench) start(dir string) {
	ctx, cancel := context.WithCancel(context.Background())
	b.ctx, b.cancel = ctx, cancel
	b.recorder = record.NewFakeRecorder(1000)
	now := time.Now
	store := objects.New(ctx, nil, slog.New(slog.DiscardHandler))
	puller, err := images.New(images.Config{Client: b.runtime.Client(), Now: now, Dir: dir + "/images"})
	if err != nil {
		b.t.Fatal(err)
	}
	m, err := pods.New(ctx, pods.Config{
		CRI: b.runtime.Client(), RuntimeName: "fake", RuntimeHandler: func(context.Context, *corev1.Pod) (string, error) { return "", nil },
		RecursiveReadOnly: func() bool { return false }, Cluster: spec.Cluster{Domain: "cluster.local"},
		Volumes: volumes.New(volumes.Config{RootDir: dir + "/kubelet", Objects: store, Now: now}), Objects: store,
		Images: puller, Cgroups: &b.group, Status: b,
		Services: func(context.Context, string) ([]corev1.Service, error) { return nil, nil },
		Node: func() *corev1.Node {
			return &corev1.Node{Spec: corev1.NodeSpec{Taints: []corev1.Taint{{Key: "bad", Effect: corev1.TaintEffectNoExecute}, {Key: "new", Effect: corev1.TaintEffectNoSchedule}}}, Status: corev1.NodeStatus{Allocatable: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("2"), corev1.ResourceMemory: resource.MustParse("4Gi"), corev1.ResourcePods: resource.MustParse("10")}}}
		},
		HostIPs: func() []string { return []string{"192.0.2.1"} }, Recorder: b.recorder, Clock: clock.RealClock{},
		Logger: slog.New(slog.DiscardHandler), PodLogsDir: dir + "/logs",
	})
	if err != nil {
		b.t.Fatal(err)
	}
	b.manager = m
	b.runtime.Stopped = m.Stopped
}

func (b *bench) stop() {
	b.cancel()
	b.manager.Wait()
}

// run gives test a bubble and a bench.
func run(t *testing.T, runtime *fakecri.Runtime, test func(b *bench)) {
	t.Helper()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		runtime.Images = append(runtime.Images, image)
		b := &bench{t: t, runtime: runtime}
		b.start(dir)
		defer func() { b.stop() }()
		test(b)
	})
}

func pod(names ...string) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "ns", UID: "uid-1", ResourceVersion: "1", Generation: 1}}
	p.Spec.RestartPolicy = corev1.RestartPolicyAlways
	p.Spec.Tolerations = []corev1.Toleration{{Key: "bad", Operator: corev1.TolerationOpExists}}
	for _, n := range names {
		p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: n, Image: image})
	}
	return p
}

func withInit(p *corev1.Pod, sidecar bool, names ...string) *corev1.Pod {
	for _, n := range names {
		c := corev1.Container{Name: n, Image: image}
		if sidecar {
			always := corev1.ContainerRestartPolicyAlways
			c.RestartPolicy = &always
		}
		p.Spec.InitContainers = append(p.Spec.InitContainers, c)
	}
	return p
}

func (b *bench) delete(p *corev1.Pod, grace int64) {
	d := p.DeepCopy()
	now := metav1.Now()
	d.DeletionTimestamp, d.DeletionGracePeriodSeconds = &now, &grace
	b.manager.Update(d)
}

func (b *bench) wantLog(want ...string) {
	b.t.Helper()
	synctest.Wait()
	if got := b.runtime.Log(); !reflect.DeepEqual(got, want) {
		b.t.Errorf("runtime saw\n  %s\nwant\n  %s", strings.Join(got, "\n  "), strings.Join(want, "\n  "))
	}
}

// events takes what was told since the last time.
func (b *bench) events() (out []string) {
	synctest.Wait()
	for len(b.recorder.Events) > 0 {
		out = append(out, <-b.recorder.Events)
	}
	return out
}

func TestCrashLoopBacksOff(t *testing.T) {
	runtime := &fakecri.Runtime{Act: func(string, uint32) fakecri.Behaviour { return fakecri.Behaviour{Exits: true, Code: 1} }}
	run(t, runtime, func(b *bench) {
		b.manager.Update(pod("c"))
		synctest.Wait()
		b.wantLog("sandbox p/0", "start c/0", "exit c/0 1", "start c/1", "exit c/1 1") // the first restart is immediate
		st := b.last().ContainerStatuses[0]
		if st.State.Waiting == nil || st.State.Waiting.Reason != "CrashLoopBackOff" ||
			st.State.Waiting.Message != "back-off 10s restarting failed container=c pod=p_ns(uid-1)" {
			t.Errorf("state = %+v", st.State)
		}
		if st.LastTerminationState.Terminated == nil || st.LastTerminationState.Terminated.ExitCode != 1 || st.RestartCount != 1 {
			t.Errorf("last state = %+v, restarts %d", st.LastTerminationState, st.RestartCount)
		}
		if b.last().Phase != corev1.PodRunning {
			t.Errorf("phase = %s", b.last().Phase)
		}
		for _, delay := range []int{10, 20, 40, 80, 160, 300, 300} {
			before := len(b.runtime.Log())
			time.Sleep(time.Duration(delay)*time.Second - 100*time.Millisecond)
			synctest.Wait()
			if len(b.runtime.Log()) != before {
				t.Fatalf("restarted before %ds were over", delay)
			}
			time.Sleep(101 * time.Millisecond)
			synctest.Wait()
			if len(b.runtime.Log()) == before {
				t.Fatalf("not restarted after %ds", delay)
			}
		}
	})
}

// A kubelet that starts anew takes up the back-off where the last one was.
func TestCrashLoopOutlivesTheKubelet(t *testing.T) {
	runtime := &fakecri.Runtime{Act: func(string, uint32) fakecri.Behaviour {
		return fakecri.Behaviour{Exits: true, For: time.Second, Code: 1}
	}}
	run(t, runtime, func(b *bench) {
		dir := t.TempDir()
		p := pod("c")
		b.manager.Update(p)
		for _, step := range []string{"10s", "20s", "40s", "1m20s", "2m40s", "5m0s", "5m0s"} {
			var message string
			for { // until it has just begun to wait
				st := b.last().ContainerStatuses[0]
				if st.State.Waiting != nil && st.State.Waiting.Message != "" {
					message = st.State.Waiting.Message
					break
				}
				time.Sleep(time.Second)
			}
			if !strings.HasPrefix(message, "back-off "+step+" ") {
				t.Fatalf("%q, want back-off %s", message, step)
			}
			p.Status = b.last()
			b.stop()
			b.start(dir)
			b.manager.Update(p)
			wait, err := time.ParseDuration(step)
			if err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			before := len(b.runtime.Log())
			time.Sleep(wait - 2*time.Second)
			synctest.Wait()
			if got := b.runtime.Log(); len(got) != before {
				t.Fatalf("%s: restarted too early: %v", step, got)
			}
			if st := b.last().ContainerStatuses[0]; st.State.Waiting == nil || st.State.Waiting.Reason != "CrashLoopBackOff" || st.State.Waiting.Message != message {
				t.Fatalf("%s: after the kubelet's restart: %+v", step, st.State)
			}
			time.Sleep(3 * time.Second)
			synctest.Wait()
			if len(b.runtime.Log()) == before {
				t.Fatalf("%s: not restarted", step)
			}
		}
	})
}

func TestInitContainersRunInOrder(t *testing.T) {
	runtime := &fakecri.Runtime{Act: func(name string, attempt uint32) fakecri.Behaviour {
		switch name {
		case "i1":
			return fakecri.Behaviour{Exits: true, For: time.Second}
		case "i2":
			return fakecri.Behaviour{Exits: true, For: time.Second, Code: int32(1 - attempt)}
		}
		return fakecri.Behaviour{}
	}}
	run(t, runtime, func(b *bench) {
		b.manager.Update(withInit(pod("c"), false, "i1", "i2"))
		time.Sleep(500 * time.Millisecond)
		s := b.last()
		if s.Phase != corev1.PodPending || s.ContainerStatuses[0].State.Waiting.Reason != "PodInitializing" {
			t.Errorf("while initializing: %s %+v", s.Phase, s.ContainerStatuses[0].State)
		}
		time.Sleep(10 * time.Second)
		b.wantLog("sandbox p/0", "start i1/0", "exit i1/0 0", "start i2/0", "exit i2/0 1", "start i2/1", "exit i2/1 0", "start c/0")
		if s := b.last(); s.Phase != corev1.PodRunning || s.PodIP == "" || !ready(s) {
			t.Errorf("status = %+v", s)
		}
	})
}

func ready(s corev1.PodStatus) bool {
	for _, c := range s.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

func TestFailedInitContainerFailsThePod(t *testing.T) {
	runtime := &fakecri.Runtime{Act: func(string, uint32) fakecri.Behaviour { return fakecri.Behaviour{Exits: true, Code: 2} }}
	run(t, runtime, func(b *bench) {
		p := withInit(pod("c"), false, "i")
		p.Spec.RestartPolicy = corev1.RestartPolicyNever
		b.manager.Update(p)
		b.wantLog("sandbox p/0", "start i/0", "exit i/0 2", "stop sandbox p/0")
		if s := b.last(); s.Phase != corev1.PodFailed {
			t.Errorf("phase = %s", s.Phase)
		}
	})
}

func TestSidecarsOutliveTheContainersAndEndInReverse(t *testing.T) {
	runtime := &fakecri.Runtime{Act: func(name string, _ uint32) fakecri.Behaviour {
		return fakecri.Behaviour{Exits: name == "c", For: time.Minute}
	}}
	run(t, runtime, func(b *bench) {
		p := withInit(pod("c"), true, "s1", "s2")
		p.Spec.RestartPolicy = corev1.RestartPolicyNever
		b.manager.Update(p)
		time.Sleep(2 * time.Minute)
		b.wantLog("sandbox p/0", "start s1/0", "start s2/0", "start c/0", "exit c/0 0",
			"stop s2/0 30s", "exit s2/0 143", "stop s1/0 30s", "exit s1/0 143", "stop sandbox p/0")
		if s := b.last(); s.Phase != corev1.PodSucceeded {
			t.Errorf("phase = %s", s.Phase)
		}
	})
}

func TestDeletionGivesGraceAndLeavesNothing(t *testing.T) {
	runtime := &fakecri.Runtime{Act: func(string, uint32) fakecri.Behaviour { return fakecri.Behaviour{IgnoresTerm: true} }}
	run(t, runtime, func(b *bench) {
		p := pod("c")
		p.Spec.Containers[0].Lifecycle = &corev1.Lifecycle{PreStop: &corev1.LifecycleHandler{Sleep: &corev1.SleepAction{Seconds: 4}}}
		b.manager.Update(p)
		synctest.Wait()
		b.runtime.ClearLog()
		b.delete(p, 10)
		time.Sleep(9 * time.Second)
		b.wantLog("stop c/0 6s")
		time.Sleep(2 * time.Second)
		b.wantLog("stop c/0 6s", "exit c/0 137", "stop sandbox p/0")
		if !b.removed {
			t.Error("the object was not released")
		}
		if s := b.last(); s.ContainerStatuses[0].State.Terminated == nil || s.ContainerStatuses[0].State.Terminated.ExitCode != 137 {
			t.Errorf("state = %+v", s.ContainerStatuses[0].State)
		}
		b.manager.Remove(p)
		synctest.Wait()
		if !b.runtime.Empty() || len(b.manager.Pods()) != 0 {
			t.Errorf("left: %v", b.runtime.Log())
		}
	})
}

func TestShorterGraceOvertakes(t *testing.T) {
	runtime := &fakecri.Runtime{Act: func(string, uint32) fakecri.Behaviour { return fakecri.Behaviour{IgnoresTerm: true} }}
	run(t, runtime, func(b *bench) {
		p := pod("c")
		b.manager.Update(p)
		synctest.Wait()
		b.delete(p, 3600)
		time.Sleep(time.Minute)
		b.manager.Remove(func() *corev1.Pod {
			d := p.DeepCopy()
			zero := int64(0)
			d.DeletionGracePeriodSeconds = &zero
			return d
		}())
		time.Sleep(3 * time.Second)
		synctest.Wait()
		if !b.runtime.Empty() {
			t.Errorf("a forced deletion did not overtake: %v", b.runtime.Log())
		}
	})
}

func TestRestartOfTheKubeletLeavesContainersAlone(t *testing.T) {
	run(t, &fakecri.Runtime{}, func(b *bench) {
		dir := t.TempDir()
		p := pod("a", "b")
		b.manager.Update(p)
		synctest.Wait()
		p.Status = b.last()
		b.stop()
		b.runtime.ClearLog()
		b.start(dir)
		b.manager.Update(p)
		if err := b.manager.Reconcile(b.ctx, true); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		b.wantLog()
		if s := b.last(); s.Phase != corev1.PodRunning || !ready(s) || s.ContainerStatuses[0].RestartCount != 0 {
			t.Errorf("status = %+v", s)
		}
	})
}

func TestContainerOfUnknownStateIsReplaced(t *testing.T) {
	run(t, &fakecri.Runtime{}, func(b *bench) {
		dir := t.TempDir()
		p := pod("c")
		b.manager.Update(p)
		synctest.Wait()
		p.Status = b.last()
		b.stop()
		b.runtime.LoseState("uid-1")
		b.runtime.ClearLog()
		b.start(dir)
		b.manager.Update(p)
		if err := b.manager.Reconcile(b.ctx, true); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		b.wantLog("stop c/0 30s", "exit c/0 143", "start c/1")
		if s := b.last(); !ready(s) || s.ContainerStatuses[0].RestartCount != 1 {
			t.Errorf("status = %+v", s)
		}
	})
}

func TestOrphansEnd(t *testing.T) {
	run(t, &fakecri.Runtime{}, func(b *bench) {
		b.manager.Update(pod("c"))
		synctest.Wait()
		b.stop()
		b.start(t.TempDir())
		if err := b.manager.Reconcile(b.ctx, true); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if !b.runtime.Empty() {
			t.Error("a pod that the API does not know still runs")
		}
	})
}

func TestLostSandboxIsReplaced(t *testing.T) {
	run(t, &fakecri.Runtime{}, func(b *bench) {
		b.manager.Update(pod("c"))
		synctest.Wait()
		b.runtime.KillSandbox("uid-1")
		time.Sleep(time.Minute)
		b.wantLog("sandbox p/0", "start c/0", "stop c/0 30s", "exit c/0 143", "sandbox p/1", "start c/1")
	})
}

func TestProbes(t *testing.T) {
	var mu sync.Mutex
	healthy := true
	set := func(ok bool) { mu.Lock(); defer mu.Unlock(); healthy = ok }
	runtime := &fakecri.Runtime{Command: func(string, []string) int32 {
		mu.Lock()
		defer mu.Unlock()
		if healthy {
			return 0
		}
		return 1
	}}
	probe := func(failures int32) *corev1.Probe {
		return &corev1.Probe{PeriodSeconds: 1, FailureThreshold: failures, SuccessThreshold: 1, TimeoutSeconds: 1,
			ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"check"}}}}
	}
	run(t, runtime, func(b *bench) {
		p := pod("c")
		p.Spec.Containers[0].ReadinessProbe, p.Spec.Containers[0].LivenessProbe = probe(1), probe(3)
		b.manager.Update(p)
		time.Sleep(1500 * time.Millisecond)
		if !ready(b.last()) {
			t.Fatalf("not ready: %+v", b.last())
		}
		set(false)
		time.Sleep(time.Second)
		if s := b.last(); ready(s) || s.ContainerStatuses[0].RestartCount != 0 {
			t.Errorf("ready in spite of its probe: %+v", s)
		}
		time.Sleep(2 * time.Second)
		set(true)
		time.Sleep(time.Second)
		if s := b.last(); s.ContainerStatuses[0].RestartCount != 1 || !ready(s) {
			t.Errorf("not restarted by its liveness probe: %+v", s)
		}
	})
}

func TestImagePullBackOff(t *testing.T) {
	var reachable atomic.Bool
	runtime := &fakecri.Runtime{PullError: func(string) error {
		if reachable.Load() {
			return nil
		}
		return errors.New("no route")
	}}
	run(t, runtime, func(b *bench) {
		p := pod("c")
		p.Spec.Containers[0].Image = "reg/x:1"
		b.manager.Update(p)
		if w := b.last().ContainerStatuses[0].State.Waiting; w == nil || w.Reason != "ErrImagePull" {
			t.Errorf("first: %+v", w)
		}
		time.Sleep(5 * time.Second)
		if w := b.last().ContainerStatuses[0].State.Waiting; w == nil || w.Reason != "ImagePullBackOff" ||
			!strings.HasPrefix(w.Message, `Back-off pulling image "reg/x:1": ErrImagePull: `) {
			t.Errorf("then: %+v", w)
		}
		reachable.Store(true)
		time.Sleep(6 * time.Second)
		b.wantLog("sandbox p/0", "pull reg/x:1", "pull reg/x:1", "start c/0")
	})
}

func TestActiveDeadline(t *testing.T) {
	run(t, &fakecri.Runtime{}, func(b *bench) {
		p := pod("c")
		limit := int64(5)
		p.Spec.ActiveDeadlineSeconds = &limit
		b.manager.Update(p)
		time.Sleep(6 * time.Second)
		if s := b.last(); s.Phase != corev1.PodFailed || s.Reason != "DeadlineExceeded" {
			t.Errorf("status = %s %s", s.Phase, s.Reason)
		}
	})
}

func TestRejection(t *testing.T) {
	for _, c := range []struct {
		reason string
		change func(p *corev1.Pod)
	}{
		{"OutOfcpu", func(p *corev1.Pod) {
			p.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("3")}
		}},
		{"NodeAffinity", func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{"disk": "ssd"} }},
		{"PodOSNotSupported", func(p *corev1.Pod) { p.Spec.OS = &corev1.PodOS{Name: corev1.Windows} }},
		{"SysctlForbidden", func(p *corev1.Pod) {
			p.Spec.SecurityContext = &corev1.PodSecurityContext{Sysctls: []corev1.Sysctl{{Name: "kernel.msgmax", Value: "1"}}}
		}},
		{"AppArmor", func(p *corev1.Pod) {
			p.Spec.Containers[0].SecurityContext = &corev1.SecurityContext{AppArmorProfile: &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeRuntimeDefault}}
		}},
		{"SupplementalGroupsPolicyNotSupported", func(p *corev1.Pod) {
			strict := corev1.SupplementalGroupsPolicyStrict
			p.Spec.SecurityContext = &corev1.PodSecurityContext{SupplementalGroupsPolicy: &strict}
		}},
		{"PodFeatureUnsupported", func(p *corev1.Pod) {
			p.Spec.Containers[0].RestartPolicyRules = []corev1.ContainerRestartRule{{Action: corev1.ContainerRestartRuleActionRestartAllContainers}}
		}},
		{"TaintToleration", func(p *corev1.Pod) { p.Spec.Tolerations = nil }},
	} {
		t.Run(c.reason, func(t *testing.T) {
			run(t, &fakecri.Runtime{}, func(b *bench) {
				p := pod("c")
				c.change(p)
				b.manager.Update(p)
				b.wantLog()
				s := b.last()
				if s.Phase != corev1.PodFailed || s.Reason != c.reason {
					t.Errorf("status = %s %s: %s", s.Phase, s.Reason, s.Message)
				}
				p.Status = s
				b.stop() // a kubelet that starts anew has nothing to add
				b.start(t.TempDir())
				b.manager.Update(p)
				b.wantLog()
				if again := b.last(); !equality.Semantic.DeepEqual(again, s) {
					t.Errorf("status = %+v", again)
				}
			})
		})
	}
}

func TestExitsAndPolicies(t *testing.T) {
	for _, c := range []struct {
		name   string
		policy corev1.RestartPolicy
		code   int32
		phase  corev1.PodPhase
		starts int
	}{
		{"never, good", corev1.RestartPolicyNever, 0, corev1.PodSucceeded, 1},
		{"never, bad", corev1.RestartPolicyNever, 1, corev1.PodFailed, 1},
		{"on failure, good", corev1.RestartPolicyOnFailure, 0, corev1.PodSucceeded, 1},
		{"on failure, bad", corev1.RestartPolicyOnFailure, 1, corev1.PodRunning, 2},
		{"always, good", corev1.RestartPolicyAlways, 0, corev1.PodRunning, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			runtime := &fakecri.Runtime{Act: func(string, uint32) fakecri.Behaviour {
				return fakecri.Behaviour{Exits: true, For: time.Second, Code: c.code}
			}}
			run(t, runtime, func(b *bench) {
				p := pod("c")
				p.Spec.RestartPolicy = c.policy
				b.manager.Update(p)
				time.Sleep(5 * time.Second)
				if s := b.last(); s.Phase != c.phase {
					t.Errorf("phase = %s", s.Phase)
				}
				starts := 0
				for _, l := range b.runtime.Log() {
					if strings.HasPrefix(l, "start ") {
						starts++
					}
				}
				if starts != c.starts {
					t.Errorf("%d starts: %v", starts, b.runtime.Log())
				}
			})
		})
	}
}
