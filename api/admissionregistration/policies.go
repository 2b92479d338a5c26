package admissionregistration

import (
	admissionv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/proa-dev/proa/api"
)

// ValidatingAdmissionPolicy is the kind of policies that validate.
func ValidatingAdmissionPolicy() *api.Kind {
	type P = *admissionv1.ValidatingAdmissionPolicy
	return &api.Kind{
		GVK:         gvk("ValidatingAdmissionPolicy"),
		Resource:    "validatingadmissionpolicies",
		Categories:  categories(),
		New:         api.Maker[admissionv1.ValidatingAdmissionPolicy](),
		NewList:     api.ListMaker[admissionv1.ValidatingAdmissionPolicyList](),
		StoragePath: "validatingadmissionpolicies",
		Columns: []api.Column{
			api.Col("Validations", "integer", "Number of rules.", func(p P) any { return int64(len(p.Spec.Validations)) }),
			api.Col("ParamKind", "string", "The kind of its parameters.", func(p P) any { return paramKindText(p.Spec.ParamKind) }),
			api.AgeColumn(),
		},
		Default: api.On(func(p P) {
			set(&p.Spec.FailurePolicy, admissionv1.Fail)
			defaultResources(p.Spec.MatchConstraints)
		}),
		PrepareCreate: api.On(func(p P) {
			p.Status = admissionv1.ValidatingAdmissionPolicyStatus{}
			p.Generation = 1
		}),
		PrepareUpdate: api.OnUpdate(func(p, old P) {
			p.Status = old.Status
			api.BumpGeneration(p, old, &p.Spec, &old.Spec)
		}),
		Validate:       api.Check(func(p P) field.ErrorList { return validateValidating(p, nil) }),
		ValidateUpdate: api.CheckUpdate(validateValidating),
		Warnings:       api.Warn(func(p, _ P) []string { return nameWarnings(p.Name) }),
		Status: &api.Status{
			PrepareUpdate: api.OnUpdate(func(p, old P) {
				p.Spec = old.Spec
				metav1.ResetObjectMetaForStatus(&p.ObjectMeta, &old.ObjectMeta)
			}),
			ValidateUpdate: api.CheckUpdate(func(p, _ P) field.ErrorList { return validateStatus(&p.Status) }),
		},
		RequireVersionOnUpdate: true,
		Governs:                true,
		ResetFields:            map[string][]string{"": {"status"}, "status": {"spec", "metadata"}},
	}
}

// ValidatingAdmissionPolicyBinding is the kind that puts validating policies
// in force.
func ValidatingAdmissionPolicyBinding() *api.Kind {
	type B = *admissionv1.ValidatingAdmissionPolicyBinding
	return &api.Kind{
		GVK:         gvk("ValidatingAdmissionPolicyBinding"),
		Resource:    "validatingadmissionpolicybindings",
		Categories:  categories(),
		New:         api.Maker[admissionv1.ValidatingAdmissionPolicyBinding](),
		NewList:     api.ListMaker[admissionv1.ValidatingAdmissionPolicyBindingList](),
		StoragePath: "validatingadmissionpolicybindings",
		Columns: []api.Column{
			api.Col("PolicyName", "string", "The policy.", func(b B) any { return b.Spec.PolicyName }),
			api.Col("ParamRef", "string", "Its parameters.", func(b B) any { return paramRefText(b.Spec.ParamRef) }),
			api.AgeColumn(),
		},
		Default:                api.On(func(b B) { defaultResources(b.Spec.MatchResources) }),
		PrepareCreate:          api.On(func(b B) { b.Generation = 1 }),
		PrepareUpdate:          api.OnUpdate(func(b, old B) { api.BumpGeneration(b, old, &b.Spec, &old.Spec) }),
		Validate:               api.Check(validateValidatingBinding),
		ValidateUpdate:         api.CheckUpdate(func(b, _ B) field.ErrorList { return validateValidatingBinding(b) }),
		Warnings:               api.Warn(func(b, _ B) []string { return nameWarnings(b.Name) }),
		RequireVersionOnUpdate: true,
		Governs:                true,
	}
}

// MutatingAdmissionPolicy is the kind of policies that mutate.
func MutatingAdmissionPolicy() *api.Kind {
	type P = *admissionv1.MutatingAdmissionPolicy
	return &api.Kind{
		GVK:         gvk("MutatingAdmissionPolicy"),
		Resource:    "mutatingadmissionpolicies",
		Categories:  categories(),
		New:         api.Maker[admissionv1.MutatingAdmissionPolicy](),
		NewList:     api.ListMaker[admissionv1.MutatingAdmissionPolicyList](),
		StoragePath: "mutatingadmissionpolicies",
		Columns: []api.Column{
			api.Col("Mutations", "integer", "Number of mutations.", func(p P) any { return int64(len(p.Spec.Mutations)) }),
			api.Col("ParamKind", "string", "The kind of its parameters.", func(p P) any { return paramKindText(p.Spec.ParamKind) }),
			api.AgeColumn(),
		},
		Default: api.On(func(p P) {
			set(&p.Spec.FailurePolicy, admissionv1.Fail)
			defaultResources(p.Spec.MatchConstraints)
		}),
		PrepareCreate:          api.On(func(p P) { p.Generation = 1 }),
		PrepareUpdate:          api.OnUpdate(func(p, old P) { api.BumpGeneration(p, old, &p.Spec, &old.Spec) }),
		Validate:               api.Check(func(p P) field.ErrorList { return validateMutating(p, nil) }),
		ValidateUpdate:         api.CheckUpdate(validateMutating),
		Warnings:               api.Warn(func(p, _ P) []string { return nameWarnings(p.Name) }),
		RequireVersionOnUpdate: true,
		Governs:                true,
	}
}

// MutatingAdmissionPolicyBinding is the kind that puts mutating policies in
// force.
func MutatingAdmissionPolicyBinding() *api.Kind {
	type B = *admissionv1.MutatingAdmissionPolicyBinding
	return &api.Kind{
		GVK:         gvk("MutatingAdmissionPolicyBinding"),
		Resource:    "mutatingadmissionpolicybindings",
		Categories:  categories(),
		New:         api.Maker[admissionv1.MutatingAdmissionPolicyBinding](),
		NewList:     api.ListMaker[admissionv1.MutatingAdmissionPolicyBindingList](),
		StoragePath: "mutatingadmissionpolicybindings",
		Columns: []api.Column{
			api.Col("PolicyName", "string", "The policy.", func(b B) any { return b.Spec.PolicyName }),
			api.Col("ParamRef", "string", "Its parameters.", func(b B) any { return paramRefText(b.Spec.ParamRef) }),
			api.AgeColumn(),
		},
		Default:                api.On(func(b B) { defaultResources(b.Spec.MatchResources) }),
		PrepareCreate:          api.On(func(b B) { b.Generation = 1 }),
		PrepareUpdate:          api.OnUpdate(func(b, old B) { api.BumpGeneration(b, old, &b.Spec, &old.Spec) }),
		Validate:               api.Check(validateMutatingBinding),
		ValidateUpdate:         api.CheckUpdate(func(b, _ B) field.ErrorList { return validateMutatingBinding(b) }),
		Warnings:               api.Warn(func(b, _ B) []string { return nameWarnings(b.Name) }),
		RequireVersionOnUpdate: true,
		Governs:                true,
	}
}
