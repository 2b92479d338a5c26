package apps

import (
	"encoding/json"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/proa-dev/proa/api/core/podspec"
	"github.com/proa-dev/proa/api/validate"
)

// The workloads differ a little in what they say of a selector.
const (
	ofDaemonSet   = "daemonset"
	ofDeployment  = "deployment" // and ReplicaSets, by upstream's words
	ofStatefulSet = "statefulset"
)

// validateSelector returns what the template is to be checked against, nil if
// nothing can be. kind is how messages call the workload. A value that is not
// valid may stay where the old selector, if given, has one.
func validateSelector(path *field.Path, s *metav1.LabelSelector, kind string, old *metav1.LabelSelector) (labels.Selector, field.ErrorList) {
	switch {
	case s == nil && kind == ofDaemonSet:
		return labels.Nothing(), nil // the template will not match it
	case s == nil:
		return labels.Nothing(), field.ErrorList{field.Required(path, "")}
	}
	lenient := old != nil && len(validate.Selector(nil, old, false)) > 0
	errs := validate.Selector(path, s, lenient)
	if len(s.MatchLabels)+len(s.MatchExpressions) == 0 {
		errs = append(errs, field.Invalid(path, s, fmt.Sprintf("empty selector is invalid for %s", kind)))
	}
	selector, err := metav1.LabelSelectorAsSelector(s)
	switch {
	case err == nil:
		return selector, errs
	case kind == ofDaemonSet:
		return labels.Everything(), errs
	case kind == ofStatefulSet:
		return nil, append(errs, field.Invalid(path, s, ""))
	}
	return nil, append(errs, field.Invalid(path, s, "invalid label selector"))
}

func validateReplicas(path *field.Path, n *int32) field.ErrorList {
	if n == nil {
		return field.ErrorList{field.Required(path, "")}
	}
	return validate.NonNegative(path, int64(*n))
}

// after returns the options for a template whose old one is given, nil for none.
func after(old *corev1.PodTemplateSpec) podspec.Options {
	if old == nil {
		return podspec.Options{}
	}
	return podspec.After(&old.Spec, old.Annotations)
}

func validateDeployment(d, old *appsv1.Deployment) field.ErrorList {
	s, path := &d.Spec, field.NewPath("spec")
	var oldTemplate *corev1.PodTemplateSpec
	if old != nil {
		oldTemplate = &old.Spec.Template
	}
	errs := validateReplicas(path.Child("replicas"), s.Replicas)
	selector, bad := validateSelector(path.Child("selector"), s.Selector, ofDeployment, nil)
	errs = append(errs, bad...)
	if selector != nil {
		errs = append(errs, podspec.ValidateWorkloadTemplate(path.Child("template"), &s.Template, selector, "ReplicaSet", after(oldTemplate))...)
	}
	errs = append(errs, validateDeploymentStrategy(path.Child("strategy"), &s.Strategy)...)
	errs = append(errs, validate.NonNegative(path.Child("minReadySeconds"), int64(s.MinReadySeconds))...)
	if s.RevisionHistoryLimit != nil {
		errs = append(errs, validate.NonNegative(path.Child("revisionHistoryLimit"), int64(*s.RevisionHistoryLimit))...)
	}
	if p := s.ProgressDeadlineSeconds; p != nil {
		errs = append(errs, validate.NonNegative(path.Child("progressDeadlineSeconds"), int64(*p))...)
		if *p <= s.MinReadySeconds {
			errs = append(errs, field.Invalid(path.Child("progressDeadlineSeconds"), p, "must be greater than minReadySeconds"))
		}
	}
	return errs
}

func validateDeploymentUpdate(d, old *appsv1.Deployment) field.ErrorList {
	errs := validateDeployment(d, old)
	return append(errs, validate.Unchanged(field.NewPath("spec", "selector"), d.Spec.Selector, old.Spec.Selector)...)
}

func validateDeploymentStrategy(path *field.Path, s *appsv1.DeploymentStrategy) field.ErrorList {
	switch s.Type {
	case appsv1.RecreateDeploymentStrategyType:
		if s.RollingUpdate != nil {
			return field.ErrorList{field.Forbidden(path.Child("rollingUpdate"), "may not be specified when strategy `type` is 'Recreate'")}
		}
		return nil
	case appsv1.RollingUpdateDeploymentStrategyType:
	default:
		return field.ErrorList{field.NotSupported(path, s.Type,
			[]appsv1.DeploymentStrategyType{appsv1.RecreateDeploymentStrategyType, appsv1.RollingUpdateDeploymentStrategyType})}
	}
	at := path.Child("rollingUpdate")
	r := s.RollingUpdate
	if r == nil || r.MaxUnavailable == nil || r.MaxSurge == nil {
		return field.ErrorList{field.Required(at, "this should be defaulted and never be nil")}
	}
	errs := validate.IntOrPercent(at.Child("maxUnavailable"), *r.MaxUnavailable)
	errs = append(errs, validate.IntOrPercent(at.Child("maxSurge"), *r.MaxSurge)...)
	if validate.IntOrPercentValue(*r.MaxUnavailable) == 0 && validate.IntOrPercentValue(*r.MaxSurge) == 0 {
		errs = append(errs, field.Invalid(at.Child("maxUnavailable"), *r.MaxUnavailable, "may not be 0 when `maxSurge` is 0"))
	}
	return append(errs, validate.AtMostHundredPercent(at.Child("maxUnavailable"), *r.MaxUnavailable)...)
}

func validateDeploymentStatus(d, old *appsv1.Deployment) field.ErrorList {
	s, path := &d.Status, field.NewPath("status")
	errs := validate.NonNegative(path.Child("observedGeneration"), s.ObservedGeneration)
	counts := []struct {
		name  string
		value int32
	}{
		{"replicas", s.Replicas}, {"updatedReplicas", s.UpdatedReplicas}, {"readyReplicas", s.ReadyReplicas},
		{"availableReplicas", s.AvailableReplicas}, {"unavailableReplicas", s.UnavailableReplicas},
	}
	for _, c := range counts {
		errs = append(errs, validate.NonNegative(path.Child(c.name), int64(c.value))...)
	}
	for _, c := range counts[1:4] {
		if c.value > s.Replicas {
			errs = append(errs, field.Invalid(path.Child(c.name), c.value, "cannot be greater than status.replicas"))
		}
	}
	if s.AvailableReplicas > s.ReadyReplicas {
		errs = append(errs, field.Invalid(path.Child("availableReplicas"), s.AvailableReplicas, "cannot be greater than readyReplicas"))
	}
	return append(errs, validateCollisionCount(path, s.CollisionCount, old.Status.CollisionCount)...)
}

func validateReplicaSet(r, old *appsv1.ReplicaSet) field.ErrorList {
	s, path := &r.Spec, field.NewPath("spec")
	var oldTemplate *corev1.PodTemplateSpec
	if old != nil {
		oldTemplate = &old.Spec.Template
	}
	errs := validateReplicas(path.Child("replicas"), s.Replicas)
	errs = append(errs, validate.NonNegative(path.Child("minReadySeconds"), int64(s.MinReadySeconds))...)
	selector, bad := validateSelector(path.Child("selector"), s.Selector, ofDeployment, nil)
	errs = append(errs, bad...)
	if selector != nil {
		errs = append(errs, podspec.ValidateWorkloadTemplate(path.Child("template"), &s.Template, selector, "ReplicaSet", after(oldTemplate))...)
	}
	return errs
}

func validateReplicaSetUpdate(r, old *appsv1.ReplicaSet) field.ErrorList {
	errs := validateReplicaSet(r, old)
	return append(errs, validate.Unchanged(field.NewPath("spec", "selector"), r.Spec.Selector, old.Spec.Selector)...)
}

func validateReplicaSetStatus(r, _ *appsv1.ReplicaSet) field.ErrorList {
	s := r.Status
	return validate.ReplicaCounts(s.Replicas, s.FullyLabeledReplicas, s.ReadyReplicas, s.AvailableReplicas, s.ObservedGeneration)
}

func validateControllerRevision(r *appsv1.ControllerRevision) field.ErrorList {
	errs := validate.NonNegative(field.NewPath("revision"), r.Revision)
	path := field.NewPath("data")
	if r.Data.Raw == nil {
		return append(errs, field.Required(path, "data is mandatory"))
	}
	var v any
	if err := json.Unmarshal(r.Data.Raw, &v); err != nil {
		return append(errs, field.Invalid(path, "<value omitted>", fmt.Sprintf("error parsing data: %v", err)))
	}
	switch v.(type) {
	case nil:
		errs = append(errs, field.Required(path, "data is mandatory"))
	case map[string]any:
	default:
		errs = append(errs, field.Required(path, "data must be a valid JSON object"))
	}
	return errs
}

func validateControllerRevisionUpdate(r, old *appsv1.ControllerRevision) field.ErrorList {
	errs := validate.NonNegative(field.NewPath("revision"), r.Revision)
	return append(errs, validate.Unchanged(field.NewPath("data"), r.Data, old.Data)...)
}

func validateDaemonSet(d, old *appsv1.DaemonSet) field.ErrorList {
	s, path := &d.Spec, field.NewPath("spec")
	var oldSelector *metav1.LabelSelector
	var oldTemplate *corev1.PodTemplateSpec
	if old != nil {
		oldSelector, oldTemplate = old.Spec.Selector, &old.Spec.Template
	}
	selector, errs := validateSelector(path.Child("selector"), s.Selector, ofDaemonSet, oldSelector)
	if selector != nil {
		errs = append(errs, podspec.ValidateWorkloadTemplate(path.Child("template"), &s.Template, selector, "DaemonSet", after(oldTemplate))...)
	}
	errs = append(errs, validate.NonNegative(path.Child("minReadySeconds"), int64(s.MinReadySeconds))...)
	errs = append(errs, validateDaemonSetStrategy(path.Child("updateStrategy"), &s.UpdateStrategy)...)
	if s.RevisionHistoryLimit != nil {
		errs = append(errs, validate.NonNegative(path.Child("revisionHistoryLimit"), int64(*s.RevisionHistoryLimit))...)
	}
	return errs
}

func validateDaemonSetStrategy(path *field.Path, s *appsv1.DaemonSetUpdateStrategy) field.ErrorList {
	switch s.Type {
	case appsv1.OnDeleteDaemonSetStrategyType:
		return nil
	case appsv1.RollingUpdateDaemonSetStrategyType:
	default:
		return validate.OneOf(path.Child("type"), s.Type, appsv1.RollingUpdateDaemonSetStrategyType, appsv1.OnDeleteDaemonSetStrategyType)
	}
	at := path.Child("rollingUpdate")
	r := s.RollingUpdate
	if r == nil || r.MaxUnavailable == nil || r.MaxSurge == nil {
		return field.ErrorList{field.Required(at, "")}
	}
	errs := validate.IntOrPercent(at.Child("maxUnavailable"), *r.MaxUnavailable)
	errs = append(errs, validate.AtMostHundredPercent(at.Child("maxUnavailable"), *r.MaxUnavailable)...)
	errs = append(errs, validate.IntOrPercent(at.Child("maxSurge"), *r.MaxSurge)...)
	errs = append(errs, validate.AtMostHundredPercent(at.Child("maxSurge"), *r.MaxSurge)...)
	unavailable, surge := validate.IntOrPercentValue(*r.MaxUnavailable) != 0, validate.IntOrPercentValue(*r.MaxSurge) != 0
	switch {
	case unavailable && surge:
		errs = append(errs, field.Invalid(at.Child("maxSurge"), r.MaxSurge, "may not be set when maxUnavailable is non-zero"))
	case !unavailable && !surge:
		errs = append(errs, field.Required(at.Child("maxUnavailable"), "cannot be 0 when maxSurge is 0"))
	}
	return errs
}

func validateDaemonSetUpdate(d, old *appsv1.DaemonSet) field.ErrorList {
	errs := validateDaemonSet(d, old)
	return append(errs, validate.Unchanged(field.NewPath("spec", "selector"), d.Spec.Selector, old.Spec.Selector)...)
}

func validateDaemonSetStatus(d, old *appsv1.DaemonSet) field.ErrorList {
	s, path := &d.Status, field.NewPath("status")
	var errs field.ErrorList
	for _, c := range []struct {
		name  string
		value int64
	}{
		{"currentNumberScheduled", int64(s.CurrentNumberScheduled)}, {"numberMisscheduled", int64(s.NumberMisscheduled)},
		{"desiredNumberScheduled", int64(s.DesiredNumberScheduled)}, {"numberReady", int64(s.NumberReady)},
		{"observedGeneration", s.ObservedGeneration}, {"updatedNumberScheduled", int64(s.UpdatedNumberScheduled)},
		{"numberAvailable", int64(s.NumberAvailable)}, {"numberUnavailable", int64(s.NumberUnavailable)},
	} {
		errs = append(errs, validate.NonNegative(path.Child(c.name), c.value)...)
	}
	return append(errs, validateCollisionCount(path, s.CollisionCount, old.Status.CollisionCount)...)
}

func validateCollisionCount(status *field.Path, n, old *int32) field.ErrorList {
	path := status.Child("collisionCount")
	var errs field.ErrorList
	if n != nil {
		errs = validate.NonNegative(path, int64(*n))
	}
	return append(errs, validate.NotDecremented(path, n, old)...)
}
