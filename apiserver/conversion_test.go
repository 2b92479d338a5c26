package apiserver_test

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"

	"github.com/proa-dev/proa/apiserver/apiservertest"
)

const doors = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: doors.example.com}
spec:
  group: example.com
  scope: Namespaced
  names: {plural: doors, kind: Door, listKind: Doors}
  versions:
  - name: v1
    served: true
    storage: true
    selectableFields: [{jsonPath: .hostPort}]
    schema: {openAPIV3Schema: {type: object, properties: {hostPort: {type: string}, note: {type: string}}}}
  - name: v2
    served: true
    storage: false
    selectableFields: [{jsonPath: .host}]
    schema: {openAPIV3Schema: {type: object, properties: {host: {type: string}, port: {type: string}, note: {type: string}}}}
`

// converter is a webhook that converts doors. twist changes what it answers.
type converter struct {
	*httptest.Server
	mu    sync.Mutex
	calls []int // objects in each call
	twist func(*apiextensionsv1.ConversionReview, []*unstructured.Unstructured)
}

func startConverter(t *testing.T) *converter {
	t.Helper()
	c := &converter{}
	c.Server = httptest.NewTLSServer(http.HandlerFunc(c.serve))
	t.Cleanup(c.Close)
	return c
}

func (c *converter) serve(w http.ResponseWriter, r *http.Request) {
	review := &apiextensionsv1.ConversionReview{}
	if err := json.NewDecoder(r.Body).Decode(review); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	var out []*unstructured.Unstructured
	for _, o := range review.Request.Objects {
		u := &unstructured.Unstructured{}
		_ = u.UnmarshalJSON(o.Raw)
		u.SetAPIVersion(review.Request.DesiredAPIVersion)
		if hostPort, ok := u.Object["hostPort"].(string); ok {
			host, port, _ := strings.Cut(hostPort, ":")
			u.Object["host"], u.Object["port"] = host, port
			delete(u.Object, "hostPort")
		} else if host, ok := u.Object["host"].(string); ok {
			u.Object["hostPort"] = fmt.Sprintf("%s:%v", host, u.Object["port"])
			delete(u.Object, "host")
			delete(u.Object, "port")
		}
		out = append(out, u)
	}
	review.Response = &apiextensionsv1.ConversionResponse{UID: review.Request.UID, Result: metav1.Status{Status: metav1.StatusSuccess}}
	c.mu.Lock()
	c.calls = append(c.calls, len(out))
	if c.twist != nil {
		c.twist(review, out)
	}
	c.mu.Unlock()
	for _, u := range out {
		review.Response.ConvertedObjects = append(review.Response.ConvertedObjects, runtime.RawExtension{Object: u})
	}
	review.Request = nil
	_ = json.NewEncoder(w).Encode(review)
}

// lie makes the webhook answer otherwise; nil ends that.
func (c *converter) lie(twist func(*apiextensionsv1.ConversionReview, []*unstructured.Unstructured)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.twist = twist
}

// asked returns the calls since it was called last.
func (c *converter) asked() []int {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := c.calls
	c.calls = nil
	return out
}

// house is a cluster whose doors a webhook converts.
type house struct {
	*converter
	client  dynamic.Interface
	one, to dynamic.ResourceInterface // v1, v2
}

func newHouse(t *testing.T) *house {
	t.Helper()
	h := &house{converter: startConverter(t)}
	s := apiservertest.Start(t, nil)
	var err error
	if h.client, err = dynamic.NewForConfig(s.Config("admin")); err != nil {
		t.Fatal(err)
	}
	d := object(t, doors)
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: h.Certificate().Raw})
	conversion, err := runtime.DefaultUnstructuredConverter.ToUnstructured(&apiextensionsv1.CustomResourceConversion{
		Strategy: apiextensionsv1.WebhookConverter,
		Webhook: &apiextensionsv1.WebhookConversion{
			ClientConfig: &apiextensionsv1.WebhookClientConfig{URL: new(h.URL + "/convert"), CABundle: ca}, ConversionReviewVersions: []string{"v7", "v1"},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	d.Object["spec"].(map[string]any)["conversion"] = conversion
	if _, err := h.client.Resource(definitionsGVR).Create(t.Context(), d, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	established(t, h.client, "doors.example.com")
	gvr := schema.GroupVersionResource{Group: "example.com", Version: "v1", Resource: "doors"}
	h.one = h.client.Resource(gvr).Namespace("default")
	gvr.Version = "v2"
	h.to = h.client.Resource(gvr).Namespace("default")
	return h
}

func (h *house) make(t *testing.T, in dynamic.ResourceInterface, text string) *unstructured.Unstructured {
	t.Helper()
	u, err := in.Create(t.Context(), object(t, text), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func TestConversionByWebhook(t *testing.T) {
	h := newHouse(t)
	ctx := t.Context()
	w, err := h.to.Watch(ctx, metav1.ListOptions{FieldSelector: "host=a"})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	for _, name := range []string{"a", "b", "c"} {
		h.make(t, h.one, "{apiVersion: example.com/v1, kind: Door, metadata: {name: "+name+", labels: {l: x}}, hostPort: '"+name+":80'}")
	}
	if e := <-w.ResultChan(); e.Object.(*unstructured.Unstructured).Object["port"] != "80" {
		t.Fatalf("watched: %v", e)
	}
	h.make(t, h.to, "{apiVersion: example.com/v2, kind: Door, metadata: {name: d}, host: d, port: '1', unknown: 1}")
	if got, err := h.one.Get(ctx, "d", metav1.GetOptions{}); err != nil || got.Object["hostPort"] != "d:1" || got.Object["unknown"] != nil {
		t.Errorf("made as v2, read as v1: %v, %v", got, err)
	}

	t.Run("a list is one call, and kept", func(t *testing.T) {
		for range 3 {
			h.make(t, h.one, "{apiVersion: example.com/v1, kind: Door, metadata: {generateName: e}, hostPort: 'e:1'}")
		}
		// What no watcher saw may be converted already, but in one call at most.
		h.asked()
		list, err := h.to.List(ctx, metav1.ListOptions{})
		if err != nil || len(list.Items) != 7 || list.GetKind() != "Doors" || list.Items[1].Object["host"] != "b" {
			t.Fatalf("list: %v, %v", list, err)
		}
		if calls := h.asked(); len(calls) > 1 {
			t.Errorf("calls: %v", calls)
		}
		found, err := h.to.List(ctx, metav1.ListOptions{FieldSelector: "host=e"})
		if err != nil || len(found.Items) != 3 {
			t.Errorf("selected: %v, %v", found, err)
		}
		if calls := h.asked(); len(calls) > 0 {
			t.Errorf("converted again: %v", calls)
		}
	})
	t.Run("a change leaves the selection", func(t *testing.T) {
		if _, err := h.to.Patch(ctx, "a", types.MergePatchType, []byte(`{"host":"z"}`), metav1.PatchOptions{}); err != nil {
			t.Fatal(err)
		}
		if e := <-w.ResultChan(); e.Type != "DELETED" {
			t.Errorf("watched: %v", e)
		}
		if got, err := h.one.Get(ctx, "a", metav1.GetOptions{}); err != nil || got.Object["hostPort"] != "z:80" || got.GetGeneration() != 2 {
			t.Errorf("changed: %v, %v", got, err)
		}
	})
	t.Run("fields are owned across versions", func(t *testing.T) {
		apply := func(in dynamic.ResourceInterface, manager, text string) (*unstructured.Unstructured, error) {
			return in.Apply(ctx, "s", object(t, text), metav1.ApplyOptions{FieldManager: manager})
		}
		if _, err := apply(h.one, "m1", "{apiVersion: example.com/v1, kind: Door, metadata: {name: s}, hostPort: 's:1'}"); err != nil {
			t.Fatal(err)
		}
		got, err := apply(h.to, "m2", "{apiVersion: example.com/v2, kind: Door, metadata: {name: s}, note: mine}")
		if err != nil || got.Object["host"] != "s" || len(got.GetManagedFields()) != 2 {
			t.Fatalf("two managers: %v, %v", got, err)
		}
		if _, err = apply(h.to, "m3", "{apiVersion: example.com/v2, kind: Door, metadata: {name: s}, note: other}"); !apierrors.IsConflict(err) {
			t.Errorf("another's field: %v", err)
		}
		// m1 owns hostPort, which is host and port in the other version.
		if _, err = apply(h.to, "m3", "{apiVersion: example.com/v2, kind: Door, metadata: {name: s}, host: other}"); !apierrors.IsConflict(err) {
			t.Errorf("another's field of another version: %v", err)
		}
	})
}

func TestConversionThatLies(t *testing.T) {
	h := newHouse(t)
	ctx := t.Context()
	h.make(t, h.one, "{apiVersion: example.com/v1, kind: Door, metadata: {name: a, labels: {l: x}}, hostPort: 'a:80'}")
	type review = apiextensionsv1.ConversionReview
	type objects = []*unstructured.Unstructured
	const of = "conversion webhook for example.com/v1, Kind=Door "
	for _, test := range []struct {
		name, want string
		twist      func(*review, objects)
	}{
		{"fails", of + "failed: no luck", func(r *review, _ objects) { r.Response.Result = metav1.Status{Status: "Failure", Message: "no luck"} }},
		{"fails without a word", of + "failed: response.result.status was '', not 'Success'", func(r *review, _ objects) { r.Response.Result = metav1.Status{} }},
		{"another request", of + "failed: expected response.uid=", func(r *review, _ objects) { r.Response.UID = "x" }},
		{"another kind of answer", of + "failed: expected webhook response of", func(r *review, _ objects) { r.Kind = "Lie" }},
		{"too many", of + "returned 2 objects, expected 1", func(r *review, o objects) {
			r.Response.ConvertedObjects = append(r.Response.ConvertedObjects, runtime.RawExtension{Object: o[0]})
		}},
		{"another version", of + "returned invalid converted object at index 0: invalid groupVersion", func(_ *review, o objects) { o[0].SetAPIVersion("example.com/v3") }},
		{"another name", of + "returned invalid converted object at index 0: must have the same name: a != b", func(_ *review, o objects) { o[0].SetName("b") }},
		{"no metadata", of + "returned invalid converted object at index 0: must have the same name", func(_ *review, o objects) { delete(o[0].Object, "metadata") }},
		{"bad labels", of + "returned invalid metadata in object at index 0: metadata.labels", func(_ *review, o objects) { o[0].SetLabels(map[string]string{"-": "x"}) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			h.lie(test.twist)
			if _, err := h.to.Get(ctx, "a", metav1.GetOptions{}); !apierrors.IsInternalError(err) || !strings.Contains(err.Error(), test.want) {
				t.Errorf("get: %v", err)
			}
			if _, err := h.to.List(ctx, metav1.ListOptions{LabelSelector: "l=x"}); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("list: %v", err)
			}
		})
	}
	h.lie(func(_ *review, o objects) {
		o[0].SetLabels(map[string]string{"l": "y"})
		o[0].SetFinalizers([]string{"example.com/x"})
		o[0].SetResourceVersion("7")
	})
	got, err := h.to.Get(ctx, "a", metav1.GetOptions{})
	if err != nil || got.GetLabels()["l"] != "y" || got.GetFinalizers() != nil || got.GetResourceVersion() == "7" {
		t.Errorf("labels and nothing else may change: %v, %v", got, err)
	}
	if list, err := h.to.List(ctx, metav1.ListOptions{LabelSelector: "l=y"}); err != nil || len(list.Items) != 1 {
		t.Errorf("selected as served: %v, %v", list, err)
	}
	// A webhook that is gone keeps nobody from removing all there is.
	h.Close()
	if err := h.client.Resource(definitionsGVR).Delete(ctx, "doors.example.com", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	until(t, func(ctx context.Context) (bool, error) {
		_, err := h.client.Resource(definitionsGVR).Get(ctx, "doors.example.com", metav1.GetOptions{})
		return apierrors.IsNotFound(err), nil
	})
}

// TestStorageVersion changes the version that is stored: the old ones stay as
// they are, are listed with the new ones, and are stored anew when written.
func TestStorageVersion(t *testing.T) {
	h := newHouse(t)
	ctx := t.Context()
	h.make(t, h.one, "{apiVersion: example.com/v1, kind: Door, metadata: {name: old}, hostPort: 'old:1'}")
	definitions := h.client.Resource(definitionsGVR)
	_, err := definitions.Patch(ctx, "doors.example.com", types.JSONPatchType, []byte(`[
		{"op":"replace","path":"/spec/versions/0/storage","value":false},
		{"op":"replace","path":"/spec/versions/1/storage","value":true}]`), metav1.PatchOptions{})
	if err != nil {
		t.Fatal(err)
	}
	until(t, func(ctx context.Context) (bool, error) { // stored as v2 when a write as v2 asks nobody
		h.asked()
		u, err := h.to.Create(ctx, object(t, "{apiVersion: example.com/v2, kind: Door, metadata: {generateName: new}, host: new, port: '2'}"), metav1.CreateOptions{})
		return err == nil && u.Object["host"] == "new" && len(h.asked()) == 0, err
	})
	for _, in := range []dynamic.ResourceInterface{h.one, h.to} {
		list, err := in.List(ctx, metav1.ListOptions{})
		if err != nil || len(list.Items) < 2 {
			t.Fatalf("list: %v, %v", list, err)
		}
		for _, u := range list.Items {
			if (u.Object["host"] == nil) != (u.GetAPIVersion() == "example.com/v1") || u.GetAPIVersion() != list.GetAPIVersion() {
				t.Errorf("listed: %v", u.Object)
			}
		}
	}
	old, err := h.to.Get(ctx, "old", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	written, err := h.to.Update(ctx, old, metav1.UpdateOptions{})
	if err != nil || written.GetResourceVersion() == old.GetResourceVersion() || written.Object["host"] != "old" {
		t.Errorf("stored anew: %v, %v", written, err)
	}
	d, err := definitions.Get(ctx, "doors.example.com", metav1.GetOptions{})
	stored, _, _ := unstructured.NestedStringSlice(d.Object, "status", "storedVersions")
	if err != nil || !slices.Equal(stored, []string{"v1", "v2"}) {
		t.Errorf("stored versions: %v, %v", stored, err)
	}
	if _, err := definitions.Patch(ctx, "doors.example.com", types.JSONPatchType, []byte(`[{"op":"remove","path":"/spec/versions/0"}]`), metav1.PatchOptions{}); !apierrors.IsInvalid(err) {
		t.Errorf("a version that is stored was removed: %v", err)
	}
}

// TestStorageVersionWithoutWebhook stores another version, which lacks a field:
// who asks for the old one still sees it, until the object is written.
func TestStorageVersionWithoutWebhook(t *testing.T) {
	ctx := t.Context()
	client, err := dynamic.NewForConfig(apiservertest.Start(t, nil).Config("admin"))
	if err != nil {
		t.Fatal(err)
	}
	definitions := client.Resource(definitionsGVR)
	if _, err := definitions.Create(ctx, object(t, doors), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	established(t, client, "doors.example.com")
	in := func(version string) dynamic.ResourceInterface {
		return client.Resource(schema.GroupVersionResource{Group: "example.com", Version: version, Resource: "doors"}).Namespace("default")
	}
	one, two := in("v1"), in("v2")
	for _, name := range []string{"a", "b"} {
		if _, err := one.Create(ctx, object(t, "{apiVersion: example.com/v1, kind: Door, metadata: {name: "+name+"}, hostPort: 'h:1', note: 'n'}"), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := definitions.Patch(ctx, "doors.example.com", types.JSONPatchType, []byte(`[
		{"op":"replace","path":"/spec/versions/0/storage","value":false},
		{"op":"replace","path":"/spec/versions/1/storage","value":true}]`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	until(t, func(ctx context.Context) (bool, error) { // what is written as v1 is stored as v2
		u, err := one.Create(ctx, object(t, "{apiVersion: example.com/v1, kind: Door, metadata: {generateName: new}, hostPort: 'h:1'}"), metav1.CreateOptions{})
		return err == nil && u.GetAPIVersion() == "example.com/v1" && u.Object["hostPort"] == nil, err
	})
	look := func(in dynamic.ResourceInterface, want string) {
		t.Helper()
		a, err := in.Get(ctx, "a", metav1.GetOptions{})
		if err != nil || fmt.Sprint(a.GetAPIVersion(), a.Object["hostPort"], a.Object["note"]) != want {
			t.Errorf("%v, %v, want %s", a, err, want)
		}
		list, err := in.List(ctx, metav1.ListOptions{})
		if err != nil || len(list.Items) < 3 || fmt.Sprint(list.Items[0].GetAPIVersion(), list.Items[0].Object["hostPort"], list.Items[0].Object["note"]) != want {
			t.Errorf("%v, %v, want %s", list, err, want)
		}
	}
	look(one, "example.com/v1h:1n")
	look(two, "example.com/v2<nil>n")
	if found, err := one.List(ctx, metav1.ListOptions{FieldSelector: "hostPort=h:1"}); err != nil || len(found.Items) != 2 {
		t.Errorf("selected: %v, %v", found, err)
	}
	if _, err := two.Patch(ctx, "a", types.MergePatchType, []byte(`{"note":"m"}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	look(one, "example.com/v1<nil>m")
	look(two, "example.com/v2<nil>m")
	if err := two.Delete(ctx, "b", metav1.DeleteOptions{}); err != nil {
		t.Error(err)
	}
}
