package apiserver_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"

	"github.com/proa-dev/proa/apiserver"
	"github.com/proa-dev/proa/apiserver/apiservertest"
)

// frames reads a watch as lines "TYPE name".
type frames struct {
	t    *testing.T
	body io.ReadCloser
	in   *bufio.Reader
}

func (f *fixture) watch(path string, headers ...string) *frames {
	f.Helper()
	ctx, cancel := context.WithTimeout(f.Context(), 30*time.Second)
	f.Cleanup(cancel)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, f.URL+path, nil)
	if err != nil {
		f.Fatal(err)
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
	f.Cleanup(func() { _ = resp.Body.Close() })
	if resp.StatusCode != 200 {
		data, _ := io.ReadAll(resp.Body)
		f.Fatalf("watch %s: %d %s", path, resp.StatusCode, data)
	}
	return &frames{t: f.T, body: resp.Body, in: bufio.NewReader(resp.Body)}
}

func (w *frames) next() (string, *answer) {
	w.t.Helper()
	line, err := w.in.ReadBytes('\n')
	if err != nil {
		return err.Error(), nil
	}
	var ev struct {
		Type   string         `json:"type"`
		Object map[string]any `json:"object"`
	}
	if err := json.Unmarshal(line, &ev); err != nil {
		w.t.Fatalf("%v in %s", err, line)
	}
	a := &answer{object: ev.Object, body: string(line)}
	return strings.TrimSpace(ev.Type + " " + a.text("metadata.name")), a
}

func (w *frames) expect(want ...string) *answer {
	w.t.Helper()
	var a *answer
	for _, x := range want {
		var got string
		if got, a = w.next(); got != x {
			w.t.Fatalf("got %q, want %q", got, x)
		}
	}
	return a
}

func TestWatchFollowsAList(t *testing.T) {
	f := start(t, nil)
	f.configMaps(2)
	w := f.watch(configMaps + "?watch=true&resourceVersion=" + f.expect(200, "GET", configMaps, "").text("metadata.resourceVersion"))
	f.expect(201, "POST", configMaps, `{"metadata":{"name":"x"}}`)
	f.expect(200, "PATCH", configMaps+"/x", `{"data":{"a":"b"}}`, mergePatch)
	f.expect(200, "DELETE", configMaps+"/x", "")
	if a := w.expect("ADDED x", "MODIFIED x", "DELETED x"); a.text("data.a") != "b" || a.text("kind") != "ConfigMap" {
		t.Error(a.body)
	}
}

func TestWatchBeginsWithTheState(t *testing.T) {
	f := start(t, nil)
	f.configMaps(2)
	f.watch(configMaps+"?watch=1").expect("ADDED c00", "ADDED c01")
	f.watch("/api/v1/watch/namespaces/default/configmaps").expect("ADDED c00", "ADDED c01")
	w := f.watch(configMaps + "?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true")
	a := w.expect("ADDED c00", "ADDED c01", "BOOKMARK")
	if notes, _ := a.at("metadata.annotations").(map[string]any); notes["k8s.io/initial-events-end"] != "true" || a.text("kind") != "ConfigMap" || a.text("metadata.resourceVersion") == "" {
		t.Error(a.body)
	}
	legacy := f.watch(configMaps + "?watch=1&resourceVersion=0&allowWatchBookmarks=true")
	if a := legacy.expect("ADDED c00", "ADDED c01", "BOOKMARK"); !strings.Contains(a.body, "initial-events-end") {
		t.Error(a.body)
	}
	bare := f.watch(configMaps + "?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan")
	bare.expect("ADDED c00", "ADDED c01")
	f.expect(200, "DELETE", configMaps+"/c00", "")
	w.expect("DELETED c00")
	legacy.expect("DELETED c00")
	bare.expect("DELETED c00") // no bookmark before: it did not ask for them
}

// Documents in YAML have no bounds in a stream.
func TestWatchInYAML(t *testing.T) {
	f := start(t, nil)
	a := f.expect(406, "GET", configMaps+"?watch=1", "", "Accept: application/yaml")
	for _, want := range []string{"reason: NotAcceptable", "message: 'only the following media types are accepted: application/json;stream=watch, application/vnd.kubernetes.protobuf;stream=watch'"} {
		if !strings.Contains(strings.Join(strings.Fields(a.body), " "), want) {
			t.Error(a.body)
		}
	}
	f.watch(configMaps+"?watch=1", "Accept: application/json;stream=watch, application/yaml")
}

// An object that begins to match is added for the watcher, one that ceases to
// is deleted.
func TestWatchSelects(t *testing.T) {
	f := start(t, nil)
	byLabel := f.watch(configMaps + "?watch=1&labelSelector=on%3Dyes")
	byName := f.watch(configMaps + "?watch=1&fieldSelector=metadata.name%3Db")
	f.expect(201, "POST", configMaps, `{"metadata":{"name":"a"}}`)
	f.expect(201, "POST", configMaps, `{"metadata":{"name":"b"}}`)
	f.expect(200, "PATCH", configMaps+"/a", `{"metadata":{"labels":{"on":"yes"}}}`, mergePatch)
	f.expect(200, "PATCH", configMaps+"/a", `{"metadata":{"labels":{"on":"no"}}}`, mergePatch)
	f.expect(200, "DELETE", configMaps+"/b", "")
	byLabel.expect("ADDED a", "DELETED a")
	byName.expect("ADDED b", "DELETED b")
}

func TestWatchOfTheFar(t *testing.T) {
	f := start(t, nil)
	f.configMaps(1)
	if a := f.watch(configMaps + "?watch=1&resourceVersion=1").expect("ERROR"); a.at("code") != 410.0 || a.text("reason") != "Expired" || !strings.HasPrefix(a.text("message"), "too old resource version: 1 (") {
		t.Error(a.body)
	}
	a := f.send("GET", configMaps+"?resourceVersion=99999999", "")
	if a.code != 504 || !strings.Contains(a.text("message"), "Too large resource version") {
		t.Errorf("%d %s", a.code, a.text("message"))
	}
}

func TestWatchTimeout(t *testing.T) {
	f := start(t, nil)
	w := f.watch(configMaps + "?watch=1&timeoutSeconds=1")
	w.expect("EOF")
}

func TestWatchInProtobufAndTables(t *testing.T) {
	f := start(t, nil)
	cfg := f.Config("admin")
	cfg.ContentType = "application/vnd.kubernetes.protobuf"
	w, err := kubernetes.NewForConfigOrDie(cfg).CoreV1().ConfigMaps("default").Watch(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	tables := f.watch(configMaps+"?watch=1", "Accept: application/json;as=Table;v=v1;g=meta.k8s.io")
	f.configMaps(1)
	select {
	case ev := <-w.ResultChan():
		if c, ok := ev.Object.(*corev1.ConfigMap); !ok || ev.Type != watch.Added || c.Name != "c00" || c.Data["i"] != "0" {
			t.Errorf("%v", ev)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("no event")
	}
	if a := tables.expect("ADDED"); a.text("kind") != "Table" || !strings.Contains(a.body, `"cells":["c00"`) {
		t.Error(a.body)
	}
}

func TestWatchByWebSocket(t *testing.T) {
	f := start(t, nil)
	dialer := websocket.Dialer{TLSClientConfig: f.http.Transport.(*http.Transport).TLSClientConfig.Clone()}
	dialer.TLSClientConfig.NextProtos = nil
	conn, resp, err := dialer.DialContext(t.Context(), strings.Replace(f.URL, "https", "wss", 1)+configMaps+"?watch=1", http.Header{"Authorization": {"Bearer admin"}})
	if err != nil {
		t.Fatalf("%v %v", err, resp)
	}
	defer func() { _ = conn.Close() }()
	f.configMaps(1)
	var ev struct{ Type string }
	if err := conn.ReadJSON(&ev); err != nil || ev.Type != "ADDED" {
		t.Errorf("%v %v", ev, err)
	}
}

// The end of the server ends watches, at once.
func TestShutdownEndsWatches(t *testing.T) {
	var cfg apiserver.Config
	s := apiservertest.Start(t, func(c *apiserver.Config) { cfg = *c })
	server, err := apiserver.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- server.Serve(ctx, ln) }()
	s.URL = fmt.Sprintf("https://%s", ln.Addr())
	w, err := kubernetes.NewForConfigOrDie(s.Config("admin")).CoreV1().ConfigMaps("default").Watch(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	cancel()
	for range w.ResultChan() {
	}
	if err := <-done; err != nil || time.Since(begin) > 5*time.Second {
		t.Errorf("%v after %v", err, time.Since(begin))
	}
}
