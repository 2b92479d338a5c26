package apiserver_test

import (
	"strings"
	"testing"
)

func TestBinding(t *testing.T) {
	f := start(t, nil)
	f.expect(201, "POST", pods, podNamed("p"))
	bind := `{"metadata":{"name":"p","annotations":{"x":"y"}},"target":{"kind":"Node","name":"n1"}}`
	a := f.expect(201, "POST", pods+"/p/binding", bind)
	if a.text("kind") != "Status" || a.text("status") != "Success" {
		t.Error(a.body)
	}
	p := f.expect(200, "GET", pods+"/p", "")
	if p.text("spec.nodeName") != "n1" || p.text("metadata.annotations.x") != "y" || !strings.Contains(p.body, `"type":"PodScheduled","status":"True"`) {
		t.Error(p.body)
	}
	a = f.expect(409, "POST", pods+"/p/binding", bind)
	if a.text("message") != `Operation cannot be fulfilled on pods/binding "p": pod p is already assigned to node "n1"` {
		t.Error(a.text("message"))
	}
	f.expect(404, "POST", pods+"/none/binding", strings.Replace(bind, `"p"`, `"none"`, 1))
	f.expect(422, "POST", pods+"/p/binding", `{"target":{"kind":"Rack","name":"n1"}}`)
	f.expect(201, "POST", pods, podNamed("q"))
	f.expect(201, "POST", "/api/v1/namespaces/default/bindings", `{"metadata":{"name":"q"},"target":{"name":"n1"}}`)
}

func TestEviction(t *testing.T) {
	f := start(t, nil)
	f.bound("p")
	f.expect(200, "PATCH", pods+"/p/status", `{"status":{"phase":"Running","conditions":[{"type":"Ready","status":"True"}]}}`, mergePatch)
	budgets := "/apis/policy/v1/namespaces/default/poddisruptionbudgets"
	f.expect(201, "POST", budgets, `{"metadata":{"name":"b"},"spec":{"minAvailable":1,"selector":{"matchLabels":{"app":"web"}}}}`)
	evict := func(code int) *answer {
		t.Helper()
		return f.expect(code, "POST", pods+"/p/eviction", `{"apiVersion":"policy/v1","kind":"Eviction","metadata":{"name":"p"}}`)
	}
	a := evict(429)
	if a.text("message") != "Cannot evict pod as it would violate the pod's disruption budget." || a.header.Get("Retry-After") != "10" ||
		!strings.Contains(a.body, "The disruption budget b is still being processed by the server.") {
		t.Error(a.body)
	}
	f.expect(200, "PATCH", budgets+"/b/status", `{"status":{"observedGeneration":1,"desiredHealthy":1,"currentHealthy":1}}`, mergePatch)
	if a = evict(429); !strings.Contains(a.body, "The disruption budget b needs 1 healthy pods and has 1 currently") {
		t.Error(a.body)
	}
	f.expect(200, "PATCH", budgets+"/b/status", `{"status":{"observedGeneration":1,"disruptionsAllowed":1}}`, mergePatch)
	// A dry run spends nothing.
	f.expect(201, "POST", pods+"/p/eviction?dryRun=All", `{"apiVersion":"policy/v1","kind":"Eviction","metadata":{"name":"p"}}`)
	f.expect(201, "POST", budgets, `{"metadata":{"name":"c"},"spec":{"minAvailable":1,"selector":{"matchLabels":{"app":"web"}}}}`)
	if a = evict(500); a.text("message") != "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support." {
		t.Error(a.body)
	}
	f.expect(200, "DELETE", budgets+"/c", "")
	evict(201)
	p := f.expect(200, "GET", pods+"/p", "")
	if p.text("metadata.deletionTimestamp") == "" || !strings.Contains(p.body, `"reason":"EvictionByEvictionAPI"`) {
		t.Error(p.body)
	}
	b := f.expect(200, "GET", budgets+"/b", "")
	if b.at("status.disruptionsAllowed") != 0.0 || b.at("status.disruptedPods.p") == nil {
		t.Error(b.body)
	}

	// Pods that are not ready go when the budget says so, at no cost.
	f.bound("sick")
	f.expect(200, "PATCH", pods+"/sick/status", `{"status":{"phase":"Running"}}`, mergePatch)
	f.expect(200, "PATCH", budgets+"/b/status", `{"status":{"conditions":[{"type":"DisruptionAllowed","status":"False","reason":"SyncFailed","message":"no controllers","lastTransitionTime":"2026-01-01T00:00:00Z"}],"currentHealthy":0}}`, mergePatch)
	sick := func(code int) *answer {
		t.Helper()
		return f.expect(code, "POST", pods+"/sick/eviction", `{"apiVersion":"policy/v1","kind":"Eviction","metadata":{"name":"sick"}}`)
	}
	if a = sick(429); !strings.Contains(a.body, "because it failed sync: no controllers") {
		t.Error(a.body)
	}
	f.expect(200, "PATCH", budgets+"/b", `{"spec":{"unhealthyPodEvictionPolicy":"AlwaysAllow"}}`, mergePatch)
	sick(201)
}

func TestEphemeralContainersAndResize(t *testing.T) {
	f := start(t, nil)
	f.bound("p")
	at := pods + "/p/ephemeralcontainers"
	a := f.expect(200, "PATCH", at, `{"spec":{"ephemeralContainers":[{"name":"debug","image":"d"}]}}`, strategicPatch)
	if !strings.Contains(a.body, `"name":"debug"`) {
		t.Error(a.body)
	}
	a = f.expect(200, "PATCH", pods+"/p/resize", `{"spec":{"containers":[{"name":"c","image":"other","resources":{}}]}}`, strategicPatch)
	if strings.Contains(a.body, `"image":"other"`) {
		t.Error("resize changed an image")
	}
}

func TestEventsExpireAndHaveTwoVersions(t *testing.T) {
	f := start(t, nil)
	f.expect(201, "POST", "/api/v1/namespaces/default/events", `{"metadata":{"name":"e"},"involvedObject":{"kind":"Pod","namespace":"default","name":"p"},"reason":"Started","message":"m","type":"Normal"}`)
	a := f.expect(200, "GET", "/apis/events.k8s.io/v1/namespaces/default/events/e", "")
	if a.text("apiVersion") != "events.k8s.io/v1" || a.text("note") != "m" || a.text("regarding.name") != "p" {
		t.Error(a.body)
	}
	l := f.expect(200, "GET", "/apis/events.k8s.io/v1/namespaces/default/events?fieldSelector=reason%3DStarted", "")
	if items, _ := l.at("items").([]any); l.text("kind") != "EventList" || len(items) != 1 {
		t.Error(l.body)
	}
	w := f.watch("/apis/events.k8s.io/v1/namespaces/default/events?watch=1")
	if a := w.expect("ADDED e"); a.text("note") != "m" {
		t.Error(a.body)
	}
}
