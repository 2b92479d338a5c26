package job

import (
	"fmt"
	"slices"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
)

// verdict is what a policy says of a failed pod. Without an action the failure
// counts.
type verdict struct {
	action batchv1.PodFailurePolicyAction
	// message says why the job fails, if it does.
	message string
}

// counts reports whether the failure counts towards the limits.
func (v verdict) counts() bool { return v.action != batchv1.PodFailurePolicyActionIgnore }

// judge returns what the first rule that matches a failed pod says.
func judge(policy *batchv1.PodFailurePolicy, pod *corev1.Pod) verdict {
	if policy == nil {
		return verdict{}
	}
	for i := range policy.Rules {
		r := &policy.Rules[i]
		var message string
		switch {
		case r.OnExitCodes != nil:
			s := exited(pod, r.OnExitCodes)
			if s == nil {
				continue
			}
			message = fmt.Sprintf("Container %s for pod %s/%s failed with exit code %v matching %v rule at index %d",
				s.Name, pod.Namespace, pod.Name, s.State.Terminated.ExitCode, r.Action, i)
		default:
			c := conditionIn(pod, r.OnPodConditions)
			if c == nil {
				continue
			}
			message = fmt.Sprintf("Pod %s/%s has condition %v matching %v rule at index %d", pod.Namespace, pod.Name, c.Type, r.Action, i)
		}
		switch r.Action {
		case batchv1.PodFailurePolicyActionFailJob, batchv1.PodFailurePolicyActionFailIndex,
			batchv1.PodFailurePolicyActionIgnore, batchv1.PodFailurePolicyActionCount:
			return verdict{r.Action, message}
		}
	}
	return verdict{}
}

// exited returns the first container whose exit a rule is about, or nil.
func exited(pod *corev1.Pod, r *batchv1.PodFailurePolicyOnExitCodesRequirement) *corev1.ContainerStatus {
	for _, list := range [][]corev1.ContainerStatus{pod.Status.ContainerStatuses, pod.Status.InitContainerStatuses} {
		for i := range list {
			s := &list[i]
			if s.State.Terminated == nil || s.State.Terminated.ExitCode == 0 || r.ContainerName != nil && *r.ContainerName != s.Name {
				continue
			}
			named := slices.Contains(r.Values, s.State.Terminated.ExitCode)
			if named && r.Operator == batchv1.PodFailurePolicyOnExitCodesOpIn || !named && r.Operator == batchv1.PodFailurePolicyOnExitCodesOpNotIn {
				return s
			}
		}
	}
	return nil
}

func conditionIn(pod *corev1.Pod, patterns []batchv1.PodFailurePolicyOnPodConditionsPattern) *corev1.PodCondition {
	for i := range pod.Status.Conditions {
		c := &pod.Status.Conditions[i]
		for _, p := range patterns {
			if c.Type == p.Type && c.Status == p.Status {
				return c
			}
		}
	}
	return nil
}

// meets reports whether a rule of a success policy is met, and which.
func meets(policy *batchv1.SuccessPolicy, completions int, completed intervals) (string, bool) {
	if policy == nil || len(completed) == 0 {
		return "", false
	}
	for i, r := range policy.Rules {
		met := false
		switch {
		case r.SucceededIndexes != nil:
			wanted := parseIntervals(*r.SucceededIndexes, completions)
			have := completed.common(wanted)
			met = len(wanted) > 0 && (have == wanted.total() || r.SucceededCount != nil && have >= int(*r.SucceededCount))
		case r.SucceededCount != nil:
			met = completed.total() >= int(*r.SucceededCount)
		}
		if met {
			return fmt.Sprintf("Matched rules at index %d", i), true
		}
	}
	return "", false
}
