package apiserver_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
)

func TestCreateFillsInWhatTheServerDecides(t *testing.T) {
	f := start(t, nil)
	a := f.expect(201, "POST", pods, podNamed("p"), "User-Agent: tool/v1")
	for path, want := range map[string]any{
		"kind": "Pod", "apiVersion": "v1", "metadata.namespace": "default", "status.phase": "Pending", "spec.restartPolicy": "Always",
	} {
		if got := a.at(path); got != want {
			t.Errorf("%s is %v, want %v", path, got, want)
		}
	}
	for _, path := range []string{"metadata.uid", "metadata.resourceVersion", "metadata.creationTimestamp"} {
		if a.text(path) == "" {
			t.Errorf("no %s", path)
		}
	}
	entries, _ := a.at("metadata.managedFields").([]any)
	if len(entries) != 1 {
		t.Fatalf("managed fields: %v", a.at("metadata.managedFields"))
	}
	if e := entries[0].(map[string]any); e["manager"] != "tool" || e["operation"] != "Update" || e["apiVersion"] != "v1" {
		t.Errorf("managed fields: %v", e)
	}
	if got := f.expect(200, "GET", pods+"/p", ""); got.body != a.body {
		t.Errorf("GET differs from what create returned:\n%s\n%s", got.body, a.body)
	}
}

func TestGeneratedNames(t *testing.T) {
	f := start(t, nil)
	long := strings.Repeat("x", 70)
	for _, base := range []string{"job-", long} {
		name := f.expect(201, "POST", configMaps, fmt.Sprintf(`{"metadata":{"generateName":%q}}`, base)).text("metadata.name")
		want := base
		if len(want) > 58 {
			want = want[:58]
		}
		if !strings.HasPrefix(name, want) || len(name) != len(want)+5 {
			t.Errorf("generateName %s gave %s", base, name)
		}
	}
}

func TestCreateRefuses(t *testing.T) {
	f := start(t, nil)
	f.expect(201, "POST", configMaps, `{"metadata":{"name":"taken"}}`)
	huge := `{"metadata":{"name":"x"},"data":{"a":"` + strings.Repeat("x", 3<<20) + `"}}`
	for _, c := range []struct {
		name, path, body string
		headers          []string
		code             int
		reason, message  string
	}{
		{name: "taken name", body: `{"metadata":{"name":"taken"}}`, code: 409, reason: "AlreadyExists", message: `configmaps "taken" already exists`},
		{name: "no name", body: `{}`, code: 422, reason: "Invalid", message: `ConfigMap "" is invalid: metadata.name: Required value: name or generateName is required`},
		{name: "bad name", body: `{"metadata":{"name":"A_"}}`, code: 422, reason: "Invalid", message: `ConfigMap "A_" is invalid: metadata.name: Invalid value: "A_": a lowercase RFC 1123 subdomain must consist of`},
		{name: "resource version", body: `{"metadata":{"name":"x","resourceVersion":"5"}}`, code: 500, message: "resourceVersion should not be set on objects to be created"},
		{name: "other namespace", body: `{"metadata":{"name":"x","namespace":"other"}}`, code: 400, reason: "BadRequest", message: "the namespace of the provided object does not match the namespace sent on the request"},
		{name: "other version", body: `{"apiVersion":"v2","metadata":{"name":"x"}}`, code: 400, reason: "BadRequest", message: "the API version in the data (v2) does not match the expected API version (v1)"},
		{name: "other kind", body: `{"kind":"Secret","apiVersion":"v1","metadata":{"name":"x"}}`, code: 400, reason: "BadRequest", message: `Secret in version "v1" cannot be handled as a ConfigMap`},
		{name: "broken JSON", body: `{"metadata":`, code: 400, reason: "BadRequest", message: `the object provided is unrecognized (must be of type ConfigMap): couldn't get version/kind; json parse error: unexpected end of JSON input ({"metadata":)`},
		{name: "no JSON", body: "gibberish", code: 400, reason: "BadRequest", message: `json parse error: invalid character 'g' looking for beginning of value (676962626572697368)`},
		{name: "no body", code: 400, reason: "BadRequest", message: `json parse error: unexpected end of JSON input (<empty>)`},
		{name: "no object", body: `["` + strings.Repeat("x", 99) + `"]`, code: 400, reason: "BadRequest", message: "(5b22" + strings.Repeat("78", 28) + " ...)"},
		{name: "no YAML", body: "a: b: c", headers: []string{"Content-Type: application/yaml"}, code: 400, reason: "BadRequest", message: "the object provided is unrecognized (must be of type ConfigMap): "},
		{name: "no protobuf", body: "gibberish", headers: []string{"Content-Type: application/vnd.kubernetes.protobuf"}, code: 400, reason: "BadRequest", message: "does not appear to be a protobuf message, expected prefix [107 56 115 0] (676962626572697368)"},
		{name: "wrong type", body: `{"kind":"ConfigMap","apiVersion":"v1","data":[1]}`, code: 400, reason: "BadRequest", message: `ConfigMap in version "v1" cannot be handled as a ConfigMap: json: cannot unmarshal array`},
		{name: "media type", body: `x`, headers: []string{"Content-Type: text/csv"}, code: 415, reason: "UnsupportedMediaType", message: "the body of the request was in an unknown format"},
		{name: "accept", body: `{"metadata":{"name":"x"}}`, headers: []string{"Accept: text/csv"}, code: 406, reason: "NotAcceptable", message: "only the following media types are accepted"},
		{name: "too large", body: huge, code: 413, reason: "RequestEntityTooLarge", message: "Request entity too large: limit is 3145728"},
		{name: "unknown field", path: "?fieldValidation=Strict", body: `{"metadata":{"name":"x"},"dat":{}}`, code: 400, reason: "BadRequest", message: `strict decoding error: unknown field "dat"`},
		{name: "duplicate field", path: "?fieldValidation=Strict", body: `{"metadata":{"name":"x"},"data":{},"data":{}}`, code: 400, reason: "BadRequest", message: `strict decoding error: duplicate field "data"`},
		{name: "bad option", path: "?dryRun=Some", body: `{"metadata":{"name":"x"}}`, code: 422, reason: "Invalid", message: `dryRun: Unsupported value`},
		{name: "bad validation", path: "?fieldValidation=No", body: `{"metadata":{"name":"x"}}`, code: 422, reason: "Invalid", message: "fieldValidation"},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := f.send("POST", configMaps+c.path, c.body, c.headers...)
			if a.code != c.code || !strings.Contains(a.text("message"), c.message) || c.reason != "" && a.text("reason") != c.reason {
				t.Errorf("%d %s %q", a.code, a.text("reason"), a.text("message"))
			}
		})
	}
}

// A version that is none hinders nobody: clients send back what they read.
func TestCreateWithoutAVersion(t *testing.T) {
	f := start(t, nil)
	for name, version := range map[string]string{"zero": "0", "none": "", "nonsense": "x"} {
		a := f.expect(201, "POST", configMaps, fmt.Sprintf(`{"metadata":{"name":%q,"resourceVersion":%q}}`, name, version))
		if a.text("metadata.resourceVersion") == version {
			t.Errorf("%s: %s", name, a.body)
		}
	}
}

// A 422 names each thing that is wrong with its field.
func TestInvalidNamesEveryCause(t *testing.T) {
	f := start(t, nil)
	a := f.expect(422, "POST", pods, `{"metadata":{"name":"x","labels":{"a b":"c"}},"spec":{"containers":[{"name":"A!"}]}}`)
	causes, _ := a.at("details.causes").([]any)
	fields := map[string]bool{}
	for _, c := range causes {
		fields[c.(map[string]any)["field"].(string)] = true
	}
	for _, want := range []string{"metadata.labels", "spec.containers[0].name", "spec.containers[0].image"} {
		if !fields[want] {
			t.Errorf("no cause for %s in %v", want, fields)
		}
	}
}

// Of thousands of faults some are named, and how many more there are.
func TestInvalidInThousandsOfPlaces(t *testing.T) {
	f := start(t, nil)
	a := f.expect(422, "POST", pods, `{"metadata":{"name":"x"},"spec":{"containers":[`+strings.TrimSuffix(strings.Repeat("{},", 2_000), ",")+`]}}`)
	if causes, _ := a.at("details.causes").([]any); len(causes) < 100 || len(causes) > 300 || !strings.HasSuffix(a.text("message"), "more are not shown]") {
		t.Errorf("%d causes, %.300s", len(causes), a.body)
	}
}

func TestUnknownFieldsWarn(t *testing.T) {
	f := start(t, nil)
	a := f.expect(201, "POST", configMaps, `{"metadata":{"name":"x"},"dat":{}}`)
	if got := a.header.Get("Warning"); got != `299 - "unknown field \"dat\""` {
		t.Errorf("warning %q", got)
	}
	a = f.expect(201, "POST", configMaps+"?fieldValidation=Ignore", `{"metadata":{"name":"y"},"dat":{}}`)
	if got := a.header.Get("Warning"); got != "" {
		t.Errorf("warning %q", got)
	}
}

func TestDryRunStoresNothing(t *testing.T) {
	f := start(t, nil)
	if f.expect(201, "POST", configMaps+"?dryRun=All", `{"metadata":{"name":"x"}}`).text("metadata.uid") == "" {
		t.Error("a dry run goes through all steps, that which sets the uid too")
	}
	f.expect(404, "GET", configMaps+"/x", "")
	f.expect(201, "POST", configMaps, `{"metadata":{"name":"x"},"data":{"a":"1"}}`)
	f.expect(409, "POST", configMaps+"?dryRun=All", `{"metadata":{"name":"x"}}`)
	f.expect(200, "PUT", configMaps+"/x?dryRun=All", `{"metadata":{"name":"x"},"data":{"a":"2"}}`)
	f.expect(200, "PATCH", configMaps+"/x?dryRun=All", `{"data":{"a":"3"}}`, mergePatch)
	f.expect(200, "DELETE", configMaps+"/x?dryRun=All", "")
	f.expect(200, "DELETE", configMaps+"?dryRun=All", "")
	if got := f.expect(200, "GET", configMaps+"/x", "").text("data.a"); got != "1" {
		t.Errorf("data.a is %q", got)
	}
}

func TestFormats(t *testing.T) {
	f := start(t, nil)
	f.expect(201, "POST", configMaps, "metadata:\n  name: yam\ndata:\n  a: b\n", "Content-Type: application/yaml")
	if a := f.expect(200, "GET", configMaps+"/yam", "", "Accept: application/yaml"); !strings.Contains(a.body, "\n  name: yam\n") || a.header.Get("Content-Type") != "application/yaml" {
		t.Errorf("YAML: %s", a.body)
	}
	if a := f.expect(200, "GET", configMaps+"/yam?pretty=true", ""); !strings.HasPrefix(a.body, "{\n  \"kind\": \"ConfigMap\"") {
		t.Errorf("pretty: %s", a.body)
	}
	proto := f.expect(200, "GET", configMaps+"/yam", "", "Accept: application/vnd.kubernetes.protobuf")
	if !strings.HasPrefix(proto.body, "k8s\x00") || proto.header.Get("Content-Type") != "application/vnd.kubernetes.protobuf" {
		t.Errorf("protobuf: %q", proto.body)
	}
	f.expect(200, "PUT", configMaps+"/yam", proto.body, "Content-Type: application/vnd.kubernetes.protobuf")
	head := f.expect(200, "HEAD", configMaps+"/yam", "")
	if head.body != "" || head.header.Get("Content-Length") == "" {
		t.Errorf("HEAD: %q %v", head.body, head.header)
	}
	f.expect(http.StatusMethodNotAllowed, "PUT", configMaps, "{}")
	f.expect(404, "GET", "/api/v1/namespaces/default/nothings", "")
	f.expect(404, "GET", "/apis/none/v1/things", "")
}
