package admission

import (
	"context"
	"errors"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/proa-dev/proa/api/scheduling"
)

var priorityClassResource = schema.GroupResource{Group: "scheduling.k8s.io", Resource: "priorityclasses"}

// Priority turns the name of a priority class into its number.
type Priority struct{ lookup Lookup }

var (
	_ Mutator   = (*Priority)(nil)
	_ Validator = (*Priority)(nil)
)

// NewPriority reads priority classes from l.
func NewPriority(l Lookup) *Priority { return &Priority{l} }

// Name implements Plugin.
func (*Priority) Name() string { return "Priority" }

// Admit implements Mutator.
func (p *Priority) Admit(ctx context.Context, a *Attributes) error {
	if a.GVR.GroupResource() != corev1.Resource("pods") || a.Subresource != "" {
		return nil
	}
	pod, ok := a.Object.(*corev1.Pod)
	if !ok {
		return nil
	}
	switch a.Operation {
	case Create:
		return p.resolve(ctx, a, pod)
	case Update:
		// Clients that do not know the fields leave them out.
		if old, ok := a.OldObject.(*corev1.Pod); ok {
			if pod.Spec.Priority == nil {
				pod.Spec.Priority = old.Spec.Priority
			}
			if pod.Spec.PreemptionPolicy == nil {
				pod.Spec.PreemptionPolicy = old.Spec.PreemptionPolicy
			}
		}
	}
	return nil
}

func (p *Priority) resolve(ctx context.Context, a *Attributes, pod *corev1.Pod) error {
	var value int32
	policy := corev1.PreemptLowerPriority
	class := p.globalDefault()
	if name := pod.Spec.PriorityClassName; name != "" {
		obj, _ := p.lookup.Get(ctx, priorityClassResource, "", name)
		var ok bool
		if class, ok = obj.(*schedulingv1.PriorityClass); !ok {
			return Forbidden(a, fmt.Errorf("no PriorityClass with name %v was found", name))
		}
	}
	if class != nil {
		pod.Spec.PriorityClassName = class.Name
		value = class.Value
		if class.PreemptionPolicy != nil {
			policy = *class.PreemptionPolicy
		}
	}
	if own := pod.Spec.Priority; own != nil && *own != value {
		return Forbidden(a, fmt.Errorf("the integer value of priority (%d) must not be provided in pod spec; priority admission controller computed %d from the given PriorityClass name", *own, value))
	}
	if own := pod.Spec.PreemptionPolicy; own != nil && *own != policy {
		return Forbidden(a, fmt.Errorf("the string value of PreemptionPolicy (%s) must not be provided in pod spec; priority admission controller computed %s from the given PriorityClass name", *own, policy))
	}
	pod.Spec.Priority = &value
	pod.Spec.PreemptionPolicy = &policy
	return nil
}

// globalDefault is the class of pods that name none; the lowest, should two
// servers have let in one each.
func (p *Priority) globalDefault() *schedulingv1.PriorityClass {
	var lowest *schedulingv1.PriorityClass
	for _, obj := range p.lookup.Source.List(priorityClassResource, "") {
		c, ok := obj.(*schedulingv1.PriorityClass)
		if ok && c.GlobalDefault && (lowest == nil || c.Value < lowest.Value) {
			lowest = c
		}
	}
	return lowest
}

// Validate implements Validator: there is one global default, and the
// system's classes stay.
func (p *Priority) Validate(_ context.Context, a *Attributes) error {
	if a.GVR.GroupResource() != priorityClassResource || a.Subresource != "" {
		return nil
	}
	if a.Operation == Delete && slices.ContainsFunc(scheduling.SystemClasses(), func(c *schedulingv1.PriorityClass) bool { return c.Name == a.Name }) {
		return Forbidden(a, errors.New("this is a system priority class and cannot be deleted"))
	}
	class, ok := a.Object.(*schedulingv1.PriorityClass)
	if !ok || !class.GlobalDefault {
		return nil
	}
	if other := p.globalDefault(); other != nil && (a.Operation == Create || other.Name != class.Name) {
		return Forbidden(a, fmt.Errorf("PriorityClass %v is already marked as default. Only one default can exist", other.Name))
	}
	return nil
}
