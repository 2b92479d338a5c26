package apiserver_test

import (
	"fmt"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// bound makes a pod that runs on a node, so that it ends gracefully.
func (f *fixture) bound(name string) {
	f.Helper()
	f.expect(201, "POST", pods, podNamed(name))
	f.expect(201, "POST", pods+"/"+name+"/binding", `{"target":{"kind":"Node","name":"n1"}}`)
}

func TestGracefulDeletion(t *testing.T) {
	f := start(t, nil)
	f.bound("p")
	a := f.expect(200, "DELETE", pods+"/p", "")
	if a.text("kind") != "Pod" || a.text("metadata.deletionTimestamp") == "" || a.at("metadata.deletionGracePeriodSeconds") != 30.0 {
		t.Errorf("first delete: %v", a.at("metadata"))
	}
	if a = f.expect(200, "DELETE", pods+"/p?gracePeriodSeconds=60", ""); a.at("metadata.deletionGracePeriodSeconds") != 30.0 {
		t.Error("a grace period grew")
	}
	if a = f.expect(200, "DELETE", pods+"/p", `{"kind":"DeleteOptions","apiVersion":"v1","gracePeriodSeconds":5}`); a.at("metadata.deletionGracePeriodSeconds") != 5.0 {
		t.Errorf("a grace period did not shrink: %v", a.at("metadata"))
	}
	f.expect(200, "DELETE", pods+"/p?gracePeriodSeconds=0", "")
	f.expect(404, "GET", pods+"/p", "")
	f.expect(201, "POST", pods, podNamed("unbound"))
	f.expect(200, "DELETE", pods+"/unbound", "")
	f.expect(404, "GET", pods+"/unbound", "")
}

func TestFinalizersHoldAnObject(t *testing.T) {
	f := start(t, nil)
	f.expect(201, "POST", configMaps, `{"metadata":{"name":"c","finalizers":["example.com/a","example.com/b"]}}`)
	a := f.expect(200, "DELETE", configMaps+"/c", "")
	if a.text("metadata.deletionTimestamp") == "" || a.at("metadata.deletionGracePeriodSeconds") != 0.0 {
		t.Errorf("metadata: %v", a.at("metadata"))
	}
	bad := f.expect(422, "PATCH", configMaps+"/c", `{"metadata":{"finalizers":["example.com/a","example.com/b","example.com/c"]}}`, mergePatch)
	if !strings.Contains(bad.text("message"), "no new finalizers can be added if the object is being deleted") {
		t.Error(bad.text("message"))
	}
	again := f.expect(409, "POST", configMaps, `{"metadata":{"name":"c"}}`)
	if again.text("message") != `object is being deleted: configmaps "c" already exists` {
		t.Error(again.text("message"))
	}
	f.expect(200, "PATCH", configMaps+"/c", `{"metadata":{"finalizers":["example.com/b"]}}`, mergePatch)
	f.expect(200, "GET", configMaps+"/c", "")
	f.expect(200, "PATCH", configMaps+"/c", `{"metadata":{"finalizers":null}}`, mergePatch)
	f.expect(404, "GET", configMaps+"/c", "")
}

func TestPropagationPolicy(t *testing.T) {
	for _, c := range []struct {
		options   string
		code      int
		finalizer string
	}{
		{"?propagationPolicy=Foreground", 200, metav1.FinalizerDeleteDependents},
		{"?propagationPolicy=Orphan", 200, metav1.FinalizerOrphanDependents},
		{"?orphanDependents=true", 200, metav1.FinalizerOrphanDependents},
		{"?propagationPolicy=Background", 200, ""},
		{"", 200, ""},
	} {
		t.Run(c.options, func(t *testing.T) {
			f := start(t, nil)
			f.expect(201, "POST", deployments, deploymentNamed("d"))
			a := f.expect(c.code, "DELETE", deployments+"/d"+c.options, "")
			if c.finalizer == "" {
				if a.text("kind") != "Status" || a.text("status") != "Success" || a.text("details.kind") != "deployments" || a.text("details.uid") == "" {
					t.Error(a.body)
				}
				f.expect(404, "GET", deployments+"/d", "")
				return
			}
			got, _ := a.at("metadata.finalizers").([]any)
			if fmt.Sprint(got) != "["+c.finalizer+"]" {
				t.Errorf("finalizers %v", got)
			}
		})
	}
}

// Some kinds answer with what is gone, as it was last.
func TestDeleteReturnsTheObject(t *testing.T) {
	f := start(t, nil)
	const accounts = "/api/v1/namespaces/default/serviceaccounts"
	f.expect(201, "POST", accounts, `{"metadata":{"name":"a","labels":{"x":"y"}}}`)
	if a := f.expect(200, "DELETE", accounts+"/a", ""); a.text("kind") != "ServiceAccount" || a.text("metadata.labels.x") != "y" {
		t.Error(a.body)
	}
	f.expect(404, "GET", accounts+"/a", "")
}

// A client that asks for dependents to go is told that this has only begun.
func TestDeleteGoesOn(t *testing.T) {
	f := start(t, nil)
	f.expect(201, "POST", configMaps, `{"metadata":{"name":"c","finalizers":["example.com/a"]}}`)
	f.expect(202, "DELETE", configMaps+"/c?orphanDependents=false", "")
	f.expect(200, "DELETE", configMaps+"/c?propagationPolicy=Foreground", "")
}

func TestDeletePreconditions(t *testing.T) {
	f := start(t, nil)
	f.expect(201, "POST", configMaps, `{"metadata":{"name":"c"}}`)
	for _, p := range []string{`{"uid":"other"}`, `{"resourceVersion":"1"}`} {
		a := f.expect(409, "DELETE", configMaps+"/c", `{"preconditions":`+p+`}`)
		if !strings.Contains(a.text("message"), "in the precondition") {
			t.Error(a.text("message"))
		}
	}
	f.expect(400, "DELETE", configMaps+"/c", `{"kind":"Pod","apiVersion":"v1"}`)
	f.expect(422, "DELETE", configMaps+"/c", `{"propagationPolicy":"Sometimes"}`)
	f.expect(404, "DELETE", configMaps+"/none", "")
}

func TestDeleteCollection(t *testing.T) {
	f := start(t, nil)
	for i := range 30 {
		f.expect(201, "POST", configMaps, fmt.Sprintf(`{"metadata":{"name":"c%d","labels":{"odd":"%t"}}}`, i, i%2 == 1))
	}
	a := f.expect(200, "DELETE", configMaps+"?labelSelector=odd%3Dtrue", "")
	if items, _ := a.at("items").([]any); a.text("kind") != "ConfigMapList" || len(items) != 15 {
		t.Errorf("%s of %d", a.text("kind"), len(items))
	}
	if items, _ := f.expect(200, "GET", configMaps, "").at("items").([]any); len(items) != 15 {
		t.Errorf("%d left", len(items))
	}
	f.expect(405, "DELETE", "/api/v1/configmaps", "")
}

func TestNamespacesEndInTwoSteps(t *testing.T) {
	f := start(t, nil)
	ns := "/api/v1/namespaces"
	f.expect(201, "POST", ns, `{"metadata":{"name":"x"}}`)
	a := f.expect(200, "DELETE", ns+"/x", "")
	if a.text("status.phase") != "Terminating" || a.text("metadata.deletionTimestamp") == "" {
		t.Error(a.body)
	}
	f.expect(200, "DELETE", ns+"/x", "")
	f.expect(200, "GET", ns+"/x", "")
	a.object["spec"] = map[string]any{}
	f.expect(200, "PUT", ns+"/x/finalize", `{"metadata":{"name":"x"},"spec":{}}`)
	f.expect(404, "GET", ns+"/x", "")
}
