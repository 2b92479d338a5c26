package authz

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/component-helpers/auth/rbac/validation"

	"github.com/proa-dev/proa/apiserver/admission"
)

// Escalation refuses to let a user grant what the user does not have: writing
// a role takes its rules (or the verb escalate on it), writing a binding
// takes the rules of its role (or the verb bind on that).
type Escalation struct {
	authorizer *Authorizer
	source     admission.Lookup
}

var _ admission.Validator = (*Escalation)(nil)

// NewEscalation asks a about the user; source has the roles that bindings
// refer to.
func NewEscalation(a *Authorizer, source admission.Lookup) *Escalation {
	return &Escalation{authorizer: a, source: source}
}

// Name is our own: upstream has this check in the storage of the resources.
func (*Escalation) Name() string { return "RBACEscalation" }

// Validate implements admission.Validator.
func (e *Escalation) Validate(ctx context.Context, a *admission.Attributes) error {
	if a.GVR.Group != rbacv1.GroupName || a.Subresource != "" || a.User == nil ||
		(a.Operation != admission.Create && a.Operation != admission.Update) ||
		slices.Contains(a.User.GetGroups(), user.SystemPrivilegedGroup) {
		return nil
	}
	switch obj := a.Object.(type) {
	case *rbacv1.Role:
		old, ok := a.OldObject.(*rbacv1.Role)
		if ok && equality.Semantic.DeepEqual(old.Rules, obj.Rules) || e.may(ctx, a, "escalate", roleResource.Resource, obj.Name) {
			return nil
		}
		return e.holds(a, obj.Rules)
	case *rbacv1.ClusterRole:
		return e.clusterRole(ctx, a, obj)
	case *rbacv1.RoleBinding:
		old, ok := a.OldObject.(*rbacv1.RoleBinding)
		if ok && old.RoleRef == obj.RoleRef && equality.Semantic.DeepEqual(old.Subjects, obj.Subjects) {
			return nil
		}
		return e.binding(ctx, a, obj.RoleRef)
	case *rbacv1.ClusterRoleBinding:
		old, ok := a.OldObject.(*rbacv1.ClusterRoleBinding)
		if ok && old.RoleRef == obj.RoleRef && equality.Semantic.DeepEqual(old.Subjects, obj.Subjects) {
			return nil
		}
		return e.binding(ctx, a, obj.RoleRef)
	}
	return nil
}

// everything is what an aggregated role may come to grant.
func everything() []rbacv1.PolicyRule {
	return []rbacv1.PolicyRule{on("*", "*", "*"), at("*", "*")}
}

func (e *Escalation) clusterRole(ctx context.Context, a *admission.Attributes, obj *rbacv1.ClusterRole) error {
	old, ok := a.OldObject.(*rbacv1.ClusterRole)
	if ok && equality.Semantic.DeepEqual(old.Rules, obj.Rules) && equality.Semantic.DeepEqual(old.AggregationRule, obj.AggregationRule) ||
		e.may(ctx, a, "escalate", clusterRoleResource.Resource, obj.Name) {
		return nil
	}
	if err := e.holds(a, obj.Rules); err != nil {
		return err
	}
	if aggregates(obj) || ok && aggregates(old) {
		if e.holds(a, everything()) != nil {
			return admission.Forbidden(a, errors.New("must have cluster-admin privileges to use the aggregationRule"))
		}
	}
	return nil
}

func aggregates(r *rbacv1.ClusterRole) bool {
	return r.AggregationRule != nil && len(r.AggregationRule.ClusterRoleSelectors) > 0
}

func (e *Escalation) binding(ctx context.Context, a *admission.Attributes, ref rbacv1.RoleRef) error {
	resource := clusterRoleResource.Resource
	if ref.Kind == "Role" {
		resource = roleResource.Resource
	}
	if e.may(ctx, a, "bind", resource, ref.Name) {
		return nil
	}
	rules, err := e.rulesOf(ctx, ref, a.Namespace)
	if err != nil {
		return err
	}
	return e.holds(a, rules)
}

func (e *Escalation) rulesOf(ctx context.Context, ref rbacv1.RoleRef, namespace string) ([]rbacv1.PolicyRule, error) {
	gr := clusterRoleResource
	if ref.Kind == "Role" {
		gr = roleResource
	} else {
		namespace = ""
	}
	var obj runtime.Object
	if found, ok := e.source.Get(ctx, gr, namespace, ref.Name); ok {
		obj = found
	}
	switch r := obj.(type) {
	case *rbacv1.Role:
		return r.Rules, nil
	case *rbacv1.ClusterRole:
		return r.Rules, nil
	default:
		return nil, apierrors.NewNotFound(gr, ref.Name)
	}
}

// may asks whether the user holds verb on the role.
func (e *Escalation) may(ctx context.Context, a *admission.Attributes, verb, resource, name string) bool {
	decision, _, _ := e.authorizer.Authorize(ctx, &authorizer.AttributesRecord{
		User: a.User, Verb: verb, Namespace: a.Namespace,
		APIGroup: rbacv1.GroupName, APIVersion: "*", Resource: resource, Name: name, ResourceRequest: true,
	})
	return decision == authorizer.DecisionAllow
}

// holds refuses unless the user has every one of rules where they would hold.
func (e *Escalation) holds(a *admission.Attributes, rules []rbacv1.PolicyRule) error {
	own, unresolved := e.authorizer.rbac.Rules(a.User, a.Namespace)
	covered, missing := validation.Covers(own, rules)
	if covered {
		return nil
	}
	lines := map[string]bool{}
	for _, m := range compact(missing) {
		lines[ruleString(m)] = true
	}
	sorted := make([]string, 0, len(lines))
	for l := range lines {
		sorted = append(sorted, l)
	}
	slices.Sort(sorted)
	msg := fmt.Sprintf("user %q (groups=%q) is attempting to grant RBAC permissions not currently held:\n%s",
		a.User.GetName(), a.User.GetGroups(), strings.Join(sorted, "\n"))
	if len(unresolved) > 0 {
		msg += fmt.Sprintf("; resolution errors: %v", unresolved)
	}
	return admission.Forbidden(a, errors.New(msg))
}

// compact joins rules that differ in nothing but their verbs.
func compact(rules []rbacv1.PolicyRule) []rbacv1.PolicyRule {
	var out []rbacv1.PolicyRule
	for _, r := range rules {
		i := slices.IndexFunc(out, func(o rbacv1.PolicyRule) bool {
			return slices.Equal(o.APIGroups, r.APIGroups) && slices.Equal(o.Resources, r.Resources) &&
				slices.Equal(o.ResourceNames, r.ResourceNames) && slices.Equal(o.NonResourceURLs, r.NonResourceURLs)
		})
		if i < 0 {
			r.Verbs = slices.Clone(r.Verbs)
			out = append(out, r)
			continue
		}
		out[i].Verbs = append(out[i].Verbs, r.Verbs...)
	}
	return out
}

func ruleString(r rbacv1.PolicyRule) string {
	var parts []string
	for _, p := range []struct {
		name   string
		values []string
	}{
		{"APIGroups", r.APIGroups}, {"Resources", r.Resources}, {"NonResourceURLs", r.NonResourceURLs},
		{"ResourceNames", r.ResourceNames}, {"Verbs", r.Verbs},
	} {
		if len(p.values) > 0 {
			parts = append(parts, fmt.Sprintf("%s:%q", p.name, p.values))
		}
	}
	return "{" + strings.Join(parts, ", ") + "}"
}
