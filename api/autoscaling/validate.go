package autoscaling

import (
	"errors"
	"fmt"
	"slices"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/api/validate/content"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"github.com/proa-dev/proa/api/validate"
)

const (
	maxPeriodSeconds        = 1800
	maxStabilizationSeconds = 3600
)

// refRules says what a reference may leave open.
type refRules struct {
	// anyVersion lets the version be what it likes, coreGroup lets it have no
	// group.
	anyVersion, coreGroup bool
}

func (r refRules) check(ref *autoscalingv2.CrossVersionObjectReference) error {
	if r.anyVersion {
		return nil
	}
	gv, err := schema.ParseGroupVersion(ref.APIVersion)
	if err != nil {
		return err
	}
	if gv.Group == "" && !r.coreGroup {
		return errors.New("apiVersion must specify API group")
	}
	return nil
}

// validateSpec checks an autoscaler; old is nil for a new one. References that
// were stored before a rule existed may stay.
func validateSpec(h, old *hpa) field.ErrorList {
	s, path := &h.Spec, field.NewPath("spec")
	target := refRules{coreGroup: s.ScaleTargetRef.Kind == "ReplicationController"}
	object := refRules{coreGroup: true}
	if old != nil {
		was := old.Spec.ScaleTargetRef
		target.anyVersion = was.APIVersion == s.ScaleTargetRef.APIVersion && was.Kind == s.ScaleTargetRef.Kind
		object.anyVersion = slices.ContainsFunc(old.Spec.Metrics, func(m autoscalingv2.MetricSpec) bool {
			return m.Type == autoscalingv2.ObjectMetricSourceType && m.Object != nil && object.check(&m.Object.DescribedObject) != nil
		})
	}
	var errs field.ErrorList
	if s.MinReplicas != nil && *s.MinReplicas < 0 {
		errs = append(errs, field.Invalid(path.Child("minReplicas"), *s.MinReplicas, "must be greater than or equal to 0"))
	}
	if s.MaxReplicas == 0 {
		errs = append(errs, field.Required(path.Child("maxReplicas"), "must be set and greater than 0"))
	} else if s.MaxReplicas < 0 {
		errs = append(errs, field.Invalid(path.Child("maxReplicas"), s.MaxReplicas, "must be greater than or equal to 1"))
	}
	if s.MinReplicas != nil && s.MaxReplicas < *s.MinReplicas {
		errs = append(errs, field.Invalid(path.Child("maxReplicas"), s.MaxReplicas, "must be greater than or equal to `minReplicas`"))
	}
	errs = append(errs, validateRef(path.Child("scaleTargetRef"), &s.ScaleTargetRef, target)...)
	scalesToZero := false
	for i := range s.Metrics {
		errs = append(errs, validateMetric(path.Child("metrics").Index(i), &s.Metrics[i], object)...)
		t := s.Metrics[i].Type
		scalesToZero = scalesToZero || t == autoscalingv2.ObjectMetricSourceType || t == autoscalingv2.ExternalMetricSourceType
	}
	if ptr.Equal(s.MinReplicas, ptr.To[int32](0)) && !scalesToZero {
		errs = append(errs, field.Forbidden(path.Child("metrics"), "must specify at least one Object or External metric to support scaling to zero replicas"))
	}
	if b := s.Behavior; b != nil {
		errs = append(errs, validateRules(path.Child("behavior", "scaleUp"), b.ScaleUp)...)
		errs = append(errs, validateRules(path.Child("behavior", "scaleDown"), b.ScaleDown)...)
	}
	return errs
}

func validateStatus(h *hpa) field.ErrorList {
	path := field.NewPath("status")
	var errs field.ErrorList
	for i, c := range h.Status.Conditions {
		if c.ObservedGeneration != nil {
			errs = append(errs, validate.NonNegative(path.Child("conditions").Index(i).Child("observedGeneration"), *c.ObservedGeneration)...)
		}
	}
	errs = append(errs, validate.NonNegative(path.Child("currentReplicas"), int64(h.Status.CurrentReplicas))...)
	return append(errs, validate.NonNegative(path.Child("desiredReplicas"), int64(h.Status.DesiredReplicas))...)
}

func validateRef(path *field.Path, ref *autoscalingv2.CrossVersionObjectReference, rules refRules) field.ErrorList {
	errs := pathSegment(path.Child("kind"), ref.Kind, "")
	errs = append(errs, pathSegment(path.Child("name"), ref.Name, "")...)
	if err := rules.check(ref); err != nil {
		errs = append(errs, field.Invalid(path.Child("apiVersion"), ref.APIVersion, err.Error()))
	}
	return errs
}

// pathSegment wants a value that can be part of a URL; required is what is said
// when it is missing.
func pathSegment(path *field.Path, value, required string) field.ErrorList {
	if value == "" {
		return field.ErrorList{field.Required(path, required)}
	}
	return validate.Messages(path, value, content.IsPathSegmentName(value))
}

func validateRules(path *field.Path, r *autoscalingv2.HPAScalingRules) field.ErrorList {
	if r == nil {
		return nil
	}
	var errs field.ErrorList
	window := path.Child("stabilizationWindowSeconds")
	if w := r.StabilizationWindowSeconds; w != nil && *w < 0 {
		errs = append(errs, field.Invalid(window, w, "must be greater than or equal to zero"))
	} else if w != nil && *w > maxStabilizationSeconds {
		errs = append(errs, field.Invalid(window, w, fmt.Sprintf("must be less than or equal to %v", maxStabilizationSeconds)))
	}
	if r.SelectPolicy != nil {
		errs = append(errs, validate.OneOf(path.Child("selectPolicy"), *r.SelectPolicy,
			autoscalingv2.MaxChangePolicySelect, autoscalingv2.MinChangePolicySelect, autoscalingv2.DisabledPolicySelect)...)
	}
	if len(r.Policies) == 0 {
		errs = append(errs, field.Required(path.Child("policies"), "must specify at least one Policy"))
	}
	for i, p := range r.Policies {
		errs = append(errs, validatePolicy(path.Child("policies").Index(i), p)...)
	}
	if r.Tolerance != nil && r.Tolerance.Sign() < 0 {
		errs = append(errs, field.Invalid(path.Child("tolerance"), r.Tolerance.String(), "must be greater than or equal to 0"))
	}
	return errs
}

func validatePolicy(path *field.Path, p autoscalingv2.HPAScalingPolicy) field.ErrorList {
	errs := validate.OneOf(path.Child("type"), p.Type, autoscalingv2.PodsScalingPolicy, autoscalingv2.PercentScalingPolicy)
	if p.Value <= 0 {
		errs = append(errs, field.Invalid(path.Child("value"), p.Value, "must be greater than zero"))
	}
	if p.PeriodSeconds <= 0 {
		errs = append(errs, field.Invalid(path.Child("periodSeconds"), p.PeriodSeconds, "must be greater than zero"))
	}
	if p.PeriodSeconds > maxPeriodSeconds {
		errs = append(errs, field.Invalid(path.Child("periodSeconds"), p.PeriodSeconds, fmt.Sprintf("must be less than or equal to %v", maxPeriodSeconds)))
	}
	return errs
}

// validateMetric wants exactly the source that the type names.
func validateMetric(path *field.Path, m *autoscalingv2.MetricSpec, object refRules) field.ErrorList {
	var errs field.ErrorList
	if m.Type == "" {
		errs = append(errs, field.Required(path.Child("type"), "must specify a metric source type"))
	}
	sources := []struct {
		of    autoscalingv2.MetricSourceType
		name  string
		set   bool
		check func(*field.Path) field.ErrorList
	}{
		{autoscalingv2.ObjectMetricSourceType, "object", m.Object != nil, func(p *field.Path) field.ErrorList { return validateObject(p, m.Object, object) }},
		{autoscalingv2.ExternalMetricSourceType, "external", m.External != nil, func(p *field.Path) field.ErrorList { return validateExternal(p, m.External) }},
		{autoscalingv2.PodsMetricSourceType, "pods", m.Pods != nil, func(p *field.Path) field.ErrorList { return validatePods(p, m.Pods) }},
		{autoscalingv2.ResourceMetricSourceType, "resource", m.Resource != nil, func(p *field.Path) field.ErrorList {
			return validateResource(p, string(m.Resource.Name), &m.Resource.Target, nil)
		}},
		{autoscalingv2.ContainerResourceMetricSourceType, "containerResource", m.ContainerResource != nil, func(p *field.Path) field.ErrorList {
			return validateContainerResource(p, m.ContainerResource)
		}},
	}
	var types []autoscalingv2.MetricSourceType
	for _, s := range sources {
		types = append(types, s.of)
	}
	unknown := validate.OneOf(path.Child("type"), m.Type, types...)
	errs = append(errs, unknown...)
	present := 0
	for _, s := range sources {
		if s.set {
			if present++; present == 1 {
				errs = append(errs, s.check(path.Child(s.name))...)
			}
		}
	}
	for _, s := range sources {
		if s.of == m.Type && !s.set {
			errs = append(errs, field.Required(path.Child(s.name), "must populate information for the given metric source"))
		}
	}
	errs = append(errs, unknown...)
	for _, s := range sources {
		if present > 1 && s.set && s.of != m.Type {
			errs = append(errs, field.Forbidden(path.Child(s.name), "must populate the given metric source only"))
		}
	}
	return errs
}

func validateObject(path *field.Path, o *autoscalingv2.ObjectMetricSource, rules refRules) field.ErrorList {
	errs := validateRef(path.Child("describedObject"), &o.DescribedObject, rules)
	errs = append(errs, pathSegment(path.Child("metric", "name"), o.Metric.Name, "must specify a metric name")...)
	errs = append(errs, validateTarget(path.Child("target"), &o.Target)...)
	if o.Target.Value == nil && o.Target.AverageValue == nil {
		errs = append(errs, field.Required(path.Child("target", "averageValue"), "must set either a target value or averageValue"))
	}
	return errs
}

func validateExternal(path *field.Path, e *autoscalingv2.ExternalMetricSource) field.ErrorList {
	errs := pathSegment(path.Child("metric", "name"), e.Metric.Name, "must specify a metric name")
	errs = append(errs, validateTarget(path.Child("target"), &e.Target)...)
	switch t := &e.Target; {
	case t.Value == nil && t.AverageValue == nil:
		errs = append(errs, field.Required(path.Child("target", "averageValue"), "must set either a target value for metric or a per-pod target"))
	case t.Value != nil && t.AverageValue != nil:
		errs = append(errs, field.Forbidden(path.Child("target", "value"), "may not set both a target value for metric and a per-pod target"))
	}
	return errs
}

func validatePods(path *field.Path, p *autoscalingv2.PodsMetricSource) field.ErrorList {
	errs := pathSegment(path.Child("metric", "name"), p.Metric.Name, "must specify a metric name")
	errs = append(errs, validateTarget(path.Child("target"), &p.Target)...)
	if p.Target.AverageValue == nil {
		errs = append(errs, field.Required(path.Child("target", "averageValue"), "must specify a positive target averageValue"))
	}
	return errs
}

func validateContainerResource(path *field.Path, c *autoscalingv2.ContainerResourceMetricSource) field.ErrorList {
	var more field.ErrorList
	if c.Name != "" {
		more = validate.ContainerResourceName(path.Child("name"), c.Name)
	}
	if c.Container == "" {
		more = append(more, field.Required(path.Child("container"), "must specify a container"))
	} else {
		more = append(more, validate.Label(path.Child("container"), c.Container)...)
	}
	return validateResource(path, string(c.Name), &c.Target, more)
}

// validateResource checks what metrics of resources have in common; more are
// the causes that come after the name's.
func validateResource(path *field.Path, name string, t *autoscalingv2.MetricTarget, more field.ErrorList) field.ErrorList {
	var errs field.ErrorList
	if name == "" {
		errs = append(errs, field.Required(path.Child("name"), "must specify a resource name"))
	}
	errs = append(errs, more...)
	errs = append(errs, validateTarget(path.Child("target"), t)...)
	switch {
	case t.AverageUtilization == nil && t.AverageValue == nil:
		errs = append(errs, field.Required(path.Child("target", "averageUtilization"), "must set either a target raw value or a target utilization"))
	case t.AverageUtilization != nil && t.AverageValue != nil:
		errs = append(errs, field.Forbidden(path.Child("target", "averageValue"), "may not set both a target raw value and a target utilization"))
	}
	return errs
}

func validateTarget(path *field.Path, t *autoscalingv2.MetricTarget) field.ErrorList {
	var errs field.ErrorList
	if t.Type == "" {
		errs = append(errs, field.Required(path.Child("type"), "must specify a metric target type"))
	}
	switch t.Type {
	case autoscalingv2.UtilizationMetricType, autoscalingv2.ValueMetricType, autoscalingv2.AverageValueMetricType:
	default:
		errs = append(errs, field.Invalid(path.Child("type"), t.Type, "must be either Utilization, Value, or AverageValue"))
	}
	positive := func(name string, q *resource.Quantity) {
		if q != nil && q.Sign() != 1 {
			errs = append(errs, field.Invalid(path.Child(name), q, "must be positive"))
		}
	}
	positive("value", t.Value)
	positive("averageValue", t.AverageValue)
	if t.AverageUtilization != nil && *t.AverageUtilization < 1 {
		errs = append(errs, field.Invalid(path.Child("averageUtilization"), t.AverageUtilization, "must be greater than 0"))
	}
	return errs
}
