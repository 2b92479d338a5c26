package apiserver_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"

	"github.com/gorilla/websocket"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"github.com/proa-dev/proa/apiserver"
)

// withKubelet starts a server whose node n1 has a kubelet that answers with
// what it was asked.
func withKubelet(t *testing.T, change ...func(*apiserver.Config)) *fixture {
	t.Helper()
	kubelet := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" {
			t.Error("the client's credentials reach the kubelet")
		}
		if r.Header.Get("Upgrade") == "websocket" {
			conn, err := (&websocket.Upgrader{Subprotocols: []string{"v4.channel.k8s.io"}}).Upgrade(w, r, nil)
			if err != nil {
				t.Error(err)
				return
			}
			defer func() { _ = conn.Close() }()
			_ = conn.WriteMessage(websocket.TextMessage, []byte(r.URL.RequestURI()))
			return
		}
		if strings.Contains(r.URL.Path, "broken") {
			http.Error(w, "container is waiting", http.StatusBadRequest)
			return
		}
		_, _ = fmt.Fprintf(w, "%s %s", r.Method, r.URL.RequestURI())
	}))
	t.Cleanup(kubelet.Close)
	f := start(t, func(c *apiserver.Config) {
		c.Kubelet = &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
		for _, fn := range change {
			fn(c)
		}
	})
	_, port, err := net.SplitHostPort(kubelet.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	f.expect(201, "POST", "/api/v1/nodes", `{"metadata":{"name":"n1"}}`)
	f.expect(200, "PATCH", "/api/v1/nodes/n1/status", `{"status":{"addresses":[{"type":"InternalIP","address":"127.0.0.1"}],"daemonEndpoints":{"kubeletEndpoint":{"Port":`+port+`}}}}`, mergePatch)
	if _, err := strconv.Atoi(port); err != nil {
		t.Fatal(err)
	}
	return f
}

func TestLogs(t *testing.T) {
	f := withKubelet(t)
	f.bound("p")
	a := f.expect(200, "GET", pods+"/p/log?follow=true&tailLines=5&timestamps=false", "")
	if a.body != "GET /containerLogs/default/p/c?follow=true&tailLines=5" || a.header.Get("Content-Type") != "text/plain" {
		t.Errorf("%s", a.body)
	}
	a = f.expect(400, "GET", pods+"/p/log?container=x", "")
	if a.text("message") != "container x is not valid for pod p" {
		t.Error(a.text("message"))
	}
	f.expect(422, "GET", pods+"/p/log?tailLines=-1", "")
	f.expect(404, "GET", pods+"/none/log", "")
	two := `{"metadata":{"name":"two"},"spec":{"containers":[{"name":"a","image":"i"},{"name":"broken","image":"i"}]}}`
	f.expect(201, "POST", pods, two)
	a = f.expect(400, "GET", pods+"/two/log", "")
	if want := "a container name must be specified for pod two, choose one of: [a broken]"; a.text("message") != want {
		t.Error(a.text("message"))
	}
	f.expect(201, "POST", pods+"/two/binding", `{"target":{"name":"n1"}}`)
	if a = f.expect(400, "GET", pods+"/two/log?container=broken", ""); a.text("message") != "container is waiting" {
		t.Error(a.body)
	}
	dialer := websocket.Dialer{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, Subprotocols: []string{"binary.k8s.io"}}
	conn, resp, err := dialer.DialContext(t.Context(), strings.Replace(f.URL, "https", "wss", 1)+pods+"/p/log?tailLines=5", http.Header{"Authorization": {"Bearer admin"}})
	if err != nil {
		t.Fatalf("%v: %+v", err, resp)
	}
	defer func() { _ = conn.Close() }()
	var got []byte
	for {
		_, part, err := conn.ReadMessage()
		if err != nil {
			break
		}
		got = append(got, part...)
	}
	if string(got) != "GET /containerLogs/default/p/c?tailLines=5" {
		t.Errorf("by WebSocket: %q", got)
	}
}

// stream opens a WebSocket and returns what the kubelet says it was asked.
func (f *fixture) stream(path string) string {
	f.Helper()
	const protocol = "v4.channel.k8s.io"
	dialer := websocket.Dialer{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, Subprotocols: []string{protocol}}
	conn, resp, err := dialer.DialContext(f.Context(), strings.Replace(f.URL, "https", "wss", 1)+path, http.Header{"Authorization": {"Bearer admin"}})
	if err != nil {
		f.Fatalf("%s: %v: %+v", path, err, resp)
	}
	defer func() { _ = conn.Close() }()
	_, got, err := conn.ReadMessage()
	if err != nil || conn.Subprotocol() != protocol {
		f.Errorf("%s: %v by %q", path, err, conn.Subprotocol())
	}
	return string(got)
}

// The fifth version of the protocol is translated, and tested with kubectl; those
// before it are passed on as they are.
func TestExec(t *testing.T) {
	f := withKubelet(t)
	f.bound("p")
	for path, want := range map[string]string{
		"/exec?command=ls&command=-l&stdout=true&stderr=1": "/exec/default/p/c?command=ls&command=-l&error=1&output=1",
		"/exec?command=sh&stdin=1&stdout=1&tty=1":          "/exec/default/p/c?command=sh&input=1&output=1&tty=1",
		"/attach?stdout=1":      "/attach/default/p/c?output=1",
		"/portforward?ports=80": "/portForward/default/p?port=80",
	} {
		if got := f.stream(pods + "/p" + path); got != want {
			t.Errorf("%s: %s", path, got)
		}
	}
	f.expect(201, "POST", pods, podNamed("unbound"))
	a := f.expect(400, "POST", pods+"/unbound/exec?command=ls&stdout=1", "")
	if a.text("message") != "pod unbound does not have a host assigned" {
		t.Error(a.text("message"))
	}
	f.expect(400, "POST", pods+"/p/exec?stdout=1", "")
	f.expect(400, "POST", pods+"/p/exec?command=ls", "")
	f.expect(405, "DELETE", pods+"/p/exec", "")
}

func TestProxies(t *testing.T) {
	f := withKubelet(t)
	a := f.expect(200, "GET", "/api/v1/nodes/n1/proxy/pods?x=y", "")
	if a.body != "GET /pods?x=y" {
		t.Error(a.body)
	}
	if a = f.expect(200, "OPTIONS", "/api/v1/nodes/n1/proxy/pods", ""); a.body != "OPTIONS /pods" {
		t.Error(a.body)
	}
	f.expect(404, "OPTIONS", pods+"/p/exec", "")
	f.expect(404, "GET", "/api/v1/nodes/none/proxy/pods", "")
	f.expect(201, "POST", "/api/v1/namespaces/default/services", `{"metadata":{"name":"s"},"spec":{"ports":[{"port":80}]}}`)
	a = f.expect(503, "GET", "/api/v1/namespaces/default/services/s/proxy/", "")
	if a.text("message") != `no endpoints available for service "s"` {
		t.Error(a.text("message"))
	}
	f.bound("p")
	f.expect(200, "PATCH", pods+"/p/status", `{"status":{"podIP":"169.254.169.254","podIPs":[{"ip":"169.254.169.254"}]}}`, mergePatch)
	if a = f.expect(400, "GET", pods+"/p/proxy/latest", ""); a.text("message") != "address not allowed" {
		t.Error(a.text("message"))
	}
}

// What the authorizer takes for a watch, or for a request in a namespace,
// must not be anything else: a reader runs no commands, and who rules one
// namespace does not remove another.
func TestPathsThatMislead(t *testing.T) {
	f := withKubelet(t)
	f.bound("p")
	f.expect(201, "POST", "/api/v1/namespaces", `{"metadata":{"name":"other"}}`)
	for _, method := range []string{"GET", "POST"} {
		f.expect(404, method, "/api/v1/watch/namespaces/default/pods/p/exec?command=ls&stdout=1", "")
		f.expect(404, method, "/api/v1/watch/nodes/n1/proxy/run/default/p/c?cmd=ls", "")
		f.expect(404, method, "/api/v1/proxy/nodes/n1/proxy/pods", "")
	}
	for _, method := range []string{"GET", "DELETE"} {
		f.expect(404, method, "/api/v1/namespaces/default/namespaces/other", "")
		f.expect(404, method, "/api/v1/namespaces/default/nodes/n1", "")
	}
	f.expect(404, "GET", "/api/v1/namespaces/default/namespaces", "")
	f.expect(404, "GET", "/api/v1/watch/pods/p", "")
	f.expect(200, "GET", "/api/v1/namespaces/other", "")
}

// A small patch must not make a large object.
func TestCopiesAreBounded(t *testing.T) {
	f := start(t, nil)
	f.expect(201, "POST", configMaps, `{"metadata":{"name":"c"},"data":{"a":"`+strings.Repeat("x", 1000)+`"}}`)
	ops := `[{"op":"add","path":"/x","value":{}}`
	for i := range 30 {
		ops += fmt.Sprintf(`,{"op":"copy","from":"","path":"/x/a%d"}`, i)
	}
	f.expect(422, "PATCH", configMaps+"/c", ops+"]", jsonPatch)
}

// Who may read what a node's API tells runs no commands by it.
func TestReadersOfNodesRunNothing(t *testing.T) {
	f := withKubelet(t, func(c *apiserver.Config) {
		c.Authorizer = authorizer.AuthorizerFunc(func(_ context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
			if a.GetUser().GetName() == "admin" || a.GetVerb() == "get" {
				return authorizer.DecisionAllow, "", nil
			}
			return authorizer.DecisionNoOpinion, "", nil
		})
	})
	bob := "Authorization: Bearer bob"
	f.expect(200, "GET", "/api/v1/nodes/n1/proxy/metrics", "", bob)
	for _, path := range []string{"exec/default/p/c?command=ls", "run/default/p/c?cmd=ls", "attach/default/p/c", "portForward/default/p", "pods/../exec/default/p/c", "/exec/a/b/c"} {
		f.expect(403, "GET", "/api/v1/nodes/n1/proxy/"+path, "", bob)
	}
	f.expect(200, "GET", "/api/v1/nodes/n1/proxy/exec/default/p/c", "")
}
