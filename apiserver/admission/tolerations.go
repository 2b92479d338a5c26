package admission

import (
	"context"

	corev1 "k8s.io/api/core/v1"
)

// defaultTolerationSeconds is how long a pod stays on a node that is not
// ready or not reachable, unless it says otherwise.
const defaultTolerationSeconds = 300

// DefaultTolerationSeconds gives pods that bounded tolerance.
type DefaultTolerationSeconds struct{}

var _ Mutator = (*DefaultTolerationSeconds)(nil)

// NewDefaultTolerationSeconds returns the plugin.
func NewDefaultTolerationSeconds() *DefaultTolerationSeconds { return &DefaultTolerationSeconds{} }

// Name implements Plugin.
func (*DefaultTolerationSeconds) Name() string { return "DefaultTolerationSeconds" }

// Admit implements Mutator.
func (*DefaultTolerationSeconds) Admit(_ context.Context, a *Attributes) error {
	if a.GVR.GroupResource() != corev1.Resource("pods") || a.Subresource != "" || a.Operation != Create && a.Operation != Update {
		return nil
	}
	pod, ok := a.Object.(*corev1.Pod)
	if !ok {
		return nil
	}
	for _, taint := range []string{corev1.TaintNodeNotReady, corev1.TaintNodeUnreachable} {
		if toleratesExecute(pod, taint) {
			continue
		}
		seconds := int64(defaultTolerationSeconds)
		pod.Spec.Tolerations = append(pod.Spec.Tolerations, corev1.Toleration{
			Key:               taint,
			Operator:          corev1.TolerationOpExists,
			Effect:            corev1.TaintEffectNoExecute,
			TolerationSeconds: &seconds,
		})
	}
	return nil
}

func toleratesExecute(pod *corev1.Pod, taint string) bool {
	for _, t := range pod.Spec.Tolerations {
		if (t.Key == taint || t.Key == "") && (t.Effect == corev1.TaintEffectNoExecute || t.Effect == "") {
			return true
		}
	}
	return false
}

// TaintNodesByCondition keeps pods off a new node until it has reported that
// it is ready.
type TaintNodesByCondition struct{}

var _ Mutator = (*TaintNodesByCondition)(nil)

// NewTaintNodesByCondition returns the plugin.
func NewTaintNodesByCondition() *TaintNodesByCondition { return &TaintNodesByCondition{} }

// Name implements Plugin.
func (*TaintNodesByCondition) Name() string { return "TaintNodesByCondition" }

// Admit implements Mutator.
func (*TaintNodesByCondition) Admit(_ context.Context, a *Attributes) error {
	if a.GVR.GroupResource() != corev1.Resource("nodes") || a.Subresource != "" || a.Operation != Create {
		return nil
	}
	node, ok := a.Object.(*corev1.Node)
	if !ok {
		return nil
	}
	for _, t := range node.Spec.Taints {
		if t.Key == corev1.TaintNodeNotReady && t.Effect == corev1.TaintEffectNoSchedule {
			return nil
		}
	}
	node.Spec.Taints = append(node.Spec.Taints, corev1.Taint{Key: corev1.TaintNodeNotReady, Effect: corev1.TaintEffectNoSchedule})
	return nil
}
