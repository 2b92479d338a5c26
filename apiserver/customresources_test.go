package apiserver_test

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/apiextensions-apiserver/pkg/apihelpers"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/metadata"
	"sigs.k8s.io/yaml"

	"github.com/proa-dev/proa/apiserver/apiservertest"
)

const gadgets = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: gadgets.example.com}
spec:
  group: example.com
  scope: Namespaced
  names: {plural: gadgets, kind: Gadget, shortNames: [gd]}
  versions:
  - name: v1
    served: true
    storage: true
    subresources: {status: {}, scale: {specReplicasPath: .spec.count, statusReplicasPath: .status.count}}
    selectableFields: [{jsonPath: .spec.color}]
    additionalPrinterColumns: [{name: Color, type: string, jsonPath: .spec.color}]
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec:
            type: object
            x-kubernetes-validations: [{rule: "self.count < 10", message: "too many"}]
            properties:
              color: {type: string, default: red}
              count: {type: integer, default: 1}
              ports:
                type: array
                x-kubernetes-list-type: map
                x-kubernetes-list-map-keys: [name]
                items: {type: object, required: [name], properties: {name: {type: string}, port: {type: integer}}}
          status: {type: object, properties: {count: {type: integer}}}
  - name: v2
    served: true
    storage: false
    schema: {openAPIV3Schema: {type: object, properties: {spec: {type: object, properties: {color: {type: string}}}}}}
`

var (
	definitionsGVR = apiextensionsv1.SchemeGroupVersion.WithResource("customresourcedefinitions")
	gadgetsGVR     = schema.GroupVersionResource{Group: "example.com", Version: "v1", Resource: "gadgets"}
)

func object(t *testing.T, text string) *unstructured.Unstructured {
	t.Helper()
	u := &unstructured.Unstructured{}
	if err := yaml.Unmarshal([]byte(text), &u.Object); err != nil {
		t.Fatal(err)
	}
	return u
}

// established waits until a definition is.
func established(t *testing.T, c dynamic.Interface, name string) {
	t.Helper()
	until(t, func(ctx context.Context) (bool, error) {
		u, err := c.Resource(definitionsGVR).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		d := &apiextensionsv1.CustomResourceDefinition{}
		err = runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, d)
		return apihelpers.IsCRDConditionTrue(d, apiextensionsv1.Established), err
	})
}

func until(t *testing.T, f wait.ConditionWithContextFunc) {
	t.Helper()
	if err := wait.PollUntilContextTimeout(t.Context(), 10*time.Millisecond, 30*time.Second, true, f); err != nil {
		t.Fatal(err)
	}
}

// scaleOfNone sees an object that names no number of replicas: no default of
// ours may become its size.
func scaleOfNone(t *testing.T, list dynamic.ResourceInterface) {
	t.Helper()
	ctx := t.Context()
	if _, err := list.Create(ctx, object(t, "{apiVersion: example.com/v1, kind: Gadget, metadata: {name: bare}}"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := list.Get(ctx, "bare", metav1.GetOptions{}, "scale"); !apierrors.IsInternalError(err) || !strings.Contains(err.Error(), `the spec replicas field ".spec.count" does not exist`) {
		t.Errorf("scale of none: %v", err)
	}
	_, err := list.Patch(ctx, "bare", types.MergePatchType, []byte(`{"metadata":{"name":"bare"}}`), metav1.PatchOptions{}, "scale")
	if !apierrors.IsBadRequest(err) || !strings.Contains(err.Error(), `the spec replicas field ".spec.count" cannot be empty`) {
		t.Errorf("patched to none: %v", err)
	}
	made, err := list.Patch(ctx, "bare", types.MergePatchType, []byte(`{"spec":{"replicas":2}}`), metav1.PatchOptions{}, "scale")
	if err != nil {
		t.Fatal(err)
	}
	if n, _, _ := unstructured.NestedInt64(made.Object, "spec", "replicas"); n != 2 {
		t.Errorf("scaled: %v", made)
	}
	if err := list.Delete(ctx, "bare", metav1.DeleteOptions{}); err != nil {
		t.Error(err)
	}
}

// TestCustomResources lives the life of a definition and of an object of it.
func TestCustomResources(t *testing.T) {
	s := apiservertest.Start(t, nil)
	ctx := t.Context()
	c, err := dynamic.NewForConfig(s.Config("admin"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Resource(definitionsGVR).Create(ctx, object(t, gadgets), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	established(t, c, "gadgets.example.com")
	list := c.Resource(gadgetsGVR).Namespace("default")
	w, err := list.Watch(ctx, metav1.ListOptions{FieldSelector: "spec.color=red"})
	if err != nil {
		t.Fatal(err)
	}
	made, err := list.Create(ctx, object(t, "{apiVersion: example.com/v1, kind: Gadget, metadata: {name: a}, spec: {unknown: 1}}"), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	spec := made.Object["spec"].(map[string]any)
	if spec["color"] != "red" || spec["count"] != int64(1) || spec["unknown"] != nil || made.GetGeneration() != 1 {
		t.Errorf("made: %v", made.Object)
	}
	if e := <-w.ResultChan(); e.Object.(*unstructured.Unstructured).GetName() != "a" {
		t.Errorf("watched: %v", e)
	}
	_, err = list.Create(ctx, object(t, "{apiVersion: example.com/v1, kind: Gadget, metadata: {name: b}, spec: {unknown: 1}}"), metav1.CreateOptions{FieldValidation: "Strict"})
	if err == nil || !strings.Contains(err.Error(), `strict decoding error: unknown field "spec.unknown"`) {
		t.Errorf("strict: %v", err)
	}
	_, err = list.Patch(ctx, "a", types.MergePatchType, []byte(`{"spec":{"count":10}}`), metav1.PatchOptions{})
	if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "spec: Invalid value: too many") {
		t.Errorf("by rule: %v", err)
	}
	for _, name := range []string{"p", "q"} { // two managers, two entries of one list
		applied := object(t, "{apiVersion: example.com/v1, kind: Gadget, metadata: {name: a}, spec: {ports: [{name: "+name+", port: 1}]}}")
		if made, err = list.Apply(ctx, "a", applied, metav1.ApplyOptions{FieldManager: name}); err != nil {
			t.Fatal(err)
		}
	}
	if ports, _, _ := unstructured.NestedSlice(made.Object, "spec", "ports"); len(ports) != 2 || made.GetGeneration() != 3 {
		t.Errorf("applied: %v", made.Object)
	}
	v2 := c.Resource(schema.GroupVersionResource{Group: "example.com", Version: "v2", Resource: "gadgets"}).Namespace("default")
	if _, err := v2.Apply(ctx, "a", object(t, "{apiVersion: example.com/v2, kind: Gadget, metadata: {name: a, labels: {by: r}}}"), metav1.ApplyOptions{FieldManager: "r"}); err != nil {
		t.Fatal(err)
	}
	made, err = list.Patch(ctx, "a", types.MergePatchType, []byte(`{"spec":{"replicas":3}}`), metav1.PatchOptions{FieldManager: "scaler"}, "scale")
	if n, _, _ := unstructured.NestedInt64(made.Object, "spec", "replicas"); err != nil || n != 3 {
		t.Errorf("scaled: %v, %v", made, err)
	}
	scaleOfNone(t, list)
	second, err := v2.Get(ctx, "a", metav1.GetOptions{})
	var owners []string
	for _, m := range second.GetManagedFields() {
		owners = append(owners, m.Manager+" "+m.APIVersion)
	}
	if want := []string{"p example.com/v1", "q example.com/v1", "r example.com/v2", "scaler example.com/v1"}; !slices.Equal(slices.Sorted(slices.Values(owners))[1:], want) {
		t.Errorf("owners after it was scaled: %q, want %q and who made it", owners, want)
	}
	if err != nil || second.GetAPIVersion() != "example.com/v2" || second.Object["spec"].(map[string]any)["ports"] != nil {
		t.Errorf("as v2: %v, %v", second, err)
	}
	// Clients that prefer protobuf get the metadata so, and objects in JSON.
	m, err := metadata.NewForConfigOrDie(s.Config("admin")).Resource(gadgetsGVR).Namespace("default").Watch(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if e := <-m.ResultChan(); e.Type != watch.Added || e.Object.(*metav1.PartialObjectMetadata).Name != "a" {
		t.Errorf("metadata: %v", e)
	}
	m.Stop()
	d := discovery.NewDiscoveryClientForConfigOrDie(s.Config("admin"))
	for _, path := range []string{"", "/a", "?watch=1&timeoutSeconds=1", "/a/scale"} {
		contentType, want := "", "application/json"
		if path == "/a/scale" {
			want = "application/vnd.kubernetes.protobuf"
		}
		err := d.RESTClient().Get().RequestURI("/apis/example.com/v1/namespaces/default/gadgets"+path).
			SetHeader("Accept", "application/vnd.kubernetes.protobuf,application/json").Do(ctx).ContentType(&contentType).Error()
		if err != nil || contentType != want {
			t.Errorf("%s in %s, want %s: %v", path, contentType, want, err)
		}
	}
	found, err := d.ServerResourcesForGroupVersion("example.com/v1")
	if err != nil || len(found.APIResources) != 3 || found.APIResources[0].ShortNames[0] != "gd" {
		t.Errorf("discovered: %v, %v", found, err)
	}
	if doc, err := d.OpenAPISchema(); err != nil || !strings.Contains(doc.String(), "com.example.v1.Gadget") {
		t.Errorf("not in OpenAPI: %v", err)
	}
	// kubectl apply sends what it finds there.
	if doc, err := d.RESTClient().Get().AbsPath("/openapi/v3/apis/example.com/v1").DoRaw(ctx); err != nil || !strings.Contains(string(doc), "application/merge-patch+json") || strings.Contains(string(doc), "strategic") {
		t.Errorf("patches of custom resources in OpenAPI: %s, %v", doc, err)
	}
	if err := c.Resource(definitionsGVR).Delete(ctx, "gadgets.example.com", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	until(t, func(ctx context.Context) (bool, error) {
		_, err := c.Resource(definitionsGVR).Get(ctx, "gadgets.example.com", metav1.GetOptions{})
		return apierrors.IsNotFound(err), nil
	})
	until(t, func(ctx context.Context) (bool, error) {
		_, err := list.List(ctx, metav1.ListOptions{})
		return apierrors.IsNotFound(err), nil
	})
	for range w.ResultChan() { // ends
	}
}

// TestRulesThatReadQuantities gives rules quantities whose arithmetic does not
// end.
func TestRulesThatReadQuantities(t *testing.T) {
	c, err := dynamic.NewForConfig(apiservertest.Start(t, nil).Config("admin"))
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	if _, err := c.Resource(definitionsGVR).Create(ctx, object(t, `{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, metadata: {name: tanks.example.com},
		spec: {group: example.com, scope: Namespaced, names: {plural: tanks, kind: Tank}, versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, properties: {
		commit: {type: string}, size: {type: string, x-kubernetes-validations: [{rule: "isQuantity(self)"}]},
		range: {type: object, properties: {low: {type: string}, high: {type: string}}, x-kubernetes-validations: [{rule: "quantity(self.low).isLessThan(quantity(self.high))"}]},
		joined: {type: object, properties: {low: {type: string}, high: {type: string}}, x-kubernetes-validations: [{rule: "quantity(self.low + self.high).isGreaterThan(quantity('1'))"}]},
		parts: {type: array, maxItems: 9, items: {type: object, maxProperties: 9, additionalProperties: {type: string, maxLength: 99, x-kubernetes-validations: [{rule: "isQuantity(self)"}]}}}}}}}]}}`), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	established(t, c, "tanks.example.com")
	tanks := c.Resource(schema.GroupVersionResource{Group: "example.com", Version: "v1", Resource: "tanks"}).Namespace("default")
	const beyond = "unable to parse quantity's suffix"
	for fields, want := range map[string]string{
		"size: '1e3', commit: '1e-1000000000'":             "",
		"range: {low: '7e123', high: '7e321'}":             "",
		"size: '1e-1000000000'":                            "failed rule: isQuantity(self)",
		"size: nonsense":                                   "failed rule: isQuantity(self)",
		"range: {low: '1e1000000000', high: '2e99999999'}": beyond,
		"joined: {low: '1e-1000', high: '000000'}":         beyond,
		"joined: {low: '1', high: '0'}":                    "",
		"parts: [{a: 5Gi}, {b: '1e-1000000000'}]":          "failed rule: isQuantity(self)",
	} {
		_, err := tanks.Create(ctx, object(t, "{apiVersion: example.com/v1, kind: Tank, metadata: {generateName: t}, "+fields+"}"), metav1.CreateOptions{})
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", fields, err)
		}
	}
}
