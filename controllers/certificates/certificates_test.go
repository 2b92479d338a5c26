package certificates_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"log/slog"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/utils/clock"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proa-dev/proa/api/builtin"
	"github.com/proa-dev/proa/apiserver"
	"github.com/proa-dev/proa/apiserver/apiservertest"
	"github.com/proa-dev/proa/apiserver/registry"
	"github.com/proa-dev/proa/client"
	"github.com/proa-dev/proa/client/local"
	"github.com/proa-dev/proa/controllers/certificates"
	"github.com/proa-dev/proa/controllers/internal/loop"
	"github.com/proa-dev/proa/internal/certs"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// world is an API server with the controllers over it.
type world struct {
	t         *testing.T
	server    *apiservertest.Server
	authority *certs.Authority
	admin     client.Cluster
}

// mayBootstrap is whom the reviews allow to ask for nodes' certificates.
func review(_ context.Context, obj runtime.Object) (runtime.Object, error) {
	r := obj.(*authorizationv1.SubjectAccessReview)
	a := r.Spec.ResourceAttributes
	r.Status.Allowed = a.Verb == "create" && a.Resource == "certificatesigningrequests" &&
		(a.Subresource == "nodeclient" && slices.Contains(r.Spec.Groups, "system:bootstrappers") ||
			a.Subresource == "selfnodeclient" && slices.Contains(r.Spec.Groups, user.NodesGroup))
	return r, nil
}

func start(t *testing.T) *world {
	t.Helper()
	w := &world{t: t}
	w.server = apiservertest.Start(t, func(c *apiserver.Config) {
		c.Virtual = map[schema.GroupVersionKind]registry.VirtualFunc{authorizationv1.SchemeGroupVersion.WithKind("SubjectAccessReview"): review}
	})
	var err error
	if w.authority, err = certs.Open(t.TempDir(), clock.RealClock{}, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	w.admin = w.as("admin", user.SystemPrivilegedGroup)
	l, err := certificates.New(loop.Env{Cluster: w.admin, Logger: slog.New(slog.DiscardHandler), Clock: clock.RealClock{}}, certificates.Config{
		Issuer: w.authority, CA: w.authority.CAPEM(), Life: certs.Life,
		Reserved: certs.Names{DNS: []string{"kubernetes"}, IPs: []net.IP{net.ParseIP("192.0.2.1")}},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 2)
	go func() { ended <- w.admin.Start(ctx) }()
	go func() { ended <- l.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-ended; <-ended })
	return w
}

func (w *world) as(name string, groups ...string) client.Cluster {
	w.t.Helper()
	c, err := local.New(local.Config{
		Registry: w.server.Registry(), Store: w.server.Store, Kinds: w.server.Kinds(), Scheme: builtin.Scheme(),
		User: &user.DefaultInfo{Name: name, Groups: groups}, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return c
}

func (w *world) until(what string, ok func() bool) {
	w.t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			w.t.Fatalf("not in 10 s: %s", what)
		}
	}
}

// request makes a PEM request.
func request(t *testing.T, subject pkix.Name, dns []string, ips ...string) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	r := &x509.CertificateRequest{Subject: subject, DNSNames: dns}
	for _, ip := range ips {
		r.IPAddresses = append(r.IPAddresses, net.ParseIP(ip))
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, r, key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
}

func nodeName(name string) pkix.Name {
	return pkix.Name{CommonName: "system:node:" + name, Organization: []string{"system:nodes"}}
}

var (
	clientUsages  = []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageClientAuth}
	servingUsages = []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageServerAuth}
)

func (w *world) node(name, address string, ready corev1.ConditionStatus) {
	w.t.Helper()
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
	if err := w.admin.Client().Create(w.t.Context(), n); err != nil {
		w.t.Fatal(err)
	}
	n.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: address}, {Type: corev1.NodeHostName, Address: "kubernetes"}}
	n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: ready}}
	if err := w.admin.Client().Status().Update(w.t.Context(), n); err != nil {
		w.t.Fatal(err)
	}
}

// What is approved and signed by itself, and what waits for a person.
func TestRequests(t *testing.T) {
	w := start(t)
	w.node("alive", "192.0.2.11", corev1.ConditionTrue)
	w.node("dead", "192.0.2.12", corev1.ConditionUnknown)
	w.node("twin", "192.0.2.12", corev1.ConditionTrue)
	w.node("server", "192.0.2.1", corev1.ConditionTrue)
	bootstrapper := w.as("system:bootstrap:abcdef", "system:bootstrappers")
	self := func(name string) client.Cluster { return w.as("system:node:"+name, user.NodesGroup) }
	const (
		clients = certificatesv1.KubeAPIServerClientKubeletSignerName
		serving = certificatesv1.KubeletServingSignerName
	)
	for _, c := range []struct {
		name    string
		by      client.Cluster
		signer  string
		request []byte
		usages  []certificatesv1.KeyUsage
		issued  bool
	}{
		{"a new node joins", bootstrapper, clients, request(t, nodeName("new"), nil), clientUsages, true},
		{"a dead node joins again", bootstrapper, clients, request(t, nodeName("dead"), nil), clientUsages, true},
		{"the place of a node that is alive", bootstrapper, clients, request(t, nodeName("alive"), nil), clientUsages, false},
		{"a node renews its own", self("alive"), clients, request(t, nodeName("alive"), nil), clientUsages, true},
		{"a node asks for another's", self("alive"), clients, request(t, nodeName("dead"), nil), clientUsages, false},
		{"anybody asks for a node's", w.as("eve"), clients, request(t, nodeName("new"), nil), clientUsages, false},
		{"no node's name", bootstrapper, clients, request(t, pkix.Name{CommonName: "eve", Organization: []string{"system:nodes"}}, nil), clientUsages, false},
		{"another group", bootstrapper, clients, request(t, pkix.Name{CommonName: "system:node:n", Organization: []string{"system:masters"}}, nil), clientUsages, false},
		{"a client with names", bootstrapper, clients, request(t, nodeName("n"), []string{"n"}), clientUsages, false},
		{"a client that serves", bootstrapper, clients, request(t, nodeName("n"), nil), servingUsages, false},

		{"a node serves", self("alive"), serving, request(t, nodeName("alive"), []string{"alive"}, "192.0.2.11"), servingUsages, true},
		{"under another node's name", self("alive"), serving, request(t, nodeName("alive"), []string{"dead"}, "192.0.2.11"), servingUsages, false},
		{"at another node's address", self("alive"), serving, request(t, nodeName("alive"), nil, "192.0.2.12"), servingUsages, false},
		{"at an address of two nodes", self("dead"), serving, request(t, nodeName("dead"), nil, "192.0.2.12"), servingUsages, false},
		{"at the API server's address", self("server"), serving, request(t, nodeName("server"), nil, "192.0.2.1"), servingUsages, false},
		{"under the API server's name", self("kubernetes"), serving, request(t, nodeName("kubernetes"), []string{"kubernetes"}), servingUsages, false},
		{"for another node", self("alive"), serving, request(t, nodeName("twin"), []string{"twin"}), servingUsages, false},
		{"a user", w.as("eve"), certificatesv1.KubeAPIServerClientSignerName, request(t, pkix.Name{CommonName: "eve"}, nil), clientUsages, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := &certificatesv1.CertificateSigningRequest{
				ObjectMeta: metav1.ObjectMeta{GenerateName: "r-"},
				Spec:       certificatesv1.CertificateSigningRequestSpec{Request: c.request, SignerName: c.signer, Usages: c.usages},
			}
			if err := c.by.Client().Create(t.Context(), r); err != nil {
				t.Fatal(err)
			}
			// The controllers look at requests in their order, so that one made
			// after r shows that r was looked at.
			w.probe()
			read := func() *certificatesv1.CertificateSigningRequest {
				now := &certificatesv1.CertificateSigningRequest{}
				if err := w.admin.Reader().Get(t.Context(), ctrl.ObjectKeyFromObject(r), now); err != nil {
					t.Fatal(err)
				}
				return now
			}
			if !c.issued {
				if now := read(); len(now.Status.Conditions) > 0 || len(now.Status.Certificate) > 0 {
					t.Errorf("decided: %+v", now.Status)
				}
				return
			}
			w.until("issued", func() bool { return len(read().Status.Certificate) > 0 })
			w.check(read(), c.usages)
		})
	}
}

// probe makes a request that is issued and waits for that.
func (w *world) probe() {
	w.t.Helper()
	r := &certificatesv1.CertificateSigningRequest{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "probe-"},
		Spec: certificatesv1.CertificateSigningRequestSpec{
			Request: request(w.t, nodeName("probe"), nil), SignerName: certificatesv1.KubeAPIServerClientKubeletSignerName, Usages: clientUsages,
		},
	}
	if err := w.as("system:bootstrap:probes", "system:bootstrappers").Client().Create(w.t.Context(), r); err != nil {
		w.t.Fatal(err)
	}
	w.until("the probe is issued", func() bool {
		return w.admin.Reader().Get(w.t.Context(), ctrl.ObjectKeyFromObject(r), r) == nil && len(r.Status.Certificate) > 0
	})
}

func (w *world) check(r *certificatesv1.CertificateSigningRequest, usages []certificatesv1.KeyUsage) {
	w.t.Helper()
	block, _ := pem.Decode(r.Status.Certificate)
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		w.t.Fatal(err)
	}
	want := x509.ExtKeyUsageClientAuth
	if slices.Contains(usages, certificatesv1.UsageServerAuth) {
		want = x509.ExtKeyUsageServerAuth
	}
	if _, err := cert.Verify(x509.VerifyOptions{Roots: w.authority.Pool(), KeyUsages: []x509.ExtKeyUsage{want}}); err != nil {
		w.t.Error(err)
	}
	if cond := r.Status.Conditions[0]; cond.Type != certificatesv1.CertificateApproved || cond.Reason != "AutoApproved" || cond.LastUpdateTime.IsZero() {
		w.t.Errorf("condition %+v", cond)
	}
	if life := time.Until(cert.NotAfter); life > certs.Life || life < certs.Life-time.Hour || cert.IsCA {
		w.t.Errorf("lives %s, CA %v", life, cert.IsCA)
	}
}

// What a person approved is signed if the signer may, for as long as was asked.
func TestApprovedByHand(t *testing.T) {
	w := start(t)
	for _, c := range []struct {
		name, failure string
		usages        []certificatesv1.KeyUsage
	}{
		{"a user", "", clientUsages},
		{"a server", "invalid usage for client certificate: server auth", servingUsages},
		{"no client", "missing required usage for client certificate: client auth", []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature}},
	} {
		r := &certificatesv1.CertificateSigningRequest{
			ObjectMeta: metav1.ObjectMeta{Name: strings.ReplaceAll(c.name, " ", "-")},
			Spec: certificatesv1.CertificateSigningRequestSpec{
				Request: request(t, pkix.Name{CommonName: "eve"}, nil), SignerName: certificatesv1.KubeAPIServerClientSignerName,
				Usages: c.usages, ExpirationSeconds: ptr.To[int32](600),
			},
		}
		if err := w.admin.Client().Create(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		r.Status.Conditions = []certificatesv1.CertificateSigningRequestCondition{{Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue, Reason: "ByHand"}}
		if err := w.admin.Client().SubResource("approval").Update(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		w.until(c.name, func() bool {
			if err := w.admin.Reader().Get(t.Context(), ctrl.ObjectKeyFromObject(r), r); err != nil {
				t.Fatal(err)
			}
			return len(r.Status.Certificate) > 0 || len(r.Status.Conditions) > 1
		})
		if c.failure != "" {
			last := r.Status.Conditions[1]
			if last.Type != certificatesv1.CertificateFailed || last.Reason != "SignerValidationFailure" || last.Message != c.failure {
				t.Errorf("%s: %+v", c.name, last)
			}
			continue
		}
		block, _ := pem.Decode(r.Status.Certificate)
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		if life := time.Until(cert.NotAfter); life > 10*time.Minute || life < 9*time.Minute {
			t.Errorf("lives %s", life)
		}
	}
}

func TestTrustBundleIsPublished(t *testing.T) {
	w := start(t)
	list := func() []certificatesv1.ClusterTrustBundle {
		var l certificatesv1.ClusterTrustBundleList
		if err := w.admin.Reader().List(t.Context(), &l); err != nil {
			t.Fatal(err)
		}
		return l.Items
	}
	w.until("published", func() bool { return len(list()) == 1 })
	first := list()[0]
	if first.Spec.TrustBundle != string(w.authority.CAPEM()) || !strings.HasPrefix(first.Name, "kubernetes.io:kube-apiserver-serving:") {
		t.Errorf("%+v", first)
	}
	stale := first.DeepCopy()
	stale.ObjectMeta = metav1.ObjectMeta{Name: "kubernetes.io:kube-apiserver-serving:old"}
	if err := w.admin.Client().Create(t.Context(), stale); err != nil {
		t.Fatal(err)
	}
	w.until("an old one goes", func() bool {
		err := w.admin.Reader().Get(t.Context(), ctrl.ObjectKeyFromObject(stale), stale)
		return apierrors.IsNotFound(err)
	})
	if err := w.admin.Client().Delete(t.Context(), &first); err != nil {
		t.Fatal(err)
	}
	w.until("made again", func() bool { return len(list()) == 1 })
}
