package authz

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"github.com/proa-dev/proa/apiserver/admission"
)

var (
	roleResource               = schema.GroupResource{Group: rbacv1.GroupName, Resource: "roles"}
	clusterRoleResource        = schema.GroupResource{Group: rbacv1.GroupName, Resource: "clusterroles"}
	roleBindingResource        = schema.GroupResource{Group: rbacv1.GroupName, Resource: "rolebindings"}
	clusterRoleBindingResource = schema.GroupResource{Group: rbacv1.GroupName, Resource: "clusterrolebindings"}
)

// RBAC authorizes by roles and their bindings.
type RBAC struct {
	source admission.Source
	index  atomic.Pointer[index]
	build  sync.Mutex // one goroutine builds, the others wait for it
}

// NewRBAC reads roles and bindings from source.
func NewRBAC(source admission.Source) *RBAC { return &RBAC{source: source} }

// revisions are those of the four resources that an index was built of.
type revisions [4]int64

// index holds, for each user and group, what is bound to them.
type index struct {
	at            revisions
	users, groups map[string]*bound
}

// bound is what one subject has: everywhere, and by namespace.
type bound struct {
	cluster    grants
	namespaced map[string]*grants
}

type grants struct {
	list    []grant
	missing []error // roles that are bound but do not exist
}

// grant is one binding of one subject.
type grant struct {
	rules  []rbacv1.PolicyRule // the role's own: immutable
	reason string
}

func (r *RBAC) revisions() revisions {
	return revisions{
		r.source.Revision(roleResource), r.source.Revision(clusterRoleResource),
		r.source.Revision(roleBindingResource), r.source.Revision(clusterRoleBindingResource),
	}
}

// current returns an index at least as new as the caches were on entry.
func (r *RBAC) current() *index {
	at := r.revisions()
	if ix := r.index.Load(); ix != nil && ix.at == at {
		return ix
	}
	r.build.Lock()
	defer r.build.Unlock()
	// The revisions are read before the objects: objects newer than their
	// revision only mean one more build.
	at = r.revisions()
	if ix := r.index.Load(); ix != nil && ix.at == at {
		return ix
	}
	ix := buildIndex(r.source, at)
	r.index.Store(ix)
	return ix
}

func buildIndex(source admission.Source, at revisions) *index {
	ix := &index{at: at, users: map[string]*bound{}, groups: map[string]*bound{}}
	for _, obj := range source.List(clusterRoleBindingResource, "") {
		b, ok := obj.(*rbacv1.ClusterRoleBinding)
		if !ok {
			continue
		}
		rules, err := roleRules(source, b.RoleRef, "")
		for i := range b.Subjects {
			reason := fmt.Sprintf("RBAC: allowed by ClusterRoleBinding %q of %s %q to %s", b.Name, b.RoleRef.Kind, b.RoleRef.Name, describe(&b.Subjects[i], ""))
			ix.add(&b.Subjects[i], "", grant{rules: rules, reason: reason}, err)
		}
	}
	for _, obj := range source.List(roleBindingResource, "") {
		b, ok := obj.(*rbacv1.RoleBinding)
		if !ok {
			continue
		}
		rules, err := roleRules(source, b.RoleRef, b.Namespace)
		for i := range b.Subjects {
			reason := fmt.Sprintf("RBAC: allowed by RoleBinding %q of %s %q to %s", b.Name+"/"+b.Namespace, b.RoleRef.Kind, b.RoleRef.Name, describe(&b.Subjects[i], b.Namespace))
			ix.add(&b.Subjects[i], b.Namespace, grant{rules: rules, reason: reason}, err)
		}
	}
	return ix
}

// roleRules reads a role; namespace is the binding's.
func roleRules(source admission.Source, ref rbacv1.RoleRef, namespace string) ([]rbacv1.PolicyRule, error) {
	switch ref.Kind {
	case "Role":
		if obj, ok := source.Get(roleResource, namespace, ref.Name); ok {
			if role, ok := obj.(*rbacv1.Role); ok {
				return role.Rules, nil
			}
		}
		return nil, apierrors.NewNotFound(rbacv1.Resource("role"), ref.Name)
	case "ClusterRole":
		if obj, ok := source.Get(clusterRoleResource, "", ref.Name); ok {
			if role, ok := obj.(*rbacv1.ClusterRole); ok {
				return role.Rules, nil
			}
		}
		return nil, apierrors.NewNotFound(rbacv1.Resource("clusterrole"), ref.Name)
	default:
		return nil, fmt.Errorf("unsupported role reference kind: %q", ref.Kind)
	}
}

func (ix *index) add(s *rbacv1.Subject, namespace string, g grant, missing error) {
	var of map[string]*bound
	name := s.Name
	switch s.Kind {
	case rbacv1.UserKind:
		of = ix.users
	case rbacv1.GroupKind:
		of = ix.groups
	case rbacv1.ServiceAccountKind:
		of = ix.users
		saNamespace := s.Namespace
		if saNamespace == "" {
			saNamespace = namespace
		}
		if saNamespace == "" {
			return
		}
		name = serviceaccount.MakeUsername(saNamespace, s.Name)
	default:
		return
	}
	b := of[name]
	if b == nil {
		b = &bound{}
		of[name] = b
	}
	to := &b.cluster
	if namespace != "" {
		if b.namespaced == nil {
			b.namespaced = map[string]*grants{}
		}
		if to = b.namespaced[namespace]; to == nil {
			to = &grants{}
			b.namespaced[namespace] = to
		}
	}
	if missing != nil {
		to.missing = append(to.missing, missing)
		return
	}
	to.list = append(to.list, g)
}

func describe(s *rbacv1.Subject, namespace string) string {
	if s.Kind != rbacv1.ServiceAccountKind {
		return fmt.Sprintf("%s %q", s.Kind, s.Name)
	}
	if s.Namespace != "" {
		namespace = s.Namespace
	}
	return fmt.Sprintf("%s %q", s.Kind, s.Name+"/"+namespace)
}

// visit calls fn with what is bound to u, everywhere and then in namespace,
// until fn returns false.
func (ix *index) visit(u user.Info, namespace string, fn func(*grants) bool) {
	step := func(b *bound, ok bool) bool {
		if !ok {
			return true
		}
		if !fn(&b.cluster) {
			return false
		}
		if namespace == "" {
			return true
		}
		g := b.namespaced[namespace]
		return g == nil || fn(g)
	}
	b, ok := ix.users[u.GetName()]
	if !step(b, ok) {
		return
	}
	for _, name := range u.GetGroups() {
		b, ok := ix.groups[name]
		if !step(b, ok) {
			return
		}
	}
}

// Authorize allows what a bound role grants and has no opinion on the rest.
func (r *RBAC) Authorize(_ context.Context, attrs authorizer.Attributes) (authorizer.Decision, string, error) {
	u := attrs.GetUser()
	q := newQuestion(attrs)
	reason, allowed := "", false
	ix := r.current()
	ix.visit(u, attrs.GetNamespace(), func(g *grants) bool {
		for i := range g.list {
			if q.allowedBy(g.list[i].rules) {
				reason, allowed = g.list[i].reason, true
				return false
			}
		}
		return true
	})
	if allowed {
		return authorizer.DecisionAllow, reason, nil
	}
	var missing []error
	ix.visit(u, attrs.GetNamespace(), func(g *grants) bool {
		missing = append(missing, g.missing...)
		return true
	})
	if len(missing) > 0 {
		return authorizer.DecisionNoOpinion, fmt.Sprintf("RBAC: %v", utilerrors.NewAggregate(missing)), nil
	}
	return authorizer.DecisionNoOpinion, "", nil
}

// Rules returns every rule that holds for u in namespace ("" means those that
// hold everywhere), and the errors about roles that are bound but missing.
func (r *RBAC) Rules(u user.Info, namespace string) ([]rbacv1.PolicyRule, []error) {
	var rules []rbacv1.PolicyRule
	var missing []error
	r.current().visit(u, namespace, func(g *grants) bool {
		for i := range g.list {
			rules = append(rules, g.list[i].rules...)
		}
		missing = append(missing, g.missing...)
		return true
	})
	return rules, missing
}

// RulesFor is Rules in the form of a SelfSubjectRulesReview.
func (r *RBAC) RulesFor(_ context.Context, u user.Info, namespace string) ([]authorizer.ResourceRuleInfo, []authorizer.NonResourceRuleInfo, bool, error) {
	rules, missing := r.Rules(u, namespace)
	var resource []authorizer.ResourceRuleInfo
	var nonResource []authorizer.NonResourceRuleInfo
	for _, rule := range rules {
		if len(rule.Resources) > 0 {
			resource = append(resource, &authorizer.DefaultResourceRuleInfo{
				Verbs: rule.Verbs, APIGroups: rule.APIGroups, Resources: rule.Resources, ResourceNames: rule.ResourceNames,
			})
		}
		if len(rule.NonResourceURLs) > 0 {
			nonResource = append(nonResource, &authorizer.DefaultNonResourceRuleInfo{Verbs: rule.Verbs, NonResourceURLs: rule.NonResourceURLs})
		}
	}
	return resource, nonResource, false, errors.Join(missing...)
}
