package api

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"slices"
	"strings"
	"testing"

	authnv1 "k8s.io/api/authentication/v1"
	authzv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/utils/ptr"
)

// as is a client with the token alone.
func as(t *testing.T, token string) kubernetes.Interface {
	t.Helper()
	cfg := rest.AnonymousClientConfig(world.rest)
	cfg.BearerToken = token
	c, err := kubernetes.NewForConfig(cfg)
	must(t, err)
	return c
}

func whoami(t *testing.T, token string) (authnv1.UserInfo, error) {
	t.Helper()
	r, err := as(t, token).AuthenticationV1().SelfSubjectReviews().Create(t.Context(), &authnv1.SelfSubjectReview{}, metav1.CreateOptions{})
	if err != nil {
		return authnv1.UserInfo{}, err
	}
	return r.Status.UserInfo, nil
}

// "should create a serviceAccountToken and ensure a successful TokenReview",
// and the claims of a token that is bound to a pod.
func TestServiceAccountTokens(t *testing.T) {
	ns, ctx := namespace(t), t.Context()
	core := world.kube.CoreV1()
	get[*corev1.ServiceAccount](t)(core.ServiceAccounts(ns).Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "sa"}}, metav1.CreateOptions{}))
	pod := get[*corev1.Pod](t)(core.Pods(ns).Create(ctx, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "pod"},
		Spec:       corev1.PodSpec{ServiceAccountName: "sa", NodeSelector: map[string]string{"no": "where"}, Containers: []corev1.Container{{Name: "c", Image: "i"}}},
	}, metav1.CreateOptions{}))
	request := &authnv1.TokenRequest{Spec: authnv1.TokenRequestSpec{
		Audiences: []string{"vault"}, ExpirationSeconds: ptr.To(int64(600)),
		BoundObjectRef: &authnv1.BoundObjectReference{Kind: "Pod", APIVersion: "v1", Name: "pod", UID: pod.UID},
	}}
	other := get[*authnv1.TokenRequest](t)(core.ServiceAccounts(ns).CreateToken(ctx, "sa", request, metav1.CreateOptions{}))
	request.Spec.Audiences = nil
	own := get[*authnv1.TokenRequest](t)(core.ServiceAccounts(ns).CreateToken(ctx, "sa", request, metav1.CreateOptions{}))
	review := func(token string, audiences ...string) authnv1.TokenReviewStatus {
		return get[*authnv1.TokenReview](t)(world.kube.AuthenticationV1().TokenReviews().Create(ctx, &authnv1.TokenReview{Spec: authnv1.TokenReviewSpec{Token: token, Audiences: audiences}}, metav1.CreateOptions{})).Status
	}
	got := review(own.Status.Token)
	if !got.Authenticated || got.Error != "" || got.User.Username != "system:serviceaccount:"+ns+":sa" ||
		!slices.Equal(got.User.Extra["authentication.kubernetes.io/pod-name"], []string{"pod"}) ||
		!slices.Contains(got.User.Groups, "system:serviceaccounts:"+ns) {
		t.Errorf("review of its own: %+v", got)
	}
	if r := review(other.Status.Token); r.Authenticated {
		t.Errorf("review of a token for another audience: %+v", r)
	}
	if r := review(other.Status.Token, "vault"); !r.Authenticated || !slices.Equal(r.Audiences, []string{"vault"}) {
		t.Errorf("review by the other audience: %+v", r)
	}
	if r := review("nonsense"); r.Authenticated || r.Error == "" {
		t.Errorf("review of nonsense: %+v", r)
	}
	if u, err := whoami(t, own.Status.Token); err != nil || u.UID == "" {
		t.Errorf("who am I: %v %v", u, err)
	}
	parts := strings.Split(own.Status.Token, ".")
	raw, err := base64.RawURLEncoding.DecodeString(parts[1])
	must(t, err)
	var claims struct {
		Iss, Sub   string
		Aud        []string
		Exp, Iat   int64
		Kubernetes struct{ Pod, Serviceaccount struct{ Name, UID string } } `json:"kubernetes.io"`
	}
	must(t, json.Unmarshal(raw, &claims))
	if claims.Exp-claims.Iat != 600 || claims.Kubernetes.Pod.UID != string(pod.UID) || claims.Sub != got.User.Username {
		t.Errorf("claims %s", raw)
	}
	// "should support OIDC discovery of service account issuer"
	doc := do(t, "GET", "/.well-known/openid-configuration", nil, nil)
	if doc.at("issuer") != claims.Iss || !strings.HasSuffix(doc.at("jwks_uri").(string), "/openid/v1/jwks") {
		t.Errorf("discovery: %d %s", doc.Code, doc.Body)
	}
	if keys, _ := do(t, "GET", "/openid/v1/jwks", nil, nil).at("keys").([]any); len(keys) == 0 {
		t.Error("no keys")
	}
	// The token ends with its pod.
	must(t, core.Pods(ns).Delete(ctx, "pod", metav1.DeleteOptions{GracePeriodSeconds: ptr.To(int64(0))}))
	eventually(t, func() (bool, any) {
		u, err := whoami(t, own.Status.Token)
		return apierrors.IsUnauthorized(err), u
	})
}

// "should allow opting out of API token automount"
func TestTokenMounts(t *testing.T) {
	ns, ctx := namespace(t), t.Context()
	core := world.kube.CoreV1()
	for account, mount := range map[string]*bool{"unset": nil, "mount": ptr.To(true), "nomount": ptr.To(false)} {
		get[*corev1.ServiceAccount](t)(core.ServiceAccounts(ns).Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: account}, AutomountServiceAccountToken: mount}, metav1.CreateOptions{}))
		for _, own := range []*bool{nil, ptr.To(true), ptr.To(false)} {
			want := ptr.Deref(own, ptr.Deref(mount, true))
			pod := get[*corev1.Pod](t)(core.Pods(ns).Create(ctx, &corev1.Pod{
				ObjectMeta: metav1.ObjectMeta{GenerateName: account + "-"},
				Spec: corev1.PodSpec{
					ServiceAccountName: account, AutomountServiceAccountToken: own, NodeSelector: map[string]string{"no": "where"},
					Containers: []corev1.Container{{Name: "c", Image: "i"}}, InitContainers: []corev1.Container{{Name: "i", Image: "i"}},
				},
			}, metav1.CreateOptions{}))
			for _, c := range append(pod.Spec.InitContainers, pod.Spec.Containers...) {
				if got := len(c.VolumeMounts) == 1; got != want {
					t.Errorf("account %s, pod %v: mounts %v", account, own, c.VolumeMounts)
				}
			}
		}
	}
}

// "should guarantee kube-root-ca.crt exist in any namespace", and the default
// account.
func TestNamespaceGetsItsOwn(t *testing.T) {
	ns, ctx := namespace(t), t.Context()
	maps := world.kube.CoreV1().ConfigMaps(ns)
	ca := func() (bool, any) {
		cm, err := maps.Get(ctx, "kube-root-ca.crt", metav1.GetOptions{})
		return err == nil && strings.HasPrefix(cm.Data["ca.crt"], "-----BEGIN"), err
	}
	eventually(t, ca)
	must(t, maps.Delete(ctx, "kube-root-ca.crt", metav1.DeleteOptions{}))
	eventually(t, ca)
	cm := get[*corev1.ConfigMap](t)(maps.Get(ctx, "kube-root-ca.crt", metav1.GetOptions{}))
	cm.Data = map[string]string{"ca.crt": ""}
	get[*corev1.ConfigMap](t)(maps.Update(ctx, cm, metav1.UpdateOptions{}))
	eventually(t, ca)
	accounts := world.kube.CoreV1().ServiceAccounts(ns)
	must(t, accounts.Delete(ctx, "default", metav1.DeleteOptions{}))
	eventually(t, func() (bool, any) {
		_, err := accounts.Get(ctx, "default", metav1.GetOptions{})
		return err == nil, err
	})
}

// A Secret of type kubernetes.io/service-account-token gets its token and ends
// with its account.
func TestTokenSecrets(t *testing.T) {
	ns, ctx := namespace(t), t.Context()
	core := world.kube.CoreV1()
	sa := get[*corev1.ServiceAccount](t)(core.ServiceAccounts(ns).Create(ctx, &corev1.ServiceAccount{
		ObjectMeta: metav1.ObjectMeta{Name: "sa"}, Secrets: []corev1.ObjectReference{{Name: "second"}, {Name: "mine"}},
	}, metav1.CreateOptions{}))
	for _, name := range []string{"token", "second"} {
		get[*corev1.Secret](t)(core.Secrets(ns).Create(ctx, &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{corev1.ServiceAccountNameKey: "sa"}}, Type: corev1.SecretTypeServiceAccountToken,
		}, metav1.CreateOptions{}))
	}
	var secret *corev1.Secret
	eventually(t, func() (bool, any) {
		var err error
		secret, err = core.Secrets(ns).Get(ctx, "token", metav1.GetOptions{})
		return err == nil && len(secret.Data["token"]) > 0, secret
	})
	if string(secret.Data["namespace"]) != ns || !strings.HasPrefix(string(secret.Data["ca.crt"]), "-----BEGIN") || secret.Annotations[corev1.ServiceAccountUIDKey] != string(sa.UID) {
		t.Errorf("secret: %v", secret)
	}
	if u, err := whoami(t, string(secret.Data["token"])); err != nil || u.Username != "system:serviceaccount:"+ns+":sa" {
		t.Errorf("who am I: %v %v", u, err)
	}
	eventually(t, func() (bool, any) {
		s, err := core.Secrets(ns).Get(ctx, "token", metav1.GetOptions{})
		return err == nil && s.Labels["kubernetes.io/legacy-token-last-used"] != "", "the use of the token is not noted"
	})
	must(t, core.Secrets(ns).Delete(ctx, "second", metav1.DeleteOptions{}))
	eventually(t, func() (bool, any) {
		sa, err := core.ServiceAccounts(ns).Get(ctx, "sa", metav1.GetOptions{})
		return err == nil && len(sa.Secrets) == 1 && sa.Secrets[0].Name == "mine", sa
	})
	must(t, core.ServiceAccounts(ns).Delete(ctx, "sa", metav1.DeleteOptions{}))
	eventually(t, func() (bool, any) {
		_, err := core.Secrets(ns).Get(ctx, "token", metav1.GetOptions{})
		return apierrors.IsNotFound(err), err
	})
	if _, err := whoami(t, string(secret.Data["token"])); !apierrors.IsUnauthorized(err) {
		t.Errorf("after the end of the account: %v", err)
	}
	orphan := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "orphan", Annotations: map[string]string{corev1.ServiceAccountNameKey: "nobody"}}, Type: corev1.SecretTypeServiceAccountToken}
	get[*corev1.Secret](t)(core.Secrets(ns).Create(ctx, orphan, metav1.CreateOptions{}))
	eventually(t, func() (bool, any) {
		_, err := core.Secrets(ns).Get(ctx, "orphan", metav1.GetOptions{})
		return apierrors.IsNotFound(err), err
	})
}

// "should support SubjectReview API operations"
func TestSubjectReviews(t *testing.T) {
	ns, ctx := namespace(t), t.Context()
	user := "system:serviceaccount:" + ns + ":e2e"
	get[*corev1.ServiceAccount](t)(world.kube.CoreV1().ServiceAccounts(ns).Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "e2e"}}, metav1.CreateOptions{}))
	cfg := rest.CopyConfig(world.rest)
	cfg.Impersonate = rest.ImpersonationConfig{UserName: user}
	impersonated, err := kubernetes.NewForConfig(cfg)
	must(t, err)
	check := func(want bool) {
		t.Helper()
		attributes := &authzv1.ResourceAttributes{Verb: "list", Resource: "configmaps", Version: "v1", Namespace: ns}
		sar := get[*authzv1.SubjectAccessReview](t)(world.kube.AuthorizationV1().SubjectAccessReviews().Create(ctx, &authzv1.SubjectAccessReview{Spec: authzv1.SubjectAccessReviewSpec{ResourceAttributes: attributes, User: user}}, metav1.CreateOptions{}))
		local := get[*authzv1.LocalSubjectAccessReview](t)(world.kube.AuthorizationV1().LocalSubjectAccessReviews(ns).Create(ctx, &authzv1.LocalSubjectAccessReview{ObjectMeta: metav1.ObjectMeta{Namespace: ns}, Spec: authzv1.SubjectAccessReviewSpec{ResourceAttributes: attributes, User: user}}, metav1.CreateOptions{}))
		_, err := impersonated.CoreV1().ConfigMaps(ns).List(ctx, metav1.ListOptions{})
		if sar.Status.Allowed != want || local.Status.Allowed != want || (err == nil) != want || err != nil && !apierrors.IsForbidden(err) {
			t.Errorf("reviews %+v, %+v; the call: %v; want %v", sar.Status, local.Status, err, want)
		}
		rules := get[*authzv1.SelfSubjectRulesReview](t)(impersonated.AuthorizationV1().SelfSubjectRulesReviews().Create(ctx, &authzv1.SelfSubjectRulesReview{Spec: authzv1.SelfSubjectRulesReviewSpec{Namespace: ns}}, metav1.CreateOptions{}))
		listed := slices.ContainsFunc(rules.Status.ResourceRules, func(r authzv1.ResourceRule) bool { return slices.Contains(r.Resources, "configmaps") })
		if listed != want {
			t.Errorf("rules %+v, want %v", rules.Status, want)
		}
	}
	if err := impersonated.CoreV1().ConfigMaps(ns).Delete(ctx, "x", metav1.DeleteOptions{}); err == nil || !strings.Contains(err.Error(), `configmaps "x" is forbidden: User "`+user+`" cannot delete resource "configmaps" in API group "" in the namespace "`+ns+`"`) {
		t.Errorf("forbidden: %v", err)
	}
	check(false)
	rbac := world.kube.RbacV1()
	get[*rbacv1.RoleBinding](t)(rbac.RoleBindings(ns).Create(ctx, &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "view"}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "view"},
		Subjects: []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: ns, Name: "e2e"}},
	}, metav1.CreateOptions{}))
	check(true)
	must(t, rbac.RoleBindings(ns).Delete(ctx, "view", metav1.DeleteOptions{}))
	check(false)
}

// A ClusterRole with an aggregationRule has the rules of those it selects.
func TestClusterRoleAggregation(t *testing.T) {
	ctx := t.Context()
	roles := world.kube.RbacV1().ClusterRoles()
	rule := func(resource string) []rbacv1.PolicyRule {
		return []rbacv1.PolicyRule{{APIGroups: []string{"aggregate.test"}, Resources: []string{resource}, Verbs: []string{"get"}}}
	}
	make := func(name string, labels map[string]string, resource string) {
		t.Helper()
		get[*rbacv1.ClusterRole](t)(roles.Create(ctx, &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}, Rules: rule(resource)}, metav1.CreateOptions{}))
		t.Cleanup(func() { _ = roles.Delete(context.WithoutCancel(ctx), name, metav1.DeleteOptions{}) })
	}
	has := func(name string, want ...string) {
		t.Helper()
		eventually(t, func() (bool, any) {
			r := get[*rbacv1.ClusterRole](t)(roles.Get(ctx, name, metav1.GetOptions{}))
			var got []string
			for _, rule := range r.Rules {
				if slices.Contains(rule.APIGroups, "aggregate.test") {
					got = append(got, rule.Resources...)
				}
			}
			return slices.Equal(got, want), r.Rules
		})
	}
	get[*rbacv1.ClusterRole](t)(roles.Create(ctx, &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "sum"}, AggregationRule: &rbacv1.AggregationRule{
		ClusterRoleSelectors: []metav1.LabelSelector{{MatchLabels: map[string]string{"sum": "yes"}}},
	}, Rules: rule("overwritten")}, metav1.CreateOptions{}))
	t.Cleanup(func() { _ = roles.Delete(context.WithoutCancel(ctx), "sum", metav1.DeleteOptions{}) })
	has("sum")
	make("part-b", map[string]string{"sum": "yes"}, "b")
	make("part-a", map[string]string{"sum": "yes"}, "a")
	has("sum", "a", "b")
	must(t, roles.Delete(ctx, "part-a", metav1.DeleteOptions{}))
	has("sum", "b")
	make("widgets", map[string]string{"rbac.authorization.k8s.io/aggregate-to-view": "true"}, "widgets")
	for _, r := range []string{"view", "edit", "admin"} {
		has(r, "widgets")
	}
}

// `kubectl auth reconcile` makes, extends and leaves alone.
func TestAuthReconcile(t *testing.T) {
	ns := namespace(t)
	manifest := func(verbs string) string {
		return `{apiVersion: rbac.authorization.k8s.io/v1, kind: Role, metadata: {name: r, namespace: ` + ns + `}, rules: [{apiGroups: [""], resources: [pods], verbs: ` + verbs + `}]}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: RoleBinding, metadata: {name: r, namespace: ` + ns + `}, roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: r}, subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: u}]}
`
	}
	for _, verbs := range []string{"[get]", "[get]", "[get, list]"} {
		if _, err := world.Kubectl(t.Context(), strings.NewReader(manifest(verbs)), "auth", "reconcile", "-f", "-"); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := world.Kubectl(t.Context(), nil, "auth", "can-i", "list", "pods", "-n", ns, "--as", "u"); err != nil || out != "yes\n" {
		t.Errorf("can-i: %q %v", out, err)
	}
}
