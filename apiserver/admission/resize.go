package admission

import (
	"context"
	"errors"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-helpers/resource"
)

// PodResizeValidator refuses to resize a pod beyond what its node could ever
// give it.
type PodResizeValidator struct{ lookup Lookup }

var _ Validator = (*PodResizeValidator)(nil)

// NewPodResizeValidator returns the plugin.
func NewPodResizeValidator(lookup Lookup) *PodResizeValidator {
	return &PodResizeValidator{lookup}
}

// Name implements Plugin.
func (*PodResizeValidator) Name() string { return "PodResizeValidator" }

// Validate implements Validator.
func (p *PodResizeValidator) Validate(ctx context.Context, a *Attributes) error {
	if a.Operation != Update || a.Subresource != "resize" || a.GVR.GroupResource() != corev1.Resource("pods") {
		return nil
	}
	pod, ok := a.Object.(*corev1.Pod)
	old, was := a.OldObject.(*corev1.Pod)
	if !ok || !was || pod.Spec.NodeName == "" || pod.Generation == old.Generation {
		return nil
	}
	obj, ok := p.lookup.Get(ctx, corev1.Resource("nodes"), "", pod.Spec.NodeName)
	if !ok {
		return Forbidden(a, fmt.Errorf("node %q not found", pod.Spec.NodeName))
	}
	node, ok := obj.(*corev1.Node)
	if !ok {
		return Forbidden(a, fmt.Errorf("unexpected type %T", obj))
	}
	if os, ok := node.Labels[corev1.LabelOSStable]; ok && os != "linux" {
		return refuseResize(a, "UnsupportedPlatform", fmt.Sprintf("pod resize is only supported on linux nodes, node %q is %q", node.Name, os))
	}
	if short := beyond(pod, node.Status.Allocatable); len(short) > 0 {
		return refuseResize(a, "NodeCapacity", "node didn't have enough allocatable resources: "+strings.Join(short, "; "))
	}
	return nil
}

func refuseResize(a *Attributes, cause metav1.CauseType, reason string) error {
	err := Forbidden(a, errors.New(reason))
	err.ErrStatus.Details.Causes = append(err.ErrStatus.Details.Causes, metav1.StatusCause{Type: cause})
	return err
}

// beyond says which requests are more than there is.
func beyond(pod *corev1.Pod, allocatable corev1.ResourceList) []string {
	var out []string
	requests := resource.PodRequests(pod, resource.PodResourcesOptions{})
	if cpu, all := requests.Cpu(), allocatable.Cpu(); cpu.Cmp(*all) > 0 {
		out = append(out, fmt.Sprintf("cpu, requested: %d, allocatable: %d", cpu.MilliValue(), all.MilliValue()))
	}
	if memory, all := requests.Memory(), allocatable.Memory(); memory.Cmp(*all) > 0 {
		out = append(out, fmt.Sprintf("memory, requested: %d, allocatable: %d", memory.Value(), all.Value()))
	}
	return out
}
