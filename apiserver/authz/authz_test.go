package authz_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/apiserver/admission/admissiontest"
	"github.com/proa-dev/proa/apiserver/authz"
	"github.com/proa-dev/proa/internal/localvolume"
)

func rbac(resource string) schema.GroupResource {
	return schema.GroupResource{Group: rbacv1.GroupName, Resource: resource}
}

// policy is the default policy and objects of a test.
func policy(more ...api.Object) *admissiontest.Source {
	s := admissiontest.New()
	for _, r := range authz.ClusterRoles() {
		s.Put(rbac("clusterroles"), &r)
	}
	for _, b := range authz.ClusterRoleBindings() {
		s.Put(rbac("clusterrolebindings"), &b)
	}
	for _, r := range authz.Roles() {
		s.Put(rbac("roles"), &r)
	}
	for _, b := range authz.RoleBindings() {
		s.Put(rbac("rolebindings"), &b)
	}
	for _, o := range more {
		s.Put(resourceOf(o), o)
	}
	return s
}

func resourceOf(o api.Object) schema.GroupResource {
	switch o.(type) {
	case *rbacv1.ClusterRole:
		return rbac("clusterroles")
	case *rbacv1.ClusterRoleBinding:
		return rbac("clusterrolebindings")
	case *rbacv1.Role:
		return rbac("roles")
	case *rbacv1.RoleBinding:
		return rbac("rolebindings")
	case *corev1.Pod:
		return corev1.Resource("pods")
	case *corev1.PersistentVolume:
		return corev1.Resource("persistentvolumes")
	case *storagev1.VolumeAttachment:
		return schema.GroupResource{Group: "storage.k8s.io", Resource: "volumeattachments"}
	}
	panic("unknown object")
}

// as reads "name" or "name group group".
func as(s string) user.Info {
	w := strings.Fields(s)
	return &user.DefaultInfo{Name: w[0], Groups: w[1:]}
}

// ask reads "verb /path" or "verb group/resource/subresource namespace/name",
// where the group may be "core", and a field selector may follow.
func ask(t testing.TB, u user.Info, s string) authorizer.AttributesRecord {
	t.Helper()
	w := strings.Fields(s)
	a := authorizer.AttributesRecord{User: u, Verb: w[0]}
	if strings.HasPrefix(w[1], "/") {
		a.Path = w[1]
		return a
	}
	a.ResourceRequest = true
	parts := strings.SplitN(w[1], "/", 3)
	a.APIGroup, a.Resource, a.APIVersion = parts[0], parts[1], "v1"
	if a.APIGroup == "core" {
		a.APIGroup = ""
	}
	if len(parts) > 2 {
		a.Subresource = parts[2]
	}
	if len(w) > 2 {
		a.Namespace, a.Name, _ = strings.Cut(w[2], "/")
	}
	if len(w) > 3 {
		sel, err := fields.ParseSelector(w[3])
		if err != nil {
			t.Fatal(err)
		}
		a.FieldSelectorRequirements = sel.Requirements()
	}
	return a
}

type question struct {
	user, request string
	allowed       bool
	reason        string // checked when not empty
}

func check(t *testing.T, a *authz.Authorizer, questions []question) {
	t.Helper()
	for _, q := range questions {
		attrs := ask(t, as(q.user), q.request)
		decision, reason, err := a.Authorize(t.Context(), attrs)
		if err != nil {
			t.Errorf("%s: %s: %v", q.user, q.request, err)
		}
		if got := decision == authorizer.DecisionAllow; got != q.allowed {
			t.Errorf("%s: %s: allowed=%v (%s)", q.user, q.request, got, reason)
		}
		if q.reason != "" && reason != q.reason {
			t.Errorf("%s: %s: reason %q, want %q", q.user, q.request, reason, q.reason)
		}
	}
}

func binding(namespace, name, kind, role string, subjects ...rbacv1.Subject) api.Object {
	ref := rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: kind, Name: role}
	meta := metav1.ObjectMeta{Namespace: namespace, Name: name}
	if namespace == "" {
		return &rbacv1.ClusterRoleBinding{ObjectMeta: meta, RoleRef: ref, Subjects: subjects}
	}
	return &rbacv1.RoleBinding{ObjectMeta: meta, RoleRef: ref, Subjects: subjects}
}

func person(name string) rbacv1.Subject { return rbacv1.Subject{Kind: "User", Name: name} }

func TestRBAC(t *testing.T) {
	a := authz.New(policy(
		binding("", "viewers", "ClusterRole", "view", person("vera")),
		binding("ns", "editors", "ClusterRole", "edit", rbacv1.Subject{Kind: "Group", Name: "devs"}),
		binding("ns", "admins", "ClusterRole", "admin", rbacv1.Subject{Kind: "ServiceAccount", Name: "boss"}),
		binding("ns", "dangling", "Role", "gone", person("dan")),
		binding("", "dangling", "ClusterRole", "gone", person("dan")),
		&rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "one"}, Rules: []rbacv1.PolicyRule{
			{Verbs: []string{"get", "update"}, APIGroups: []string{""}, Resources: []string{"configmaps"}, ResourceNames: []string{"a", "b"}},
			{Verbs: []string{"*"}, APIGroups: []string{"example.com"}, Resources: []string{"*/scale", "things/*", "boxes"}},
			{Verbs: []string{"get"}, NonResourceURLs: []string{"/never/in/a/role"}},
		}},
		binding("ns", "one", "Role", "one", person("olga")),
		&rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "paths"}, Rules: []rbacv1.PolicyRule{
			{Verbs: []string{"get"}, NonResourceURLs: []string{"/logs", "/logs/*", "/x*"}},
		}},
		binding("", "paths", "ClusterRole", "paths", person("paul")),
	))
	boss := "system:serviceaccount:ns:boss"
	check(t, a, []question{
		{"root system:masters", "delete core/nodes /n1", true, ""},
		{"root system:masters", "post /anything", true, ""},
		{"nobody", "get core/pods ns/p", false, ""},

		{"vera", "list core/pods ns", true, `RBAC: allowed by ClusterRoleBinding "viewers" of ClusterRole "view" to User "vera"`},
		{"vera", "list core/pods", true, ""},
		{"vera", "get core/pods/log ns/p", true, ""},
		{"vera", "get core/pods/exec ns/p", false, ""},
		{"vera", "get core/secrets ns/s", false, ""},
		{"vera", "create core/pods ns", false, ""},

		{"dave devs", "create apps/deployments ns", true, `RBAC: allowed by RoleBinding "editors/ns" of ClusterRole "edit" to Group "devs"`},
		{"dave devs", "list apps/deployments ns", true, ""},
		{"dave devs", "update apps/deployments/scale ns/d", true, ""},
		{"dave devs", "update apps/deployments/status ns/d", false, ""},
		{"dave devs", "create apps/deployments other", false, ""},
		{"dave devs", "list apps/deployments", false, ""},
		{"dave devs", "create rbac.authorization.k8s.io/roles ns", false, ""},
		{boss, "create rbac.authorization.k8s.io/roles ns", true, `RBAC: allowed by RoleBinding "admins/ns" of ClusterRole "admin" to ServiceAccount "boss/ns"`},
		{boss, "get core/secrets ns/s", true, ""},
		{boss, "get core/nodes /n1", false, ""},

		{"olga", "get core/configmaps ns/a", true, ""},
		{"olga", "update core/configmaps ns/b", true, ""},
		{"olga", "get core/configmaps ns/c", false, ""},
		{"olga", "list core/configmaps ns", false, ""},
		{"olga", "get core/configmaps other/a", false, ""},
		{"olga", "get example.com/boxes ns/x", true, ""},
		{"olga", "get example.com/boxes/status ns/x", false, ""},
		{"olga", "patch example.com/boxes/scale ns/x", true, ""},
		{"olga", "patch example.com/anything/scale ns/x", true, ""},
		{"olga", "patch example.com/anything/rescale ns/x", false, ""},
		{"olga", "get example.com/things/status ns/x", false, ""}, // "things/*" is no pattern
		{"olga", "get /never/in/a/role", false, ""},

		{"paul", "get /logs", true, ""},
		{"paul", "get /logs/a/b", true, ""},
		{"paul", "get /logsx", false, ""},
		{"paul", "get /xyz", true, ""},
		{"paul", "post /logs", false, ""},

		{"dan", "get core/pods ns/p", false, `RBAC: [clusterrole.rbac.authorization.k8s.io "gone" not found, role.rbac.authorization.k8s.io "gone" not found]`},
		{"dan", "get core/pods other/p", false, `RBAC: clusterrole.rbac.authorization.k8s.io "gone" not found`},

		{"system:anonymous system:unauthenticated", "get /healthz", true, ""},
		{"system:anonymous system:unauthenticated", "get /version", true, ""},
		{"system:anonymous system:unauthenticated", "get /api", false, ""},
		{"system:anonymous system:unauthenticated", "get /metrics", false, ""},
		{"system:anonymous system:unauthenticated", "list core/pods default", false, ""},
		{"u system:authenticated", "get /apis/apps/v1", true, ""},
		{"u system:authenticated", "create authorization.k8s.io/selfsubjectaccessreviews", true, ""},
		{"x system:serviceaccounts", "get /openid/v1/jwks", true, ""},

		{"system:kube-scheduler", "create core/pods/binding ns/p", true, ""},
		{"system:kube-scheduler", "create core/pods ns", false, ""},
		{"system:serviceaccount:kube-system:deployment-controller", "create apps/replicasets ns", true, ""},
		{"system:serviceaccount:kube-system:deployment-controller", "create core/pods ns", false, ""},
		{"system:serviceaccount:kube-system:generic-garbage-collector", "delete example.com/anything ns/x", true, ""},
		{"system:serviceaccount:kube-system:horizontal-pod-autoscaler", "update example.com/x/scale ns/x", true, ""},
	})
}

func TestRBACFollowsChanges(t *testing.T) {
	source := policy()
	a := authz.New(source)
	ask := []question{{"u", "get core/pods ns/p", false, ""}}
	check(t, a, ask)
	source.Put(rbac("rolebindings"), binding("ns", "b", "Role", "r", person("u")))
	source.Put(rbac("roles"), &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "r"}, Rules: []rbacv1.PolicyRule{
		{Verbs: []string{"get"}, APIGroups: []string{""}, Resources: []string{"pods"}}}})
	ask[0].allowed = true
	check(t, a, ask)
	source.Delete(rbac("rolebindings"), "ns", "b")
	ask[0].allowed = false
	check(t, a, ask)
}

func TestRBACWhileRolesChange(t *testing.T) {
	source := policy(binding("ns", "b", "ClusterRole", "view", person("u")))
	a := authz.New(source)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := range 200 {
			source.Put(rbac("rolebindings"), binding("other", fmt.Sprint(i), "ClusterRole", "edit", person("v")))
		}
	}()
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for ended := false; !ended; {
				select {
				case <-done:
					ended = true
				default:
				}
				check(t, a, []question{{"u", "get core/pods ns/p", true, ""}, {"u", "create core/pods ns", false, ""}})
			}
		})
	}
	wg.Wait()
	check(t, a, []question{{"v", "create core/pods other", true, ""}})
}

func TestNode(t *testing.T) {
	mirror := pod("ns", "mirror", "n1", "evil")
	mirror.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: "x"}
	a := authz.New(policy(
		pod("ns", "p1", "n1", "one"),
		pod("ns", "p2", "n2", "two"),
		pod("other", "p3", "n1", "three"),
		mirror,
		&corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "pv-one"}, Spec: corev1.PersistentVolumeSpec{
			ClaimRef: &corev1.ObjectReference{Namespace: "ns", Name: "claim-one"},
			PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{
				NodeStageSecretRef:         &corev1.SecretReference{Namespace: "storage", Name: "stage"},
				ControllerPublishSecretRef: &corev1.SecretReference{Namespace: "storage", Name: "controller"},
			}},
		}},
		&storagev1.VolumeAttachment{ObjectMeta: metav1.ObjectMeta{Name: "va"}, Spec: storagev1.VolumeAttachmentSpec{NodeName: "n1"}},
	))
	const n1, noRelation = "system:node:n1 system:nodes", "no relationship found between node 'n1' and this object"
	questions := []question{
		{n1, "get core/secrets ns/secret-one", true, ""},
		{n1, "watch core/secrets ns/secret-one", true, ""},
		{n1, "get core/secrets ns/env-one", true, ""},
		{n1, "get core/secrets ns/pull-one", true, ""},
		{n1, "get core/secrets ns/secret-two", false, noRelation},
		{n1, "get core/secrets ns/secret-evil", false, noRelation},
		{n1, "get core/secrets ns/secret-three", false, noRelation},
		{n1, "get core/secrets other/secret-three", true, ""},
		{n1, "list core/secrets ns", false, "No Object name found"},
		{n1, "list core/secrets", false, "can only read namespaced object of this type"},
		{n1, "update core/secrets ns/secret-one", false, "can only read resources of this type"},
		{n1, "get core/secrets storage/stage", true, ""},
		{n1, "get core/secrets storage/controller", false, noRelation},
		{n1, "get core/configmaps ns/config-one", true, ""},
		{n1, "get core/configmaps ns/config-two", false, noRelation},
		{n1, "get core/persistentvolumeclaims ns/claim-one", true, ""},
		{n1, "get core/persistentvolumeclaims ns/p1-scratch", true, ""},
		{n1, "get core/persistentvolumeclaims ns/claim-two", false, noRelation},
		{n1, "list core/persistentvolumeclaims ns", false, "can only get individual resources of this type"},
		{n1, "patch core/persistentvolumeclaims/status ns/claim-one", true, ""},
		{n1, "get core/persistentvolumes /pv-one", true, ""},
		{"system:node:n2 system:nodes", "get core/persistentvolumes /pv-one", false, ""},
		{n1, "get storage.k8s.io/volumeattachments /va", true, ""},
		{"system:node:n2 system:nodes", "get storage.k8s.io/volumeattachments /va", false, ""},
		{n1, "create core/serviceaccounts/token ns/sa-one", true, ""},
		{n1, "create core/serviceaccounts/token ns/sa-two", false, noRelation},
		{n1, "get core/serviceaccounts ns/sa-one", true, ""},
		{n1, "get core/serviceaccounts ns/sa-two", false, noRelation},
		{n1, "create core/serviceaccounts ns", false, "can only create tokens for individual service accounts"},
		{n1, "get core/nodes /n1", true, ""},
		{n1, "list core/nodes", true, `RBAC: allowed by ClusterRoleBinding "proa:node-proxier" of ClusterRole "system:node-proxier" to Group "system:nodes"`}, // every node is a Service proxy and a router too
		{n1, "create core/nodes", true, ""},
		{n1, "patch core/nodes/status /n1", true, ""},
		{n1, "delete core/nodes /n1", false, ""},
		{n1, "list core/pods x spec.nodeName=n1", true, ""},
		{n1, "list core/pods x spec.nodeName=n2", false, "can only list/watch pods with spec.nodeName field selector"},
		{n1, "watch core/pods x spec.nodeName!=n1", false, ""},
		{n1, "get core/pods ns/p1", true, ""},
		{n1, "get core/pods ns/p2", false, noRelation},
		{n1, "patch core/pods/status ns/p1", true, ""},
		{n1, "create core/pods/eviction ns/p1", true, ""},
		{n1, "update core/pods ns/p1", false, ""},
		{n1, "get core/pods/exec ns/p1", false, ""},
		{n1, "create coordination.k8s.io/leases kube-node-lease", true, ""},
		{n1, "update coordination.k8s.io/leases kube-node-lease/n1", true, ""},
		{n1, "update coordination.k8s.io/leases kube-node-lease/n2", false, "can only access node lease with the same name as the requesting node"},
		{n1, "update coordination.k8s.io/leases ns/n1", false, `can only access leases in the "kube-node-lease" system namespace`},
		{n1, "get storage.k8s.io/csinodes /n1", true, ""},
		{n1, "get storage.k8s.io/csinodes /n2", false, ""},
		{n1, "list core/services", true, ""},
		{n1, "create core/events ns", true, ""},
		{n1, "create apps/deployments ns", false, ""},
		{n1, "get /metrics", false, ""},
		{"system:node: system:nodes", "patch core/nodes /n1", false, `unknown node for user "system:node:"`},
		{"system:node:n1", "get core/nodes /n1", false, ""},
		{"impostor system:nodes", "get core/secrets ns/secret-one", false, ""},
	}
	check(t, a, questions)
	check(t, a, questions) // remembered
}

// A node finds the volumes that are directories of its own by their label, and
// deletes those whose claims are gone; others' are none of its business.
func TestNodeLocalVolumes(t *testing.T) {
	local := func(name, node string, phase corev1.PersistentVolumePhase) *corev1.PersistentVolume {
		return &corev1.PersistentVolume{
			ObjectMeta: metav1.ObjectMeta{Name: name, Labels: localvolume.Selector(node), Annotations: map[string]string{
				"pv.kubernetes.io/provisioned-by": localvolume.Provisioner, localvolume.NodeAnnotation: node}},
			Spec: corev1.PersistentVolumeSpec{PersistentVolumeReclaimPolicy: corev1.PersistentVolumeReclaimDelete,
				PersistentVolumeSource: corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: "/storage/" + name}}},
			Status: corev1.PersistentVolumeStatus{Phase: phase},
		}
	}
	kept := local("kept", "n1", corev1.VolumeReleased)
	kept.Spec.PersistentVolumeReclaimPolicy = corev1.PersistentVolumeReclaimRetain
	forged := local("forged", "n1", corev1.VolumeReleased)
	forged.Annotations["pv.kubernetes.io/provisioned-by"] = "somebody"
	a := authz.New(policy(local("bound", "n1", corev1.VolumeBound), local("released", "n1", corev1.VolumeReleased),
		local("other", "n2", corev1.VolumeReleased), kept, forged))
	const n1 = "system:node:n1 system:nodes"
	check(t, a, []question{
		{n1, "get core/persistentvolumes /bound", true, ""},
		{n1, "delete core/persistentvolumes /bound", false, ""},
		{n1, "delete core/persistentvolumes /released", true, ""},
		{n1, "update core/persistentvolumes /released", false, ""},
		{n1, "patch core/persistentvolumes/status /released", false, ""},
		{n1, "delete core/persistentvolumes /kept", false, ""},
		{n1, "delete core/persistentvolumes /other", false, ""},
		{n1, "get core/persistentvolumes /other", false, ""},
		{n1, "delete core/persistentvolumes /forged", false, ""},
		{n1, "delete core/persistentvolumes /gone", false, ""},
		{n1, "list core/persistentvolumes", false, ""},
		{n1, "create core/persistentvolumes", false, ""},
	})
	for _, c := range []struct {
		node    string
		verb    string
		allowed bool
	}{{"n1", "list", true}, {"n1", "watch", true}, {"n2", "list", false}, {"n1", "deletecollection", false}} {
		attrs := ask(t, as(n1), c.verb+" core/persistentvolumes")
		selector := labels.SelectorFromSet(localvolume.Selector(c.node))
		attrs.LabelSelectorRequirements, _ = selector.Requirements()
		decision, reason, err := a.Authorize(t.Context(), attrs)
		if err != nil || (decision == authorizer.DecisionAllow) != c.allowed {
			t.Errorf("%s those of %s: %v %s %v", c.verb, c.node, decision, reason, err)
		}
	}
}

func TestNodeForgetsPods(t *testing.T) {
	source := policy(pod("ns", "a", "n1", "x"), pod("ns", "b", "n1", "x"))
	a := authz.New(source)
	q := []question{{"system:node:n1 system:nodes", "get core/secrets ns/secret-x", true, ""}}
	check(t, a, q)
	source.Delete(corev1.Resource("pods"), "ns", "a")
	check(t, a, q)
	source.Put(corev1.Resource("pods"), pod("ns", "b", "n2", "x"))
	q[0].allowed = false
	check(t, a, q)
}

// pod uses one of everything, by names that end in suffix.
func pod(namespace, name, node, suffix string) *corev1.Pod {
	ref := func(kind string) corev1.LocalObjectReference {
		return corev1.LocalObjectReference{Name: kind + "-" + suffix}
	}
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec: corev1.PodSpec{
			NodeName: node, ServiceAccountName: "sa-" + suffix,
			ImagePullSecrets: []corev1.LocalObjectReference{ref("pull")},
			Containers: []corev1.Container{{Env: []corev1.EnvVar{{ValueFrom: &corev1.EnvVarSource{
				SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: ref("env")},
			}}}}},
			Volumes: []corev1.Volume{
				{Name: "s", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "secret-" + suffix}}},
				{Name: "c", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
					{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: ref("config")}},
				}}}},
				{Name: "v", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "claim-" + suffix}}},
				{Name: "scratch", VolumeSource: corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{}}},
			},
		},
	}
}

func TestRulesFor(t *testing.T) {
	a := authz.New(policy(binding("ns", "b", "ClusterRole", "system:aggregate-to-admin", person("u"))))
	resource, nonResource, incomplete, err := a.RulesFor(t.Context(), as("u system:authenticated"), "ns")
	if err != nil || incomplete {
		t.Errorf("incomplete %v, %v", incomplete, err)
	}
	var lines []string
	for _, r := range resource {
		lines = append(lines, strings.Join(r.GetAPIGroups(), ",")+" "+strings.Join(r.GetResources(), ","))
	}
	got := strings.Join(lines, "; ")
	want := "authorization.k8s.io localsubjectaccessreviews; rbac.authorization.k8s.io rolebindings,roles; authorization.k8s.io selfsubjectaccessreviews,selfsubjectrulesreviews; authentication.k8s.io selfsubjectreviews"
	if got != want || len(nonResource) != 2 {
		t.Errorf("%s; %d paths", got, len(nonResource))
	}
	if _, _, incomplete, err = a.RulesFor(t.Context(), as("system:node:n1 system:nodes"), "ns"); !incomplete || err == nil {
		t.Error("a node's rules are said to be complete")
	}
	if resource, _, _, _ = a.RulesFor(t.Context(), as("root system:masters"), "ns"); len(resource) == 0 || resource[0].GetVerbs()[0] != "*" {
		t.Error("system:masters has no rules")
	}
}

func BenchmarkAuthorize(b *testing.B) {
	a := authz.New(policy(binding("ns", "editors", "ClusterRole", "edit", rbacv1.Subject{Kind: "Group", Name: "devs"})))
	for name, c := range map[string]struct{ user, request string }{
		"masters":    {"root system:masters system:authenticated", "create core/pods ns"},
		"controller": {"system:serviceaccount:kube-system:replicaset-controller system:serviceaccounts system:serviceaccounts:kube-system system:authenticated", "create core/pods ns"},
		"editor":     {"dave devs system:authenticated", "patch apps/deployments ns/d"},
		"refused":    {"dave devs system:authenticated", "patch core/nodes /n"},
	} {
		b.Run(name, func(b *testing.B) {
			attrs := ask(b, as(c.user), c.request)
			var boxed authorizer.Attributes = &attrs
			b.ReportAllocs()
			for b.Loop() {
				_, _, _ = a.Authorize(b.Context(), boxed)
			}
		})
	}
}
