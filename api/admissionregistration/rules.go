package admissionregistration

import (
	"fmt"
	"slices"
	"strings"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/api/validate/content"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/proa-dev/proa/api/validate"
)

const wildcard = "*"

func validateOperations(path *field.Path, r *admissionv1.RuleWithOperations) field.ErrorList {
	var errs field.ErrorList
	at := path.Child("operations")
	if len(r.Operations) == 0 {
		errs = append(errs, field.Required(at, ""))
	}
	if len(r.Operations) > 1 && slices.Contains(r.Operations, admissionv1.OperationAll) {
		errs = append(errs, field.Invalid(at, r.Operations, "if '*' is present, must not specify other operations"))
	}
	for i, o := range r.Operations {
		errs = append(errs, validate.OneOf(at.Index(i), o,
			admissionv1.OperationAll, admissionv1.Connect, admissionv1.Create, admissionv1.Delete, admissionv1.Update)...)
	}
	return append(errs, validateRule(path, &r.Rule)...)
}

func validateRule(path *field.Path, r *admissionv1.Rule) field.ErrorList {
	var errs field.ErrorList
	several := func(name string, list []string, what string) {
		if len(list) == 0 {
			errs = append(errs, field.Required(path.Child(name), ""))
		}
		if len(list) > 1 && slices.Contains(list, wildcard) {
			errs = append(errs, field.Invalid(path.Child(name), list, "if '*' is present, must not specify other "+what))
		}
	}
	several("apiGroups", r.APIGroups, "API groups")
	several("apiVersions", r.APIVersions, "API versions")
	for i, v := range r.APIVersions {
		errs = append(errs, validate.Required(path.Child("apiVersions").Index(i), v)...)
	}
	errs = append(errs, validateResources(path.Child("resources"), r.Resources)...)
	if r.Scope != nil {
		errs = append(errs, validate.OneOf(path.Child("scope"), *r.Scope, admissionv1.AllScopes, admissionv1.ClusterScope, admissionv1.NamespacedScope)...)
	}
	return errs
}

// validateResources refuses what an earlier wildcard covers already.
func validateResources(path *field.Path, resources []string) field.ErrorList {
	var errs field.ErrorList
	if len(resources) == 0 {
		errs = append(errs, field.Required(path, ""))
	}
	allOf, allWith := sets.New[string](), sets.New[string]() // x/* and */x
	whole := false
	for i, r := range resources {
		if r == "" {
			errs = append(errs, field.Required(path.Index(i), ""))
			continue
		}
		name, sub, ok := strings.Cut(r, "/")
		if !ok {
			whole = r != wildcard
			continue
		}
		if allOf.Has(name) {
			errs = append(errs, field.Invalid(path.Index(i), r, fmt.Sprintf("if '%s/*' is present, must not specify %s", name, r)))
		}
		if allWith.Has(sub) {
			errs = append(errs, field.Invalid(path.Index(i), r, fmt.Sprintf("if '*/%s' is present, must not specify %s", sub, r)))
		}
		if sub == wildcard {
			allOf.Insert(name)
		}
		if name == wildcard {
			allWith.Insert(sub)
		}
	}
	if len(resources) > 1 && slices.Contains(resources, "*/*") {
		errs = append(errs, field.Invalid(path, resources, "if '*/*' is present, must not specify other resources"))
	}
	if whole && slices.Contains(resources, wildcard) {
		errs = append(errs, field.Invalid(path, resources, "if '*' is present, must not specify other resources without subresources"))
	}
	return errs
}

// validateMatch checks what a policy or a binding is for.
func validateMatch(path *field.Path, m *admissionv1.MatchResources) field.ErrorList {
	if m == nil {
		return nil
	}
	var errs field.ErrorList
	if m.MatchPolicy == nil {
		errs = append(errs, field.Required(path.Child("matchPolicy"), ""))
	} else {
		errs = append(errs, matchPolicy(path.Child("matchPolicy"), *m.MatchPolicy)...)
	}
	if m.NamespaceSelector == nil {
		errs = append(errs, field.Required(path.Child("namespaceSelector"), ""))
	} else {
		errs = append(errs, validate.Selector(path.Child("namespaceSelector"), m.NamespaceSelector, false)...)
	}
	if m.ObjectSelector == nil {
		errs = append(errs, field.Required(path.Child("objectSelector"), ""))
	} else {
		errs = append(errs, validate.Selector(path.Child("objectSelector"), m.ObjectSelector, false)...)
	}
	for i := range m.ResourceRules {
		errs = append(errs, validateNamed(path.Child("resourceRules").Index(i), &m.ResourceRules[i])...)
	}
	for i := range m.ExcludeResourceRules {
		errs = append(errs, validateNamed(path.Child("excludeResourceRules").Index(i), &m.ExcludeResourceRules[i])...)
	}
	return errs
}

func validateNamed(path *field.Path, r *admissionv1.NamedRuleWithOperations) field.ErrorList {
	var errs field.ErrorList
	seen := sets.New[string]()
	for i, name := range r.ResourceNames {
		at := path.Child("resourceNames").Index(i)
		errs = append(errs, validate.Messages(at, name, content.IsPathSegmentName(name))...)
		if seen.Has(name) {
			errs = append(errs, field.Duplicate(at, name))
		}
		seen.Insert(name)
	}
	return append(errs, validateOperations(path, &r.RuleWithOperations)...)
}

// mutableOnly refuses operations that have nothing to mutate.
func mutableOnly(path *field.Path, m *admissionv1.MatchResources) field.ErrorList {
	var errs field.ErrorList
	if m == nil {
		return nil
	}
	for _, r := range m.ResourceRules {
		for _, o := range r.Operations {
			errs = append(errs, validate.OneOf(path.Child("resourceRules", "operations"), o,
				admissionv1.OperationAll, admissionv1.Connect, admissionv1.Create, admissionv1.Update)...)
		}
	}
	return errs
}
