package authz

import (
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// The default policy is upstream's, written as lines: rules take their verbs,
// groups and resources as words, "core" being the group without a name.
//
// A rule here is a promise to clients that rely on it: roles are only ever
// extended, see Bootstrap.

// Sets of verbs that recur.
const (
	read       = "get list watch"
	write      = "create update patch delete deletecollection"
	readUpdate = read + " update patch"
	all        = read + " " + write
)

const (
	systemNamespace = metav1.NamespaceSystem
	publicNamespace = metav1.NamespacePublic

	aggregateTo = "rbac.authorization.k8s.io/aggregate-to-"
)

// on is a rule about resources; names limit it to objects of those names.
func on(verbs, groups, resources string, names ...string) rbacv1.PolicyRule {
	r := rbacv1.PolicyRule{Verbs: words(verbs), APIGroups: words(groups), Resources: words(resources), ResourceNames: names}
	for i, g := range r.APIGroups {
		if g == "core" {
			r.APIGroups[i] = ""
		}
	}
	slices.Sort(r.APIGroups)
	slices.Sort(r.ResourceNames)
	return r
}

// at is a rule about paths.
func at(verbs, paths string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{Verbs: words(verbs), NonResourceURLs: words(paths)}
}

func words(s string) []string {
	w := strings.Fields(s)
	slices.Sort(w)
	return w
}

// emits lets a component write events.
func emits() rbacv1.PolicyRule { return on("create update patch", "core events.k8s.io", "events") }

// defaults marks an object as part of the policy that Bootstrap keeps.
func defaults(name, namespace string) metav1.ObjectMeta {
	return metav1.ObjectMeta{
		Name: name, Namespace: namespace,
		Labels:      map[string]string{"kubernetes.io/bootstrapping": "rbac-defaults"},
		Annotations: map[string]string{rbacv1.AutoUpdateAnnotationKey: "true"},
	}
}

func clusterRole(name string, rules ...rbacv1.PolicyRule) rbacv1.ClusterRole {
	return rbacv1.ClusterRole{ObjectMeta: defaults(name, ""), Rules: rules}
}

// aggregated is a role that collects the rules of the roles labelled with
// from, and is itself collected by into ("" for none).
func aggregated(name, from, into string) rbacv1.ClusterRole {
	r := clusterRole(name)
	if into != "" {
		r.Labels[aggregateTo+into] = "true"
	}
	r.AggregationRule = &rbacv1.AggregationRule{ClusterRoleSelectors: []metav1.LabelSelector{
		{MatchLabels: map[string]string{aggregateTo + from: "true"}},
	}}
	return r
}

// part is a role whose rules go into an aggregated one.
func part(into string, rules ...rbacv1.PolicyRule) rbacv1.ClusterRole {
	r := clusterRole("system:aggregate-to-"+into, rules...)
	r.Labels[aggregateTo+into] = "true"
	return r
}

// readers is the role that lets all who may view a namespace read what pods
// and nodes use. Its name is that of the metrics server's.
func readers(rules ...rbacv1.PolicyRule) rbacv1.ClusterRole {
	r := clusterRole("system:aggregated-metrics-reader", rules...)
	r.Labels[aggregateTo+"view"] = "true"
	return r
}

func role(namespace, name string, rules ...rbacv1.PolicyRule) rbacv1.Role {
	return rbacv1.Role{ObjectMeta: defaults(name, namespace), Rules: rules}
}

func person(name string) rbacv1.Subject {
	return rbacv1.Subject{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: name}
}

func group(name string) rbacv1.Subject {
	return rbacv1.Subject{APIGroup: rbacv1.GroupName, Kind: rbacv1.GroupKind, Name: name}
}

func account(name string) rbacv1.Subject {
	return rbacv1.Subject{Kind: rbacv1.ServiceAccountKind, Namespace: systemNamespace, Name: name}
}

// bindCluster binds the cluster role of the same name.
func bindCluster(name string, subjects ...rbacv1.Subject) rbacv1.ClusterRoleBinding {
	return rbacv1.ClusterRoleBinding{
		ObjectMeta: defaults(name, ""),
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: name},
		Subjects:   subjects,
	}
}

// bind binds a role of the same namespace.
func bind(namespace, name, role string, subjects ...rbacv1.Subject) rbacv1.RoleBinding {
	return rbacv1.RoleBinding{
		ObjectMeta: defaults(name, namespace),
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: role},
		Subjects:   subjects,
	}
}
