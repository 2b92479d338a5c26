package authz_test

import (
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/apiserver/admission"
	"github.com/proa-dev/proa/apiserver/authz"
)

func TestEscalation(t *testing.T) {
	rule := func(verbs, group, resource string) rbacv1.PolicyRule {
		return rbacv1.PolicyRule{Verbs: []string{verbs}, APIGroups: []string{group}, Resources: []string{resource}}
	}
	role := func(ns, name string, rules ...rbacv1.PolicyRule) api.Object {
		meta := metav1.ObjectMeta{Namespace: ns, Name: name}
		if ns == "" {
			return &rbacv1.ClusterRole{ObjectMeta: meta, Rules: rules}
		}
		return &rbacv1.Role{ObjectMeta: meta, Rules: rules}
	}
	aggregated := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "sum"}, AggregationRule: &rbacv1.AggregationRule{
		ClusterRoleSelectors: []metav1.LabelSelector{{MatchLabels: map[string]string{"a": "b"}}}}}
	source := policy(
		binding("ns", "admins", "ClusterRole", "admin", person("boss")),
		binding("", "binders", "ClusterRole", "binder", person("binder")),
		role("", "binder", rbacv1.PolicyRule{Verbs: []string{"bind", "escalate"}, APIGroups: []string{rbacv1.GroupName}, Resources: []string{"clusterroles", "roles"}, ResourceNames: []string{"cluster-admin", "any"}}),
		binding("", "all", "ClusterRole", "cluster-admin", person("root")),
		role("ns", "nodes", rule("get", "", "nodes")),
	)
	a := authz.New(source)
	plugin := authz.NewEscalation(a, admission.Lookup{Source: source})
	const cannot = ` is forbidden: user "boss" (groups=["system:authenticated"]) is attempting to grant RBAC permissions not currently held:` + "\n"

	for _, c := range []struct {
		name, user string
		old, obj   api.Object
		want       string
	}{
		{"what one has", "boss system:authenticated", nil, role("ns", "r", rule("get", "", "pods")), ""},
		{"what one lacks", "boss system:authenticated", nil, role("ns", "r", rule("get", "", "nodes"), rule("list", "", "nodes"), rule("get", "", "pods")),
			`roles.rbac.authorization.k8s.io "r"` + cannot + `{APIGroups:[""], Resources:["nodes"], Verbs:["get" "list"]}`},
		{"what one has elsewhere", "boss system:authenticated", nil, role("other", "r", rule("get", "", "pods")),
			`roles.rbac.authorization.k8s.io "r"` + cannot + `{APIGroups:[""], Resources:["pods"], Verbs:["get"]}`},
		{"everywhere", "boss system:authenticated", nil, role("", "r", rule("get", "", "pods")),
			`clusterroles.rbac.authorization.k8s.io "r"` + cannot + `{APIGroups:[""], Resources:["pods"], Verbs:["get"]}`},
		{"paths", "boss system:authenticated", nil, role("", "r", rbacv1.PolicyRule{Verbs: []string{"get"}, NonResourceURLs: []string{"/metrics"}}),
			`clusterroles.rbac.authorization.k8s.io "r"` + cannot + `{NonResourceURLs:["/metrics"], Verbs:["get"]}`},
		{"untouched rules", "boss system:authenticated", role("ns", "r", rule("get", "", "nodes")), role("ns", "r", rule("get", "", "nodes")), ""},
		{"escalate", "binder", nil, role("ns", "any", rule("*", "*", "*")), ""},
		{"escalate another", "binder", nil, role("ns", "other", rule("*", "*", "*")),
			`roles.rbac.authorization.k8s.io "other" is forbidden: user "binder" (groups=[]) is attempting to grant RBAC permissions not currently held:` + "\n" + `{APIGroups:["*"], Resources:["*"], Verbs:["*"]}`},
		{"aggregation", "boss system:authenticated", nil, aggregated, `clusterroles.rbac.authorization.k8s.io "sum" is forbidden: must have cluster-admin privileges to use the aggregationRule`},
		{"aggregation by root", "root", nil, aggregated, ""},

		{"bind what one has", "boss system:authenticated", nil, binding("ns", "b", "ClusterRole", "view", person("x")), ""},
		{"bind it elsewhere", "boss system:authenticated", nil, binding("other", "b", "ClusterRole", "system:aggregate-to-admin", person("x")),
			`rolebindings.rbac.authorization.k8s.io "b"` + cannot + `{APIGroups:["authorization.k8s.io"], Resources:["localsubjectaccessreviews"], Verbs:["create"]}` + "\n" +
				`{APIGroups:["rbac.authorization.k8s.io"], Resources:["rolebindings"], Verbs:["create" "delete" "deletecollection" "get" "list" "patch" "update" "watch"]}` + "\n" +
				`{APIGroups:["rbac.authorization.k8s.io"], Resources:["roles"], Verbs:["create" "delete" "deletecollection" "get" "list" "patch" "update" "watch"]}`},
		{"bind a role one lacks", "boss system:authenticated", nil, binding("ns", "b", "Role", "nodes", person("x")),
			`rolebindings.rbac.authorization.k8s.io "b"` + cannot + `{APIGroups:[""], Resources:["nodes"], Verbs:["get"]}`},
		{"bind with the verb", "binder", nil, binding("", "b", "ClusterRole", "cluster-admin", person("x")), ""},
		{"bind nothing", "boss system:authenticated", nil, binding("ns", "b", "ClusterRole", "gone", person("x")), `clusterroles.rbac.authorization.k8s.io "gone" not found`},
		{"masters", "x system:masters", nil, binding("", "b", "ClusterRole", "gone", person("x")), ""},
	} {
		attrs := &admission.Attributes{Operation: admission.Create, GVR: resourceOf(c.obj).WithVersion("v1"),
			Namespace: c.obj.GetNamespace(), Name: c.obj.GetName(), Object: c.obj, User: as(c.user)}
		if c.old != nil {
			attrs.Operation, attrs.OldObject = admission.Update, c.old
		}
		got := ""
		if err := plugin.Validate(t.Context(), attrs); err != nil {
			got = err.Error()
		}
		if got != c.want {
			t.Errorf("%s:\n%s\nwant\n%s", c.name, got, c.want)
		}
	}
}
