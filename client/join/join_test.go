package join_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"k8s.io/utils/clock"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/proa-dev/proa/client/join"
	"github.com/proa-dev/proa/internal/bootstraptoken"
	"github.com/proa-dev/proa/internal/certs"
)

// server is what of a cluster a node asks for.
type server struct {
	t         *testing.T
	http      *httptest.Server
	authority *certs.Authority
	token     bootstraptoken.Token
	clock     clock.Clock

	mu       sync.Mutex
	requests map[string]*certificatesv1.CertificateSigningRequest
	approve  bool
	deny     bool // from the second request on
	asked    []string // who asked for what
	others   []string // the addresses of all servers
}

func start(t *testing.T, clk clock.Clock) *server {
	t.Helper()
	s := &server{t: t, clock: clk, requests: map[string]*certificatesv1.CertificateSigningRequest{}, approve: true}
	var err error
	if s.authority, err = certs.Open(t.TempDir(), clk, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	if s.token, err = bootstraptoken.New(); err != nil {
		t.Fatal(err)
	}
	leaf, err := s.authority.Server(certs.Names{CommonName: "server", DNS: []string{"kubernetes"}, IPs: []net.IP{net.IPv4(127, 0, 0, 1)}})
	if err != nil {
		t.Fatal(err)
	}
	s.http = httptest.NewUnstartedServer(s)
	s.http.TLS = &tls.Config{Certificates: []tls.Certificate{*leaf.Certificate()}, ClientCAs: s.authority.Pool(), ClientAuth: tls.RequestClientCert}
	s.http.EnableHTTP2 = true
	s.http.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	s.http.StartTLS()
	t.Cleanup(s.http.Close)
	return s
}

// who is the caller.
func (s *server) who(r *http.Request) string {
	if r.Header.Get("Authorization") == "Bearer "+s.token.String() {
		return "bootstrapper"
	}
	if len(r.TLS.PeerCertificates) > 0 {
		_, err := r.TLS.PeerCertificates[0].Verify(x509.VerifyOptions{
			Roots: s.authority.Pool(), CurrentTime: s.clock.Now(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		})
		if err == nil {
			return r.TLS.PeerCertificates[0].Subject.CommonName
		}
	}
	return ""
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	who, path := s.who(r), r.URL.Path
	const requests = "/apis/certificates.k8s.io/v1/certificatesigningrequests"
	switch {
	case path == "/api/v1/namespaces/kube-public/configmaps/cluster-info":
		if r.Header.Get("Authorization") != "" {
			s.t.Error("a secret was sent to a server that is not known yet")
		}
		info := clientcmdapi.NewConfig()
		info.Clusters[""] = &clientcmdapi.Cluster{Server: s.http.URL, CertificateAuthorityData: s.authority.CAPEM()}
		text, err := clientcmd.Write(*info)
		if err != nil {
			s.t.Error(err)
		}
		s.answer(w, &corev1.ConfigMap{Data: map[string]string{"kubeconfig": string(text)}})
	case who == "":
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusUnauthorized)
		_, _ = io.WriteString(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Unauthorized","message":"Unauthorized","code":401}`)
	case path == "/api/v1/namespaces/kube-system/configmaps/"+join.SettingsName:
		s.answer(w, &corev1.ConfigMap{Data: settings().Data()})
	case path == "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices":
		s.answer(w, s.endpoints())
	case path == requests && r.Method == http.MethodPost:
		s.create(w, r, who)
	case strings.HasPrefix(path, requests+"/"):
		req := s.requests[strings.TrimPrefix(path, requests+"/")]
		s.sign(req)
		s.answer(w, req)
	default:
		http.NotFound(w, r)
	}
}

func settings() join.Settings {
	return join.Settings{Pods: netip.MustParsePrefix("10.42.0.0/16"), DNS: netip.MustParseAddr("10.43.0.10"), Domain: "cluster.local", PodNetwork: "vxlan"}
}

func (s *server) create(w http.ResponseWriter, r *http.Request, who string) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		s.t.Error(err)
	}
	obj, _, err := scheme.Codecs.UniversalDeserializer().Decode(body, nil, nil)
	if err != nil {
		s.t.Error(err)
		return
	}
	req := obj.(*certificatesv1.CertificateSigningRequest)
	req.Name = fmt.Sprintf("csr-%d", len(s.requests))
	s.requests[req.Name] = req
	s.asked = append(s.asked, who+" "+req.Spec.SignerName)
	s.answer(w, req)
}

func (s *server) sign(req *certificatesv1.CertificateSigningRequest) {
	if s.deny && len(s.requests) > 1 {
		req.Status.Conditions = []certificatesv1.CertificateSigningRequestCondition{{Type: certificatesv1.CertificateDenied, Status: corev1.ConditionTrue}}
		return
	}
	if !s.approve || len(req.Status.Certificate) > 0 {
		return
	}
	block, _ := pem.Decode(req.Spec.Request)
	r, err := x509.ParseCertificateRequest(block.Bytes)
	if err == nil {
		req.Status.Certificate, err = s.authority.Issue(r, req.Spec.Usages, 90*24*time.Hour)
	}
	if err != nil {
		s.t.Error(err)
	}
}

func (s *server) answer(w http.ResponseWriter, obj any) {
	switch o := obj.(type) {
	case *discoveryv1.EndpointSliceList:
		o.TypeMeta = metav1.TypeMeta{APIVersion: "discovery.k8s.io/v1", Kind: "EndpointSliceList"}
	case *corev1.ConfigMap:
		o.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"}
	case *certificatesv1.CertificateSigningRequest:
		o.TypeMeta = metav1.TypeMeta{APIVersion: "certificates.k8s.io/v1", Kind: "CertificateSigningRequest"}
	}
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(obj); err != nil {
		s.t.Error(err)
	}
}

func (s *server) fullToken(t *testing.T) string {
	t.Helper()
	hash, err := bootstraptoken.CAHash(s.authority.CAPEM())
	if err != nil {
		t.Fatal(err)
	}
	return s.token.Full(hash)
}

func (s *server) config(t *testing.T, dir string) join.Config {
	t.Helper()
	return join.Config{
		Dir: dir, Servers: []string{s.http.URL}, Token: s.fullToken(t), NodeName: "n1", Addresses: []net.IP{net.ParseIP("192.0.2.7").To4()},
		Logger: slog.New(slog.DiscardHandler), Clock: s.clock,
	}
}

// A node joins by its token once, and afterwards by what it keeps.
func TestJoin(t *testing.T) {
	s := start(t, clock.RealClock{})
	dir := filepath.Join(t.TempDir(), "agent")
	cfg := s.config(t, dir)
	n, err := join.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	if n.Settings() != settings() {
		t.Errorf("settings %+v", n.Settings())
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if info, err := e.Info(); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: mode %v, %v", e.Name(), info.Mode(), err)
		}
	}
	if _, err := n.GetCertificate(nil); err == nil {
		t.Error("it serves before the cluster has signed a certificate for it")
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended, ready := make(chan error, 1), make(chan struct{})
	go func() { ended <- n.Run(ctx, func() { close(ready) }) }()
	<-ready
	eventually(t, "a serving certificate", func() bool {
		c, err := n.GetCertificate(nil)
		return err == nil && c.Leaf.VerifyHostname("192.0.2.7") == nil
	})
	cancel()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	cfg.Token = ""
	if n, err = join.Open(t.Context(), cfg); err != nil {
		t.Fatal("again, without the token:", err)
	}
	if _, err := n.GetCertificate(nil); err != nil {
		t.Error("the serving certificate is forgotten:", err)
	}
	s.http.Close()
	if n, err = join.Open(t.Context(), cfg); err != nil || n.Settings() != settings() {
		t.Errorf("while no server answers: %v", err)
	}
	if want := "bootstrapper kubernetes.io/kube-apiserver-client-kubelet, system:node:n1 kubernetes.io/kubelet-serving"; strings.Join(s.asked, ", ") != want {
		t.Errorf("asked: %q", s.asked)
	}
}

// endpoints are those of the Service kubernetes.
func (s *server) endpoints() *discoveryv1.EndpointSliceList {
	list := &discoveryv1.EndpointSliceList{}
	for _, address := range s.others {
		at := netip.MustParseAddrPort(address)
		list.Items = append(list.Items, discoveryv1.EndpointSlice{
			Endpoints: []discoveryv1.Endpoint{{Addresses: []string{at.Addr().String()}}},
			Ports:     []discoveryv1.EndpointPort{{Name: new("https"), Port: new(int32(at.Port()))}},
		})
	}
	return list
}

// twin is another server of the same cluster.
func (s *server) twin(t *testing.T) *httptest.Server {
	t.Helper()
	twin := httptest.NewUnstartedServer(s)
	twin.TLS, twin.EnableHTTP2 = s.http.TLS.Clone(), true
	twin.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	twin.StartTLS()
	t.Cleanup(twin.Close)
	return twin
}

// A node goes on with another server when the one that it uses is gone, whether
// it was told of it or has learnt of it, and also after a restart.
func TestServers(t *testing.T) {
	ask := func(t *testing.T, n *join.Node) error {
		t.Helper()
		maps, err := typedcorev1.NewForConfig(n.REST())
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_, err = maps.ConfigMaps("kube-system").Get(ctx, join.SettingsName, metav1.GetOptions{})
		return err
	}
	t.Run("given", func(t *testing.T) {
		s := start(t, clock.RealClock{})
		cfg := s.config(t, filepath.Join(t.TempDir(), "agent"))
		gone := s.twin(t)
		gone.Close()
		second := s.twin(t)
		cfg.Servers = []string{gone.URL, s.http.URL, second.URL}
		n, err := join.Open(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		if err := ask(t, n); err != nil {
			t.Error(err)
		}
		s.http.Close()
		eventually(t, "an answer of the last server", func() bool { return ask(t, n) == nil })
	})
	// What was a server's address is another machine's now.
	t.Run("strangers", func(t *testing.T) {
		s, stranger := start(t, clock.RealClock{}), start(t, clock.RealClock{})
		cfg := s.config(t, filepath.Join(t.TempDir(), "agent"))
		cfg.Servers = []string{stranger.http.URL, s.http.URL}
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		n, err := join.Open(ctx, cfg)
		if err != nil {
			t.Fatal(err)
		}
		if err := ask(t, n); err != nil {
			t.Error(err)
		}
	})
	// A server that has lost its datastore takes connections, and answers nothing.
	t.Run("broken", func(t *testing.T) {
		clk := clocktesting.NewFakeClock(time.Now())
		s := start(t, clk)
		var broken atomic.Bool
		first := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if broken.Load() {
				http.Error(w, "no datastore", http.StatusInternalServerError)
				return
			}
			s.ServeHTTP(w, r)
		}))
		first.TLS, first.EnableHTTP2 = s.http.TLS.Clone(), true
		first.StartTLS()
		t.Cleanup(first.Close)
		cfg := s.config(t, filepath.Join(t.TempDir(), "agent"))
		cfg.Servers = []string{first.URL, s.http.URL}
		defer step(clk, time.Second)()
		n, err := join.Open(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- n.Run(ctx, func() {}) }()
		broken.Store(true)
		eventually(t, "an answer of the other server", func() bool { return ask(t, n) == nil })
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	t.Run("learnt", func(t *testing.T) {
		s := start(t, clock.RealClock{})
		cfg := s.config(t, filepath.Join(t.TempDir(), "agent"))
		second := s.twin(t)
		s.mu.Lock()
		s.others = []string{s.http.Listener.Addr().String(), second.Listener.Addr().String()}
		s.mu.Unlock()
		n, err := join.Open(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- n.Run(ctx, func() {}) }()
		eventually(t, "the servers are remembered", func() bool { _, err := os.Stat(filepath.Join(cfg.Dir, "servers.json")); return err == nil })
		s.http.Close()
		eventually(t, "an answer of the other server", func() bool { return ask(t, n) == nil })
		cancel()
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
		cfg.Token = ""
		if n, err = join.Open(t.Context(), cfg); err != nil {
			t.Fatal(err)
		}
		if err := ask(t, n); err != nil {
			t.Errorf("after a restart: %v", err)
		}
	})
}

func TestRefusals(t *testing.T) {
	s, other := start(t, clock.RealClock{}), start(t, clock.RealClock{})
	joined := filepath.Join(t.TempDir(), "agent")
	if _, err := join.Open(t.Context(), s.config(t, joined)); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, want string
		change     func(*join.Config)
	}{
		{"no token", "give --token", func(c *join.Config) { c.Token = "" }},
		{"a token without a hash", "does not carry the hash", func(c *join.Config) { c.Token = s.token.String() }},
		{"a damaged hash", "is not a SHA-256 hash", func(c *join.Config) { c.Token = "K10abc::" + s.token.String() }},
		{"another cluster's server", "is not the cluster that the token is for", func(c *join.Config) { c.Servers = []string{other.http.URL} }},
		{"a token that is gone", "does not accept this node's credentials", func(c *join.Config) {
			hash, _ := bootstraptoken.CAHash(s.authority.CAPEM())
			c.Token = bootstraptoken.Token{ID: "aaaaaa", Secret: "bbbbbbbbbbbbbbbb"}.Full(hash)
		}},
		{"no server", "no --server", func(c *join.Config) { c.Servers = nil }},
		{"a server without TLS", "is not a URL such as https", func(c *join.Config) { c.Servers = []string{"http://127.0.0.1:6443"} }},
		{"a folder of another cluster", "belongs to another cluster", func(c *join.Config) { c.Dir = joined; c.Token = other.fullToken(t) }},
	} {
		cfg := s.config(t, filepath.Join(t.TempDir(), "agent"))
		c.change(&cfg)
		if _, err := join.Open(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
}

// A server that is not there yet, and an approval that takes its time, are
// waited for.
func TestWaits(t *testing.T) {
	s := start(t, clock.RealClock{})
	cfg := s.config(t, filepath.Join(t.TempDir(), "agent"))
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	cfg.Servers = []string{"https://" + address}
	s.mu.Lock()
	s.approve = false
	s.mu.Unlock()
	done := make(chan error, 1)
	go func() { _, err := join.Open(t.Context(), cfg); done <- err }()
	if listener, err = (&net.ListenConfig{}).Listen(t.Context(), "tcp", address); err != nil {
		t.Fatal(err)
	}
	late := &http.Server{Handler: s, TLSConfig: s.http.TLS.Clone(), ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)}
	go func() { _ = late.ServeTLS(listener, "", "") }()
	t.Cleanup(func() { _ = late.Close() })
	eventually(t, "a request", func() bool { s.mu.Lock(); defer s.mu.Unlock(); return len(s.requests) == 1 })
	s.mu.Lock()
	s.approve = true
	s.mu.Unlock()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// Both certificates are renewed when a third of their life is left, the client's
// under the node's own name, and what is expired is asked for anew.
func TestRenewal(t *testing.T) {
	clk := clocktesting.NewFakeClock(time.Now())
	s := start(t, clk)
	cfg := s.config(t, filepath.Join(t.TempDir(), "agent"))
	stop := step(clk, time.Second) // requests are looked at now and then
	n, err := join.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = n.Run(t.Context(), func() {}) }()
	eventually(t, "a serving certificate", func() bool { _, err := n.GetCertificate(nil); return err == nil })
	stop()
	serial := func() string {
		c, err := n.GetCertificate(nil)
		if err != nil {
			t.Fatal(err)
		}
		return c.Leaf.SerialNumber.String()
	}
	count := func() int { s.mu.Lock(); defer s.mu.Unlock(); return len(s.asked) }
	first := serial()
	clk.Step(59 * 24 * time.Hour)
	if serial() != first || count() != 2 {
		t.Error("renewed before its time")
	}
	defer step(clk, time.Hour)()
	eventually(t, "renewal", func() bool { return serial() != first && count() >= 4 })
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, who := range s.asked[1:] {
		if !strings.HasPrefix(who, "system:node:n1 ") {
			t.Errorf("asked by %s", who)
		}
	}
}

// A node whose requests are denied does not fill the cluster with them.
func TestDenied(t *testing.T) {
	clk := clocktesting.NewFakeClock(time.Now())
	s := start(t, clk)
	s.deny = true
	cfg := s.config(t, filepath.Join(t.TempDir(), "agent"))
	stop := step(clk, time.Second)
	n, err := join.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	stop()
	ctx, cancel := context.WithCancel(t.Context())
	ended, begin := make(chan error, 1), clk.Now()
	go func() { ended <- n.Run(ctx, func() {}) }()
	stop = step(clk, 10*time.Second)
	eventually(t, "an hour", func() bool { return clk.Since(begin) > time.Hour })
	stop()
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if made := len(s.requests); made < 5 || made > 20 {
		t.Errorf("%d requests in an hour", made)
	}
}

// step moves a clock on whenever somebody waits for it.
func step(clk *clocktesting.FakeClock, by time.Duration) (stop func()) {
	end, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-end:
				return
			case <-tick.C:
				if clk.HasWaiters() {
					clk.Step(by)
				}
			}
		}
	}()
	return func() { close(end); <-ended }
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	limit := time.After(20 * time.Second)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-limit:
			t.Fatalf("%s: not in 20 s", what)
		case <-tick.C:
		}
	}
}
