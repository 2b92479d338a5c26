package apiserver_test

import (
	"context"
	"fmt"
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

// define is a definition with little in it.
func define(group, plural, names string) string {
	return fmt.Sprintf(`{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, metadata: {name: %s.%s}, spec: {group: %s, scope: Namespaced,
names: {plural: %s, %s}, versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, properties: {a: {type: string}}}}}]}}`,
		plural, group, group, plural, names)
}

// conditionOf is "status reason message" of a condition of a definition.
func conditionOf(ctx context.Context, c dynamic.Interface, name, typ string) (string, error) {
	u, err := c.Resource(definitionsGVR).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return "", err
	}
	d := &apiextensionsv1.CustomResourceDefinition{}
	err = runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, d)
	for _, c := range d.Status.Conditions {
		if string(c.Type) == typ {
			return fmt.Sprint(c.Status, " ", c.Reason, " ", c.Message), err
		}
	}
	return "", err
}

// TestDefinitionConditions asks for what cannot be had.
func TestDefinitionConditions(t *testing.T) {
	c, err := dynamic.NewForConfig(apiservertest.Start(t, nil).Config("admin"))
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	if _, err := c.Resource(definitionsGVR).Create(ctx, object(t, define("example.com", "ones", "kind: One, shortNames: [o]")), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	established(t, c, "ones.example.com")
	for _, test := range []struct{ group, plural, names, condition, want string }{
		{"example.com", "as", "kind: A, singular: one", "NamesAccepted", `False SingularConflict "one" is already in use`},
		{"example.com", "bs", "kind: B, shortNames: [b, o, ones]", "NamesAccepted", `False ShortNamesConflict ["o" is already in use, "ones" is already in use]`},
		{"example.com", "cs", "kind: One, singular: c, listKind: Cs", "NamesAccepted", `False KindConflict "One" is already in use`},
		{"example.com", "ds", "kind: D, listKind: OneList", "NamesAccepted", `False ListKindConflict "OneList" is already in use`},
		{"example.com", "ds", "kind: D, listKind: OneList", "Established", `False NotAccepted not all names are accepted`},
		{"other.example.com", "ones", "kind: One", "NamesAccepted", `True NoConflicts no conflicts found`},
		{"other.example.com", "ones", "kind: One", "Established", `True InitialNamesAccepted the initial names have been accepted`},
		{"a.k8s.io", "ones", "kind: One", "KubernetesAPIApprovalPolicyConformant", `False UnapprovedAnnotation not approved: "unapproved, a test"`},
	} {
		name := test.plural + "." + test.group
		d := object(t, define(test.group, test.plural, test.names))
		d.SetAnnotations(map[string]string{"api-approved.kubernetes.io": "unapproved, a test"})
		if _, err := c.Resource(definitionsGVR).Create(ctx, d, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
			t.Fatal(err)
		}
		got := ""
		until(t, func(ctx context.Context) (bool, error) {
			got, err = conditionOf(ctx, c, name, test.condition)
			return got != "", err
		})
		if got != test.want {
			t.Errorf("%s: %s: got %q, want %q", name, test.condition, got, test.want)
		}
	}
	// Names that become free are given to who waits.
	if err := c.Resource(definitionsGVR).Delete(ctx, "ones.example.com", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	established(t, c, "cs.example.com")
	established(t, c, "ds.example.com")
}

// defined is a client of a server with a definition of Ones.
func defined(t *testing.T) (c dynamic.Interface, ones dynamic.ResourceInterface) {
	t.Helper()
	c, err := dynamic.NewForConfig(apiservertest.Start(t, nil).Config("admin"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Resource(definitionsGVR).Create(t.Context(), object(t, define("example.com", "ones", "kind: One")), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	established(t, c, "ones.example.com")
	return c, c.Resource(schema.GroupVersionResource{Group: "example.com", Version: "v1", Resource: "ones"}).Namespace("default")
}

// TestSchemaChanges changes a schema again and again below writers and readers,
// none of which may notice.
func TestSchemaChanges(t *testing.T) {
	ctx := t.Context()
	c, ones := defined(t)
	definitions := c.Resource(definitionsGVR)
	const changes, writers = 20, 4
	var changed sync.WaitGroup
	stop := make(chan struct{})
	made := make([]int, writers)
	for w := range writers {
		changed.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					made[w] = i
					return
				default:
				}
				name := fmt.Sprintf("o-%d-%d", w, i)
				_, err := ones.Create(ctx, object(t, "{apiVersion: example.com/v1, kind: One, metadata: {name: "+name+"}, a: x}"), metav1.CreateOptions{})
				if err == nil {
					_, err = ones.Patch(ctx, name, types.MergePatchType, []byte(`{"a":"y"}`), metav1.PatchOptions{})
				}
				if err == nil {
					_, err = ones.Get(ctx, name, metav1.GetOptions{})
				}
				if err != nil {
					t.Errorf("%s: %v", name, err)
				}
			}
		})
	}
	for i := range changes {
		field := fmt.Sprintf("f%d", i)
		patch := fmt.Sprintf(`[{"op":"add","path":"/spec/versions/0/schema/openAPIV3Schema/properties/%s","value":{"type":"string","default":"d"}}]`, field)
		if _, err := definitions.Patch(ctx, "ones.example.com", types.JSONPatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
			t.Fatal(err)
		}
		until(t, func(ctx context.Context) (bool, error) { // what is stored gets the new default
			list, err := ones.List(ctx, metav1.ListOptions{})
			return err == nil && (len(list.Items) == 0 || list.Items[0].Object[field] == "d"), err
		})
	}
	close(stop)
	changed.Wait()
	total := 0
	for _, n := range made {
		total += n
	}
	list, err := ones.List(ctx, metav1.ListOptions{})
	if err != nil || len(list.Items) != total {
		t.Errorf("%d of %d objects: %v", len(list.Items), total, err)
	}
	for _, u := range list.Items {
		if u.Object["a"] != "y" {
			t.Errorf("lost a write: %v", u.Object)
		}
	}
}

// TestDefinitionThatGoes keeps an object with a finalizer below a definition
// that is deleted.
func TestDefinitionThatGoes(t *testing.T) {
	ctx := t.Context()
	c, ones := defined(t)
	definitions := c.Resource(definitionsGVR)
	held := object(t, "{apiVersion: example.com/v1, kind: One, metadata: {name: held, finalizers: [example.com/x]}}")
	if _, err := ones.Create(ctx, held, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := definitions.Delete(ctx, "ones.example.com", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	until(t, func(ctx context.Context) (bool, error) {
		text, err := conditionOf(ctx, c, "ones.example.com", "Terminating")
		return text == "True InstanceDeletionInProgress CustomResource deletion is in progress", err
	})
	late := object(t, "{apiVersion: example.com/v1, kind: One, metadata: {name: late}}")
	const want = "create not allowed while custom resource definition is terminating"
	if _, err := ones.Create(ctx, late.DeepCopy(), metav1.CreateOptions{}); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), want) {
		t.Errorf("create: %v", err)
	}
	if _, err := ones.Apply(ctx, "late", late, metav1.ApplyOptions{FieldManager: "m"}); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), want) {
		t.Errorf("apply: %v", err)
	}
	if _, err := ones.Patch(ctx, "held", types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	until(t, func(ctx context.Context) (bool, error) {
		_, err := definitions.Get(ctx, "ones.example.com", metav1.GetOptions{})
		return apierrors.IsNotFound(err), nil
	})
	// The next of that name begins empty.
	if _, err := definitions.Create(ctx, object(t, define("example.com", "ones", "kind: One")), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	established(t, c, "ones.example.com")
	if list, err := ones.List(ctx, metav1.ListOptions{}); err != nil || len(list.Items) != 0 {
		t.Errorf("list: %v, %v", list, err)
	}
}

// TestSeveralServers says that a definition is established when others had the
// time to see it.
func TestSeveralServers(t *testing.T) {
	c, err := dynamic.NewForConfig(apiservertest.Start(t, nil).Config("admin"))
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	leases := c.Resource(schema.GroupVersionResource{Group: "coordination.k8s.io", Version: "v1", Resource: "leases"}).Namespace("kube-system")
	if _, err := c.Resource(schema.GroupVersionResource{Version: "v1", Resource: "namespaces"}).Create(ctx, object(t, "{apiVersion: v1, kind: Namespace, metadata: {name: kube-system}}"), metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		t.Fatal(err)
	}
	for _, name := range []string{"one", "two"} {
		lease := object(t, "{apiVersion: coordination.k8s.io/v1, kind: Lease, metadata: {name: "+name+", labels: {apiserver.kubernetes.io/identity: proa-apiserver}}, spec: {holderIdentity: x, leaseDurationSeconds: 3600}}")
		if err := unstructured.SetNestedField(lease.Object, metav1.NowMicro().UTC().Format(metav1.RFC3339Micro), "spec", "renewTime"); err != nil {
			t.Fatal(err)
		}
		if _, err := leases.Create(ctx, lease, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.Resource(definitionsGVR).Create(ctx, object(t, define("example.com", "ones", "kind: One")), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	until(t, func(ctx context.Context) (bool, error) {
		text, err := conditionOf(ctx, c, "ones.example.com", "Established")
		return text == "False Installing the initial names have been accepted", err
	})
	ones := c.Resource(schema.GroupVersionResource{Group: "example.com", Version: "v1", Resource: "ones"}).Namespace("default")
	if _, err := ones.Create(ctx, object(t, "{apiVersion: example.com/v1, kind: One, metadata: {name: early}}"), metav1.CreateOptions{}); err != nil {
		t.Errorf("not served: %v", err)
	}
	established(t, c, "ones.example.com")
}
