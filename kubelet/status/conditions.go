package status

import (
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/proa-dev/proa/kubelet/spec"
)

func conditions(in Input, s *corev1.PodStatus) []corev1.PodCondition {
	set := map[corev1.PodConditionType]corev1.PodCondition{}
	put := func(kind corev1.PodConditionType, ok bool, reason, message string) {
		status := corev1.ConditionFalse
		if ok {
			status = corev1.ConditionTrue
		}
		set[kind] = corev1.PodCondition{Type: kind, Status: status, Reason: reason, Message: message}
	}
	why := in.noSandbox()
	if put(corev1.PodReadyToStartContainers, why == "", "", ""); why != "" {
		put(corev1.PodReadyToStartContainers, false, "PodSandboxNotReady", why)
	}
	initialized(in, s, put)
	ready, reason, message := containersReady(in, s)
	put(corev1.ContainersReady, ready, reason, message)
	if ready {
		ready, reason, message = gates(in.Pod)
	}
	put(corev1.PodReady, ready, reason, message)
	put(corev1.PodScheduled, true, "", "")
	if in.Verdict != nil && in.Verdict.Disrupted && in.Over {
		put(corev1.DisruptionTarget, true, corev1.PodReasonTerminationByKubelet, in.Verdict.Message)
	}
	var out []corev1.PodCondition
	for i := range in.Old.Conditions {
		old := in.Old.Conditions[i]
		c, ours := set[old.Type]
		if !ours {
			out = append(out, old)
			continue
		}
		delete(set, old.Type)
		c.LastProbeTime, c.LastTransitionTime = old.LastProbeTime, old.LastTransitionTime
		if c.Status != old.Status || c.LastTransitionTime.IsZero() {
			c.LastTransitionTime = metav1.NewTime(in.Now.Truncate(time.Second))
		}
		c.ObservedGeneration = in.Pod.Generation
		out = append(out, c)
	}
	for _, kind := range []corev1.PodConditionType{corev1.PodReadyToStartContainers, corev1.PodInitialized, corev1.PodReady,
		corev1.ContainersReady, corev1.PodScheduled, corev1.DisruptionTarget} {
		if c, ok := set[kind]; ok {
			c.LastTransitionTime = metav1.NewTime(in.Now.Truncate(time.Second))
			c.ObservedGeneration = in.Pod.Generation
			out = append(out, c)
		}
	}
	return out
}

// noSandbox is why containers cannot be started, or empty.
func (in Input) noSandbox() string {
	switch {
	case len(in.Runtime.Sandboxes) == 0:
		return "no pod sandbox exists"
	case in.Over || in.Runtime.Sandbox() == nil:
		return "pod sandbox is not ready"
	case !in.Pod.Spec.HostNetwork && len(in.Runtime.IPs()) == 0:
		return "pod sandbox has no IP address"
	}
	return ""
}

func initialized(in Input, s *corev1.PodStatus, put func(corev1.PodConditionType, bool, string, string)) {
	if s.Phase == corev1.PodSucceeded {
		put(corev1.PodInitialized, true, "PodCompleted", "")
		return
	}
	var incomplete []string
	for i := range s.InitContainerStatuses {
		st := &s.InitContainerStatuses[i]
		done := st.State.Terminated != nil && st.State.Terminated.ExitCode == 0
		if spec.IsSidecar(&in.Pod.Spec.InitContainers[i]) {
			done = st.Started != nil && *st.Started
		}
		if !done {
			incomplete = append(incomplete, st.Name)
		}
	}
	if len(incomplete) == 0 || anyRan(s.ContainerStatuses) {
		put(corev1.PodInitialized, true, "", "")
		return
	}
	put(corev1.PodInitialized, false, "ContainersNotInitialized", "containers with incomplete status: "+list(incomplete))
}

func list(names []string) string { return "[" + strings.Join(names, " ") + "]" }

func containersReady(in Input, s *corev1.PodStatus) (ok bool, reason, message string) {
	switch s.Phase {
	case corev1.PodSucceeded:
		return false, "PodCompleted", ""
	case corev1.PodFailed:
		return false, "PodFailed", ""
	}
	var unready []string
	for i := range s.InitContainerStatuses {
		if spec.IsSidecar(&in.Pod.Spec.InitContainers[i]) && !s.InitContainerStatuses[i].Ready {
			unready = append(unready, s.InitContainerStatuses[i].Name)
		}
	}
	for i := range s.ContainerStatuses {
		if !s.ContainerStatuses[i].Ready {
			unready = append(unready, s.ContainerStatuses[i].Name)
		}
	}
	if len(unready) > 0 {
		return false, "ContainersNotReady", "containers with unready status: " + list(unready)
	}
	return true, "", ""
}

// gates asks the conditions that others set.
func gates(pod *corev1.Pod) (ok bool, reason, message string) {
	var wrong []string
	for _, g := range pod.Spec.ReadinessGates {
		var have *corev1.PodCondition
		for i := range pod.Status.Conditions {
			if pod.Status.Conditions[i].Type == g.ConditionType {
				have = &pod.Status.Conditions[i]
			}
		}
		switch {
		case have == nil:
			wrong = append(wrong, fmt.Sprintf("corresponding condition of pod readiness gate %q does not exist.", string(g.ConditionType)))
		case have.Status != corev1.ConditionTrue:
			wrong = append(wrong, fmt.Sprintf("the status of pod readiness gate %q is not \"True\", but %v", string(g.ConditionType), have.Status))
		}
	}
	if len(wrong) > 0 {
		return false, "ReadinessGatesNotReady", strings.Join(wrong, ", ")
	}
	return true, "", ""
}
