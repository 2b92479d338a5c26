// Package rbac holds the kinds of the group rbac.authorization.k8s.io, v1.
package rbac

import (
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/validate/content"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/proa-dev/proa/api"
)

// Kinds lists the kinds of the group.
func Kinds() []*api.Kind {
	return []*api.Kind{ClusterRole(), ClusterRoleBinding(), Role(), RoleBinding()}
}

func gvk(kind string) schema.GroupVersionKind {
	return rbacv1.SchemeGroupVersion.WithKind(kind)
}

// Role is the kind of roles.
func Role() *api.Kind {
	return &api.Kind{
		GVK:            gvk("Role"),
		Resource:       "roles",
		Namespaced:     true,
		New:            api.Maker[rbacv1.Role](),
		NewList:        api.ListMaker[rbacv1.RoleList](),
		StoragePath:    "roles",
		Columns:        []api.Column{api.CreatedColumn()},
		CreateOnUpdate: true,
		ValidateName:   pathSegment,
		Validate:       api.Check(func(r *rbacv1.Role) field.ErrorList { return validateRules(r.Rules, true) }),
		ValidateUpdate: api.CheckUpdate(func(r, _ *rbacv1.Role) field.ErrorList { return validateRules(r.Rules, true) }),
	}
}

// ClusterRole is the kind of cluster roles.
func ClusterRole() *api.Kind {
	return &api.Kind{
		GVK:            gvk("ClusterRole"),
		Resource:       "clusterroles",
		New:            api.Maker[rbacv1.ClusterRole](),
		NewList:        api.ListMaker[rbacv1.ClusterRoleList](),
		StoragePath:    "clusterroles",
		Columns:        []api.Column{api.CreatedColumn()},
		CreateOnUpdate: true,
		ValidateName:   pathSegment,
		Validate:       api.Check(validateClusterRole),
		ValidateUpdate: api.CheckUpdate(func(r, _ *rbacv1.ClusterRole) field.ErrorList { return validateClusterRole(r) }),
	}
}

// RoleBinding is the kind of role bindings.
func RoleBinding() *api.Kind {
	return &api.Kind{
		GVK:            gvk("RoleBinding"),
		Resource:       "rolebindings",
		Namespaced:     true,
		New:            api.Maker[rbacv1.RoleBinding](),
		NewList:        api.ListMaker[rbacv1.RoleBindingList](),
		StoragePath:    "rolebindings",
		Columns:        bindingColumns(func(b *rbacv1.RoleBinding) (rbacv1.RoleRef, []rbacv1.Subject) { return b.RoleRef, b.Subjects }),
		CreateOnUpdate: true,
		ValidateName:   pathSegment,
		Default: api.On(func(b *rbacv1.RoleBinding) {
			defaultBinding(&b.RoleRef, b.Subjects)
		}),
		Validate: api.Check(func(b *rbacv1.RoleBinding) field.ErrorList {
			return validateBinding(b.RoleRef, b.Subjects, true)
		}),
		ValidateUpdate: api.CheckUpdate(func(b, old *rbacv1.RoleBinding) field.ErrorList {
			return append(validateBinding(b.RoleRef, b.Subjects, true), sameRole(b.RoleRef, old.RoleRef)...)
		}),
	}
}

// ClusterRoleBinding is the kind of cluster role bindings.
func ClusterRoleBinding() *api.Kind {
	return &api.Kind{
		GVK:            gvk("ClusterRoleBinding"),
		Resource:       "clusterrolebindings",
		New:            api.Maker[rbacv1.ClusterRoleBinding](),
		NewList:        api.ListMaker[rbacv1.ClusterRoleBindingList](),
		StoragePath:    "clusterrolebindings",
		Columns:        bindingColumns(func(b *rbacv1.ClusterRoleBinding) (rbacv1.RoleRef, []rbacv1.Subject) { return b.RoleRef, b.Subjects }),
		CreateOnUpdate: true,
		ValidateName:   pathSegment,
		Default: api.On(func(b *rbacv1.ClusterRoleBinding) {
			defaultBinding(&b.RoleRef, b.Subjects)
		}),
		Validate: api.Check(func(b *rbacv1.ClusterRoleBinding) field.ErrorList {
			return validateBinding(b.RoleRef, b.Subjects, false)
		}),
		ValidateUpdate: api.CheckUpdate(func(b, old *rbacv1.ClusterRoleBinding) field.ErrorList {
			return append(validateBinding(b.RoleRef, b.Subjects, false), sameRole(b.RoleRef, old.RoleRef)...)
		}),
	}
}

func defaultBinding(ref *rbacv1.RoleRef, subjects []rbacv1.Subject) {
	if ref.APIGroup == "" {
		ref.APIGroup = rbacv1.GroupName
	}
	for i := range subjects {
		s := &subjects[i]
		if s.APIGroup == "" && (s.Kind == rbacv1.UserKind || s.Kind == rbacv1.GroupKind) {
			s.APIGroup = rbacv1.GroupName
		}
	}
}

func bindingColumns[P api.Object](of func(P) (rbacv1.RoleRef, []rbacv1.Subject)) []api.Column {
	subjects := func(kind string) func(P) any {
		return func(o P) any {
			_, all := of(o)
			var out []string
			for _, s := range all {
				switch {
				case s.Kind != kind:
				case kind == rbacv1.ServiceAccountKind:
					out = append(out, s.Namespace+"/"+s.Name)
				default:
					out = append(out, s.Name)
				}
			}
			return strings.Join(out, ", ")
		}
	}
	return []api.Column{
		api.Col("Role", "string", "The role that is given.", func(o P) any {
			ref, _ := of(o)
			return ref.Kind + "/" + ref.Name
		}),
		api.AgeColumn(),
		api.WideCol("Users", "string", "Users that have it.", subjects(rbacv1.UserKind)),
		api.WideCol("Groups", "string", "Groups that have it.", subjects(rbacv1.GroupKind)),
		api.WideCol("ServiceAccounts", "string", "Service accounts that have it.", subjects(rbacv1.ServiceAccountKind)),
	}
}

// pathSegment takes the names that fit in a URL's path: those of roles may
// hold colons and capitals.
func pathSegment(name string, prefix bool) []string {
	if prefix {
		return content.IsPathSegmentPrefix(name)
	}
	return content.IsPathSegmentName(name)
}
