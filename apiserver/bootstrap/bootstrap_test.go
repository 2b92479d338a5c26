package bootstrap_test

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	authnv1 "k8s.io/api/authentication/v1"
	authzv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proa-dev/proa/api/builtin"
	"github.com/proa-dev/proa/apiserver"
	"github.com/proa-dev/proa/apiserver/admission"
	"github.com/proa-dev/proa/apiserver/apiservertest"
	"github.com/proa-dev/proa/apiserver/authn"
	"github.com/proa-dev/proa/apiserver/authz"
	"github.com/proa-dev/proa/apiserver/bootstrap"
	"github.com/proa-dev/proa/apiserver/live"
	"github.com/proa-dev/proa/apiserver/virtual"
	"github.com/proa-dev/proa/client"
	"github.com/proa-dev/proa/client/local"
	"github.com/proa-dev/proa/internal/certs"
)

var discard = slog.New(slog.DiscardHandler)

// cluster is a real API server with real certificates, tokens, roles and
// admission.
type cluster struct {
	*apiservertest.Server
	ca    *certs.Authority
	admin client.Cluster
}

func start(t testing.TB) *cluster {
	t.Helper()
	c := &cluster{}
	var err error
	if c.ca, err = certs.Open(t.TempDir(), clock.RealClock{}, discard); err != nil {
		t.Fatal(err)
	}
	serving, err := c.ca.Server(certs.APIServerNames("cluster.local", nil, "", nil, nil))
	if err != nil {
		t.Fatal(err)
	}
	c.Server = apiservertest.Start(t, func(cfg *apiserver.Config) {
		reader := live.New(cfg.Store, cfg.Kinds)
		authenticator, err := authn.New(authn.Config{Key: c.ca.SigningKey(), ClientCAs: c.ca.Pool(), FrontProxyCAs: c.ca.FrontProxyPool(), Source: reader, Live: reader.Live})
		if err != nil {
			t.Fatal(err)
		}
		authorizer := authz.New(reader)
		cfg.Authenticator, cfg.Authorizer = authenticator, authorizer
		cfg.Admission = append(admission.Default(admission.Config{Source: reader, Live: reader.Live, Authorizer: authorizer}),
			authz.NewEscalation(authorizer, admission.Lookup{Source: reader, Live: reader.Live}))
		cfg.Virtual = virtual.Functions(virtual.Config{Tokens: authenticator, Authorizer: authorizer})
		cfg.Token = authenticator.IssueToken
		if cfg.Paths, err = authenticator.Discovery(""); err != nil {
			t.Fatal(err)
		}
		cfg.TLS = &tls.Config{GetCertificate: serving.GetCertificate, ClientAuth: tls.RequestClientCert, MinVersion: tls.VersionTLS12}
	})
	c.admin, err = local.New(local.Config{
		Registry: c.Registry(), Store: c.Store, Kinds: c.Kinds(), Scheme: builtin.Scheme(), Logger: discard,
		User: &user.DefaultInfo{Name: "system:apiserver", Groups: []string{user.SystemPrivilegedGroup}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (c *cluster) bootstrap(t testing.TB) {
	t.Helper()
	err := bootstrap.Run(t.Context(), bootstrap.Config{Client: c.admin.Client(), Reader: c.admin.Reader(), ServiceIP: netip.MustParseAddr("10.43.0.1"),
		ClientCA: c.ca.CAPEM(), FrontProxyCA: c.ca.FrontProxyCAPEM(), FrontProxyNames: []string{certs.FrontProxyUser}})
	if err != nil {
		t.Fatal(err)
	}
}

// as is a client with a certificate, or a token, or neither.
func (c *cluster) as(t testing.TB, name, token string, groups ...string) *kubernetes.Clientset {
	t.Helper()
	cfg := &rest.Config{Host: c.URL, BearerToken: token, QPS: -1, TLSClientConfig: rest.TLSClientConfig{CAData: c.ca.CAPEM()}}
	if name != "" {
		leaf, err := c.ca.Client(name, groups...)
		if err != nil {
			t.Fatal(err)
		}
		if cfg.CertData, cfg.KeyData, err = leaf.PEM(); err != nil {
			t.Fatal(err)
		}
	}
	cs, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return cs
}

func TestBootstrap(t *testing.T) {
	c := start(t)
	begin := time.Now()
	c.bootstrap(t)
	t.Logf("first start: %s", time.Since(begin).Round(time.Millisecond))
	ctx := t.Context()
	cl := c.admin.Reader()

	var role rbacv1.ClusterRole
	if err := cl.Get(ctx, ctrl.ObjectKey{Name: "view"}, &role); err != nil || len(role.Rules) == 0 ||
		role.Labels["rbac.authorization.k8s.io/aggregate-to-edit"] != "true" || role.Annotations[rbacv1.AutoUpdateAnnotationKey] != "true" {
		t.Errorf("view: %v %+v", err, role.ObjectMeta)
	}
	var svc corev1.Service
	if err := cl.Get(ctx, ctrl.ObjectKey{Namespace: "default", Name: "kubernetes"}, &svc); err != nil || svc.Spec.ClusterIP != "10.43.0.1" {
		t.Errorf("Service: %v %s", err, svc.Spec.ClusterIP)
	}
	var trust corev1.ConfigMap
	if err := cl.Get(ctx, ctrl.ObjectKey{Namespace: "kube-system", Name: "extension-apiserver-authentication"}, &trust); err != nil ||
		trust.Data["client-ca-file"] != string(c.ca.CAPEM()) || trust.Data["requestheader-allowed-names"] != `["front-proxy-client"]` {
		t.Errorf("trust: %v %v", err, trust.Data)
	}
	var roles, again rbacv1.ClusterRoleList
	if err := cl.List(ctx, &roles); err != nil || len(roles.Items) != len(authz.ClusterRoles()) {
		t.Errorf("%d cluster roles, %v", len(roles.Items), err)
	}
	begin = time.Now()
	c.bootstrap(t)
	t.Logf("second start: %s", time.Since(begin).Round(time.Millisecond))
	if err := cl.List(ctx, &again); err != nil {
		t.Fatal(err)
	}
	for i := range again.Items {
		if again.Items[i].ResourceVersion != roles.Items[i].ResourceVersion {
			t.Errorf("%s was written again", again.Items[i].Name)
		}
	}

	// What users took away comes back, what they added stays, what they
	// protected is left alone.
	change := func(name string, fn func(*rbacv1.ClusterRole)) {
		t.Helper()
		var r rbacv1.ClusterRole
		if err := cl.Get(ctx, ctrl.ObjectKey{Name: name}, &r); err != nil {
			t.Fatal(err)
		}
		fn(&r)
		if err := c.admin.Client().Update(ctx, &r); err != nil {
			t.Fatal(err)
		}
	}
	own := rbacv1.PolicyRule{Verbs: []string{"get"}, APIGroups: []string{"example.com"}, Resources: []string{"things"}}
	change("system:node-problem-detector", func(r *rbacv1.ClusterRole) { r.Rules = []rbacv1.PolicyRule{own} })
	change("system:kube-dns", func(r *rbacv1.ClusterRole) {
		r.Rules, r.Annotations[rbacv1.AutoUpdateAnnotationKey] = nil, "false"
	})
	if err := c.admin.Client().Delete(ctx, &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "system:discovery"}}); err != nil {
		t.Fatal(err)
	}
	c.bootstrap(t)
	get := func(name string) *rbacv1.ClusterRole {
		t.Helper()
		r := &rbacv1.ClusterRole{}
		if err := cl.Get(ctx, ctrl.ObjectKey{Name: name}, r); err != nil {
			t.Fatal(err)
		}
		return r
	}
	if r := get("system:node-problem-detector"); len(r.Rules) < 4 || r.Rules[0].APIGroups[0] != "example.com" {
		t.Errorf("extended role: %v", r.Rules)
	}
	if r := get("system:kube-dns"); len(r.Rules) != 0 {
		t.Errorf("protected role: %v", r.Rules)
	}
	if err := cl.Get(ctx, ctrl.ObjectKey{Name: "system:discovery"}, &rbacv1.ClusterRoleBinding{}); err != nil {
		t.Error(err)
	}
}

func TestWhoMayDoWhat(t *testing.T) {
	c := start(t)
	c.bootstrap(t)
	ctx := t.Context()
	admin := c.as(t, "admin", "", user.SystemPrivilegedGroup)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	_, err := admin.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "ns"}}, metav1.CreateOptions{})
	must(err)
	_, err = admin.CoreV1().ServiceAccounts("ns").Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "app"}}, metav1.CreateOptions{})
	must(err)

	// Nobody is anonymous, and sees health alone.
	nobody := c.as(t, "", "")
	_, err = nobody.CoreV1().Pods("ns").List(ctx, metav1.ListOptions{})
	if want := `pods is forbidden: User "system:anonymous" cannot list resource "pods" in API group "" in the namespace "ns"`; err == nil || err.Error() != want {
		t.Errorf("anonymous: %v", err)
	}
	if _, err := nobody.RESTClient().Get().AbsPath("/readyz").DoRaw(ctx); err != nil {
		t.Errorf("anonymous health: %v", err)
	}
	if _, err := c.as(t, "", "junk").CoreV1().Pods("ns").List(ctx, metav1.ListOptions{}); !apierrors.IsUnauthorized(err) {
		t.Errorf("junk token: %v", err)
	}

	// A service account's token is of use at once, and has its roles.
	tr, err := admin.CoreV1().ServiceAccounts("ns").CreateToken(ctx, "app", &authnv1.TokenRequest{}, metav1.CreateOptions{})
	must(err)
	app := c.as(t, "", tr.Status.Token)
	if _, err := app.CoreV1().Pods("ns").List(ctx, metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("without a role: %v", err)
	}
	_, err = admin.RbacV1().RoleBindings("ns").Create(ctx, &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "b"},
		RoleRef:  rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "admin"},
		Subjects: []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: "ns", Name: "app"}}}, metav1.CreateOptions{})
	must(err)
	if _, err := app.CoreV1().Pods("ns").List(ctx, metav1.ListOptions{}); err != nil {
		t.Errorf("with a role: %v", err)
	}
	pod, err := app.CoreV1().Pods("ns").Create(ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{GenerateName: "p-"}, Spec: corev1.PodSpec{
		ServiceAccountName: "app", Containers: []corev1.Container{{Name: "c", Image: "i"}}}}, metav1.CreateOptions{})
	must(err)
	if len(pod.Spec.Volumes) != 1 || !strings.HasPrefix(pod.Spec.Volumes[0].Name, "kube-api-access-") || pod.Spec.Priority == nil || len(pod.Spec.Tolerations) != 2 {
		t.Errorf("pod: %+v", pod.Spec)
	}
	_, err = app.RbacV1().Roles("ns").Create(ctx, &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: "r"}, Rules: []rbacv1.PolicyRule{
		{Verbs: []string{"get"}, APIGroups: []string{""}, Resources: []string{"nodes"}}}}, metav1.CreateOptions{})
	if err == nil || !strings.Contains(err.Error(), "is attempting to grant RBAC permissions not currently held:\n{APIGroups:[\"\"], Resources:[\"nodes\"], Verbs:[\"get\"]}") {
		t.Errorf("escalation: %v", err)
	}

	// Reviews say the same.
	review, err := admin.AuthenticationV1().TokenReviews().Create(ctx, &authnv1.TokenReview{Spec: authnv1.TokenReviewSpec{Token: tr.Status.Token}}, metav1.CreateOptions{})
	must(err)
	if !review.Status.Authenticated || review.Status.User.Username != "system:serviceaccount:ns:app" {
		t.Errorf("token review: %+v", review.Status)
	}
	self, err := app.AuthorizationV1().SelfSubjectAccessReviews().Create(ctx, &authzv1.SelfSubjectAccessReview{Spec: authzv1.SelfSubjectAccessReviewSpec{
		ResourceAttributes: &authzv1.ResourceAttributes{Namespace: "ns", Verb: "create", Resource: "pods"}}}, metav1.CreateOptions{})
	must(err)
	if !self.Status.Allowed || self.Status.Reason != `RBAC: allowed by RoleBinding "b/ns" of ClusterRole "admin" to ServiceAccount "app/ns"` {
		t.Errorf("self access review: %+v", self.Status)
	}
	whoami, err := app.AuthenticationV1().SelfSubjectReviews().Create(ctx, &authnv1.SelfSubjectReview{}, metav1.CreateOptions{})
	must(err)
	if whoami.Status.UserInfo.Username != "system:serviceaccount:ns:app" {
		t.Errorf("whoami: %+v", whoami.Status)
	}
	rules, err := app.AuthorizationV1().SelfSubjectRulesReviews().Create(ctx, &authzv1.SelfSubjectRulesReview{Spec: authzv1.SelfSubjectRulesReviewSpec{Namespace: "ns"}}, metav1.CreateOptions{})
	must(err)
	if len(rules.Status.ResourceRules) < 20 || rules.Status.Incomplete {
		t.Errorf("rules: %d", len(rules.Status.ResourceRules))
	}
	local, err := admin.AuthorizationV1().LocalSubjectAccessReviews("ns").Create(ctx, &authzv1.LocalSubjectAccessReview{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns"},
		Spec:       authzv1.SubjectAccessReviewSpec{User: "x", ResourceAttributes: &authzv1.ResourceAttributes{Namespace: "ns", Verb: "get", Resource: "pods"}},
	}, metav1.CreateOptions{})
	must(err)
	if local.Status.Allowed || local.Status.Denied {
		t.Errorf("local access review: %+v", local.Status)
	}

	// The token ends with its account.
	must(admin.CoreV1().ServiceAccounts("ns").Delete(ctx, "app", metav1.DeleteOptions{}))
	for {
		_, err := app.CoreV1().Pods("ns").List(ctx, metav1.ListOptions{})
		if apierrors.IsUnauthorized(err) {
			break
		}
		if ctx.Err() != nil || err != nil {
			t.Fatalf("deleted account: %v", err)
		}
	}

	// A node reads what its pods need.
	node := c.as(t, "system:node:n1", "", user.NodesGroup)
	_, err = node.CoreV1().Nodes().Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}}, metav1.CreateOptions{})
	must(err)
	if _, err := node.CoreV1().Nodes().Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n2"}}, metav1.CreateOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("another node: %v", err)
	}
	if _, err := node.CoreV1().Secrets("ns").Get(ctx, "s", metav1.GetOptions{}); err == nil || !strings.Contains(err.Error(), "no relationship found between node 'n1' and this object") {
		t.Errorf("a stranger's secret: %v", err)
	}
	if _, err := node.CoreV1().Pods("").List(ctx, metav1.ListOptions{FieldSelector: "spec.nodeName=n1"}); err != nil {
		t.Errorf("its pods: %v", err)
	}
}

func TestEndpointsOfServers(t *testing.T) {
	c := start(t)
	c.bootstrap(t)
	ctx := t.Context()
	run := func(address string) (stop func()) {
		e := &bootstrap.Endpoints{Client: c.admin.Client(), Reader: c.admin.Reader(), Address: netip.MustParseAddrPort(address), Clock: clock.RealClock{}, Logger: discard}
		runCtx, cancel := context.WithCancel(t.Context())
		ready, done := make(chan struct{}), make(chan error, 1)
		go func() { done <- e.Run(runCtx, func() { close(ready) }) }()
		select {
		case <-ready:
		case err := <-done:
			t.Fatal(err)
		}
		return func() {
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	}
	addresses := func() string {
		t.Helper()
		var slice discoveryv1.EndpointSlice
		var endpoints corev1.Endpoints
		key := ctrl.ObjectKey{Namespace: "default", Name: "kubernetes"}
		if err := c.admin.Reader().Get(ctx, key, &slice); err != nil {
			t.Fatal(err)
		}
		if err := c.admin.Reader().Get(ctx, key, &endpoints); err != nil {
			t.Fatal(err)
		}
		var fromSlice, fromEndpoints []string
		for _, e := range slice.Endpoints {
			fromSlice = append(fromSlice, e.Addresses...)
		}
		for _, a := range endpoints.Subsets[0].Addresses {
			fromEndpoints = append(fromEndpoints, a.IP)
		}
		if strings.Join(fromSlice, " ") != strings.Join(fromEndpoints, " ") || *slice.Ports[0].Port != 6443 {
			t.Errorf("slice %v, endpoints %v", fromSlice, fromEndpoints)
		}
		return strings.Join(fromSlice, " ")
	}
	stopFirst := run("192.0.2.2:6443")
	if got := addresses(); got != "192.0.2.2" {
		t.Errorf("one server: %s", got)
	}
	stopSecond := run("192.0.2.1:6443")
	if got := addresses(); got != "192.0.2.1 192.0.2.2" {
		t.Errorf("two servers: %s", got)
	}
	stopFirst()
	if got := addresses(); got != "192.0.2.1" {
		t.Errorf("after one left: %s", got)
	}
	stopSecond()
	if got := addresses(); got != "192.0.2.1" {
		t.Errorf("after the last left: %s", got)
	}
}
