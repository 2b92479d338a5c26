package api

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"strings"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/utils/ptr"
)

func certificateRequest(t *testing.T, subject pkix.Name) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: subject}, key)
	must(t, err)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
}

// TestCertificateRequests is what the conformance suite does with them, and
// what it does not: who asks is recorded, and who decides must be allowed to.
func TestCertificateRequests(t *testing.T) {
	t.Parallel()
	api := world.kube.CertificatesV1().CertificateSigningRequests()
	made := &certificatesv1.CertificateSigningRequest{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "test-", Labels: map[string]string{"test": t.Name()}},
		Spec: certificatesv1.CertificateSigningRequestSpec{
			Request: certificateRequest(t, pkix.Name{CommonName: "eve"}), SignerName: "example.com/test", Username: "somebody", Groups: []string{"system:masters"},
			Usages: []certificatesv1.KeyUsage{certificatesv1.UsageClientAuth}, ExpirationSeconds: ptr.To[int32](3600),
		},
		Status: certificatesv1.CertificateSigningRequestStatus{Certificate: []byte("x")},
	}
	c := get[*certificatesv1.CertificateSigningRequest](t)(api.Create(t.Context(), made, metav1.CreateOptions{}))
	if c.Spec.Username != "system:admin" || len(c.Status.Certificate) > 0 || len(c.Spec.Extra["authentication.kubernetes.io/credential-id"]) != 1 {
		t.Errorf("created: %+v %+v", c.Spec, c.Status)
	}
	patch := func(body string, sub ...string) *certificatesv1.CertificateSigningRequest {
		t.Helper()
		return get[*certificatesv1.CertificateSigningRequest](t)(api.Patch(t.Context(), c.Name, types.MergePatchType, []byte(body), metav1.PatchOptions{}, sub...))
	}
	// The spec is for good.
	if p := patch(`{"spec":{"username":"root"},"metadata":{"annotations":{"a":"b"}}}`); p.Spec.Username != "system:admin" || p.Annotations["a"] != "b" {
		t.Errorf("patched: %+v", p.Spec)
	}
	if p := patch(`{"status":{"conditions":[{"type":"ApprovalPatch","status":"True","reason":"r"}],"certificate":"eA=="}}`, "approval"); len(p.Status.Conditions) != 1 || len(p.Status.Certificate) > 0 || p.Status.Conditions[0].LastUpdateTime.IsZero() {
		t.Errorf("approval patched: %+v", p.Status)
	}
	p := patch(`{"status":{"conditions":[{"type":"Approved","status":"True","reason":"r","message":"m"}]}}`, "approval")
	chain := p.DeepCopy()
	chain.Status.Certificate = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: selfSigned(t)})
	signed := get[*certificatesv1.CertificateSigningRequest](t)(api.UpdateStatus(t.Context(), chain, metav1.UpdateOptions{}))
	if len(signed.Status.Certificate) == 0 || len(signed.Status.Conditions) != 1 {
		t.Errorf("signed: %+v", signed.Status)
	}
	for body, want := range map[string]string{
		`{"status":{"conditions":[]}}`: `updates may not remove a condition of type "Approved"`,
		`{"status":{"conditions":[{"type":"Approved","status":"True","reason":"r","message":"m"},{"type":"Denied","status":"True"}]}}`: `updates may not add a condition of type "Denied"`,
		`{"status":{"certificate":"eA=="}}`: "updates may not modify existing certificate content",
	} {
		_, err := api.Patch(t.Context(), c.Name, types.MergePatchType, []byte(body), metav1.PatchOptions{}, "status")
		if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", body, err, want)
		}
	}
	must(t, api.DeleteCollection(t.Context(), metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: "test=" + t.Name(), FieldSelector: "spec.signerName=example.com/test"}))
	if list := get[*certificatesv1.CertificateSigningRequestList](t)(api.List(t.Context(), metav1.ListOptions{LabelSelector: "test=" + t.Name()})); len(list.Items) != 0 {
		t.Errorf("%d are left", len(list.Items))
	}
}

func selfSigned(t *testing.T) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour),
	}, &x509.Certificate{Subject: pkix.Name{CommonName: "ca"}}, key.Public(), key)
	must(t, err)
	return der
}

func TestBadCertificateRequests(t *testing.T) {
	t.Parallel()
	good := base64.StdEncoding.EncodeToString(certificateRequest(t, pkix.Name{CommonName: "eve"}))
	masters := base64.StdEncoding.EncodeToString(certificateRequest(t, pkix.Name{CommonName: "eve", Organization: []string{"system:masters"}}))
	for _, c := range []struct{ name, spec, want string }{
		{"no PEM", "{request: eA==, signerName: example.com/a, usages: [client auth]}", "spec.request: Invalid value: \"eA==\": PEM block type must be CERTIFICATE REQUEST"},
		{"no usages", "{request: " + good + ", signerName: example.com/a}", "spec.usages: Required value"},
		{"an unknown usage", "{request: " + good + ", signerName: example.com/a, usages: [fly]}", `spec.usages[0]: Unsupported value: "fly"`},
		{"a usage twice", "{request: " + good + ", signerName: example.com/a, usages: [any, any]}", `spec.usages[1]: Duplicate value: "any"`},
		{"no signer", "{request: " + good + ", usages: [any]}", "spec.signerName: Required value"},
		{"a signer without a path", "{request: " + good + ", signerName: example.com, usages: [any]}", "must be a fully qualified domain and path of the form 'example.com/signer-name'"},
		{"a signer without a domain", "{request: " + good + ", signerName: example/a, usages: [any]}", `spec.signerName: Invalid value: "example": should be a domain with at least two segments separated by dots`},
		{"the legacy signer", "{request: " + good + ", signerName: kubernetes.io/legacy-unknown, usages: [any]}", "the legacy signerName is not allowed via this API version"},
		{"too short", "{request: " + good + ", signerName: example.com/a, usages: [any], expirationSeconds: 599}", "may not specify a duration less than 600 seconds (10 minutes)"},
		{"a master", "{request: " + masters + ", signerName: kubernetes.io/kube-apiserver-client, usages: [client auth]}", "use of kubernetes.io/kube-apiserver-client signer with system:masters group is not allowed"},
	} {
		_, err := client("certificates.k8s.io/v1/certificatesigningrequests", "").Create(t.Context(),
			object(t, "apiVersion: certificates.k8s.io/v1\nkind: CertificateSigningRequest\nmetadata: {generateName: bad-}\nspec: "+c.spec), metav1.CreateOptions{})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
}

// TestCertificateDeciders are users who may write requests, and decide on those
// of one signer alone.
func TestCertificateDeciders(t *testing.T) {
	t.Parallel()
	name := "decider-" + fmt.Sprint(time.Now().UnixNano())
	role := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: name}, Rules: []rbacv1.PolicyRule{
		{APIGroups: []string{"certificates.k8s.io"}, Resources: []string{"certificatesigningrequests", "certificatesigningrequests/approval", "certificatesigningrequests/status", "clustertrustbundles"}, Verbs: []string{"*"}},
		{APIGroups: []string{"certificates.k8s.io"}, Resources: []string{"signers"}, ResourceNames: []string{"mine.example.com/*"}, Verbs: []string{"approve", "sign", "attest"}},
	}}
	get[*rbacv1.ClusterRole](t)(world.kube.RbacV1().ClusterRoles().Create(t.Context(), role, metav1.CreateOptions{}))
	get[*rbacv1.ClusterRoleBinding](t)(world.kube.RbacV1().ClusterRoleBindings().Create(t.Context(), &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: name}, RoleRef: rbacv1.RoleRef{APIGroup: "rbac.authorization.k8s.io", Kind: "ClusterRole", Name: name},
		Subjects: []rbacv1.Subject{{Kind: "User", APIGroup: "rbac.authorization.k8s.io", Name: name}},
	}, metav1.CreateOptions{}))
	as := rest.CopyConfig(world.rest)
	as.Impersonate.UserName = name
	them, err := kubernetes.NewForConfig(as)
	must(t, err)
	api := them.CertificatesV1().CertificateSigningRequests()
	for signer, allowed := range map[string]bool{"mine.example.com/a": true, "others.example.com/a": false} {
		c := get[*certificatesv1.CertificateSigningRequest](t)(api.Create(t.Context(), &certificatesv1.CertificateSigningRequest{
			ObjectMeta: metav1.ObjectMeta{GenerateName: "decide-"},
			Spec: certificatesv1.CertificateSigningRequestSpec{
				Request: certificateRequest(t, pkix.Name{CommonName: "x"}), SignerName: signer, Usages: []certificatesv1.KeyUsage{certificatesv1.UsageAny},
			},
		}, metav1.CreateOptions{}))
		if c.Spec.Username != name {
			t.Errorf("asked by %q", c.Spec.Username)
		}
		c.Status.Conditions = []certificatesv1.CertificateSigningRequestCondition{{Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue}}
		approved, err := api.UpdateApproval(t.Context(), c.Name, c, metav1.UpdateOptions{})
		if allowed != (err == nil) || !allowed && !strings.Contains(err.Error(), fmt.Sprintf("user not permitted to approve requests with signerName %q", signer)) {
			t.Errorf("approve for %s: %v", signer, err)
		}
		if allowed {
			c = approved
		} else {
			c.Status.Conditions = nil
		}
		c.Status.Certificate = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: selfSigned(t)})
		_, err = api.UpdateStatus(t.Context(), c, metav1.UpdateOptions{})
		if allowed != (err == nil) || !allowed && !strings.Contains(err.Error(), fmt.Sprintf("user not permitted to sign requests with signerName %q", signer)) {
			t.Errorf("sign for %s: %v", signer, err)
		}
		_, err = them.CertificatesV1().ClusterTrustBundles().Create(t.Context(), &certificatesv1.ClusterTrustBundle{
			ObjectMeta: metav1.ObjectMeta{Name: strings.ReplaceAll(signer, "/", ":") + ":test"},
			Spec:       certificatesv1.ClusterTrustBundleSpec{SignerName: signer, TrustBundle: string(c.Status.Certificate)},
		}, metav1.CreateOptions{})
		if allowed != (err == nil) || !allowed && !strings.Contains(err.Error(), fmt.Sprintf("user not permitted to attest for signerName %q", signer)) {
			t.Errorf("attest for %s: %v", signer, err)
		}
	}
}

// TestPodCertificateRequests walks one from its making to its end.
func TestPodCertificateRequests(t *testing.T) {
	t.Parallel()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	stub, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	must(t, err)
	api := world.kube.CertificatesV1().PodCertificateRequests(namespace(t))
	r := get[*certificatesv1.PodCertificateRequest](t)(api.Create(t.Context(), &certificatesv1.PodCertificateRequest{
		ObjectMeta: metav1.ObjectMeta{Name: "r"},
		Spec: certificatesv1.PodCertificateRequestSpec{
			SignerName: "example.com/a", PodName: "p", PodUID: "1", ServiceAccountName: "s", ServiceAccountUID: "2", NodeName: "n", NodeUID: "3", StubPKCS10Request: stub,
		},
	}, metav1.CreateOptions{}))
	if r.Spec.MaxExpirationSeconds == nil || *r.Spec.MaxExpirationSeconds != 86400 {
		t.Errorf("%+v", r.Spec)
	}
	begin := time.Now().Truncate(time.Second)
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: begin, NotAfter: begin.Add(2 * time.Hour)},
		&x509.Certificate{Subject: pkix.Name{CommonName: "ca"}}, key.Public(), key)
	must(t, err)
	issue := func(change func(*certificatesv1.PodCertificateRequestStatus)) error {
		next := r.DeepCopy()
		at := func(d time.Duration) *metav1.Time { return ptr.To(metav1.NewTime(begin.Add(d))) }
		next.Status = certificatesv1.PodCertificateRequestStatus{
			Conditions: []metav1.Condition{{Type: "Issued", Status: "True", Reason: "R", LastTransitionTime: *at(0)}},
			NotBefore:  at(0), NotAfter: at(2 * time.Hour), BeginRefreshAt: at(time.Hour),
			CertificateChain: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		}
		change(&next.Status)
		_, err := api.UpdateStatus(t.Context(), next, metav1.UpdateOptions{})
		return err
	}
	for want, change := range map[string]func(*certificatesv1.PodCertificateRequestStatus){
		"issued certificate chain must contain at least one certificate":                                  func(s *certificatesv1.PodCertificateRequestStatus) { s.CertificateChain = "x" },
		"must be set to the NotAfter time encoded in the leaf certificate":                                func(s *certificatesv1.PodCertificateRequestStatus) { s.NotAfter = s.NotBefore },
		"must be at least 10 minutes before status.notAfter":                                              func(s *certificatesv1.PodCertificateRequestStatus) { s.BeginRefreshAt = s.NotAfter },
		"status.notBefore: Required value":                                                                func(s *certificatesv1.PodCertificateRequestStatus) { s.NotBefore = nil },
		"non-condition status fields must be empty when denying or failing the PodCertificateRequest":     func(s *certificatesv1.PodCertificateRequestStatus) { s.Conditions[0].Type = "Denied" },
		`status is immutable unless transitioning to "Issued", "Denied", or "Failed"`:                     func(s *certificatesv1.PodCertificateRequestStatus) { s.Conditions = nil },
		`status.conditions.[0].type: Unsupported value: "X": supported values: "Issued", "Denied", "Fail`: func(s *certificatesv1.PodCertificateRequestStatus) { s.Conditions[0].Type = "X" },
	} {
		if err := issue(change); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	must(t, issue(func(*certificatesv1.PodCertificateRequestStatus) {}))
	r = get[*certificatesv1.PodCertificateRequest](t)(api.Get(t.Context(), "r", metav1.GetOptions{}))
	if err := issue(func(s *certificatesv1.PodCertificateRequestStatus) { s.CertificateChain = "" }); err == nil || !strings.Contains(err.Error(), "immutable after PodCertificateRequest is issued, denied, or failed") {
		t.Errorf("issued twice: %v", err)
	}
}
