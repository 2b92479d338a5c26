// Package quota holds the kinds of the core group that bound what a namespace
// may use.
package quota

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/api/validate"
)

// ResourceQuota is the kind of quotas.
func ResourceQuota() *api.Kind {
	return &api.Kind{
		GVK:           corev1.SchemeGroupVersion.WithKind("ResourceQuota"),
		ReturnDeleted: true,
		Resource:      "resourcequotas",
		ShortNames:    []string{"quota"},
		Namespaced:    true,
		New:           api.Maker[corev1.ResourceQuota](),
		NewList:       api.ListMaker[corev1.ResourceQuotaList](),
		StoragePath:   "resourcequotas",
		Columns:       quotaColumns(),

		PrepareCreate: api.On(func(q *corev1.ResourceQuota) { q.Status = corev1.ResourceQuotaStatus{} }),
		PrepareUpdate: api.OnUpdate(func(q, old *corev1.ResourceQuota) { q.Status = old.Status }),
		Validate: api.Check(func(q *corev1.ResourceQuota) field.ErrorList {
			return validateQuota(field.NewPath("spec"), &q.Spec)
		}),
		ValidateUpdate: api.CheckUpdate(validateQuotaUpdate),
		Status: &api.Status{
			PrepareUpdate: api.OnUpdate(func(q, old *corev1.ResourceQuota) { q.Spec = old.Spec }),
			ValidateUpdate: api.CheckUpdate(func(q, _ *corev1.ResourceQuota) field.ErrorList {
				errs := validateQuotaList(field.NewPath("status", "hard"), q.Status.Hard)
				return append(errs, validateQuotaList(field.NewPath("status", "used"), q.Status.Used)...)
			}),
		},
		ResetFields: map[string][]string{
			"": {"status"}, "status": {"spec"},
		},
	}
}

func validateQuotaList(path *field.Path, l corev1.ResourceList) field.ErrorList {
	var errs field.ErrorList
	for _, name := range validate.SortedResources(l) {
		at := path.Key(string(name))
		errs = append(errs, validate.QuotaResourceName(at, name)...)
		errs = append(errs, validate.Quantity(at, name, l[name])...)
	}
	return errs
}

func validateQuotaUpdate(q, old *corev1.ResourceQuota) field.ErrorList {
	errs := validateQuota(field.NewPath("spec"), &q.Spec)
	if !sets.New(q.Spec.Scopes...).Equal(sets.New(old.Spec.Scopes...)) {
		errs = append(errs, field.Invalid(field.NewPath("spec", "scopes"), q.Spec.Scopes, validate.Immutable))
	}
	return errs
}

func validateQuota(path *field.Path, s *corev1.ResourceQuotaSpec) field.ErrorList {
	errs := validateQuotaList(path.Child("hard"), s.Hard)
	if len(s.Scopes) > 0 {
		at := path.Child("scopes")
		for _, scope := range s.Scopes {
			if !knownScope(scope) {
				errs = append(errs, field.Invalid(at, s.Scopes, "unsupported scope"))
			}
			for _, name := range validate.SortedResources(s.Hard) {
				if !scopeCovers(scope, name) {
					errs = append(errs, field.Invalid(at, s.Scopes, "unsupported scope applied to resource"))
				}
			}
		}
		errs = append(errs, conflictingScopes(at, s.Scopes, s.Scopes)...)
	}
	if s.ScopeSelector == nil {
		return errs
	}
	at := path.Child("scopeSelector", "matchExpressions")
	var scopes []corev1.ResourceQuotaScope
	for _, r := range s.ScopeSelector.MatchExpressions {
		scopes = append(scopes, r.ScopeName)
		errs = append(errs, validateScopeRequirement(at, s, r)...)
	}
	return append(errs, conflictingScopes(at, scopes, s.Scopes)...)
}

func validateScopeRequirement(path *field.Path, s *corev1.ResourceQuotaSpec, r corev1.ScopedResourceSelectorRequirement) field.ErrorList {
	var errs field.ErrorList
	if !knownScope(r.ScopeName) {
		errs = append(errs, field.Invalid(path.Child("scopeName"), r.ScopeName, "unsupported scope"))
	}
	for _, name := range validate.SortedResources(s.Hard) {
		if !scopeCovers(r.ScopeName, name) {
			errs = append(errs, field.Invalid(path, s.ScopeSelector, "unsupported scope applied to resource"))
		}
	}
	if knownScope(r.ScopeName) && !hasValues(r.ScopeName) && r.Operator != corev1.ScopeSelectorOpExists {
		errs = append(errs, field.Invalid(path.Child("operator"), r.Operator,
			"must be 'Exists' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, "+
				"ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity"))
	}
	switch r.Operator {
	case corev1.ScopeSelectorOpIn, corev1.ScopeSelectorOpNotIn:
		if len(r.Values) == 0 {
			errs = append(errs, field.Required(path.Child("values"), "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector"))
		}
	case corev1.ScopeSelectorOpExists, corev1.ScopeSelectorOpDoesNotExist:
		if len(r.Values) != 0 {
			errs = append(errs, field.Invalid(path.Child("values"), r.Values, "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector"))
		}
	default:
		errs = append(errs, field.Invalid(path.Child("operator"), r.Operator, "not a valid selector operator"))
	}
	return errs
}

func hasValues(scope corev1.ResourceQuotaScope) bool {
	return scope == corev1.ResourceQuotaScopePriorityClass || scope == corev1.ResourceQuotaScopeVolumeAttributesClass
}

func knownScope(scope corev1.ResourceQuotaScope) bool {
	switch scope {
	case corev1.ResourceQuotaScopeTerminating, corev1.ResourceQuotaScopeNotTerminating, corev1.ResourceQuotaScopeBestEffort,
		corev1.ResourceQuotaScopeNotBestEffort, corev1.ResourceQuotaScopeCrossNamespacePodAffinity:
		return true
	}
	return hasValues(scope)
}

// scopeCovers says that a scope can tell apart what a resource counts.
func scopeCovers(scope corev1.ResourceQuotaScope, name corev1.ResourceName) bool {
	if !validate.QuotaResource(name) {
		return true
	}
	compute := false
	switch name {
	case corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceLimitsCPU, corev1.ResourceLimitsMemory,
		corev1.ResourceRequestsCPU, corev1.ResourceRequestsMemory:
		compute = true
	}
	switch scope {
	case corev1.ResourceQuotaScopeTerminating, corev1.ResourceQuotaScopeNotTerminating, corev1.ResourceQuotaScopeNotBestEffort,
		corev1.ResourceQuotaScopePriorityClass, corev1.ResourceQuotaScopeCrossNamespacePodAffinity:
		return name == corev1.ResourcePods || compute
	case corev1.ResourceQuotaScopeBestEffort:
		return name == corev1.ResourcePods
	case corev1.ResourceQuotaScopeVolumeAttributesClass:
		return name == corev1.ResourcePersistentVolumeClaims || name == corev1.ResourceRequestsStorage
	}
	return true
}

func conflictingScopes(path *field.Path, scopes, value []corev1.ResourceQuotaScope) field.ErrorList {
	var errs field.ErrorList
	for _, pair := range [][2]corev1.ResourceQuotaScope{
		{corev1.ResourceQuotaScopeBestEffort, corev1.ResourceQuotaScopeNotBestEffort},
		{corev1.ResourceQuotaScopeTerminating, corev1.ResourceQuotaScopeNotTerminating},
	} {
		if slices.Contains(scopes, pair[0]) && slices.Contains(scopes, pair[1]) {
			errs = append(errs, field.Invalid(path, value, "conflicting scopes"))
		}
	}
	return errs
}

func quotaColumns() []api.Column {
	amounts := func(limits bool) func(*corev1.ResourceQuota) any {
		return func(q *corev1.ResourceQuota) any {
			names := make([]string, 0, len(q.Status.Hard))
			for name := range q.Status.Hard {
				names = append(names, string(name))
			}
			slices.Sort(names)
			var out []string
			for _, name := range names {
				if strings.HasPrefix(name, "limits") != limits {
					continue
				}
				used, hard := q.Status.Used[corev1.ResourceName(name)], q.Status.Hard[corev1.ResourceName(name)]
				out = append(out, fmt.Sprintf("%s: %s/%s", name, used.String(), hard.String()))
			}
			return strings.Join(out, ", ")
		}
	}
	return []api.Column{
		api.Col("Request", "string", "What is requested, of what may be.", amounts(false)),
		api.Col("Limit", "string", "What is limited to, of what may be.", amounts(true)),
		api.AgeColumn(),
	}
}
