package api

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/rest"

	"github.com/proa-dev/proa/test/isolate"
)

// extension is an API server of somebody else's: it serves widgets.
type extension struct {
	*httptest.Server
	group string
	ca    []byte // PEM
	// down makes it fail whatever it is asked for.
	down atomic.Bool
	// news are sent to watchers.
	news chan string
	// left is told when a watcher has gone.
	left chan struct{}
	// emptied are the paths of the collections that were deleted.
	emptied sync.Map
}

// newExtension serves group at the Service of a namespace, to those whom the
// cluster's ConfigMap says are to be believed.
func newExtension(t *testing.T, group, namespace, service string) *extension {
	t.Helper()
	e := &extension{group: group, news: make(chan string, 10), left: make(chan struct{}, 10)}
	trust := get[*corev1.ConfigMap](t)(world.kube.CoreV1().ConfigMaps("kube-system").Get(t.Context(), "extension-apiserver-authentication", metav1.GetOptions{}))
	proxies := x509.NewCertPool()
	if !proxies.AppendCertsFromPEM([]byte(trust.Data["requestheader-client-ca-file"])) {
		t.Fatalf("no authority of front proxies in %v", trust.Data)
	}
	e.Server = httptest.NewUnstartedServer(e)
	e.Server.Listener.Close()
	var err error
	e.Server.Listener, err = (&net.ListenConfig{}).Listen(t.Context(), "tcp", isolate.Address+":0")
	must(t, err)
	certificate, ca := servingCertificate(t, service+"."+namespace+".svc")
	e.ca = ca
	e.Server.TLS = &tls.Config{Certificates: []tls.Certificate{certificate}, ClientCAs: proxies, ClientAuth: tls.RequireAndVerifyClientCert, MinVersion: tls.VersionTLS12}
	e.Server.EnableHTTP2 = true
	e.StartTLS()
	t.Cleanup(func() {
		e.CloseClientConnections()
		e.Close()
	})
	return e
}

func servingCertificate(t *testing.T, name string) (tls.Certificate, []byte) {
	t.Helper()
	key := get[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der := get[[]byte](t)(x509.CreateCertificate(rand.Reader, template, template, key.Public(), key))
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// ServeHTTP implements http.Handler.
func (e *extension) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	base := "/apis/" + e.group + "/v1"
	say := func(v any) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(v)
	}
	switch {
	case e.down.Load():
		http.Error(w, "down", http.StatusInternalServerError)
	case r.URL.Path == base:
		say(metav1.APIResourceList{
			TypeMeta: metav1.TypeMeta{Kind: "APIResourceList", APIVersion: "v1"}, GroupVersion: e.group + "/v1",
			APIResources: []metav1.APIResource{
				{Name: "widgets", SingularName: "widget", Kind: "Widget", Namespaced: true, Verbs: metav1.Verbs{"get", "list", "watch", "delete", "deletecollection"}, ShortNames: []string{"wdg"}},
				{Name: "widgets/status", Kind: "Widget", Namespaced: true, Verbs: metav1.Verbs{"get"}},
			},
		})
	case r.URL.Path == "/openapi/v2":
		_, _ = io.WriteString(w, strings.NewReplacer("GROUP", e.group, "REVERSED", "org.example.widgets").Replace(widgetSwagger))
	case r.URL.Path == base+"/talk" && r.Header.Get("Upgrade") == "shout":
		shout(w)
	case r.URL.Path == base+"/reviews" && r.Method == http.MethodPost:
		var review map[string]any
		_ = json.NewDecoder(r.Body).Decode(&review)
		asked, _ := review["request"].(map[string]any)
		review["response"] = map[string]any{"uid": asked["uid"], "allowed": false, "status": map[string]any{
			"message": fmt.Sprintf("%v by %s", asked["name"], r.Header.Get("X-Remote-User")),
		}}
		say(review)
	case strings.HasSuffix(r.URL.Path, "/widgets") && r.URL.Query().Get("watch") == "true":
		e.watch(w, r)
	case strings.HasSuffix(r.URL.Path, "/widgets") && r.Method == http.MethodDelete:
		e.emptied.Store(r.URL.Path, true)
		say(metav1.Status{TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusSuccess})
	case strings.HasSuffix(r.URL.Path, "/widgets"):
		items := []any{e.widget("one")}
		if _, ok := e.emptied.Load(r.URL.Path); ok {
			items = nil
		}
		say(map[string]any{"apiVersion": e.group + "/v1", "kind": "WidgetList", "metadata": map[string]any{"resourceVersion": "1"}, "items": items})
	case strings.Contains(r.URL.Path, "/widgets/"):
		o := e.widget(r.URL.Path[strings.LastIndex(r.URL.Path, "/")+1:])
		o["asked"] = map[string]any{"by": r.Header.Values("X-Remote-User"), "groups": r.Header.Values("X-Remote-Group"), "extra": r.Header.Values("X-Remote-Extra-Reason"),
			"uid": r.Header.Values("X-Remote-Uid"), "authorization": r.Header.Values("Authorization"), "from": r.TLS.PeerCertificates[0].Subject.CommonName, "query": r.URL.RawQuery, "path": r.URL.EscapedPath()}
		say(o)
	default:
		http.NotFound(w, r)
	}
}

func (e *extension) widget(name string) map[string]any {
	return map[string]any{"apiVersion": e.group + "/v1", "kind": "Widget", "metadata": map[string]any{"name": name, "namespace": "default"}}
}

func (e *extension) watch(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	for {
		_ = http.NewResponseController(w).Flush()
		select {
		case name := <-e.news:
			_ = json.NewEncoder(w).Encode(map[string]any{"type": "ADDED", "object": e.widget(name)})
		case <-r.Context().Done():
			e.left <- struct{}{}
			return
		}
	}
}

// shout answers each line in capitals.
func shout(w http.ResponseWriter) {
	conn, both, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: shout\r\n\r\n")
	for {
		line, err := both.ReadString('\n')
		if err != nil {
			return
		}
		_, _ = io.WriteString(conn, strings.ToUpper(line))
	}
}

const widgetSwagger = `{"swagger": "2.0", "info": {"title": "widgets", "version": "v1"}, "paths": {
  "/apis/GROUP/v1/namespaces/{namespace}/widgets/{name}": {"get": {"description": "read the Widget", "operationId": "readWidget", "produces": ["application/json"],
    "responses": {"200": {"description": "OK", "schema": {"$ref": "#/definitions/REVERSED.v1.Widget"}}},
    "x-kubernetes-action": "get", "x-kubernetes-group-version-kind": {"group": "GROUP", "version": "v1", "kind": "Widget"}}},
  "/apis/elsewhere/v1/things": {"get": {"operationId": "x", "responses": {"200": {"description": "OK"}}}}},
 "definitions": {"REVERSED.v1.Widget": {"type": "object", "description": "A Widget turns.", "properties": {
    "apiVersion": {"type": "string"}, "kind": {"type": "string"}, "speed": {"type": "integer", "description": "How fast it turns."}},
    "x-kubernetes-group-version-kind": [{"group": "GROUP", "version": "v1", "kind": "Widget"}]}}}`

const (
	apiServices = "apiregistration.k8s.io/v1/apiservices"
	apiPath     = "/apis/apiregistration.k8s.io/v1/apiservices/"
)

// available waits until an APIService says why it is available, or is not.
func available(t *testing.T, name, status, reason string) (message string) {
	t.Helper()
	eventually(t, func() (bool, any) {
		a := do(t, http.MethodGet, apiPath+name, nil, nil)
		list, _ := a.at("status", "conditions").([]any)
		for _, c := range list {
			if c, ok := c.(map[string]any); ok && c["type"] == "Available" && c["reason"] == reason && c["status"] == status {
				message, _ = c["message"].(string)
				return true, nil
			}
		}
		return false, fmt.Sprintf("not %s (%s): %s", status, reason, a.Body)
	})
	return message
}

func apply(t *testing.T, path, namespace, text string) {
	t.Helper()
	o := object(t, text)
	_, err := client(path, namespace).Apply(t.Context(), o.GetName(), o, metav1.ApplyOptions{FieldManager: "test", Force: true})
	must(t, err)
}

// TestAggregation follows an extension API server through its life.
func TestAggregation(t *testing.T) {
	ns := namespace(t)
	group := ns + ".example.org"
	name, base := "v1."+group, "/apis/"+group+"/v1"
	e := newExtension(t, group, ns, "widgets")
	at := e.Listener.Addr().(*net.TCPAddr)

	apply(t, apiServices, "", fmt.Sprintf(`{apiVersion: apiregistration.k8s.io/v1, kind: APIService, metadata: {name: %s}, spec: {group: %s, version: v1,
		groupPriorityMinimum: 2000, versionPriority: 10, caBundle: %s, service: {namespace: %s, name: widgets, port: 8443}}}`,
		name, group, base64.StdEncoding.EncodeToString(e.ca), ns))
	t.Cleanup(func() {
		_ = client(apiServices, "").Delete(context.WithoutCancel(t.Context()), name, metav1.DeleteOptions{})
	})
	says := func(status, reason, want string) {
		t.Helper()
		if got := available(t, name, status, reason); !strings.Contains(got, want) {
			t.Errorf("%s: message %q, want %q", reason, got, want)
		}
	}
	refused := func() {
		t.Helper()
		eventually(t, func() (bool, any) {
			a := do(t, http.MethodGet, base+"/namespaces/default/widgets", nil, nil)
			return a.Code == http.StatusServiceUnavailable && strings.TrimSpace(string(a.Body)) == "service unavailable", fmt.Sprint(a.Code, string(a.Body))
		})
	}
	says("False", "ServiceNotFound", fmt.Sprintf(`service/widgets in %q is not present`, ns))
	refused()
	service := func(port int) {
		apply(t, "v1/services", ns, fmt.Sprintf(`{apiVersion: v1, kind: Service, metadata: {name: widgets}, spec: {ports: [{name: https, port: %d}]}}`, port))
	}
	service(443)
	says("False", "ServicePortError", fmt.Sprintf(`service/widgets in %q is not listening on port 8443`, ns))
	service(8443)
	says("False", "EndpointsNotFound", fmt.Sprintf(`cannot find endpointslices for service/widgets in %q`, ns))
	ready := func(is bool) {
		apply(t, "discovery.k8s.io/v1/endpointslices", ns, fmt.Sprintf(`{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: IPv4,
			metadata: {name: widgets-1, labels: {kubernetes.io/service-name: widgets}}, ports: [{name: https, port: %d, protocol: TCP}],
			endpoints: [{addresses: [%s], conditions: {ready: %v}}]}`, at.Port, at.IP, is))
	}
	ready(false)
	says("False", "MissingEndpoints", fmt.Sprintf(`endpointslices for service/widgets in %q have no addresses with port name "https"`, ns))
	ready(true)
	says("True", "Passed", "all checks passed")

	t.Run("discovery", func(t *testing.T) { e.discovery(t) })
	t.Run("identity", func(t *testing.T) { e.identity(t) })
	t.Run("watch", func(t *testing.T) { e.watched(t) })
	t.Run("upgrade", func(t *testing.T) { talk(t, base+"/talk") })
	t.Run("webhook", func(t *testing.T) { e.reviews(t, ns) })
	t.Run("describes itself", func(t *testing.T) { e.described(t) })

	e.down.Store(true)
	// Whatever touches the Service has it looked at again.
	_, err := client("v1/services", ns).Patch(t.Context(), "widgets", types.MergePatchType, []byte(`{"metadata": {"labels": {"touched": "yes"}}}`), metav1.PatchOptions{})
	must(t, err)
	says("False", "FailedDiscoveryCheck", fmt.Sprintf("bad status from https://%s%s: 500", at, base))
	refused()
	figures := string(do(t, http.MethodGet, "/metrics", nil, nil).Body)
	for _, line := range []string{`aggregator_unavailable_apiservice{name="` + name + `"} 1`, `aggregator_unavailable_apiservice_total{name="` + name + `",reason="FailedDiscoveryCheck"} 1`,
		`aggregator_unavailable_apiservice{name="v1.apps"} 0`} {
		if !strings.Contains(figures, line) {
			t.Errorf("/metrics lacks %s", line)
		}
	}
	// Nobody knows what the extension has in a namespace: that cannot end.
	doomed := namespace(t)
	must(t, world.kube.CoreV1().Namespaces().Delete(t.Context(), doomed, metav1.DeleteOptions{}))
	eventually(t, func() (bool, any) {
		a := do(t, http.MethodGet, "/api/v1/namespaces/"+doomed, nil, nil)
		return strings.Contains(string(a.Body), "Discovery failed for some groups, 1 failing: unable to retrieve the complete list of server APIs: "+group+"/v1"), string(a.Body)
	})
	e.down.Store(false)
	says("True", "Passed", "all checks passed")
	eventually(t, func() (bool, any) {
		_, emptied := e.emptied.Load(base + "/namespaces/" + doomed + "/widgets")
		a := do(t, http.MethodGet, "/api/v1/namespaces/"+doomed, nil, nil)
		return emptied && a.Code == http.StatusNotFound, string(a.Body)
	})

	must(t, client(apiServices, "").Delete(t.Context(), name, metav1.DeleteOptions{}))
	eventually(t, func() (bool, any) {
		a := do(t, http.MethodGet, base, nil, nil)
		return a.Code == http.StatusNotFound, a.Code
	})
	if list := string(do(t, http.MethodGet, "/apis", nil, nil).Body); strings.Contains(list, group) {
		t.Errorf("the group is still among %s", list)
	}
}

func (e *extension) discovery(t *testing.T) {
	client := get[*discovery.DiscoveryClient](t)(discovery.NewDiscoveryClientForConfig(world.rest))
	eventually(t, func() (bool, any) {
		_, lists, err := client.ServerGroupsAndResources() // the new form
		for _, list := range lists {
			if list.GroupVersion == e.group+"/v1" && len(list.APIResources) == 2 && list.APIResources[0].Kind == "Widget" && list.APIResources[0].Namespaced {
				return true, nil
			}
		}
		return false, err
	})
	// It ranks between the built-in groups and those of custom resources.
	var groups metav1.APIGroupList
	must(t, json.Unmarshal(do(t, http.MethodGet, "/apis", nil, nil).Body, &groups))
	place := map[string]int{}
	for i, g := range groups.Groups {
		place[g.Name] = i
	}
	if groups.Groups[0].Name != "apiregistration.k8s.io" || place["apps"] != 1 || place[e.group] < place["storagemigration.k8s.io"] || place[e.group] > place["metrics.k8s.io"] {
		t.Errorf("the groups are in the order %v", place)
	}
	if a := do(t, http.MethodGet, "/apis/"+e.group, nil, nil); a.at("preferredVersion", "version") != "v1" {
		t.Errorf("the group is %s", a.Body)
	}
	out, err := world.Kubectl(t.Context(), nil, "get", "wdg."+e.group, "-n", "default", "-o", "name")
	if err != nil || strings.TrimSpace(out) != "widget."+e.group+"/one" {
		t.Error(out, err)
	}
}

// identity: whoever asks is named to the extension, and nobody else.
func (e *extension) identity(t *testing.T) {
	path := "/apis/" + e.group + "/v1/namespaces/default/widgets%2Fone?x=a%2Fb&y;watch=true&limit=5"
	a := do(t, http.MethodGet, path, header{
		"Impersonate-User": "alice", "Impersonate-Group": "system:masters", "Impersonate-Extra-Reason": "test", "Impersonate-Uid": "u-1",
		"X-Remote-User": "mallory", "X-Remote-Group": "devils",
	}, nil)
	asked, _ := json.Marshal(a.at("asked"))
	if want := `{"authorization":null,"by":["alice"],"extra":["test"],"from":"front-proxy-client","groups":["system:masters","system:authenticated"],"path":"/apis/` + e.group + `/v1/namespaces/default/widgets/one","query":"limit=5\u0026x=a%2Fb","uid":["u-1"]}`; string(asked) != want {
		t.Errorf("the extension was asked\n by   %s\n want %s", asked, want)
	}
	if got := a.Header.Values("Audit-Id"); len(got) != 1 {
		t.Errorf("the answer has the audit ids %v", got)
	}
	// A client of HTTP/1.1 may have headers taken off on the way, but not these.
	resp, in := oldRequest(t, path, "Connection: X-Remote-User, X-Remote-Group")
	var one map[string]any
	must(t, json.NewDecoder(in).Decode(&one))
	if by, _ := json.Marshal(one["asked"]); resp.StatusCode != http.StatusOK || !strings.Contains(string(by), `"by":["system:admin"]`) {
		t.Errorf("asked %s", by)
	}
	// One that was passed on again and again is not.
	const hop = "1.1 proa-aggregator"
	if a := do(t, http.MethodGet, path, header{"Via": hop + ", 1.1 elsewhere, " + hop}, nil); a.Code != http.StatusOK {
		t.Errorf("passed on twice: %d %s", a.Code, a.Body)
	}
	if a := do(t, http.MethodGet, path, header{"Via": strings.Repeat(hop+", ", 3)}, nil); a.Code != http.StatusLoopDetected {
		t.Errorf("passed on three times: %d %s", a.Code, a.Body)
	}
	if a := do(t, http.MethodGet, path, header{"Impersonate-User": "bob"}, nil); a.Code != http.StatusForbidden || a.at("reason") != "Forbidden" {
		t.Errorf("bob, who may nothing, got %d %s", a.Code, a.Body)
	}
}

// reviews: the extension is a webhook as well, which the API server asks by way
// of itself, as nobody but itself.
func (e *extension) reviews(t *testing.T, ns string) {
	const configurations = "admissionregistration.k8s.io/v1/validatingwebhookconfigurations"
	apply(t, configurations, "", fmt.Sprintf(`{apiVersion: admissionregistration.k8s.io/v1, kind: ValidatingWebhookConfiguration, metadata: {name: %s}, webhooks: [{
		name: reviews.example.org, sideEffects: None, admissionReviewVersions: [v1], namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: %s}},
		rules: [{apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [configmaps]}],
		clientConfig: {service: {namespace: default, name: kubernetes, path: /apis/%s/v1/reviews}}}]}`, ns, ns, e.group))
	t.Cleanup(func() {
		_ = client(configurations, "").Delete(context.WithoutCancel(t.Context()), ns, metav1.DeleteOptions{})
	})
	eventually(t, func() (bool, any) {
		_, err := world.kube.CoreV1().ConfigMaps(ns).Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "x"}}, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		return err != nil && strings.HasSuffix(err.Error(), `denied the request: x by system:apiserver`), err
	})
}

func (e *extension) watched(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	w := get[watch.Interface](t)(client(e.group+"/v1/widgets", "default").Watch(ctx, metav1.ListOptions{}))
	defer w.Stop()
	for _, name := range []string{"two", "three"} {
		e.news <- name
		if got := event(t, w, watch.Added).GetName(); got != name {
			t.Errorf("watched %s, want %s", got, name)
		}
	}
	cancel()
	select {
	case <-e.left:
	case <-time.After(limit):
		t.Error("the extension still serves a watch that has ended")
	}
}

// oldRequest sends a request of HTTP/1.1 with a header. What follows the answer's
// header can be read, and what is written goes to the server.
func oldRequest(t *testing.T, path, header string) (*http.Response, io.ReadWriter) {
	t.Helper()
	host := get[*url.URL](t)(url.Parse(world.rest.Host)).Host
	cfg := get[*tls.Config](t)(rest.TLSConfigFor(world.rest))
	cfg.NextProtos = []string{"http/1.1"}
	conn, err := (&tls.Dialer{Config: cfg}).DialContext(t.Context(), "tcp", host)
	must(t, err)
	t.Cleanup(func() { conn.Close() })
	must(t, conn.SetDeadline(time.Now().Add(limit)))
	_, err = fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: %s\r\n%s\r\n\r\n", path, host, header)
	must(t, err)
	in := bufio.NewReader(conn)
	resp, err := http.ReadResponse(in, nil)
	must(t, err)
	type both struct {
		io.Reader
		io.Writer
	}
	if resp.StatusCode == http.StatusSwitchingProtocols {
		return resp, both{in, conn}
	}
	return resp, both{resp.Body, conn}
}

// talk upgrades a connection.
func talk(t *testing.T, path string) {
	resp, both := oldRequest(t, path, "Connection: Upgrade\r\nUpgrade: shout")
	if resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatal(resp.Status)
	}
	in := bufio.NewReader(both)
	for _, word := range []string{"hello\n", "again\n"} {
		_, err := io.WriteString(both, word)
		must(t, err)
		if got := get[string](t)(in.ReadString('\n')); got != strings.ToUpper(word) {
			t.Errorf("heard %q", got)
		}
	}
}

// described: its description is part of ours, in both versions.
func (e *extension) described(t *testing.T) {
	eventually(t, func() (bool, any) {
		out, err := world.Kubectl(t.Context(), nil, "explain", "widgets.speed", "--api-version", e.group+"/v1")
		return err == nil && strings.Contains(out, "How fast it turns."), fmt.Sprint(out, err)
	})
	two := string(do(t, http.MethodGet, "/openapi/v2", nil, nil).Body)
	for text, want := range map[string]bool{"org.example.widgets.v1.Widget": true, "/apis/" + e.group + "/v1/namespaces/{namespace}/widgets/{name}": true, "/apis/elsewhere": false, "/api/v1/pods": true} {
		if strings.Contains(two, text) != want {
			t.Errorf("/openapi/v2 has %s: %v", text, !want)
		}
	}
}

// TestLocalAPIServices: what the server itself serves has an APIService.
func TestLocalAPIServices(t *testing.T) {
	for name, want := range map[string]string{"v1.": "18000/1/onstart", "v1.apps": "17800/15/onstart", "v2.autoscaling": "17500/30/onstart", "v1.resource.k8s.io": "16200/21/onstart"} {
		available(t, name, "True", "Local")
		a := do(t, http.MethodGet, apiPath+name, nil, nil)
		if got := fmt.Sprintf("%v/%v/%v", a.at("spec", "groupPriorityMinimum"), a.at("spec", "versionPriority"), a.at("metadata", "labels", "kube-aggregator.kubernetes.io/automanaged")); got != want {
			t.Errorf("%s is %s, want %s", name, got, want)
		}
	}
	if a := do(t, http.MethodGet, apiPath+"v1.apiregistration.k8s.io", nil, nil); a.Code != http.StatusNotFound {
		t.Errorf("APIServices have one of their own: %d", a.Code)
	}
	out, err := world.Kubectl(t.Context(), nil, "get", "apiservices")
	if err != nil || !regexp.MustCompile(`(?m)^NAME +SERVICE +AVAILABLE +AGE\nv1\. +Local +True +\w+\n`).MatchString(out) {
		t.Error(err)
	}
	t.Log(out)
	t.Run("custom resources", func(t *testing.T) {
		ns := namespace(t)
		group := ns + ".example.com"
		apply(t, "apiextensions.k8s.io/v1/customresourcedefinitions", "", fmt.Sprintf(`{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition,
			metadata: {name: things.%[1]s}, spec: {group: %[1]s, scope: Namespaced, names: {plural: things, kind: Thing},
			versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object}}}]}}`, group))
		available(t, "v1."+group, "True", "Local")
		// Whoever deletes it, or changes it, does so in vain.
		must(t, client(apiServices, "").Delete(t.Context(), "v1."+group, metav1.DeleteOptions{}))
		available(t, "v1."+group, "True", "Local")
		must(t, client("apiextensions.k8s.io/v1/customresourcedefinitions", "").Delete(t.Context(), "things."+group, metav1.DeleteOptions{}))
		eventually(t, func() (bool, any) {
			a := do(t, http.MethodGet, apiPath+"v1."+group, nil, nil)
			return a.Code == http.StatusNotFound, a.Code
		})
	})
	t.Run("metrics by an add-on", func(t *testing.T) {
		const name = "v1beta1.metrics.k8s.io"
		available(t, name, "True", "Local")
		ns := namespace(t)
		out, err := world.Kubectl(t.Context(), strings.NewReader(fmt.Sprintf(`{apiVersion: apiregistration.k8s.io/v1, kind: APIService, metadata: {name: %s, labels: {k8s-app: metrics-server}},
			spec: {group: metrics.k8s.io, version: v1beta1, groupPriorityMinimum: 100, versionPriority: 100, insecureSkipTLSVerify: true,
			service: {namespace: %s, name: metrics-server}}}`, name, ns)), "apply", "-f", "-")
		if err != nil {
			t.Fatal(out, err)
		}
		available(t, name, "False", "ServiceNotFound")
		if a := do(t, http.MethodGet, "/apis/metrics.k8s.io/v1beta1/nodes", nil, nil); a.Code != http.StatusServiceUnavailable {
			t.Errorf("the add-on that is not there answers %d %s", a.Code, a.Body)
		}
		must(t, client(apiServices, "").Delete(t.Context(), name, metav1.DeleteOptions{}))
		available(t, name, "True", "Local")
		eventually(t, func() (bool, any) {
			a := do(t, http.MethodGet, "/apis/metrics.k8s.io/v1beta1", nil, nil)
			return a.Code == http.StatusOK, a.Code
		})
	})
}
