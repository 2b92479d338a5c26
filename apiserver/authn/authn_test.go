package authn_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	authnv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
	clocktesting "k8s.io/utils/clock/testing"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/proa-dev/proa/apiserver/admission/admissiontest"
	"github.com/proa-dev/proa/apiserver/authn"
	"github.com/proa-dev/proa/internal/bootstraptoken"
	"github.com/proa-dev/proa/internal/certs"
)

func res(name string) schema.GroupResource { return corev1.Resource(name) }

func meta(namespace, name, uid string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: namespace, Name: name, UID: types.UID(uid)}
}

// world is a cluster with a service account, a pod on a node and a secret.
type world struct {
	*authn.Authenticator
	clock  *clocktesting.FakeClock
	ca     *certs.Authority
	source *admissiontest.Source
	sa     *corev1.ServiceAccount
	pod    *corev1.Pod
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{
		clock: clocktesting.NewFakeClock(time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)),
		sa:    &corev1.ServiceAccount{ObjectMeta: meta("ns", "app", "sa-uid")},
		pod:   &corev1.Pod{ObjectMeta: meta("ns", "p", "pod-uid"), Spec: corev1.PodSpec{ServiceAccountName: "app", NodeName: "n1"}},
	}
	var err error
	if w.ca, err = certs.Open(t.TempDir(), w.clock, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	w.source = admissiontest.New().
		Put(res("serviceaccounts"), w.sa).
		Put(res("pods"), w.pod).
		Put(res("nodes"), &corev1.Node{ObjectMeta: meta("", "n1", "node-uid")}).
		Put(res("secrets"), &corev1.Secret{ObjectMeta: meta("ns", "s", "secret-uid")})
	w.Authenticator, err = authn.New(authn.Config{
		Key: w.ca.SigningKey(), ClientCAs: w.ca.Pool(), FrontProxyCAs: w.ca.FrontProxyPool(),
		FrontProxyNames: []string{"front-proxy-client"}, Source: w.source, Clock: w.clock,
	})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *world) issue(t *testing.T, spec authnv1.TokenRequestSpec) string {
	t.Helper()
	out, err := w.IssueToken(t.Context(), w.sa, &authnv1.TokenRequest{Spec: spec}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return out.Status.Token
}

func bearer(token string) *http.Request {
	r := httptest.NewRequest(http.MethodGet, "/api", nil)
	r.Header.Set("Authorization", "Bearer "+token)
	return r
}

func withCert(leaf *certs.Leaf) *http.Request {
	r := httptest.NewRequest(http.MethodGet, "/api", nil)
	r.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{leaf.Certificate().Leaf}}
	return r
}

// who returns the user and the groups in order, or the error.
func who(a *authn.Authenticator, r *http.Request) string {
	resp, ok, err := a.AuthenticateRequest(r)
	if err != nil || !ok {
		return "401"
	}
	groups := slices.Clone(resp.User.GetGroups())
	slices.Sort(groups)
	return resp.User.GetName() + " [" + strings.Join(groups, " ") + "]"
}

const appUser = "system:serviceaccount:ns:app [system:authenticated system:serviceaccounts system:serviceaccounts:ns]"

func TestRequests(t *testing.T) {
	w := newWorld(t)
	other, err := certs.Open(t.TempDir(), w.clock, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	leaf := func(l *certs.Leaf, err error) *certs.Leaf {
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	admin := leaf(w.ca.Client("admin", "system:masters"))
	proxy := leaf(w.ca.FrontProxyClient("front-proxy-client"))
	headers := func(r *http.Request, kv ...string) *http.Request {
		for i := 0; i < len(kv); i += 2 {
			r.Header.Add(kv[i], kv[i+1])
		}
		return r
	}
	remote := []string{"X-Remote-User", "eve", "X-Remote-Group", "system:masters", "X-Remote-Extra-Scope", "all"}
	token := w.issue(t, authnv1.TokenRequestSpec{})
	webSocket := func(protocols ...string) *http.Request {
		return headers(httptest.NewRequest(http.MethodGet, "/api", nil), "Upgrade", "websocket", "Connection", "keep-alive, Upgrade",
			"Sec-WebSocket-Protocol", strings.Join(protocols, ", "))
	}
	encoded := "base64url.bearer.authorization.k8s.io." + base64.RawURLEncoding.EncodeToString([]byte(token))

	for _, c := range []struct {
		name string
		req  *http.Request
		want string
	}{
		{"nothing", httptest.NewRequest(http.MethodGet, "/", nil), "system:anonymous [system:unauthenticated]"},
		{"client certificate", withCert(admin), "admin [system:authenticated system:masters]"},
		{"foreign certificate", withCert(leaf(other.Client("admin", "system:masters"))), "401"},
		{"serving certificate", withCert(leaf(w.ca.Server(certs.Names{CommonName: "admin"}))), "401"},
		{"front proxy's certificate as a client's", withCert(proxy), "401"},
		{"foreign certificate, good token", headers(withCert(leaf(other.Client("x"))), "Authorization", "Bearer "+token), appUser},
		{"front proxy", headers(withCert(proxy), remote...), "eve [system:authenticated system:masters]"},
		{"front proxy of another name", headers(withCert(leaf(w.ca.FrontProxyClient("impostor"))), remote...), "401"},
		{"a client that claims to be a front proxy", headers(withCert(admin), remote...), "admin [system:authenticated system:masters]"},
		{"headers alone", headers(httptest.NewRequest(http.MethodGet, "/", nil), remote...), "system:anonymous [system:unauthenticated]"},
		{"bearer token", bearer(token), appUser},
		{"bearer in lower case", headers(httptest.NewRequest(http.MethodGet, "/", nil), "Authorization", "bearer "+token), appUser},
		{"empty bearer", bearer(""), "system:anonymous [system:unauthenticated]"},
		{"basic", headers(httptest.NewRequest(http.MethodGet, "/", nil), "Authorization", "Basic YTpi"), "system:anonymous [system:unauthenticated]"},
		{"junk token", bearer("junk"), "401"},
		{"huge token", bearer(strings.Repeat("x", 1<<20)), "401"},
		{"websocket", webSocket(encoded, "v5.channel.k8s.io"), appUser},
		{"websocket without another protocol", webSocket(encoded), "401"},
		{"websocket with two tokens", webSocket(encoded, encoded, "v5.channel.k8s.io"), "401"},
		{"websocket with junk", webSocket("base64url.bearer.authorization.k8s.io.!!", "v5.channel.k8s.io"), "401"},
		{"websocket without a token", webSocket("v5.channel.k8s.io"), "system:anonymous [system:unauthenticated]"},
	} {
		for _, pass := range []string{"first", "remembered"} {
			req := c.req.Clone(t.Context())
			if got := who(w.Authenticator, req); got != c.want {
				t.Errorf("%s (%s): %s, want %s", c.name, pass, got, c.want)
			}
			if c.want != "401" && strings.HasPrefix(c.name, "bearer") && req.Header.Get("Authorization") != "" {
				t.Errorf("%s: the token travels on", c.name)
			}
		}
	}
	w.clock.Step(366 * 24 * time.Hour)
	if got := who(w.Authenticator, withCert(admin)); got != "401" {
		t.Errorf("expired certificate: %s", got)
	}
}

func TestTokensEndWithWhatTheyAreBoundTo(t *testing.T) {
	podRef := &authnv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: "p", UID: "pod-uid"}
	deleted := metav1.NewTime(time.Date(2026, 3, 1, 11, 58, 0, 0, time.UTC))
	justNow := metav1.NewTime(time.Date(2026, 3, 1, 11, 59, 30, 0, time.UTC))
	for _, c := range []struct {
		name string
		ref  *authnv1.BoundObjectReference
		then func(w *world)
		want string
	}{
		{"unbound", nil, func(*world) {}, appUser},
		{"account deleted", nil, func(w *world) { w.source.Delete(res("serviceaccounts"), "ns", "app") }, "401"},
		{"account made again", nil, func(w *world) {
			w.source.Put(res("serviceaccounts"), &corev1.ServiceAccount{ObjectMeta: meta("ns", "app", "new")})
		}, "401"},
		{"node gone", nil, func(w *world) { w.source.Delete(res("nodes"), "", "n1") }, appUser},
		{"pod", podRef, func(*world) {}, appUser},
		{"pod deleted", podRef, func(w *world) { w.source.Delete(res("pods"), "ns", "p") }, "401"},
		{"pod ending for long", podRef, func(w *world) {
			p := w.pod.DeepCopy()
			p.DeletionTimestamp = &deleted
			w.source.Put(res("pods"), p)
		}, "401"},
		{"pod ending", podRef, func(w *world) {
			p := w.pod.DeepCopy()
			p.DeletionTimestamp = &justNow
			w.source.Put(res("pods"), p)
		}, appUser},
		{"pod's node gone", podRef, func(w *world) { w.source.Delete(res("nodes"), "", "n1") }, appUser},
		{"pod made again", podRef, func(w *world) {
			p := w.pod.DeepCopy()
			p.UID = "other"
			w.source.Put(res("pods"), p)
		}, "401"},
		{"secret deleted", &authnv1.BoundObjectReference{APIVersion: "v1", Kind: "Secret", Name: "s"},
			func(w *world) { w.source.Delete(res("secrets"), "ns", "s") }, "401"},
		{"node", &authnv1.BoundObjectReference{APIVersion: "v1", Kind: "Node", Name: "n1"}, func(*world) {}, appUser},
		{"node deleted", &authnv1.BoundObjectReference{APIVersion: "v1", Kind: "Node", Name: "n1"},
			func(w *world) { w.source.Delete(res("nodes"), "", "n1") }, "401"},
		{"not yet expired", nil, func(w *world) { w.clock.Step(3599 * time.Second) }, appUser},
		{"expired", nil, func(w *world) { w.clock.Step(time.Hour) }, "401"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			token := w.issue(t, authnv1.TokenRequestSpec{BoundObjectRef: c.ref})
			if got := who(w.Authenticator, bearer(token)); got != appUser {
				t.Fatalf("fresh token: %s", got)
			}
			c.then(w)
			if got := who(w.Authenticator, bearer(token)); got != c.want {
				t.Errorf("%s, want %s", got, c.want)
			}
		})
	}
}

func TestForgedTokens(t *testing.T) {
	w := newWorld(t)
	other, err := certs.Open(t.TempDir(), w.clock, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	now := w.clock.Now()
	body := func(change func(m map[string]any)) map[string]any {
		m := map[string]any{
			"iss": authn.DefaultIssuer, "aud": []string{authn.DefaultIssuer}, "sub": "system:serviceaccount:ns:app",
			"exp": now.Add(time.Hour).Unix(), "nbf": now.Unix(), "iat": now.Unix(),
			"kubernetes.io": map[string]any{"namespace": "ns", "serviceaccount": map[string]any{"name": "app", "uid": "sa-uid"}},
		}
		if change != nil {
			change(m)
		}
		return m
	}
	sign := func(key any, alg jose.SignatureAlgorithm, m map[string]any) string {
		s, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: key}, nil)
		if err != nil {
			t.Fatal(err)
		}
		token, err := jwt.Signed(s).Claims(m).Serialize()
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	own := w.ca.SigningKey().Private
	public, err := x509.MarshalPKIXPublicKey(own.Public())
	if err != nil {
		t.Fatal(err)
	}
	plain, err := json.Marshal(body(nil))
	if err != nil {
		t.Fatal(err)
	}
	b64 := base64.RawURLEncoding.EncodeToString
	none := b64([]byte(`{"alg":"none","typ":"JWT"}`)) + "." + b64(plain) + "."
	good := sign(own, jose.ES256, body(nil))
	cut := good[:strings.LastIndex(good, ".")+1]

	for name, c := range map[string]struct{ token, want string }{
		"good":                   {good, appUser},
		"alg none":               {none, "401"},
		"no signature":           {cut, "401"},
		"another cluster's key":  {sign(other.SigningKey().Private, jose.ES256, body(nil)), "401"},
		"MAC of the public key":  {sign(public, jose.HS256, body(nil)), "401"},
		"changed body":           {strings.Replace(good, ".", ".e", 1), "401"},
		"another issuer":         {sign(own, jose.ES256, body(func(m map[string]any) { m["iss"] = "https://example.com" })), "401"},
		"another audience":       {sign(own, jose.ES256, body(func(m map[string]any) { m["aud"] = "vault" })), "401"},
		"one of its audiences":   {sign(own, jose.ES256, body(func(m map[string]any) { m["aud"] = []string{"vault", authn.DefaultIssuer} })), appUser},
		"no expiry":              {sign(own, jose.ES256, body(func(m map[string]any) { delete(m, "exp") })), "401"},
		"expired":                {sign(own, jose.ES256, body(func(m map[string]any) { m["exp"] = now.Unix() - 1 })), "401"},
		"from the future":        {sign(own, jose.ES256, body(func(m map[string]any) { m["nbf"] = now.Add(5 * time.Minute).Unix() })), "401"},
		"from a clock 30 s fast": {sign(own, jose.ES256, body(func(m map[string]any) { m["nbf"] = now.Add(30 * time.Second).Unix() })), appUser},
		"another subject":        {sign(own, jose.ES256, body(func(m map[string]any) { m["sub"] = "system:serviceaccount:kube-system:app" })), "401"},
		"no account":             {sign(own, jose.ES256, body(func(m map[string]any) { delete(m, "kubernetes.io") })), "401"},
	} {
		if got := who(w.Authenticator, bearer(c.token)); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}

func TestLegacyTokens(t *testing.T) {
	w := newWorld(t)
	token, err := w.LegacyToken(w.sa, "legacy")
	if err != nil {
		t.Fatal(err)
	}
	secret := &corev1.Secret{ObjectMeta: meta("ns", "legacy", "x"), Type: corev1.SecretTypeServiceAccountToken, Data: map[string][]byte{"token": []byte(token)}}
	check := func(when, want string) {
		t.Helper()
		if got := who(w.Authenticator, bearer(token)); got != want {
			t.Errorf("%s: %s, want %s", when, got, want)
		}
	}
	check("before its secret exists", "401")
	w.source.Put(res("secrets"), secret)
	check("in its secret", appUser)
	w.clock.Step(5 * 365 * 24 * time.Hour)
	check("after years", appUser)
	changed := secret.DeepCopy()
	changed.Data["token"] = []byte("other")
	w.source.Put(res("secrets"), changed)
	check("exchanged", "401")
	w.source.Delete(res("secrets"), "ns", "legacy")
	check("secret deleted", "401")
}

// The day of a legacy token's last use is written to its Secret, once, and one
// that is marked as invalid is refused.
func TestLegacyTokenUses(t *testing.T) {
	w := newWorld(t)
	token, err := w.LegacyToken(w.sa, "legacy")
	if err != nil {
		t.Fatal(err)
	}
	secret := &corev1.Secret{ObjectMeta: meta("ns", "legacy", "x"), Type: corev1.SecretTypeServiceAccountToken, Data: map[string][]byte{"token": []byte(token)}}
	w.source.Put(res("secrets"), secret)
	patched := make(chan *corev1.Secret)
	api := interceptor.NewClient(fake.NewClientBuilder().WithObjects(secret.DeepCopy()).Build(), interceptor.Funcs{
		Patch: func(ctx context.Context, c client.WithWatch, o client.Object, p client.Patch, opts ...client.PatchOption) error {
			err := c.Patch(ctx, o, p, opts...)
			w.source.Put(res("secrets"), o.DeepCopyObject().(*corev1.Secret))
			patched <- o.(*corev1.Secret)
			return err
		},
	})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); w.NoteUses(ctx, api, slog.New(slog.DiscardHandler)) }()
	defer func() { cancel(); <-ended }()

	for range 100 { // more than there is room for
		if got := who(w.Authenticator, bearer(token)); got != appUser {
			t.Fatal(got)
		}
	}
	if s := <-patched; s.Labels["kubernetes.io/legacy-token-last-used"] != "2026-03-01" {
		t.Errorf("labels: %v", s.Labels)
	}
	w.clock.Step(24 * time.Hour)
	who(w.Authenticator, bearer(token))
	s := <-patched
	if s.Labels["kubernetes.io/legacy-token-last-used"] != "2026-03-02" {
		t.Errorf("labels: %v", s.Labels)
	}
	s = s.DeepCopy()
	s.Labels["kubernetes.io/legacy-token-invalid-since"] = "2026-03-02"
	w.source.Put(res("secrets"), s)
	if got := who(w.Authenticator, bearer(token)); got != "401" {
		t.Errorf("an invalid token: %s", got)
	}
}

func TestIssueToken(t *testing.T) {
	seconds := func(n int64) *int64 { return &n }
	podRef := func(uid string) *authnv1.BoundObjectReference {
		return &authnv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: "p", UID: types.UID(uid)}
	}
	w := newWorld(t)
	w.source.Put(res("pods"), &corev1.Pod{ObjectMeta: meta("ns", "stranger", "u"), Spec: corev1.PodSpec{ServiceAccountName: "other"}})
	for _, c := range []struct {
		name string
		spec authnv1.TokenRequestSpec
		want string
	}{
		{"too short", authnv1.TokenRequestSpec{ExpirationSeconds: seconds(599)}, `TokenRequest.authentication.k8s.io "" is invalid: spec.expirationSeconds: Invalid value: 599: may not specify a duration less than 10 minutes`},
		{"too long", authnv1.TokenRequestSpec{ExpirationSeconds: seconds(1<<32 + 1)}, `TokenRequest.authentication.k8s.io "" is invalid: spec.expirationSeconds: Invalid value: 4294967297: may not specify a duration larger than 2^32 seconds`},
		{"stale pod", authnv1.TokenRequestSpec{BoundObjectRef: podRef("old")}, `Operation cannot be fulfilled on Pod "p": the UID in the bound object reference (old) does not match the UID in record. The object might have been deleted and then recreated`},
		{"missing pod", authnv1.TokenRequestSpec{BoundObjectRef: &authnv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: "q"}}, `pods "q" not found`},
		{"another account's pod", authnv1.TokenRequestSpec{BoundObjectRef: &authnv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: "stranger"}}, `cannot bind token for serviceaccount "app" to pod running with different serviceaccount name.`},
		{"another kind", authnv1.TokenRequestSpec{BoundObjectRef: &authnv1.BoundObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Name: "d"}}, `cannot bind token to object of type apps/v1, Kind=Deployment`},
		{"missing secret", authnv1.TokenRequestSpec{BoundObjectRef: &authnv1.BoundObjectReference{APIVersion: "v1", Kind: "Secret", Name: "q"}}, `secrets "q" not found`},
	} {
		_, err := w.IssueToken(t.Context(), w.sa, &authnv1.TokenRequest{Spec: c.spec}, nil)
		if _, ok := err.(apierrors.APIStatus); !ok || err.Error() != c.want {
			t.Errorf("%s: %v, want %s", c.name, err, c.want)
		}
	}

	former := &authnv1.TokenRequest{ObjectMeta: metav1.ObjectMeta{UID: "former"}}
	if _, err := w.IssueToken(t.Context(), w.sa, former, nil); !apierrors.IsConflict(err) || !strings.HasSuffix(err.Error(), "the UID in the token request (former) does not match the UID of the service account (sa-uid)") {
		t.Errorf("for a service account that was there before: %v", err)
	}

	out, err := w.IssueToken(t.Context(), w.sa, &authnv1.TokenRequest{Spec: authnv1.TokenRequestSpec{BoundObjectRef: podRef("pod-uid"), ExpirationSeconds: seconds(3607)}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if m := out.ObjectMeta; m.Namespace != "ns" || m.Name != "app" || m.UID != "sa-uid" || !m.CreationTimestamp.Time.Equal(w.clock.Now()) {
		t.Errorf("whose it is and since when: %+v", m)
	}
	payload, err := base64.RawURLEncoding.DecodeString(strings.Split(out.Status.Token, ".")[1])
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal(payload, &got); err != nil {
		t.Fatal(err)
	}
	if id, _ := got["jti"].(string); len(id) != 36 {
		t.Errorf("jti %q", id)
	}
	delete(got, "jti")
	text, _ := json.Marshal(got)
	want := `{"aud":["https://kubernetes.default.svc.cluster.local"],"exp":1803902400,"iat":1772366400,"iss":"https://kubernetes.default.svc.cluster.local",` +
		`"kubernetes.io":{"namespace":"ns","node":{"name":"n1","uid":"node-uid"},"pod":{"name":"p","uid":"pod-uid"},"serviceaccount":{"name":"app","uid":"sa-uid"},"warnafter":1772370007},` +
		`"nbf":1772366400,"sub":"system:serviceaccount:ns:app"}`
	if string(text) != want {
		t.Errorf("claims\n%s, want\n%s", text, want)
	}
	if life := out.Status.ExpirationTimestamp.Sub(w.clock.Now()); life != 3607*time.Second {
		t.Errorf("the kubelet is told to renew after %s", life)
	}
	if *out.Spec.ExpirationSeconds != 3607 || !slices.Equal(out.Spec.Audiences, []string{authn.DefaultIssuer}) {
		t.Errorf("spec %+v", out.Spec)
	}
	resp, _, err := w.AuthenticateRequest(bearer(out.Status.Token))
	if err != nil {
		t.Fatal(err)
	}
	extra := resp.User.GetExtra()
	for k, v := range map[string]string{
		"authentication.kubernetes.io/pod-name": "p", "authentication.kubernetes.io/pod-uid": "pod-uid",
		"authentication.kubernetes.io/node-name": "n1", "authentication.kubernetes.io/node-uid": "node-uid",
	} {
		if len(extra[k]) != 1 || extra[k][0] != v {
			t.Errorf("extra %s: %v", k, extra[k])
		}
	}
	if len(extra[user.CredentialIDKey]) != 1 || !strings.HasPrefix(extra[user.CredentialIDKey][0], "JTI=") {
		t.Errorf("credential id %v", extra[user.CredentialIDKey])
	}
}

func TestAudiencesOfReviews(t *testing.T) {
	w := newWorld(t)
	token := w.issue(t, authnv1.TokenRequestSpec{Audiences: []string{"vault", "db"}})
	for _, c := range []struct{ ask, want string }{
		{"vault", "vault"}, {"x db", "db"}, {"db vault", "db vault"}, {"x", ""}, {"", ""},
	} {
		ctx := t.Context()
		if c.ask != "" {
			ctx = authenticator.WithAudiences(ctx, strings.Fields(c.ask))
		}
		resp, ok, err := w.AuthenticateToken(ctx, token)
		got := ""
		if ok {
			got = strings.Join(resp.Audiences, " ")
		}
		if got != c.want || ok != (err == nil) {
			t.Errorf("asked for %q: %q %v, want %q", c.ask, got, err, c.want)
		}
	}
	if got := who(w.Authenticator, bearer(token)); got != "401" {
		t.Errorf("a token for others was taken by the API server: %s", got)
	}
}

func TestDiscovery(t *testing.T) {
	w := newWorld(t)
	handlers, err := w.Discovery("https://192.0.2.1:6443/")
	if err != nil {
		t.Fatal(err)
	}
	get := func(path string, into any) {
		t.Helper()
		rec := httptest.NewRecorder()
		handlers[path].ServeHTTP(rec, httptest.NewRequest(http.MethodGet, path, nil))
		data, _ := io.ReadAll(rec.Body)
		if err := json.Unmarshal(data, into); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
	}
	var config map[string]any
	get("/.well-known/openid-configuration", &config)
	if config["issuer"] != authn.DefaultIssuer || config["jwks_uri"] != "https://192.0.2.1:6443/openid/v1/jwks" {
		t.Errorf("configuration %v", config)
	}
	var keys jose.JSONWebKeySet
	get("/openid/v1/jwks", &keys)
	token := w.issue(t, authnv1.TokenRequestSpec{})
	parsed, err := jwt.ParseSigned(token, []jose.SignatureAlgorithm{jose.ES256})
	if err != nil {
		t.Fatal(err)
	}
	found := keys.Key(parsed.Headers[0].KeyID)
	if len(found) != 1 || !found[0].IsPublic() {
		t.Fatalf("keys %v", found)
	}
	var out map[string]any
	if err := parsed.Claims(found[0], &out); err != nil {
		t.Errorf("a verifier cannot check our tokens: %v", err)
	}
}

func BenchmarkBearer(b *testing.B) {
	clk := clocktesting.NewFakeClock(time.Now())
	ca, err := certs.Open(b.TempDir(), clk, slog.New(slog.DiscardHandler))
	if err != nil {
		b.Fatal(err)
	}
	sa := &corev1.ServiceAccount{ObjectMeta: meta("ns", "app", "sa-uid")}
	a, err := authn.New(authn.Config{Key: ca.SigningKey(), ClientCAs: ca.Pool(), Source: admissiontest.New().Put(res("serviceaccounts"), sa), Clock: clk})
	if err != nil {
		b.Fatal(err)
	}
	out, err := a.IssueToken(b.Context(), sa, &authnv1.TokenRequest{}, nil)
	if err != nil {
		b.Fatal(err)
	}
	req := bearer("")
	header := "Bearer " + out.Status.Token
	b.ReportAllocs()
	for b.Loop() {
		req.Header["Authorization"] = []string{header}
		if _, ok, err := a.AuthenticateRequest(req); !ok {
			b.Fatal(err)
		}
	}
}

// Bootstrap tokens are Secrets: what they may do, and for how long, is looked up
// each time.
func TestBootstrapTokens(t *testing.T) {
	w := newWorld(t)
	token := bootstraptoken.Token{ID: "abcdef", Secret: "0123456789abcdef"}
	good := bootstraptoken.Options{
		Expires: w.clock.Now().Add(time.Hour), Usages: []string{bootstraptoken.UsageAuthentication}, Groups: []string{"system:bootstrappers:nodes"},
	}
	ask := func(o bootstraptoken.Options, shown string) string {
		s := bootstraptoken.SecretOf(token, o)
		s.UID = "token-uid"
		w.source.Put(schema.GroupResource{Resource: "secrets"}, s)
		return who(w.Authenticator, bearer(shown))
	}
	const bearerOfIt = "system:bootstrap:abcdef [system:authenticated system:bootstrappers system:bootstrappers:nodes]"
	signing := good
	signing.Usages = []string{bootstraptoken.UsageSigning}
	for _, c := range []struct {
		name, shown, want string
		options           bootstraptoken.Options
	}{
		{"good", token.String(), bearerOfIt, good},
		{"another secret", "abcdef.fedcba9876543210", "401", good},
		{"another id", "fedcba.0123456789abcdef", "401", good},
		{"for signing alone", token.String(), "401", signing},
		{"good again", token.String(), bearerOfIt, good},
	} {
		if got := ask(c.options, c.shown); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
	w.clock.Step(2 * time.Hour)
	if got := who(w.Authenticator, bearer(token.String())); got != "401" {
		t.Errorf("expired: %s", got)
	}
}
