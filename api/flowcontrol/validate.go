package flowcontrol

import (
	"fmt"
	"slices"
	"strings"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/apis/flowcontrol/bootstrap"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/api/validate"
)

const wildcard = "*"

func validateSchema(f *flowcontrolv1.FlowSchema) field.ErrorList {
	s, path := &f.Spec, field.NewPath("spec")
	var errs field.ErrorList
	at := path.Child("matchingPrecedence")
	if s.MatchingPrecedence <= 0 {
		errs = append(errs, field.Invalid(at, s.MatchingPrecedence, "must be a positive value"))
	}
	if s.MatchingPrecedence > flowcontrolv1.FlowSchemaMaxMatchingPrecedence {
		errs = append(errs, field.Invalid(at, s.MatchingPrecedence, fmt.Sprintf("must not be greater than %v", flowcontrolv1.FlowSchemaMaxMatchingPrecedence)))
	}
	if s.MatchingPrecedence == 1 && f.Name != flowcontrolv1.FlowSchemaNameExempt {
		errs = append(errs, field.Invalid(at, s.MatchingPrecedence, "only the schema named 'exempt' may have matchingPrecedence 1"))
	}
	const byNamespace, byUser = flowcontrolv1.FlowDistinguisherMethodByNamespaceType, flowcontrolv1.FlowDistinguisherMethodByUserType
	if m := s.DistinguisherMethod; m != nil && m.Type != byNamespace && m.Type != byUser {
		errs = append(errs, field.NotSupported(path.Child("distinguisherMethod", "type"), m, []string{string(byNamespace), string(byUser)}))
	}
	if level := s.PriorityLevelConfiguration.Name; level == "" {
		errs = append(errs, field.Required(path.Child("priorityLevelConfiguration", "name"), "must reference a priority level"))
	} else {
		errs = append(errs, validate.Subdomain(path.Child("priorityLevelConfiguration", "name"), level)...)
	}
	for i := range s.Rules {
		errs = append(errs, validateRules(path.Child("rules").Index(i), &s.Rules[i])...)
	}
	for _, m := range bootstrap.MandatoryFlowSchemas {
		if m.Name == f.Name && !api.Equal(s, &m.Spec) {
			errs = append(errs, field.Invalid(path, *s, fmt.Sprintf("spec of '%s' must equal the fixed value", f.Name)))
		}
	}
	return append(errs, validateSchemaStatus(f)...)
}

func validateRules(path *field.Path, r *flowcontrolv1.PolicyRulesWithSubjects) field.ErrorList {
	var errs field.ErrorList
	if len(r.Subjects) == 0 {
		errs = append(errs, field.Required(path.Child("subjects"), "subjects must contain at least one value"))
	}
	for i := range r.Subjects {
		errs = append(errs, validateSubject(path.Child("subjects").Index(i), &r.Subjects[i])...)
	}
	if len(r.ResourceRules) == 0 && len(r.NonResourceRules) == 0 {
		errs = append(errs, field.Required(path, "at least one of resourceRules and nonResourceRules has to be non-empty"))
	}
	for i := range r.ResourceRules {
		errs = append(errs, validateResourceRule(path.Child("resourceRules").Index(i), &r.ResourceRules[i])...)
	}
	for i := range r.NonResourceRules {
		errs = append(errs, validatePathRule(path.Child("nonResourceRules").Index(i), &r.NonResourceRules[i])...)
	}
	return errs
}

func validateSubject(path *field.Path, s *flowcontrolv1.Subject) field.ErrorList {
	var errs field.ErrorList
	only := func(name string, kind flowcontrolv1.SubjectKind, there bool) {
		if there && s.Kind != kind {
			errs = append(errs, field.Forbidden(path.Child(name), fmt.Sprintf("%s is forbidden when subject kind is not '%s'", name, kind)))
		}
	}
	const account, user, group = flowcontrolv1.SubjectKindServiceAccount, flowcontrolv1.SubjectKindUser, flowcontrolv1.SubjectKindGroup
	switch s.Kind {
	case account:
		errs = append(errs, validateAccount(path.Child("serviceAccount"), s.ServiceAccount)...)
	case user:
		if s.User == nil {
			errs = append(errs, field.Required(path.Child("user"), "user is required when subject kind is 'User'"))
		} else {
			errs = append(errs, validate.Required(path.Child("user", "name"), s.User.Name)...)
		}
	case group:
		if s.Group == nil {
			errs = append(errs, field.Required(path.Child("group"), "group is required when subject kind is 'Group'"))
		} else {
			errs = append(errs, validate.Required(path.Child("group", "name"), s.Group.Name)...)
		}
	default:
		return validate.OneOf(path.Child("kind"), s.Kind, account, group, user)
	}
	only("serviceAccount", account, s.ServiceAccount != nil)
	only("user", user, s.User != nil)
	only("group", group, s.Group != nil)
	return errs
}

func validateAccount(path *field.Path, a *flowcontrolv1.ServiceAccountSubject) field.ErrorList {
	if a == nil {
		return field.ErrorList{field.Required(path, "serviceAccount is required when subject kind is 'ServiceAccount'")}
	}
	var errs field.ErrorList
	if a.Name == "" {
		errs = append(errs, field.Required(path.Child("name"), ""))
	} else if a.Name != flowcontrolv1.NameAll {
		errs = append(errs, validate.ServiceAccountName(path.Child("name"), a.Name)...)
	}
	if a.Namespace == "" {
		return append(errs, field.Required(path.Child("namespace"), "must specify namespace for service account"))
	}
	return append(errs, validate.NamespaceName(path.Child("namespace"), a.Namespace)...)
}

func validateVerbs(path *field.Path, verbs []string) field.ErrorList {
	known := []string{"create", "delete", "deletecollection", "get", "list", "patch", "proxy", "update", "watch"}
	switch {
	case len(verbs) == 0:
		return field.ErrorList{field.Required(path, "verbs must contain at least one value")}
	case slices.Contains(verbs, wildcard):
		return alone(path, verbs, "verbs")
	}
	for _, v := range verbs {
		if !slices.Contains(known, v) {
			return field.ErrorList{field.NotSupported(path, verbs, known)}
		}
	}
	return nil
}

// alone wants a wildcard to be the only member of its list.
func alone(path *field.Path, list []string, what string) field.ErrorList {
	if len(list) > 1 && slices.Contains(list, wildcard) {
		return field.ErrorList{field.Invalid(path, list, "if '*' is present, must not specify other "+what)}
	}
	return nil
}

func validateResourceRule(path *field.Path, r *flowcontrolv1.ResourcePolicyRule) field.ErrorList {
	errs := validateVerbs(path.Child("verbs"), r.Verbs)
	if len(r.APIGroups) == 0 {
		errs = append(errs, field.Required(path.Child("apiGroups"), "resource rules must supply at least one api group"))
	}
	errs = append(errs, alone(path.Child("apiGroups"), r.APIGroups, "api groups")...)
	if len(r.Resources) == 0 {
		errs = append(errs, field.Required(path.Child("resources"), "resource rules must supply at least one resource"))
	}
	errs = append(errs, alone(path.Child("resources"), r.Resources, "resources")...)
	at := path.Child("namespaces")
	switch {
	case len(r.Namespaces) == 0 && !r.ClusterScope:
		errs = append(errs, field.Required(at, "resource rules that are not cluster scoped must supply at least one namespace"))
	case slices.Contains(r.Namespaces, wildcard):
		errs = append(errs, alone(at, r.Namespaces, "namespaces")...)
	default:
		for i, ns := range r.Namespaces {
			for _, why := range validation.ValidateNamespaceName(ns, false) {
				errs = append(errs, field.Invalid(at.Index(i), ns, "each member of this list must be '*' or a DNS-1123 label; "+why))
			}
		}
	}
	return errs
}

func validatePathRule(path *field.Path, r *flowcontrolv1.NonResourcePolicyRule) field.ErrorList {
	errs := validateVerbs(path.Child("verbs"), r.Verbs)
	at := path.Child("nonResourceURLs")
	switch {
	case len(r.NonResourceURLs) == 0:
		errs = append(errs, field.Required(at, "nonResourceURLs must contain at least one value"))
	case slices.Contains(r.NonResourceURLs, wildcard):
		errs = append(errs, alone(at, r.NonResourceURLs, "non-resource URLs")...)
	default:
		for i, url := range r.NonResourceURLs {
			if why := badPath(url); why != "" {
				errs = append(errs, field.Invalid(at.Index(i), url, why))
			}
		}
	}
	return errs
}

// badPath says what is wrong with a path, which may end in a wildcard.
func badPath(path string) string {
	switch {
	case path == "":
		return "must not be empty"
	case !strings.HasPrefix(path, "/"):
		return "must start with slash"
	case strings.Contains(path, " "):
		return "must not contain white-space"
	case strings.Contains(path, "//"):
		return "must not contain double slash"
	case strings.Contains(strings.TrimSuffix(path, "/*"), wildcard):
		return "wildcard can only do suffix matching"
	}
	return ""
}

func validateSchemaStatus(f *flowcontrolv1.FlowSchema) field.ErrorList {
	return conditionTypes(f.Status.Conditions, func(c flowcontrolv1.FlowSchemaCondition) string { return string(c.Type) })
}

func validateLevelStatus(l *flowcontrolv1.PriorityLevelConfiguration) field.ErrorList {
	return conditionTypes(l.Status.Conditions, func(c flowcontrolv1.PriorityLevelConfigurationCondition) string { return string(c.Type) })
}

// conditionTypes wants each condition named, and once.
func conditionTypes[C any](list []C, of func(C) string) field.ErrorList {
	var errs field.ErrorList
	seen := map[string]bool{}
	for i, c := range list {
		at, name := field.NewPath("status", "conditions").Index(i).Child("type"), of(c)
		if seen[name] {
			errs = append(errs, field.Duplicate(at, name))
		}
		seen[name] = true
		errs = append(errs, validate.Required(at, name)...)
	}
	return errs
}
