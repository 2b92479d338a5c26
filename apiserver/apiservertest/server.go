// Package apiservertest starts an API server with a store of its own over real
// HTTPS for tests.
package apiservertest

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/client-go/rest"

	"github.com/proa-dev/proa/api/builtin"
	"github.com/proa-dev/proa/apiserver"
	"github.com/proa-dev/proa/apiserver/connect"
	"github.com/proa-dev/proa/apiserver/live"
	"github.com/proa-dev/proa/apiserver/webhookclient"
	"github.com/proa-dev/proa/store"
)

// Server is a running API server.
type Server struct {
	*apiserver.Server
	Store *store.Store
	URL   string
}

// Start runs a server until the test ends. change, if not nil, may change its
// configuration. Without that a request's bearer token is the name of its
// user, "admin" being one of system:masters, and everything is allowed.
func Start(tb testing.TB, change func(*apiserver.Config)) *Server {
	tb.Helper()
	logger := slog.New(slog.DiscardHandler)
	st, err := store.Open(tb.Context(), store.Config{DataDir: tb.TempDir(), Scheme: builtin.Scheme(), Logger: logger})
	if err != nil {
		tb.Fatalf("open the store: %v", err)
	}
	kinds := builtin.Kinds()
	webhooks := webhookclient.New(connect.Services{Source: live.New(st, kinds)}.Address)
	tb.Cleanup(webhooks.Close)
	cfg := apiserver.Config{
		Store: st, Kinds: kinds, Webhooks: webhooks, Scheme: builtin.Scheme(), Logger: logger,
		Authenticator: authenticator.RequestFunc(byToken),
		Authorizer: authorizer.AuthorizerFunc(func(context.Context, authorizer.Attributes) (authorizer.Decision, string, error) {
			return authorizer.DecisionAllow, "", nil
		}),
		TLS: &tls.Config{Certificates: []tls.Certificate{certificate(tb)}, MinVersion: tls.VersionTLS12},
	}
	if change != nil {
		change(&cfg)
	}
	s, err := apiserver.New(cfg)
	if err != nil {
		tb.Fatalf("make the server: %v", err)
	}
	ln, err := (&net.ListenConfig{}).Listen(tb.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(tb.Context()))
	done := make(chan error, 1)
	custom := make(chan error, 1)
	go func() { custom <- s.ServeCustomResources(ctx, func() {}) }()
	go func() { done <- s.Serve(ctx, ln) }()
	tb.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				tb.Errorf("serve: %v", err)
			}
		case <-time.After(30 * time.Second):
			tb.Error("the server does not stop")
		}
		if err := <-custom; err != nil {
			tb.Errorf("serve custom resources: %v", err)
		}
		if err := st.Close(); err != nil {
			tb.Errorf("close the store: %v", err)
		}
	})
	return &Server{Server: s, Store: st, URL: "https://" + ln.Addr().String()}
}

// Config is how to reach the server as a user.
func (s *Server) Config(user string) *rest.Config {
	return &rest.Config{
		Host: s.URL, BearerToken: user, QPS: -1, UserAgent: "apiservertest/1",
		TLSClientConfig: rest.TLSClientConfig{Insecure: true},
	}
}

func byToken(r *http.Request) (*authenticator.Response, bool, error) {
	name := r.Header.Get("Authorization")
	const bearer = "Bearer "
	if len(name) <= len(bearer) {
		return nil, false, nil
	}
	name = name[len(bearer):]
	u := &user.DefaultInfo{Name: name, Groups: []string{user.AllAuthenticated}}
	if name == "admin" {
		u.Groups = append(u.Groups, user.SystemPrivilegedGroup)
	}
	return &authenticator.Response{User: u}, true, nil
}

// certificate borrows that of httptest, which is made for 127.0.0.1.
func certificate(tb testing.TB) tls.Certificate {
	tb.Helper()
	borrowed := httptest.NewUnstartedServer(nil)
	borrowed.StartTLS()
	defer borrowed.Close()
	return borrowed.TLS.Certificates[0]
}
