package apiserver_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

func TestPatches(t *testing.T) {
	f := start(t, nil)
	for i, c := range []struct {
		name, kind, body string
		path             string // in the answer
		want             any
		code             int
		message          string
	}{
		{name: "JSON patch", kind: jsonPatch, body: `[{"op":"test","path":"/spec/replicas","value":2},{"op":"replace","path":"/spec/replicas","value":4}]`, path: "spec.replicas", want: 4.0},
		{name: "failing test", kind: jsonPatch, body: `[{"op":"test","path":"/spec/replicas","value":9}]`, code: 422, message: "the server rejected our request due to an error in our request"},
		{name: "no such path", kind: jsonPatch, body: `[{"op":"remove","path":"/spec/nothing"}]`, code: 422, message: "the server rejected our request due to an error in our request"},
		{name: "no patch", kind: jsonPatch, body: `{"op":"remove"}`, code: 400},
		{name: "too many operations", kind: jsonPatch, body: "[" + strings.Repeat(`{"op":"test","path":"/kind","value":"Deployment"},`, 10000) + `{"op":"remove","path":"/x"}]`, code: 413, message: "The allowed maximum operations in a JSON patch is 10000, got 10001"},
		{name: "merge patch", kind: mergePatch, body: `{"metadata":{"annotations":{"a":"b"}},"spec":{"minReadySeconds":3}}`, path: "spec.minReadySeconds", want: 3.0},
		{name: "merge patch removes", kind: mergePatch, body: `{"spec":{"template":{"metadata":{"labels":{"extra":null}}},"replicas":null}}`, path: "spec.replicas", want: 1.0},
		{name: "merge patch replaces lists", kind: mergePatch, body: `{"spec":{"template":{"spec":{"containers":[{"name":"other","image":"j"}]}}}}`, path: "spec.template.spec.containers", want: []any{"other j"}},
		{name: "merge patch of times and quantities", kind: mergePatch, body: `{"spec":{"strategy":{"rollingUpdate":{"maxSurge":"50%","maxUnavailable":2}}}}`, path: "spec.strategy.rollingUpdate.maxSurge", want: "50%"},
		{name: "merge patch of a list", kind: mergePatch, body: `[]`, code: 400},
		{name: "wrong type", kind: mergePatch, body: `{"spec":{"replicas":"many"}}`, code: 422, message: "cannot unmarshal string"},
		{name: "strategic patch merges lists", kind: strategicPatch, body: `{"spec":{"template":{"spec":{"containers":[{"name":"side","image":"j"}]}}}}`, path: "spec.template.spec.containers", want: []any{"side j", "c i"}},
		{name: "strategic patch deletes", kind: strategicPatch, body: `{"spec":{"template":{"spec":{"containers":[{"name":"c","env":[{"$patch":"delete","name":"A"}]}]}}}}`, path: "spec.template.spec.containers", want: []any{"c i"}},
		{name: "immutable field", kind: mergePatch, body: `{"spec":{"selector":{"matchLabels":{"x":"y"}}}}`, code: 422},
		{name: "name", kind: mergePatch, body: `{"metadata":{"name":"other"}}`, code: 400, message: "the name of the object (other) does not match the name on the URL"},
		{name: "unknown media type", kind: "Content-Type: application/json", body: `{}`, code: 415, message: "application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json, application/apply-patch+yaml"},
	} {
		t.Run(c.name, func(t *testing.T) {
			at := fmt.Sprintf("%s/d%d", deployments, i)
			f.expect(201, "POST", deployments, deploymentNamed(fmt.Sprintf("d%d", i)))
			if c.code == 0 {
				c.code = 200
			}
			a := f.send("PATCH", at, c.body, c.kind)
			if a.code != c.code || !strings.Contains(a.text("message"), c.message) {
				t.Fatalf("%d: %s", a.code, a.body)
			}
			if c.path == "" {
				return
			}
			got := a.at(c.path)
			if list, ok := got.([]any); ok {
				for i, e := range list {
					c := &answer{object: e.(map[string]any)}
					list[i] = c.text("name") + " " + c.text("image")
				}
			}
			if fmt.Sprint(got) != fmt.Sprint(c.want) {
				t.Errorf("%s is %v, want %v", c.path, got, c.want)
			}
		})
	}
	f.expect(404, "PATCH", deployments+"/none", `{}`, mergePatch)
}

func TestPatchFieldValidation(t *testing.T) {
	f := start(t, nil)
	f.expect(201, "POST", deployments, deploymentNamed("d"))
	for _, kind := range []string{mergePatch, strategicPatch} {
		a := f.expect(200, "PATCH", deployments+"/d", `{"spec":{"nothing":1}}`, kind)
		if got := a.header.Get("Warning"); got != `299 - "unknown field \"spec.nothing\""` {
			t.Errorf("warning %q", got)
		}
		a = f.expect(422, "PATCH", deployments+"/d?fieldValidation=Strict", `{"spec":{"nothing":1}}`, kind)
		if !strings.Contains(a.text("message"), `strict decoding error: unknown field "spec.nothing"`) {
			t.Error(a.text("message"))
		}
	}
}

// owners lists "manager operation subresource fields".
func owners(a *answer) []string {
	var out []string
	entries, _ := a.at("metadata.managedFields").([]any)
	for _, e := range entries {
		m := &answer{object: e.(map[string]any)}
		out = append(out, strings.TrimSpace(fmt.Sprintf("%s %s %s", m.text("manager"), m.text("operation"), m.text("subresource")))+" "+leaves("", m.at("fieldsV1")))
	}
	return out
}

func leaves(prefix string, v any) string {
	m, _ := v.(map[string]any)
	if len(m) == 0 {
		return strings.TrimPrefix(prefix, ".")
	}
	var out []string
	for _, k := range []string{"f:metadata", "f:labels", "f:annotations", "f:spec", "f:replicas", "f:minReadySeconds", "f:data", "f:a", "f:b", "f:c"} {
		if sub, ok := m[k]; ok {
			out = append(out, leaves(prefix+"."+strings.TrimPrefix(k, "f:"), sub))
		}
	}
	return strings.Join(out, ",")
}

func TestFieldOwners(t *testing.T) {
	f := start(t, nil)
	f.expect(201, "POST", configMaps+"?fieldManager=one", `{"metadata":{"name":"x"},"data":{"a":"1","b":"1"}}`)
	f.expect(200, "PATCH", configMaps+"/x?fieldManager=two", `{"data":{"b":"2","c":"2"}}`, mergePatch)
	a := f.expect(200, "PATCH", configMaps+"/x?fieldManager=three", `{"data":{"c":null}}`, mergePatch)
	if got, want := strings.Join(owners(a), "; "), "one Update data.a; two Update data.b"; got != want {
		t.Errorf("owners: %s, want %s", got, want)
	}
	// A client that does not know of managed fields does not lose them.
	a = f.expect(200, "PUT", configMaps+"/x?fieldManager=four", `{"metadata":{"name":"x"},"data":{"a":"4","b":"2"}}`)
	if got, want := strings.Join(owners(a), "; "), "four Update data.a; one Update data; two Update data.b"; got != want {
		t.Errorf("owners: %s, want %s", got, want)
	}
	// One that sends an empty list resets them.
	a = f.expect(200, "PATCH", configMaps+"/x", `{"metadata":{"managedFields":[{}]}}`, mergePatch)
	if got := owners(a); len(got) != 0 {
		t.Errorf("owners after a reset: %v", got)
	}
}

// What is remembered of one object's writes holds for another's: the second is
// answered from memory.
func TestFieldOwnersOfTheSameShape(t *testing.T) {
	f := start(t, nil)
	var want []string
	for _, name := range []string{"x", "y", "z"} {
		at := configMaps + "/" + name
		f.expect(201, "POST", configMaps+"?fieldManager=one", `{"metadata":{"name":"`+name+`","labels":{"a":"`+name+`"}},"data":{"a":"`+name+`","b":"1"}}`)
		got := []string{}
		for i, c := range []struct{ manager, patch string }{
			{"two", `{"data":{"b":"` + name + `"}}`},
			{"two", `{"data":{"b":"` + name + `"}}`}, // changes nothing
			{"one", `{"data":{"b":"3","c":"` + name + `"}}`},
			{"two", `{"data":{"c":null},"metadata":{"labels":null}}`},
			{"three", `{"data":{"a":"` + name + name + `"}}`},
		} {
			a := f.expect(200, "PATCH", at+"?fieldManager="+c.manager, c.patch, mergePatch)
			got = append(got, fmt.Sprint(i, owners(a)))
			for _, e := range a.at("metadata.managedFields").([]any) {
				if e.(map[string]any)["time"] == nil {
					t.Errorf("an entry without a time: %v", e)
				}
			}
		}
		if want == nil {
			want = got
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s:\n%v\nwant\n%v", name, got, want)
		}
	}
	if last, want := want[len(want)-1], "4[one Update data.b three Update data.a]"; strings.ReplaceAll(last, "4 ", "4") != want {
		t.Errorf("at the end: %s, want %s", last, want)
	}
}

func TestServerSideApply(t *testing.T) {
	f := start(t, nil)
	config := func(a, b string) string {
		return fmt.Sprintf("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\ndata: {a: %q, b: %q}\n", a, b)
	}
	at := configMaps + "/x"
	a := f.expect(422, "PATCH", at, config("1", "1"), applyPatch)
	if !strings.Contains(a.text("message"), "fieldManager: Required value: is required for apply patch") {
		t.Error(a.text("message"))
	}
	a = f.expect(201, "PATCH", at+"?fieldManager=one", config("1", "1"), applyPatch)
	same := f.expect(200, "PATCH", at+"?fieldManager=one", config("1", "1"), applyPatch)
	if a.text("metadata.resourceVersion") != same.text("metadata.resourceVersion") {
		t.Error("to apply the same again is a write")
	}
	a = f.expect(409, "PATCH", at+"?fieldManager=two", config("1", "2"), applyPatch)
	if want := `Apply failed with 1 conflict: conflict with "one": .data.b`; a.text("message") != want {
		t.Errorf("%s", a.text("message"))
	}
	a = f.expect(200, "PATCH", at+"?fieldManager=two&force=true", config("1", "2"), applyPatch)
	if got := strings.Join(owners(a), "; "); got != "one Apply data.a; two Apply data.a,data.b" || a.text("data.b") != "2" {
		t.Errorf("owners: %s", got)
	}
	a = f.expect(200, "PATCH", at+"?fieldManager=two", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\n", applyPatch)
	if a.text("data.a") != "1" || a.at("data.b") != nil {
		t.Errorf("data: %v", a.at("data"))
	}
	a = f.expect(400, "PATCH", at+"?fieldManager=two", "apiVersion: v2\nkind: ConfigMap\n", applyPatch)
	if !strings.Contains(a.text("message"), "Incorrect version specified in apply patch") {
		t.Error(a.text("message"))
	}
	f.expect(400, "PATCH", at+"?fieldManager=two", "metadata: {name: x, managedFields: [{}]}\napiVersion: v1\nkind: ConfigMap\n", applyPatch)
	f.expect(400, "PATCH", at+"?fieldManager=two", "\t:", applyPatch)
	f.expect(500, "PATCH", at+"?fieldManager=two", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\ndate: {}\n", applyPatch)
}

func TestScale(t *testing.T) {
	f := start(t, nil)
	f.expect(201, "POST", deployments+"?fieldManager=one", deploymentNamed("d"))
	at := deployments + "/d/scale"
	a := f.expect(200, "GET", at, "")
	if a.text("kind") != "Scale" || a.at("spec.replicas") != 2.0 || a.text("status.selector") != "a=b" {
		t.Error(a.body)
	}
	row := f.expect(200, "GET", at, "", "Accept: application/json;as=Table;v=v1;g=meta.k8s.io,application/json")
	if got := fmt.Sprint(row.at("rows").([]any)[0].(map[string]any)["cells"].([]any)[:3]); got != "[d 2 0]" {
		t.Errorf("as kubectl shows it: %s", got)
	}
	f.expect(200, "PATCH", at+"?fieldManager=two", `{"spec":{"replicas":5}}`, mergePatch)
	d := f.expect(200, "GET", deployments+"/d", "")
	if d.at("spec.replicas") != 5.0 || d.at("metadata.generation") != 2.0 {
		t.Error(d.body)
	}
	if got := owners(d); len(got) != 2 || got[0] != "two Update scale spec.replicas" {
		t.Errorf("owners: %v", got)
	}
	f.expect(409, "PUT", at, a.body)
	if a = f.expect(422, "PATCH", at, `{"spec":{"replicas":-1}}`, mergePatch); !strings.Contains(a.text("message"), "must be greater than or equal to 0") {
		t.Error(a.text("message"))
	}
	f.expect(409, "PATCH", at+"?fieldManager=three", "apiVersion: autoscaling/v1\nkind: Scale\nmetadata: {name: d}\nspec: {replicas: 7}\n", applyPatch)
	a = f.expect(200, "PATCH", at+"?fieldManager=three&force=true", "apiVersion: autoscaling/v1\nkind: Scale\nmetadata: {name: d}\nspec: {replicas: 7}\n", applyPatch)
	if a.at("spec.replicas") != 7.0 {
		t.Error(a.body)
	}
}

// What is owned in one version stays owned when the object is written in another.
func TestFieldOwnersOverVersions(t *testing.T) {
	f := start(t, nil)
	const v1, v2 = "/apis/autoscaling/v1/namespaces/default/horizontalpodautoscalers/h", "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers/h"
	owners := func(a *answer) (list []string) {
		t.Helper()
		entries, _ := a.at("metadata.managedFields").([]any)
		for _, e := range entries {
			m := &answer{object: e.(map[string]any)}
			list = append(list, strings.TrimSpace(m.text("manager")+" "+m.text("apiVersion")+" "+m.text("subresource")))
		}
		return list
	}
	apply := func(code int, at, version, manager, spec string) *answer {
		t.Helper()
		return f.expect(code, "PATCH", at+"?fieldManager="+manager, `{"apiVersion":"autoscaling/`+version+`","kind":"HorizontalPodAutoscaler","spec":`+spec+`}`, applyPatch)
	}
	const target = `"scaleTargetRef":{"apiVersion":"apps/v1","kind":"Deployment","name":"d"}`
	apply(201, v1, "v1", "old", `{"maxReplicas":5,"targetCPUUtilizationPercentage":50,`+target+`}`)
	// The controller's writes are in the second version.
	a := f.expect(200, "PATCH", v2+"/status?fieldManager=controller", `{"status":{"desiredReplicas":2}}`, mergePatch)
	if got, want := owners(a), []string{"old autoscaling/v1", "controller autoscaling/v2 status"}; !slices.Equal(got, want) {
		t.Errorf("after the status was written: %q, want %q", got, want)
	}
	a = apply(409, v2, "v2", "new", `{"maxReplicas":6,`+target+`}`)
	if want := `conflict with "old": .spec.maxReplicas`; !strings.Contains(a.text("message"), want) {
		t.Errorf("%s, want %s", a.text("message"), want)
	}
	f.expect(200, "PATCH", v2+"?fieldManager=new&force=true", `{"apiVersion":"autoscaling/v2","kind":"HorizontalPodAutoscaler","spec":{"maxReplicas":6,"metrics":[{"type":"Resource","resource":{"name":"memory","target":{"type":"Utilization","averageUtilization":70}}}],`+target+`}}`, applyPatch)
	// The old way lost what is in the metrics, and has nothing to say on the maximum.
	a = apply(200, v1, "v1", "old", `{`+target+`}`)
	if n := a.at("spec.maxReplicas"); n != 6.0 || a.at("spec.targetCPUUtilizationPercentage") != nil {
		t.Errorf("maximum %v, target %v", n, a.at("spec.targetCPUUtilizationPercentage"))
	}

	const events, e = "/api/v1/namespaces/default/events", "/namespaces/default/events/e?fieldManager="
	f.expect(201, "POST", events+"?fieldManager=maker", `{"metadata":{"name":"e"},"involvedObject":{"namespace":"default"},"message":"m"}`)
	a = f.expect(200, "PATCH", "/apis/events.k8s.io/v1"+e+"z", `{"metadata":{"labels":{"x":"y"}}}`, mergePatch)
	if got, want := owners(a), []string{"maker v1", "z events.k8s.io/v1"}; !slices.Equal(got, want) {
		t.Errorf("an event: %q, want %q", got, want)
	}
}
