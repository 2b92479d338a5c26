package core

import (
	"fmt"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/proa-dev/proa/api"
)

func podColumns() []api.Column {
	const none = "<none>"
	or := func(s string) any {
		if s == "" {
			return none
		}
		return s
	}
	return []api.Column{
		api.Col("Ready", "string", "Containers that are ready to accept traffic, of all.", func(p *corev1.Pod) any {
			s := summarize(p)
			return fmt.Sprintf("%d/%d", s.ready, s.total)
		}),
		api.Col("Status", "string", "What the containers of this pod are up to, in a word.", func(p *corev1.Pod) any {
			return summarize(p).reason
		}),
		api.Col("Restarts", "string", "How often containers of this pod have been restarted, and when last.", func(p *corev1.Pod) any {
			s := summarize(p)
			if s.restarts != 0 && !s.restarted.IsZero() {
				return fmt.Sprintf("%d (%s ago)", s.restarts, api.HumanAge(s.restarted))
			}
			return strconv.Itoa(s.restarts)
		}),
		api.AgeColumn(),
		api.WideCol("IP", "string", "Address of the pod.", func(p *corev1.Pod) any {
			if len(p.Status.PodIPs) > 0 {
				return or(p.Status.PodIPs[0].IP)
			}
			return or(p.Status.PodIP)
		}),
		api.WideCol("Node", "string", "Node that the pod is on.", func(p *corev1.Pod) any { return or(p.Spec.NodeName) }),
		api.WideCol("Nominated Node", "string", "Node that room is being made on for the pod.", func(p *corev1.Pod) any {
			return or(p.Status.NominatedNodeName)
		}),
		api.WideCol("Readiness Gates", "string", "Further conditions of readiness that are true, of all.", func(p *corev1.Pod) any {
			if len(p.Spec.ReadinessGates) == 0 {
				return none
			}
			passed := 0
			for _, g := range p.Spec.ReadinessGates {
				if conditionTrue(p, g.ConditionType) {
					passed++
				}
			}
			return fmt.Sprintf("%d/%d", passed, len(p.Spec.ReadinessGates))
		}),
	}
}

// podRowConditions says of a pod that has ended that its row is final.
func podRowConditions(p *corev1.Pod) []metav1.TableRowCondition {
	c := metav1.TableRowCondition{Type: metav1.RowCompleted, Status: metav1.ConditionTrue, Reason: string(p.Status.Phase)}
	switch p.Status.Phase {
	case corev1.PodSucceeded:
		c.Message = "The pod has completed successfully."
	case corev1.PodFailed:
		c.Message = "The pod failed."
	default:
		return nil
	}
	return []metav1.TableRowCondition{c}
}

// podSummary is a pod in a line.
type podSummary struct {
	ready, total int
	restarts     int
	restarted    metav1.Time // when a container last ended to be restarted
	reason       string
}

func summarize(p *corev1.Pod) podSummary {
	s := podSummary{total: len(p.Spec.Containers), reason: string(p.Status.Phase)}
	if p.Status.Reason != "" {
		s.reason = p.Status.Reason
	}
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Reason == corev1.PodReasonSchedulingGated {
			s.reason = corev1.PodReasonSchedulingGated
		}
	}
	sidecars, initializing := s.addInit(p)
	if !initializing || conditionTrue(p, corev1.PodInitialized) {
		s.restarts, s.restarted = sidecars.restarts, sidecars.restarted
		s.addMain(p)
	}
	terminal := p.Status.Phase == corev1.PodFailed || p.Status.Phase == corev1.PodSucceeded
	switch {
	case p.DeletionTimestamp == nil:
	case p.Status.Reason == "NodeLost":
		s.reason = "Unknown"
	case !terminal:
		s.reason = "Terminating"
	}
	return s
}

// count adds a container's restarts.
func (s *podSummary) count(c *corev1.ContainerStatus) {
	s.restarts += int(c.RestartCount)
	if t := c.LastTerminationState.Terminated; t != nil && s.restarted.Before(&t.FinishedAt) {
		s.restarted = t.FinishedAt
	}
}

// addInit goes through the init containers up to the first that has not done
// its part. It returns what sidecars count by themselves.
func (s *podSummary) addInit(p *corev1.Pod) (sidecars podSummary, initializing bool) {
	sidecar := map[string]bool{}
	for _, c := range p.Spec.InitContainers {
		if ptr.Deref(c.RestartPolicy, "") == corev1.ContainerRestartPolicyAlways {
			sidecar[c.Name] = true
			s.total++
		}
	}
	for i := range p.Status.InitContainerStatuses {
		c := &p.Status.InitContainerStatuses[i]
		s.count(c)
		if sidecar[c.Name] {
			sidecars.count(c)
		}
		terminated, waiting := c.State.Terminated, c.State.Waiting
		switch {
		case terminated != nil && terminated.ExitCode == 0:
			continue
		case sidecar[c.Name] && ptr.Deref(c.Started, false):
			if c.Ready {
				s.ready++
			}
			continue
		case terminated != nil:
			s.reason = "Init:" + ended(terminated)
		case waiting != nil && waiting.Reason != "" && waiting.Reason != "PodInitializing":
			s.reason = "Init:" + waiting.Reason
		default:
			s.reason = fmt.Sprintf("Init:%d/%d", i, len(p.Spec.InitContainers))
		}
		return sidecars, true
	}
	return sidecars, false
}

func (s *podSummary) addMain(p *corev1.Pod) {
	running, failure := false, ""
	for i := len(p.Status.ContainerStatuses) - 1; i >= 0; i-- {
		c := &p.Status.ContainerStatuses[i]
		s.count(c)
		switch {
		case c.State.Waiting != nil && c.State.Waiting.Reason != "":
			s.reason = c.State.Waiting.Reason
		case c.State.Terminated != nil:
			s.reason = ended(c.State.Terminated)
			if c.State.Terminated.ExitCode != 0 {
				failure = s.reason
			}
		case c.Ready && c.State.Running != nil:
			running = true
			s.ready++
		}
	}
	// A container that has completed does not speak for those that run, nor
	// for those that failed.
	switch {
	case s.reason != "Completed":
	case running && conditionTrue(p, corev1.PodReady):
		s.reason = "Running"
	case failure != "":
		s.reason = failure
	case running:
		s.reason = "NotReady"
	}
}

// ended says how a container ended, in a word.
func ended(t *corev1.ContainerStateTerminated) string {
	switch {
	case t.Reason != "":
		return t.Reason
	case t.Signal != 0:
		return fmt.Sprintf("Signal:%d", t.Signal)
	}
	return fmt.Sprintf("ExitCode:%d", t.ExitCode)
}

func conditionTrue(p *corev1.Pod, t corev1.PodConditionType) bool {
	for _, c := range p.Status.Conditions {
		if c.Type == t {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}
