package admission

import (
	"context"
	"errors"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// RuntimeClass gives a pod the overhead, node selector and tolerations of its
// runtime class.
type RuntimeClass struct{ lookup Lookup }

var (
	_ Mutator   = (*RuntimeClass)(nil)
	_ Validator = (*RuntimeClass)(nil)
)

// NewRuntimeClass reads runtime classes from l.
func NewRuntimeClass(l Lookup) *RuntimeClass { return &RuntimeClass{l} }

// Name implements Plugin.
func (*RuntimeClass) Name() string { return "RuntimeClass" }

func (p *RuntimeClass) class(ctx context.Context, a *Attributes, pod *corev1.Pod) (*nodev1.RuntimeClass, error) {
	if pod.Spec.RuntimeClassName == nil {
		return nil, nil
	}
	name := *pod.Spec.RuntimeClassName
	obj, _ := p.lookup.Get(ctx, schema.GroupResource{Group: "node.k8s.io", Resource: "runtimeclasses"}, "", name)
	class, ok := obj.(*nodev1.RuntimeClass)
	if !ok {
		return nil, Forbidden(a, fmt.Errorf("pod rejected: RuntimeClass %q not found", name))
	}
	return class, nil
}

// Admit implements Mutator.
func (p *RuntimeClass) Admit(ctx context.Context, a *Attributes) error {
	pod, ok := newPod(a)
	if !ok {
		return nil
	}
	class, err := p.class(ctx, a, pod)
	if err != nil || class == nil {
		return err
	}
	if class.Overhead != nil {
		if pod.Spec.Overhead != nil && !equality.Semantic.DeepEqual(class.Overhead.PodFixed, pod.Spec.Overhead) {
			return Forbidden(a, errors.New("pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead"))
		}
		pod.Spec.Overhead = class.Overhead.PodFixed.DeepCopy()
	}
	if class.Scheduling == nil {
		return nil
	}
	for k, v := range class.Scheduling.NodeSelector {
		if own, ok := pod.Spec.NodeSelector[k]; ok && own != v {
			return Forbidden(a, fmt.Errorf("conflict: runtimeClass.scheduling.nodeSelector[%s] = %s; pod.spec.nodeSelector[%s] = %s", k, v, k, own))
		}
		if pod.Spec.NodeSelector == nil {
			pod.Spec.NodeSelector = map[string]string{}
		}
		pod.Spec.NodeSelector[k] = v
	}
	for _, t := range class.Scheduling.Tolerations {
		if !slices.ContainsFunc(pod.Spec.Tolerations, func(own corev1.Toleration) bool { return equality.Semantic.DeepEqual(own, t) }) {
			pod.Spec.Tolerations = append(pod.Spec.Tolerations, *t.DeepCopy())
		}
	}
	return nil
}

// Validate implements Validator.
func (p *RuntimeClass) Validate(ctx context.Context, a *Attributes) error {
	pod, ok := newPod(a)
	if !ok {
		return nil
	}
	class, err := p.class(ctx, a, pod)
	if err != nil {
		return err
	}
	switch {
	case class != nil && class.Overhead != nil:
		if !equality.Semantic.DeepEqual(class.Overhead.PodFixed, pod.Spec.Overhead) {
			return Forbidden(a, errors.New("pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead"))
		}
	case pod.Spec.Overhead != nil:
		return Forbidden(a, errors.New("pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead"))
	}
	return nil
}
