package status_test

import (
	"slices"
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
