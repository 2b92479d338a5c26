package batch

import (
	"fmt"
	"slices"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/proa-dev/proa/api/validate"
)

const (
	maxRules         = 20
	maxExitCodes     = 255
	maxPodConditions = 20
	maxIndexesText   = 64 * 1024
)

// one is validate.OneOf, but a value that is missing is told the choices.
func one[T ~string](path *field.Path, value T, allowed ...T) field.ErrorList {
	if value == "" {
		slices.Sort(allowed)
		return field.ErrorList{field.Required(path, fmt.Sprintf("valid values: %q", allowed))}
	}
	return validate.OneOf(path, value, allowed...)
}

func validatePodFailurePolicy(path *field.Path, s *batchv1.JobSpec) field.ErrorList {
	var errs field.ErrorList
	rules := s.PodFailurePolicy.Rules
	if len(rules) > maxRules {
		errs = append(errs, field.TooMany(path.Child("rules"), len(rules), maxRules))
	}
	containers := sets.New[string]()
	for _, c := range slices.Concat(s.Template.Spec.Containers, s.Template.Spec.InitContainers) {
		containers.Insert(c.Name)
	}
	for i := range rules {
		errs = append(errs, validateFailureRule(path.Child("rules").Index(i), &rules[i], s, containers)...)
	}
	return errs
}

func validateFailureRule(path *field.Path, r *batchv1.PodFailurePolicyRule, s *batchv1.JobSpec, containers sets.Set[string]) field.ErrorList {
	var errs field.ErrorList
	if r.Action == batchv1.PodFailurePolicyActionFailIndex {
		if s.BackoffLimitPerIndex == nil {
			errs = append(errs, field.Invalid(path.Child("action"), r.Action, "requires the backoffLimitPerIndex to be set"))
		}
	} else {
		errs = append(errs, one(path.Child("action"), r.Action, batchv1.PodFailurePolicyActionCount, batchv1.PodFailurePolicyActionFailIndex,
			batchv1.PodFailurePolicyActionFailJob, batchv1.PodFailurePolicyActionIgnore)...)
	}
	if r.OnExitCodes != nil {
		errs = append(errs, validateExitCodes(path.Child("onExitCodes"), r.OnExitCodes, containers)...)
	}
	errs = append(errs, validatePodConditions(path.Child("onPodConditions"), r.OnPodConditions)...)
	switch byCode, byCondition := r.OnExitCodes != nil, len(r.OnPodConditions) > 0; {
	case byCode && byCondition:
		errs = append(errs, field.Invalid(path, field.OmitValueType{}, "specifying both OnExitCodes and OnPodConditions is not supported"))
	case !byCode && !byCondition:
		errs = append(errs, field.Invalid(path, field.OmitValueType{}, "specifying one of OnExitCodes and OnPodConditions is required"))
	}
	return errs
}

func validatePodConditions(path *field.Path, patterns []batchv1.PodFailurePolicyOnPodConditionsPattern) field.ErrorList {
	var errs field.ErrorList
	if len(patterns) > maxPodConditions {
		errs = append(errs, field.TooMany(path, len(patterns), maxPodConditions))
	}
	for i, p := range patterns {
		errs = append(errs, validate.QualifiedName(path.Index(i).Child("type"), string(p.Type))...)
		errs = append(errs, one(path.Index(i).Child("status"), p.Status, corev1.ConditionFalse, corev1.ConditionTrue, corev1.ConditionUnknown)...)
	}
	return errs
}

func validateExitCodes(path *field.Path, r *batchv1.PodFailurePolicyOnExitCodesRequirement, containers sets.Set[string]) field.ErrorList {
	errs := one(path.Child("operator"), r.Operator, batchv1.PodFailurePolicyOnExitCodesOpIn, batchv1.PodFailurePolicyOnExitCodesOpNotIn)
	if r.ContainerName != nil && !containers.Has(*r.ContainerName) {
		errs = append(errs, field.Invalid(path.Child("containerName"), *r.ContainerName,
			"must be one of the container or initContainer names in the pod template"))
	}
	at := path.Child("values")
	if len(r.Values) == 0 {
		errs = append(errs, field.Invalid(at, r.Values, "at least one value is required"))
	} else if len(r.Values) > maxExitCodes {
		errs = append(errs, field.TooMany(at, len(r.Values), maxExitCodes))
	}
	seen := sets.New[int32]()
	for i, code := range r.Values {
		if r.Operator == batchv1.PodFailurePolicyOnExitCodesOpIn && code == 0 {
			errs = append(errs, field.Invalid(at.Index(i), code, "must not be 0 for the In operator"))
		}
		if seen.Has(code) {
			errs = append(errs, field.Duplicate(at.Index(i), code))
		}
		seen.Insert(code)
	}
	if !slices.IsSorted(r.Values) {
		errs = append(errs, field.Invalid(at, r.Values, "must be ordered"))
	}
	return errs
}

func validateSuccessPolicy(path *field.Path, s *batchv1.JobSpec) field.ErrorList {
	if !indexed(s) {
		return field.ErrorList{field.Invalid(path, *s.SuccessPolicy, "requires indexed completion mode")}
	}
	var errs field.ErrorList
	rules, at := s.SuccessPolicy.Rules, path.Child("rules")
	if len(rules) == 0 {
		errs = append(errs, field.Required(at, "at least one rules must be specified when the successPolicy is specified"))
	}
	if len(rules) > maxRules {
		errs = append(errs, field.TooMany(at, len(rules), maxRules))
	}
	if s.Completions == nil {
		return errs // which is an error of its own
	}
	for i := range rules {
		errs = append(errs, validateSuccessRule(at.Index(i), &rules[i], *s.Completions)...)
	}
	return errs
}

func validateSuccessRule(path *field.Path, r *batchv1.SuccessPolicyRule, completions int32) field.ErrorList {
	var errs field.ErrorList
	if r.SucceededCount == nil && r.SucceededIndexes == nil {
		errs = append(errs, field.Required(path, "at least one of succeededCount or succeededIndexes must be specified"))
	}
	var named int32
	if r.SucceededIndexes != nil {
		at := path.Child("succeededIndexes")
		if len(*r.SucceededIndexes) > maxIndexesText {
			errs = append(errs, field.TooLong(at, "", maxIndexesText))
		}
		var err error
		if named, err = checkIndexes(*r.SucceededIndexes, completions); err != nil {
			errs = append(errs, field.Invalid(at, *r.SucceededIndexes, fmt.Sprintf("error parsing succeededIndexes: %s", err)))
		}
	}
	if r.SucceededCount == nil {
		return errs
	}
	at := path.Child("succeededCount")
	errs = append(errs, validate.NonNegative(at, int64(*r.SucceededCount))...)
	if *r.SucceededCount > completions {
		errs = append(errs, field.Invalid(at, *r.SucceededCount,
			fmt.Sprintf("must be less than or equal to %d (the number of specified completions)", completions)))
	}
	if r.SucceededIndexes != nil && *r.SucceededCount > named {
		errs = append(errs, field.Invalid(at, *r.SucceededCount,
			fmt.Sprintf("must be less than or equal to %d (the number of indexes in the specified succeededIndexes field)", named)))
	}
	return errs
}
