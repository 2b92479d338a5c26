package apiserver_test

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/client-go/kubernetes"

	"github.com/proa-dev/proa/apiserver"
	"github.com/proa-dev/proa/apiserver/health"
)

// onlyAdmin refuses all but the administrator.
func onlyAdmin(c *apiserver.Config) {
	c.Authorizer = authorizer.AuthorizerFunc(func(_ context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
		if a.GetUser().GetName() == "admin" {
			return authorizer.DecisionAllow, "", nil
		}
		return authorizer.DecisionNoOpinion, "", nil
	})
}

func TestWhoMayDoWhat(t *testing.T) {
	f := start(t, onlyAdmin)
	bob := "Authorization: Bearer bob"
	for _, c := range []struct {
		method, path, message string
	}{
		{"GET", pods, `pods is forbidden: User "bob" cannot list resource "pods" in API group "" in the namespace "default"`},
		{"GET", "/api/v1/nodes", `nodes is forbidden: User "bob" cannot list resource "nodes" in API group "" at the cluster scope`},
		{"GET", deployments + "/d", `deployments.apps "d" is forbidden: User "bob" cannot get resource "deployments" in API group "apps" in the namespace "default"`},
		{"POST", pods + "/p/binding", `pods "p" is forbidden: User "bob" cannot create resource "pods/binding" in API group "" in the namespace "default"`},
		{"GET", "/metrics", `forbidden: User "bob" cannot get path "/metrics"`},
	} {
		a := f.expect(403, c.method, c.path, "", bob)
		if a.text("message") != c.message || a.text("reason") != "Forbidden" {
			t.Errorf("%s %s: %s", c.method, c.path, a.text("message"))
		}
	}
	a := f.expect(401, "GET", pods, "", "Authorization: ")
	if a.text("reason") != "Unauthorized" || a.text("message") != "Unauthorized" || a.text("kind") != "Status" {
		t.Error(a.body)
	}
}

func TestHealth(t *testing.T) {
	broken := errors.New("broken")
	f := start(t, func(c *apiserver.Config) {
		c.Ready = []health.Check{{Name: "thing", Run: func(context.Context) error { return broken }}}
	})
	for path, want := range map[string]string{"/healthz": "ok", "/livez": "ok", "/livez/etcd": "ok", "/readyz/ping": "ok", "/readyz?exclude=thing": "ok"} {
		if a := f.expect(200, "GET", path, ""); a.body != want {
			t.Errorf("%s: %s", path, a.body)
		}
	}
	if a := f.expect(500, "GET", "/readyz", ""); !strings.Contains(a.body, "[-]thing failed: reason withheld\n") || !strings.Contains(a.body, "readyz check failed") {
		t.Error(a.body)
	}
	if a := f.expect(200, "GET", "/livez?verbose", ""); a.body != "[+]ping ok\n[+]etcd ok\nlivez check passed\n" {
		t.Error(a.body)
	}
	f.expect(404, "GET", "/livez/none", "")
}

func TestDiscovery(t *testing.T) {
	f := start(t, nil)
	v2 := "Accept: application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json"
	for _, path := range []string{"/api", "/apis"} {
		a := f.expect(200, "GET", path, "", v2)
		if a.text("kind") != "APIGroupDiscoveryList" || a.header.Get("Content-Type") != "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList" {
			t.Errorf("%s: %s %s", path, a.header.Get("Content-Type"), a.text("kind"))
		}
		f.expect(304, "GET", path, "", v2, "If-None-Match: "+a.header.Get("ETag"))
	}
	if a := f.expect(200, "GET", "/apis", ""); a.text("kind") != "APIGroupList" {
		t.Error(a.body)
	}
	if a := f.expect(200, "GET", "/apis/apps", ""); a.text("preferredVersion.groupVersion") != "apps/v1" {
		t.Error(a.body)
	}
	a := f.expect(200, "GET", "/apis/apps/v1", "")
	if !strings.Contains(a.body, `"name":"deployments/scale","singularName":"","namespaced":true,"group":"autoscaling","version":"v1","kind":"Scale"`) || !strings.Contains(a.body, `"shortNames":["deploy"]`) {
		t.Error(a.body)
	}
	f.expect(404, "GET", "/apis/none", "")
	groups, resources, err := f.Clientset.Discovery().ServerGroupsAndResources()
	if err != nil || len(groups) < 5 || len(resources) < 5 {
		t.Errorf("%d groups, %d lists, %v", len(groups), len(resources), err)
	}
	if v, err := f.Clientset.Discovery().ServerVersion(); err != nil || v.Minor != "37" {
		t.Errorf("%v %v", v, err)
	}
}

func TestOpenAPI(t *testing.T) {
	f := start(t, nil)
	root := f.expect(200, "GET", "/openapi/v3", "")
	paths, _ := root.at("paths").(map[string]any)
	entry, _ := paths["apis/apps/v1"].(map[string]any)
	url, _ := entry["serverRelativeURL"].(string)
	doc := f.expect(200, "GET", url, "")
	schemas, _ := doc.at("components.schemas").(map[string]any)
	for model, want := range map[string]string{"apps.v1.DeploymentSpec": "[selector template]", "core.v1.ProjectedVolumeSource": "<nil>", "core.v1.ContainerPort": "[containerPort]"} {
		m := &answer{object: schemas["io.k8s.api."+model].(map[string]any)}
		if got := fmt.Sprint(m.at("required")); got != want {
			t.Errorf("%s requires %s, want %s", model, got, want)
		}
	}
	if doc.at("paths./apis/apps/v1/namespaces/{namespace}/deployments/{name}/status.get") == nil {
		t.Error("the status of a Deployment cannot be read")
	}
	d := &answer{object: schemas["io.k8s.api.core.v1.PodSpec"].(map[string]any)}
	containers := &answer{object: d.at("properties.containers").(map[string]any)}
	if containers.text("x-kubernetes-patch-strategy") != "merge" || containers.text("x-kubernetes-patch-merge-key") != "name" || containers.text("x-kubernetes-list-type") != "map" || containers.text("description") == "" {
		t.Errorf("containers: %v", containers.object)
	}
	if doc.header.Get("Cache-Control") != "public, immutable" {
		t.Errorf("Cache-Control %q", doc.header.Get("Cache-Control"))
	}
	f.expect(304, "GET", "/openapi/v3/apis/apps/v1", "", "If-None-Match: "+doc.header.Get("ETag"))
	f.expect(404, "GET", "/openapi/v3/apis/none/v1", "")
	if v2 := f.expect(200, "GET", "/openapi/v2", ""); v2.text("swagger") != "2.0" {
		t.Error("no swagger")
	}
	schema, err := f.Clientset.Discovery().OpenAPISchema() // as protobuf
	if err != nil || len(schema.GetDefinitions().GetAdditionalProperties()) < 100 {
		t.Errorf("%v", err)
	}
}

func TestMetrics(t *testing.T) {
	f := start(t, func(c *apiserver.Config) {
		onlyAdmin(c)
		c.Metrics = prometheus.NewRegistry()
	})
	f.expect(200, "GET", pods, "")
	f.expect(404, "GET", "/api/v1/namespaces/default/whatever", "")
	f.expect(403, "GET", pods+"/p/whatever", "", "Authorization: Bearer bob")
	a := f.expect(200, "GET", "/metrics", "")
	if want := `apiserver_request_total{code="200",component="apiserver",dry_run="",group="",resource="pods",scope="namespace",subresource="",verb="LIST",version="v1"} 1`; !strings.Contains(a.body, want) {
		t.Error(a.body)
	}
	if strings.Contains(a.body, "whatever") {
		t.Error("a made-up name is a series")
	}
}

// A panic is an answer, not the end of the server, and tells nothing.
func TestPanic(t *testing.T) {
	f := start(t, func(c *apiserver.Config) {
		c.Paths = map[string]http.Handler{"/boom": http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("secret") })}
	})
	if a := f.expect(500, "GET", "/boom", ""); strings.Contains(a.body, "secret") || a.text("reason") != "InternalError" {
		t.Error(a.body)
	}
	f.expect(200, "GET", pods, "")
}

// Load above the bound waits; above that it is told to come again.
func TestTooManyRequests(t *testing.T) {
	entered, release := make(chan struct{}, 100), make(chan struct{})
	f := start(t, func(c *apiserver.Config) {
		c.MaxReads = 1
		c.Paths = map[string]http.Handler{"/slow": http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
			entered <- struct{}{}
			<-release
		})}
	})
	codes := make(chan int, 20)
	for range 20 {
		go func() {
			req, err := http.NewRequestWithContext(f.Context(), "GET", f.URL+"/slow", nil)
			if err != nil {
				codes <- 0
				return
			}
			req.Header.Set("Authorization", "Bearer bob")
			resp, err := f.http.Do(req)
			if err != nil {
				codes <- 0
				return
			}
			_ = resp.Body.Close()
			if resp.StatusCode == 429 && resp.Header.Get("Retry-After") != "1" {
				codes <- -1
				return
			}
			codes <- resp.StatusCode
		}()
	}
	<-entered
	if code := <-codes; code != 429 { // one runs, eight wait, the others come back at once
		t.Errorf("code %d", code)
	}
	close(release)
	count := map[int]int{429: 1}
	for range 19 {
		count[<-codes]++
	}
	if count[200] < 1 || count[429] < 1 || count[200]+count[429] != 20 {
		t.Errorf("codes %v", count)
	}
}

func TestConfigIsChecked(t *testing.T) {
	if _, err := apiserver.New(apiserver.Config{}); err == nil {
		t.Error("an empty configuration is accepted")
	}
}

// Nothing is served in the clear.
func TestTLSOnly(t *testing.T) {
	f := start(t, nil)
	cfg := f.Config("admin")
	cfg.Host = strings.Replace(f.URL, "https", "http", 1)
	cfg.TLSClientConfig.Insecure = false
	if _, err := kubernetes.NewForConfigOrDie(cfg).Discovery().ServerVersion(); err == nil {
		t.Error("plain HTTP is served")
	}
}

// A client that does not read its answer gives way to others in the end.
func TestClientsThatDoNotRead(t *testing.T) {
	f := start(t, func(c *apiserver.Config) { c.MaxReads = 1 })
	for i := range 10 {
		f.expect(201, "POST", configMaps, fmt.Sprintf(`{"metadata":{"name":"c%d"},"data":{"a":"%s"}}`, i, strings.Repeat("x", 1<<20-100)))
	}
	raw, err := net.Dial("tcp", strings.TrimPrefix(f.URL, "https://"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = raw.Close() }()
	if err := raw.(*net.TCPConn).SetReadBuffer(4096); err != nil {
		t.Fatal(err)
	}
	conn := tls.Client(raw, &tls.Config{InsecureSkipVerify: true})
	if _, err := fmt.Fprintf(conn, "GET %s?timeout=100ms HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer bob\r\n\r\n", configMaps); err != nil {
		t.Fatal(err)
	}
	first := make([]byte, 1)
	if _, err := conn.Read(first); err != nil {
		t.Fatal(err)
	}
	// Waits for its turn, and gets it.
	f.expect(200, "GET", configMaps+"/c0", "", "Authorization: Bearer bob")
}

// A body that never comes whole is waited for as long as the request may take,
// over either protocol.
func TestBodiesThatTrickleIn(t *testing.T) {
	f := start(t, func(c *apiserver.Config) { c.MaxWrites = 1 })
	for name, tr := range map[string]*http.Transport{
		"HTTP/1.1": {TLSClientConfig: &tls.Config{InsecureSkipVerify: true}},
		"HTTP/2":   {TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: true},
	} {
		t.Run(name, func(t *testing.T) {
			defer tr.CloseIdleConnections()
			body, rest := io.Pipe()
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, f.URL+configMaps+"?timeout=100ms", io.MultiReader(strings.NewReader(`{"metadata":`), body))
			if err != nil {
				t.Fatal(err)
			}
			req.ContentLength = 100
			req.Header = http.Header{"Authorization": {"Bearer bob"}, "Content-Type": {"application/json"}}
			resp, err := tr.RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			if resp.StatusCode != http.StatusGatewayTimeout {
				t.Errorf("answer %s", resp.Status)
			}
			_ = rest.Close() // else the client would go on with the request
			_ = resp.Body.Close()
			f.expect(201, "POST", configMaps, `{"metadata":{"generateName":"a"}}`, "Authorization: Bearer bob")
		})
	}
}

// tapped is a connection that keeps what it has read.
type tapped struct {
	net.Conn
	mu   sync.Mutex
	read []byte
}

func (c *tapped) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.read = append(c.read, p[:n]...)
	return n, err
}

// records is how many TLS records have come (RFC 8446, 5.1).
func (c *tapped) records() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := 0
	for at := 0; at+5 <= len(c.read); n++ {
		at += 5 + int(binary.BigEndian.Uint16(c.read[at+3:]))
	}
	return n
}

// A small answer is one record, its head and body together. A busy server may
// send the head alone.
func TestAnswersInOnePiece(t *testing.T) {
	f := start(t, nil)
	f.expect(201, "POST", configMaps, `{"metadata":{"name":"a"}}`)
	var conn *tapped
	tr := &http.Transport{
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: true,
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			c, err := new(net.Dialer).DialContext(ctx, network, addr)
			conn = &tapped{Conn: c}
			return conn, err
		},
	}
	defer tr.CloseIdleConnections()
	f.http = &http.Client{Transport: tr}
	pieces := func(send func()) int {
		fewest, before := math.MaxInt, conn.records()
		for range 50 {
			send()
			now := conn.records()
			fewest, before = min(fewest, now-before), now
		}
		return fewest
	}
	f.expect(200, "GET", configMaps+"/a", "")
	if n := pieces(func() { f.expect(200, "GET", configMaps+"/a", "") }); n != 1 {
		t.Errorf("an answer came in %d records", n)
	}
	// What the client may send again, after a body that counts, comes with it.
	long := `{"metadata":{"generateName":"b"}` + strings.Repeat(" ", 8<<10) + "}"
	if n := pieces(func() { f.expect(201, "POST", configMaps, long) }); n != 1 {
		t.Errorf("the answer to a long body came in %d records", n)
	}
	// And it does come: this is more than may be under way.
	for range 10 {
		f.expect(201, "POST", configMaps, `{"metadata":{"generateName":"c"},"data":{"a":"`+strings.Repeat("x", 500<<10)+`"}}`)
	}
}
