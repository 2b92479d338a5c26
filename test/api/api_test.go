// Package api holds a whole control plane against the words of the
// conformance suite, and against clients that do not behave. Bare Node objects
// stand for nodes, and a loop of this package for their kubelets.
package api

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"

	"github.com/proa-dev/proa/test/cluster"
	"github.com/proa-dev/proa/test/isolate"
)

// world is the control plane under test, which all tests share. TestMain sets
// it before the first of them.
var world struct {
	*cluster.Cluster
	kube kubernetes.Interface // speaks protobuf
	dyn  dynamic.Interface    // speaks JSON
	rest *rest.Config
	http *http.Client
}

func TestMain(m *testing.M) {
	flag.Parse()
	isolate.Enter()
	os.Exit(run(m))
}

func run(m *testing.M) int {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	fail := func(err error) int {
		fmt.Fprintln(os.Stderr, "api tests:", err)
		return 1
	}
	var err error
	if world.Cluster, err = cluster.New("../../bin"); err != nil {
		return fail(err)
	}
	defer func() {
		if err := world.Remove(context.WithoutCancel(ctx)); err != nil {
			fmt.Fprintln(os.Stderr, "api tests:", err)
		}
	}()
	if err := world.Start(ctx, "--disable-agent"); err != nil {
		return fail(err)
	}
	if world.kube, err = world.Client(); err != nil {
		return fail(err)
	}
	if world.rest, err = world.REST(); err != nil {
		return fail(err)
	}
	if world.dyn, err = dynamic.NewForConfig(world.rest); err != nil {
		return fail(err)
	}
	if world.http, err = rest.HTTPClientFor(world.rest); err != nil {
		return fail(err)
	}
	go kubelets(ctx)
	code := m.Run()
	if code != 0 {
		fmt.Fprintln(os.Stderr, world.LastWords())
	}
	return code
}

// limit is how long a controller may take; it is far from what it takes.
const limit = 20 * time.Second

// namespace makes one for the test.
func namespace(t *testing.T) string {
	t.Helper()
	ns, err := world.kube.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "t-"}}, metav1.CreateOptions{})
	must(t, err)
	t.Cleanup(func() {
		if err := world.kube.CoreV1().Namespaces().Delete(context.WithoutCancel(t.Context()), ns.Name, metav1.DeleteOptions{}); err != nil {
			t.Log(err)
		}
	})
	return ns.Name
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// get fails the test unless a call of a client succeeds.
func get[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		must(t, err)
		return v
	}
}

// eventually waits until what is as wanted; why tells how it is.
func eventually(t *testing.T, ok func() (good bool, why any)) {
	t.Helper()
	deadline := time.After(limit)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		good, why := ok()
		if good {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("not in %s: %v", limit, why)
		}
	}
}

// object reads YAML.
func object(t *testing.T, text string) *unstructured.Unstructured {
	t.Helper()
	u := &unstructured.Unstructured{}
	must(t, yaml.Unmarshal([]byte(text), &u.Object))
	return u
}

// client is that of "group/version/resource".
func client(path, namespace string) dynamic.ResourceInterface {
	parts := strings.Split(path, "/")
	gvr := schema.GroupVersionResource{Version: parts[len(parts)-2], Resource: parts[len(parts)-1]}
	if len(parts) == 3 {
		gvr.Group = parts[0]
	}
	if namespace == "" {
		return world.dyn.Resource(gvr)
	}
	return world.dyn.Resource(gvr).Namespace(namespace)
}

// event waits for the next event of a watch.
func event(t *testing.T, w watch.Interface, want watch.EventType) metav1.Object {
	t.Helper()
	for {
		select {
		case e, ok := <-w.ResultChan():
			if !ok {
				t.Fatalf("the watch ended while waiting for %s", want)
			}
			if e.Type != want {
				t.Fatalf("event %s %v, want %s", e.Type, e.Object, want)
			}
			o, isObject := e.Object.(metav1.Object)
			if !isObject {
				t.Fatalf("event of %T", e.Object)
			}
			return o
		case <-time.After(limit):
			t.Fatalf("no %s in %s", want, limit)
		}
	}
}

// answer is a response, read.
type answer struct {
	Code   int
	Header http.Header
	Body   []byte
	// Object is the body, if it is a JSON object.
	Object map[string]any
}

// at is a field of the body.
func (a *answer) at(path ...string) any {
	v, _, _ := unstructured.NestedFieldNoCopy(a.Object, path...)
	return v
}

type header map[string]string

// do sends a request as the administrator.
func do(t *testing.T, method, path string, h header, body []byte) *answer {
	t.Helper()
	var r io.Reader
	if body != nil {
		r = bytes.NewReader(body)
	}
	req, err := http.NewRequestWithContext(t.Context(), method, world.rest.Host+path, r)
	must(t, err)
	all := map[string]string{"Content-Type": "application/json", "User-Agent": "api-test/1"}
	maps.Copy(all, h)
	for k, v := range all {
		req.Header.Set(k, v)
	}
	if all["Transfer-Encoding"] == "chunked" {
		req.ContentLength = -1
	}
	resp, err := world.http.Do(req)
	must(t, err)
	defer resp.Body.Close()
	a := &answer{Code: resp.StatusCode, Header: resp.Header}
	a.Body, err = io.ReadAll(resp.Body)
	must(t, err)
	_ = json.Unmarshal(a.Body, &a.Object) // other formats have no Object
	return a
}
