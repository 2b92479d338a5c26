package certs_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/utils/clock"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/proa-dev/proa/internal/certs"
)

var start = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func open(t *testing.T, dir string, clk *clocktesting.FakeClock) *certs.Authority {
	t.Helper()
	a, err := certs.Open(dir, clk, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestAuthorityIsMadeOnceAndKept(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "tls")
	clk := clocktesting.NewFakeClock(start)
	first := open(t, dir, clk)
	again := open(t, dir, clk)
	if string(first.CAPEM()) != string(again.CAPEM()) || first.SigningKey().ID != again.SigningKey().ID {
		t.Error("a second start made new authorities")
	}
	if string(first.CAPEM()) == string(first.FrontProxyCAPEM()) {
		t.Error("the front proxy has the cluster's authority")
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %04o", e.Name(), info.Mode().Perm())
		}
		names = append(names, e.Name())
	}
	if got := strings.Join(names, " "); got != "ca.crt ca.key front-proxy-ca.crt front-proxy-ca.key service-account.key" {
		t.Errorf("files: %s", got)
	}
	if info, _ := os.Stat(dir); info.Mode().Perm() != 0o700 {
		t.Errorf("directory has mode %04o", info.Mode().Perm())
	}
}

func TestServerAndClientTrustEachOther(t *testing.T) {
	clk := clocktesting.NewFakeClock(start)
	a := open(t, t.TempDir(), clk)
	names := certs.APIServerNames("cluster.local", net.IPv4(10, 43, 0, 1), "host1", []net.IP{net.IPv4(192, 0, 2, 7)}, []string{"api.example.com", "198.51.100.1"})
	server, err := a.Server(names)
	if err != nil {
		t.Fatal(err)
	}
	client, err := a.Client("system:node:n1", "system:nodes")
	if err != nil {
		t.Fatal(err)
	}
	now := func() time.Time { return clk.Now() }
	serverTLS := &tls.Config{GetCertificate: server.GetCertificate, ClientCAs: a.Pool(), ClientAuth: tls.RequireAndVerifyClientCert, Time: now}
	for _, name := range []string{"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local", "localhost",
		"127.0.0.1", "::1", "10.43.0.1", "host1", "192.0.2.7", "api.example.com", "198.51.100.1"} {
		c, s := net.Pipe()
		done := make(chan *x509.Certificate, 1)
		go func() {
			conn := tls.Server(s, serverTLS)
			defer conn.Close()
			if conn.Handshake() != nil {
				done <- nil
				return
			}
			done <- conn.ConnectionState().PeerCertificates[0]
			_, _ = io.Copy(io.Discard, conn)
		}()
		conn := tls.Client(c, &tls.Config{RootCAs: a.Pool(), ServerName: name, GetClientCertificate: client.GetClientCertificate, Time: now})
		if err := conn.Handshake(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		peer := <-done
		_ = conn.Close()
		if peer == nil || peer.Subject.CommonName != "system:node:n1" || peer.Subject.Organization[0] != "system:nodes" {
			t.Errorf("%s: the server saw %v", name, peer)
		}
	}
}

func TestLeavesAreRenewedWhenAThirdOfTheirLifeIsLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		a, err := certs.Open(dir, clock.RealClock{}, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		go func() { _ = a.Run(t.Context()) }()
		leaf, err := a.Client("admin", "system:masters")
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, "out", "admin.yaml")
		if err := a.WriteKubeconfig(certs.Kubeconfig{Path: path, Server: "https://127.0.0.1:6443", Name: "proa"}, leaf); err != nil {
			t.Fatal(err)
		}
		inFile := func() string {
			c, err := clientcmd.LoadFromFile(path)
			if err != nil {
				t.Fatal(err)
			}
			return string(c.AuthInfos["proa"].ClientCertificateData)
		}
		before, beforeFile := leaf.Certificate(), inFile()
		if info, _ := os.Stat(path); info.Mode().Perm() != 0o600 {
			t.Errorf("kubeconfig has mode %04o", info.Mode().Perm())
		}
		time.Sleep(240 * 24 * time.Hour) // of the bubble's time
		synctest.Wait()
		if leaf.Certificate() != before {
			t.Error("renewed before its time")
		}
		time.Sleep(10 * 24 * time.Hour)
		synctest.Wait()
		after := leaf.Certificate()
		if after == before {
			t.Fatal("not renewed")
		}
		if after.Leaf.Subject.CommonName != "admin" || time.Until(after.Leaf.NotAfter) < 300*24*time.Hour {
			t.Errorf("renewed as %s until %s", after.Leaf.Subject, after.Leaf.NotAfter)
		}
		if inFile() == beforeFile {
			t.Error("the kubeconfig holds the old certificate")
		}
	})
}

func TestDamagedAndForeignFilesAreNamed(t *testing.T) {
	other := t.TempDir()
	open(t, other, clocktesting.NewFakeClock(start))
	read := func(name string) []byte {
		data, err := os.ReadFile(filepath.Join(other, name))
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	cases := []struct {
		name  string
		spoil func(t *testing.T, dir string)
		after time.Duration
		want  []string
	}{
		{"certificate cut", write("ca.crt", []byte("-----BEGIN")), 0, []string{"ca.crt is damaged", "restore"}},
		{"empty key", write("ca.key", nil), 0, []string{"ca.key is damaged"}},
		{"another cluster's certificate", write("ca.crt", read("ca.crt")), 0, []string{"ca.crt does not belong to the key", "ca.key"}},
		{"key gone", func(t *testing.T, dir string) { _ = os.Remove(filepath.Join(dir, "ca.key")) }, 0, []string{"its key", "put the key back"}},
		{"readable key", func(t *testing.T, dir string) { _ = os.Chmod(filepath.Join(dir, "service-account.key"), 0o644) }, 0, []string{"service-account.key", "chmod 600"}},
		{"a certificate for a key", write("service-account.key", read("ca.crt")), 0, []string{"service-account.key is damaged"}},
		{"clock set back", func(*testing.T, string) {}, -24 * time.Hour, []string{"ca.crt is not valid before", "clock"}},
		{"expired", func(*testing.T, string) {}, 11 * 365 * 24 * time.Hour, []string{"ca.crt expired on"}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			clk := clocktesting.NewFakeClock(start)
			open(t, dir, clk)
			c.spoil(t, dir)
			clk.SetTime(start.Add(c.after))
			_, err := certs.Open(dir, clk, slog.New(slog.DiscardHandler))
			if err == nil {
				t.Fatal("opened")
			}
			for _, w := range c.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("error %q lacks %q", err, w)
				}
			}
		})
	}
}

func write(name string, data []byte) func(*testing.T, string) {
	return func(t *testing.T, dir string) {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestCertificateIsMadeAgainFromItsKey(t *testing.T) {
	dir := t.TempDir()
	clk := clocktesting.NewFakeClock(start)
	leaf, err := open(t, dir, clk).Client("u")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, "ca.crt")); err != nil {
		t.Fatal(err)
	}
	clk.Step(time.Hour)
	a := open(t, dir, clk)
	_, err = leaf.Certificate().Leaf.Verify(x509.VerifyOptions{Roots: a.Pool(), CurrentTime: clk.Now(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	if err != nil {
		t.Errorf("what the key signed before is no longer valid: %v", err)
	}
}

func TestRequestsAreAnsweredAsTheyAsk(t *testing.T) {
	clk := clocktesting.NewFakeClock(start)
	a := open(t, t.TempDir(), clk)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "u"}, DNSNames: []string{"n"}}, key)
	if err != nil {
		t.Fatal(err)
	}
	request, err := x509.ParseCertificateRequest(der)
	if err != nil {
		t.Fatal(err)
	}
	issue := func(life time.Duration, usages ...certificatesv1.KeyUsage) (*x509.Certificate, error) {
		text, err := a.Issue(request, usages, life)
		if err != nil {
			return nil, err
		}
		block, _ := pem.Decode(text)
		return x509.ParseCertificate(block.Bytes)
	}
	cert, err := issue(time.Hour, certificatesv1.UsageClientAuth, certificatesv1.UsageDigitalSignature)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cert.Verify(x509.VerifyOptions{Roots: a.Pool(), CurrentTime: clk.Now(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		t.Error(err)
	}
	if !cert.NotAfter.Equal(start.Add(time.Hour)) || cert.IsCA || cert.Subject.CommonName != "u" || cert.VerifyHostname("n") != nil {
		t.Errorf("until %s, CA %v, subject %s", cert.NotAfter, cert.IsCA, cert.Subject)
	}
	if cert, err = issue(100*365*24*time.Hour, certificatesv1.UsageClientAuth); err != nil || cert.NotAfter.After(start.Add(10*365*24*time.Hour)) {
		t.Errorf("it outlives its authority: %v", err)
	}
	if _, err := issue(time.Hour, "fly"); err == nil {
		t.Error("a usage that there is not")
	}
	request.Signature[10]++
	if _, err := issue(time.Hour, certificatesv1.UsageClientAuth); err == nil {
		t.Error("a request that its key has not signed")
	}
}
