package status_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/proa-dev/proa/kubelet/cri"
	"github.com/proa-dev/proa/kubelet/status"
)

// A container that could not be started waits for its next start if there will
// be one. If not, it has ended, once, and had not ended before.
func TestFailedStart(t *testing.T) {
	for _, again := range []bool{false, true} {
		in := status.Input{
			Pod: &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c"}}}},
			Runtime: &cri.Pod{Containers: []*cri.Container{{ContainerStatus: &runtimeapi.ContainerStatus{
				Id: "1", Metadata: &runtimeapi.ContainerMetadata{Name: "c"}, State: runtimeapi.ContainerState_CONTAINER_EXITED, ExitCode: 128, Reason: "StartError",
			}}}},
			Waiting:  map[string]corev1.ContainerStateWaiting{"c": {Reason: "RunContainerError"}},
			Message:  func(*cri.Container, *corev1.Container) string { return "" },
			Restarts: func(*corev1.Container, int32) bool { return again },
		}
		in.Old = status.Compute(in)
		in.Over = !again
		got := status.Compute(in).ContainerStatuses[0]
		now, last := got.State, got.LastTerminationState
		if again {
			now, last = last, now
			if last.Waiting == nil || last.Waiting.Reason != "RunContainerError" {
				t.Errorf("one that is to start again: %+v", got.State)
			}
			last = corev1.ContainerState{}
		}
		if now.Terminated == nil || now.Terminated.Reason != "StartError" || last != (corev1.ContainerState{}) {
			t.Errorf("started again: %t: %+v after %+v", again, got.State, got.LastTerminationState)
		}
	}
}

// A pod that the kubelet ends has not failed before its last container ended.
func TestVerdict(t *testing.T) {
	c := &runtimeapi.ContainerStatus{Id: "1", Metadata: &runtimeapi.ContainerMetadata{Name: "c"}, State: runtimeapi.ContainerState_CONTAINER_RUNNING}
	in := status.Input{
		Pod:      &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c"}}}},
		Old:      corev1.PodStatus{Phase: corev1.PodRunning},
		Runtime:  &cri.Pod{Containers: []*cri.Container{{ContainerStatus: c}}},
		Message:  func(*cri.Container, *corev1.Container) string { return "" },
		Restarts: func(*corev1.Container, int32) bool { return true },
		Verdict:  &status.Verdict{Phase: corev1.PodFailed, Reason: "Evicted", Message: "short", Disrupted: true},
	}
	disrupted := func(s corev1.PodStatus) bool {
		return slices.ContainsFunc(s.Conditions, func(c corev1.PodCondition) bool { return c.Type == corev1.DisruptionTarget })
	}
	for range 2 {
		if in.Old = status.Compute(in); in.Old.Phase != corev1.PodRunning || in.Old.Reason != "" || in.Old.Message != "" || disrupted(in.Old) {
			t.Fatalf("while the container runs: %+v", in.Old)
		}
		c.State = runtimeapi.ContainerState_CONTAINER_EXITED // the sandbox is not
	}
	in.Over = true
	if got := status.Compute(in); got.Phase != corev1.PodFailed || got.Reason != "Evicted" || got.Message != "short" || !disrupted(got) {
		t.Errorf("afterwards: %+v", got)
	}
}

// Statuses are in the order of names; how a container mounts its volumes and as
// whom it runs is told as long as it is known of; and why nothing can start.
func TestContainers(t *testing.T) {
	rro := corev1.RecursiveReadOnlyIfPossible
	mounts := []corev1.VolumeMount{{Name: "v", MountPath: "/v", ReadOnly: true, RecursiveReadOnly: &rro}}
	in := status.Input{
		Pod:     &corev1.Pod{Spec: corev1.PodSpec{InitContainers: []corev1.Container{{Name: "lost"}}, Containers: []corev1.Container{{Name: "b", VolumeMounts: mounts}, {Name: "a", VolumeMounts: mounts}}}},
		Runtime: &cri.Pod{},
		Message: func(*cri.Container, *corev1.Container) string { return "" }, Restarts: func(*corev1.Container, int32) bool { return false },
		RecursiveReadOnly: true,
	}
	check := func(sandbox, init string) corev1.PodStatus {
		t.Helper()
		got := status.Compute(in)
		for i, name := range []string{"a", "b"} {
			if c := got.ContainerStatuses[i]; c.Name != name || len(c.VolumeMounts) != 1 || *c.VolumeMounts[0].RecursiveReadOnly != corev1.RecursiveReadOnlyEnabled {
				t.Errorf("%d: %+v", i, c)
			}
		}
		if c := got.Conditions[0]; c.Type != corev1.PodReadyToStartContainers || c.Message != sandbox || (c.Reason == "PodSandboxNotReady") != (sandbox != "") {
			t.Errorf("%+v, want %q", c, sandbox)
		}
		if c := got.Conditions[1]; c.Type != corev1.PodInitialized || c.Message != init {
			t.Errorf("%+v, want %q", c, init)
		}
		return got
	}
	const incomplete = "containers with incomplete status: [lost]"
	check("no pod sandbox exists", incomplete)
	sandbox := &runtimeapi.PodSandboxStatus{State: runtimeapi.PodSandboxState_SANDBOX_READY}
	in.Runtime.Sandboxes = []*runtimeapi.PodSandboxStatus{sandbox}
	check("pod sandbox has no IP address", incomplete)
	sandbox.Network = &runtimeapi.PodSandboxNetworkStatus{Ip: "10.0.0.1"}
	check("", incomplete)
	in.Runtime.Containers = []*cri.Container{{ContainerStatus: &runtimeapi.ContainerStatus{Id: "1", Metadata: &runtimeapi.ContainerMetadata{Name: "b"},
		State: runtimeapi.ContainerState_CONTAINER_EXITED, User: &runtimeapi.ContainerUser{Linux: &runtimeapi.LinuxContainerUser{Uid: 7}}}}}
	got := check("", "")
	if u := got.ContainerStatuses[1].User; u == nil || u.Linux.UID != 7 {
		t.Errorf("user %+v", u)
	}
	if e := got.InitContainerStatuses[0]; e.State.Terminated == nil || e.State.Terminated.Reason != "Completed" || !e.Ready {
		t.Errorf("an init container that nobody has any more: %+v", e)
	}
	sandbox.State = runtimeapi.PodSandboxState_SANDBOX_NOTREADY
	check("pod sandbox is not ready", "")
}

// When a pod is over, a container that never ran has not ended well; one whose
// turn never came waits for ever.
func TestOver(t *testing.T) {
	in := status.Input{
		Pod: &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c"}}}}, Runtime: &cri.Pod{}, Over: true,
		Message: func(*cri.Container, *corev1.Container) string { return strings.Repeat("€", 2000) }, Restarts: func(*corev1.Container, int32) bool { return false },
	}
	unknown := func(s corev1.ContainerStatus) bool {
		return s.State.Terminated != nil && s.State.Terminated.Reason == "ContainerStatusUnknown" && s.State.Terminated.ExitCode == 137
	}
	for range 2 {
		in.Old = status.Compute(in)
		if in.Old.Phase != corev1.PodFailed || !unknown(in.Old.ContainerStatuses[0]) {
			t.Errorf("%s: %+v", in.Old.Phase, in.Old.ContainerStatuses)
		}
	}
	in.Pod.Spec.InitContainers, in.Old = []corev1.Container{{Name: "i"}, {Name: "j"}}, corev1.PodStatus{}
	for range 2 {
		in.Old = status.Compute(in)
		if i := in.Old.InitContainerStatuses; in.Old.Phase != corev1.PodFailed || !unknown(i[0]) || i[1].State.Waiting == nil || in.Old.ContainerStatuses[0].State.Waiting == nil {
			t.Errorf("%s: %+v %+v", in.Old.Phase, i, in.Old.ContainerStatuses)
		}
		if c := in.Old.Conditions[1]; c.Type != corev1.PodInitialized || c.Status != corev1.ConditionFalse {
			t.Errorf("%+v", c)
		}
	}
	in.Runtime.Containers = []*cri.Container{{ContainerStatus: &runtimeapi.ContainerStatus{Id: "1", Metadata: &runtimeapi.ContainerMetadata{Name: "c"},
		State: runtimeapi.ContainerState_CONTAINER_EXITED}}}
	if s := status.Compute(in).ContainerStatuses[0].State.Terminated; s == nil || s.Message != strings.Repeat("€", 4096/3)+"\ufffd" {
		t.Errorf("not a third of what a pod may say, in whole letters: %+v", s)
	}
}

// The end of a message file counts: programs say last what ended them.
func TestTerminationMessage(t *testing.T) {
	path := filepath.Join(t.TempDir(), "message")
	if err := os.WriteFile(path, []byte(strings.Repeat("before ", 1000)+"the end"), 0o600); err != nil {
		t.Fatal(err)
	}
	got := status.TerminationMessage(&cri.Container{ContainerStatus: &runtimeapi.ContainerStatus{Annotations: map[string]string{cri.AnnotationMessageFile: path}}})
	if len(got) != 4096 || !strings.HasSuffix(got, "before the end") {
		t.Errorf("%d bytes: %.20q", len(got), got)
	}
}
