package apiserver_test

import (
	"crypto/tls"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/proa-dev/proa/apiserver"
	"github.com/proa-dev/proa/apiserver/apiservertest"
)

// fixture is a server with a default namespace, seen by an administrator.
type fixture struct {
	*testing.T
	*apiservertest.Server
	*kubernetes.Clientset
	http *http.Client
}

func start(t *testing.T, change func(*apiserver.Config)) *fixture {
	t.Helper()
	s := apiservertest.Start(t, change)
	cfg := s.Config("admin")
	client, err := rest.HTTPClientFor(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { utilnet.CloseIdleConnectionsFor(client.Transport) }) // a server that ends waits for whoever stays
	clients, err := kubernetes.NewForConfigAndClient(cfg, client)
	if err != nil {
		t.Fatal(err)
	}
	f := &fixture{T: t, Server: s, Clientset: clients}
	tr := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: true, DisableCompression: true}
	t.Cleanup(tr.CloseIdleConnections)
	f.http = &http.Client{Transport: tr}
	if _, err := f.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	return f
}

// answer is what came back, its body decoded if it is JSON.
type answer struct {
	code   int
	header http.Header
	body   string
	object map[string]any
}

// at finds a value in the answer: "metadata.name".
func (a *answer) at(path string) any {
	var v any = a.object
	for name := range strings.SplitSeq(path, ".") {
		m, ok := v.(map[string]any)
		if !ok {
			return nil
		}
		v = m[name]
	}
	return v
}

func (a *answer) text(path string) string {
	s, _ := a.at(path).(string)
	return s
}

// send makes a request as admin. headers are "Name: value".
func (f *fixture) send(method, path, body string, headers ...string) *answer {
	f.Helper()
	req, err := http.NewRequestWithContext(f.Context(), method, f.URL+path, strings.NewReader(body))
	if err != nil {
		f.Fatal(err)
	}
	if body == "" {
		req.Body = http.NoBody
	}
	req.Header.Set("Authorization", "Bearer admin")
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Set(name, value)
	}
	resp, err := f.http.Do(req)
	if err != nil {
		f.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		f.Fatal(err)
	}
	a := &answer{code: resp.StatusCode, header: resp.Header, body: string(data)}
	_ = json.Unmarshal(data, &a.object) // not all bodies are JSON
	return a
}

// expect is send that fails the test for another status code.
func (f *fixture) expect(code int, method, path, body string, headers ...string) *answer {
	f.Helper()
	a := f.send(method, path, body, headers...)
	if a.code != code {
		f.Fatalf("%s %s: %d, want %d: %s", method, path, a.code, code, a.body)
	}
	return a
}

const (
	configMaps  = "/api/v1/namespaces/default/configmaps"
	pods        = "/api/v1/namespaces/default/pods"
	deployments = "/apis/apps/v1/namespaces/default/deployments"

	mergePatch     = "Content-Type: application/merge-patch+json"
	jsonPatch      = "Content-Type: application/json-patch+json"
	strategicPatch = "Content-Type: application/strategic-merge-patch+json"
	applyPatch     = "Content-Type: application/apply-patch+yaml"
)

func podNamed(name string) string {
	return `{"metadata":{"name":"` + name + `","labels":{"app":"web"}},"spec":{"containers":[{"name":"c","image":"i"}]}}`
}

func deploymentNamed(name string) string {
	return `{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"` + name + `"},"spec":{"replicas":2,"selector":{"matchLabels":{"a":"b"}},` +
		`"template":{"metadata":{"labels":{"a":"b"}},"spec":{"containers":[{"name":"c","image":"i","env":[{"name":"A","value":"1"}]}]}}}}`
}
