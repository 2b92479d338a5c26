// Package policy holds the kinds of the group policy, v1.
package policy

import (
	policyv1 "k8s.io/api/policy/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/api/validate"
)

// EvictionKind is what is posted to a pod's eviction subresource.
func EvictionKind() schema.GroupVersionKind {
	return policyv1.SchemeGroupVersion.WithKind("Eviction")
}

// Kinds lists the kinds of the group.
func Kinds() []*api.Kind { return []*api.Kind{PodDisruptionBudget()} }

// Eviction describes what is posted to a pod's eviction subresource.
func Eviction() *api.Kind {
	return &api.Kind{
		GVK:        EvictionKind(),
		Namespaced: true,
		Verbs:      []string{"create"},
		Virtual:    true,
		New:        api.Maker[policyv1.Eviction](),
	}
}

// PodDisruptionBudget is the kind of disruption budgets.
func PodDisruptionBudget() *api.Kind {
	return &api.Kind{
		GVK:         policyv1.SchemeGroupVersion.WithKind("PodDisruptionBudget"),
		Resource:    "poddisruptionbudgets",
		ShortNames:  []string{"pdb"},
		Namespaced:  true,
		New:         api.Maker[policyv1.PodDisruptionBudget](),
		NewList:     api.ListMaker[policyv1.PodDisruptionBudgetList](),
		StoragePath: "poddisruptionbudgets",
		Columns: []api.Column{
			api.Col("Min Available", "string", "Pods that must stay available.", func(b *policyv1.PodDisruptionBudget) any { return orNA(b.Spec.MinAvailable) }),
			api.Col("Max Unavailable", "string", "Pods that may be unavailable.", func(b *policyv1.PodDisruptionBudget) any { return orNA(b.Spec.MaxUnavailable) }),
			api.Col("Allowed Disruptions", "integer", "Pods that may be disrupted now.", func(b *policyv1.PodDisruptionBudget) any {
				return int64(b.Status.DisruptionsAllowed)
			}),
			api.AgeColumn(),
		},

		RequireVersionOnUpdate: true,
		PrepareCreate: api.On(func(b *policyv1.PodDisruptionBudget) {
			b.Status = policyv1.PodDisruptionBudgetStatus{}
			b.Generation = 1
		}),
		PrepareUpdate: api.OnUpdate(func(b, old *policyv1.PodDisruptionBudget) {
			b.Status = old.Status
			api.BumpGeneration(b, old, &b.Spec, &old.Spec)
		}),
		Validate:       api.Check(func(b *policyv1.PodDisruptionBudget) field.ErrorList { return validateBudget(b, nil) }),
		ValidateUpdate: api.CheckUpdate(validateBudget),
		Status: &api.Status{
			PrepareUpdate:  api.OnUpdate(func(b, old *policyv1.PodDisruptionBudget) { b.Spec = old.Spec }),
			ValidateUpdate: api.CheckUpdate(validateBudgetStatus),
		},
		ResetFields: map[string][]string{
			"": {"status"}, "status": {"spec"},
		},
	}
}

// validateBudget: old is nil on create.
func validateBudget(b, old *policyv1.PodDisruptionBudget) field.ErrorList {
	s, path := &b.Spec, field.NewPath("spec")
	var errs field.ErrorList
	if s.MinAvailable != nil && s.MaxUnavailable != nil {
		errs = append(errs, field.Invalid(path, *s, "minAvailable and maxUnavailable cannot be both set"))
	}
	for _, f := range []struct {
		name string
		*intstr.IntOrString
	}{{"minAvailable", s.MinAvailable}, {"maxUnavailable", s.MaxUnavailable}} {
		if f.IntOrString != nil {
			errs = append(errs, validate.IntOrPercent(path.Child(f.name), *f.IntOrString)...)
			errs = append(errs, validate.AtMostHundredPercent(path.Child(f.name), *f.IntOrString)...)
		}
	}
	lenient := old != nil && len(validate.Selector(nil, old.Spec.Selector, false)) > 0
	errs = append(errs, validate.Selector(path.Child("selector"), s.Selector, lenient)...)
	if p := s.UnhealthyPodEvictionPolicy; p != nil {
		errs = append(errs, validate.OneOf(path.Child("unhealthyPodEvictionPolicy"), *p, policyv1.AlwaysAllow, policyv1.IfHealthyBudget)...)
	}
	return errs
}

func validateBudgetStatus(b, _ *policyv1.PodDisruptionBudget) field.ErrorList {
	s, path := &b.Status, field.NewPath("status")
	errs := metavalidation.ValidateConditions(s.Conditions, path.Child("conditions"))
	for _, f := range []struct {
		name  string
		value int32
	}{
		{"disruptionsAllowed", s.DisruptionsAllowed}, {"currentHealthy", s.CurrentHealthy},
		{"desiredHealthy", s.DesiredHealthy}, {"expectedPods", s.ExpectedPods},
	} {
		errs = append(errs, validate.NonNegative(path.Child(f.name), int64(f.value))...)
	}
	return errs
}

func orNA(v *intstr.IntOrString) string {
	if v == nil {
		return "N/A"
	}
	return v.String()
}
