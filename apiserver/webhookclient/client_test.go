package webhookclient_test

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/proa-dev/proa/apiserver/webhookclient"
)

// echo answers with the request's body, at /long with more than anybody reads.
func echo(t *testing.T) (*httptest.Server, []byte) {
	t.Helper()
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		switch r.URL.Path {
		case "/long":
			_, _ = w.Write([]byte(`"` + strings.Repeat("a", 1<<20) + `"`))
		case "/slow":
			_, _ = io.Copy(io.Discard, r.Body) // who does not read is not told that the client left
			<-r.Context().Done()
		case "/elsewhere":
			http.Redirect(w, r, "/echo", http.StatusTemporaryRedirect)
		case "/broken":
			http.Error(w, "no such luck", http.StatusTeapot)
		default:
			_ = json.NewEncoder(w).Encode(map[string]string{"host": r.Host, "path": r.URL.Path, "timeout": r.URL.Query().Get("timeout")})
		}
	}))
	t.Cleanup(s.Close)
	return s, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
}

func TestURL(t *testing.T) {
	s, ca := echo(t)
	c := webhookclient.New(nil)
	defer c.Close()
	for _, test := range []struct {
		name, path, want string
		ca               []byte
		limit            int64
		timeout          time.Duration
	}{
		{name: "answers", path: "/x", ca: ca},
		{name: "an unknown authority", path: "/x", want: "certificate signed by unknown authority"},
		{name: "no authority at all", path: "/x", ca: []byte("x"), want: "unable to parse bytes as PEM block"},
		{name: "more than may be", path: "/long", ca: ca, limit: 1 << 19, want: "the answer is larger than 524288 bytes"},
		{name: "too late", path: "/slow", ca: ca, timeout: time.Millisecond, want: "context deadline exceeded"},
		{name: "redirects", path: "/elsewhere", ca: ca, want: "the status code 307"},
		{name: "refuses", path: "/broken", ca: ca, want: "the status code 418"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.timeout == 0 {
				test.timeout = 30 * time.Second
			}
			url := s.URL + test.path
			var got map[string]string
			err := c.Call(t.Context(), webhookclient.Config{URL: &url, CABundle: test.ca, MaxAnswer: test.limit}, test.timeout, map[string]int{"a": 1}, &got)
			if test.want == "" {
				if err != nil || got["path"] != test.path || got["timeout"] != "30s" {
					t.Fatalf("got %v, %v", got, err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Fatalf("got %v, want %q in it", err, test.want)
			}
		})
	}
}

func TestService(t *testing.T) {
	s, ca := echo(t)
	var asked string
	c := webhookclient.New(func(_ context.Context, namespace, name string, port int32) (string, error) {
		asked = namespace + "/" + name
		if port != 443 {
			return "", errors.New("no such port")
		}
		return s.Listener.Addr().String(), nil
	})
	defer c.Close()
	call := func(to webhookclient.Service) (map[string]string, error) {
		var got map[string]string
		err := c.Call(t.Context(), webhookclient.Config{Service: &to, CABundle: ca}, time.Minute, struct{}{}, &got)
		return got, err
	}
	// The certificate of the test server is for example.com: the name asked for is checked.
	if _, err := call(webhookclient.Service{Namespace: "ns", Name: "hook"}); err == nil || !strings.Contains(err.Error(), "not hook.ns.svc") {
		t.Errorf("a certificate for another name: %v", err)
	}
	if asked != "ns/hook" {
		t.Errorf("asked for %q", asked)
	}
	if _, err := call(webhookclient.Service{Namespace: "ns", Name: "hook", Port: 1}); err == nil || !strings.Contains(err.Error(), "no such port") {
		t.Errorf("an unknown port: %v", err)
	}
}
