package api

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
)

const (
	mergePatch     = "application/merge-patch+json"
	jsonPatch      = "application/json-patch+json"
	strategicPatch = "application/strategic-merge-patch+json"
	applyPatch     = "application/apply-patch+yaml"
	protobuf       = "application/vnd.kubernetes.protobuf"
)

// TestBadInput sends what no client should, in the order of the request: the
// answer names the fault, and the server lives on.
func TestBadInput(t *testing.T) {
	ns := namespace(t)
	maps := "/api/v1/namespaces/" + ns + "/configmaps"
	made := do(t, "POST", maps, nil, []byte(`{"metadata":{"name":"cm","labels":{"a":"b"}},"data":{"k":"v"}}`))
	if made.Code != http.StatusCreated {
		t.Fatalf("%d %s", made.Code, made.Body)
	}
	do(t, "POST", maps, nil, []byte(`{"metadata":{"name":"cm2"}}`))
	for _, c := range []struct {
		name, method, path string
		header             header
		body               string
		code               int
		reason             string
		message            string // a part of it
	}{
		{"no JSON", "POST", maps, nil, `{"metadata":`, 400, "BadRequest", "unexpected end of JSON input"},
		{"empty body", "POST", maps, nil, ``, 400, "BadRequest", ""},
		{"array", "POST", maps, nil, `[]`, 400, "BadRequest", ""},
		{"null", "POST", maps, nil, `null`, 422, "Invalid", "name or generateName is required"},
		{"other kind", "POST", maps, nil, `{"apiVersion":"v1","kind":"Secret","metadata":{"name":"x"}}`, 400, "BadRequest", ""},
		{"other version", "POST", maps, nil, `{"apiVersion":"v7","kind":"ConfigMap","metadata":{"name":"x"}}`, 400, "BadRequest", ""},
		{"wrong type of a field", "POST", maps, nil, `{"metadata":{"name":"x"},"data":{"a":1}}`, 400, "BadRequest", "cannot be handled as a ConfigMap"},
		{"wrong type of metadata", "POST", maps, nil, `{"metadata":7}`, 400, "BadRequest", ""},
		{"trailing data", "POST", maps, nil, `{"metadata":{"name":"trail"}} {"x":1}`, 400, "BadRequest", ""},
		{"no name", "POST", maps, nil, `{"metadata":{}}`, 422, "Invalid", "name or generateName is required"},
		{"bad name", "POST", maps, nil, `{"metadata":{"name":"A_b"}}`, 422, "Invalid", "a lowercase RFC 1123 subdomain must consist of"},
		{"long name", "POST", maps, nil, `{"metadata":{"name":"` + strings.Repeat("a", 254) + `"}}`, 422, "Invalid", "must be no more than 253 characters"},
		{"foreign namespace", "POST", maps, nil, `{"metadata":{"name":"x","namespace":"other"}}`, 400, "BadRequest", "the namespace of the provided object does not match the namespace sent on the request"},
		{"resourceVersion on create", "POST", maps, nil, `{"metadata":{"name":"x","resourceVersion":"7"}}`, 500, "", "resourceVersion should not be set on objects to be created"},
		{"absent namespace", "POST", "/api/v1/namespaces/nowhere/configmaps", nil, `{"metadata":{"name":"x"}}`, 404, "NotFound", `namespaces "nowhere" not found`},
		{"bad label", "POST", maps, nil, `{"metadata":{"name":"x","labels":{"a b":"c"}}}`, 422, "Invalid", "metadata.labels"},
		{"media type", "POST", maps, header{"Content-Type": "application/xml"}, `<a/>`, 415, "UnsupportedMediaType", "application/json"},
		{"no protobuf", "POST", maps, header{"Content-Type": protobuf}, `not protobuf at all`, 400, "BadRequest", ""},
		{"truncated protobuf", "POST", maps, header{"Content-Type": protobuf}, "k8s\x00\x0a\xff\xff\xff\xff\x0f", 400, "BadRequest", ""},
		{"YAML bomb", "POST", maps, header{"Content-Type": "application/yaml"}, bomb(), 400, "BadRequest", ""},
		{"accept", "GET", maps, header{"Accept": "text/html"}, "", 406, "NotAcceptable", "only the following media types are accepted"},
		{"accept of a create", "POST", maps, header{"Accept": "image/png"}, `{"metadata":{"name":"never"}}`, 406, "NotAcceptable", ""},
		{"unknown transformation", "GET", maps, header{"Accept": "application/json;as=Nothing;g=meta.k8s.io;v=v1"}, "", 406, "NotAcceptable", ""},
		{"dryRun", "POST", maps + "?dryRun=Some", nil, `{"metadata":{"name":"x"}}`, 422, "Invalid", `Unsupported value: [\"Some\"]: supported values: \"All\"`},
		{"fieldValidation", "POST", maps + "?fieldValidation=Maybe", nil, `{"metadata":{"name":"x"}}`, 422, "Invalid", "fieldValidation: Unsupported value"},
		{"long fieldManager", "POST", maps + "?fieldManager=" + strings.Repeat("m", 129), nil, `{"metadata":{"name":"x"}}`, 422, "Invalid", "fieldManager"},
		{"unknown field, strictly", "POST", maps + "?fieldValidation=Strict", nil, `{"metadata":{"name":"x"},"dota":{}}`, 400, "BadRequest", `strict decoding error: unknown field "dota"`},
		{"label selector", "GET", maps + "?labelSelector=a==%3D%21b,,", nil, "", 400, "BadRequest", ""},
		{"field selector", "GET", maps + "?fieldSelector=data.k%3Dv", nil, "", 400, "BadRequest", "is not a known field selector"},
		{"field selector syntax", "GET", maps + "?fieldSelector=metadata.name", nil, "", 400, "BadRequest", ""},
		{"limit", "GET", maps + "?limit=many", nil, "", 400, "BadRequest", ""},
		{"continue token", "GET", maps + "?continue=abc", nil, "", 400, "BadRequest", "continue key is not valid"},
		{"continue and resourceVersion", "GET", maps + "?limit=1&resourceVersion=5&continue=abc", nil, "", 400, "BadRequest", ""},
		{"resourceVersion", "GET", maps + "?resourceVersion=abc", nil, "", 400, "BadRequest", ""},
		{"resourceVersion far ahead", "GET", maps + "?resourceVersion=99999999999&timeoutSeconds=1", nil, "", 504, "Timeout", "Too large resource version"},
		{"exact without a version", "GET", maps + "?resourceVersionMatch=Exact", nil, "", 422, "Invalid", "resourceVersionMatch is forbidden unless resourceVersion is provided"},
		{"exact zero", "GET", maps + "?resourceVersionMatch=Exact&resourceVersion=0", nil, "", 422, "Invalid", ""},
		{"unknown match", "GET", maps + "?resourceVersionMatch=Some&resourceVersion=1", nil, "", 422, "Invalid", "supported values"},
		{"watch at nonsense", "GET", maps + "?watch=1&resourceVersion=abc", nil, "", 400, "BadRequest", "Invalid value"},
		{"watch list without match", "GET", maps + "?watch=1&sendInitialEvents=true", nil, "", 422, "Invalid", "sendInitialEvents"},
		{"patch type", "PATCH", maps + "/cm", header{"Content-Type": "application/json"}, `{}`, 415, "UnsupportedMediaType", "application/merge-patch+json"},
		{"merge patch of no object", "PATCH", maps + "/cm", header{"Content-Type": mergePatch}, `[]`, 400, "BadRequest", ""},
		{"merge patch, broken", "PATCH", maps + "/cm", header{"Content-Type": mergePatch}, `{"data":`, 400, "BadRequest", ""},
		{"JSON patch of no list", "PATCH", maps + "/cm", header{"Content-Type": jsonPatch}, `{}`, 400, "BadRequest", ""},
		{"JSON patch, unknown op", "PATCH", maps + "/cm", header{"Content-Type": jsonPatch}, `[{"op":"turn","path":"/data"}]`, 422, "Invalid", ""},
		{"JSON patch, failed test", "PATCH", maps + "/cm", header{"Content-Type": jsonPatch}, `[{"op":"test","path":"/data/k","value":"w"}]`, 422, "Invalid", ""},
		{"JSON patch, missing path", "PATCH", maps + "/cm", header{"Content-Type": jsonPatch}, `[{"op":"remove","path":"/data/none"}]`, 422, "Invalid", ""},
		{"JSON patch, too many", "PATCH", maps + "/cm", header{"Content-Type": jsonPatch}, "[" + strings.TrimSuffix(strings.Repeat(`{"op":"add","path":"/data/k","value":"x"},`, 10001), ",") + "]", 413, "RequestEntityTooLarge", "The allowed maximum operations in a JSON patch is 10000"},
		{"JSON patch, copies that double", "PATCH", maps + "/cm", header{"Content-Type": jsonPatch}, `[{"op":"add","path":"/data/x","value":["` + strings.Repeat("x", 1000) + `"]}` + strings.Repeat(`,{"op":"copy","from":"/data/x","path":"/data/x/-"}`, 40) + "]", 422, "", ""},
		{"strategic patch, broken", "PATCH", maps + "/cm", header{"Content-Type": strategicPatch}, `"x"`, 400, "BadRequest", ""},
		{"strategic patch, no merge key", "PATCH", "/api/v1/namespaces/default/services/kubernetes", header{"Content-Type": strategicPatch}, `{"spec":{"ports":[{"name":"x"}]}}`, 500, "", "map: map[name:x] does not contain declared merge key: port"},
		{"apply without a manager", "PATCH", maps + "/cm", header{"Content-Type": applyPatch}, `{"apiVersion":"v1","kind":"ConfigMap"}`, 422, "Invalid", "fieldManager: Required value: is required for apply patch"},
		{"apply with managedFields", "PATCH", maps + "/cm?fieldManager=m", header{"Content-Type": applyPatch}, `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"cm","managedFields":[{"manager":"x","operation":"Apply","apiVersion":"v1"}]}}`, 400, "BadRequest", "metadata.managedFields must be nil"},
		{"apply of another kind", "PATCH", maps + "/cm?fieldManager=m", header{"Content-Type": applyPatch}, `{"apiVersion":"v1","kind":"Secret","metadata":{"name":"cm"}}`, 400, "BadRequest", ""},
		{"apply without a kind", "PATCH", maps + "/cm?fieldManager=m", header{"Content-Type": applyPatch}, `{"metadata":{"name":"cm"}}`, 400, "BadRequest", ""},
		{"force of a merge patch", "PATCH", maps + "/cm?force=true", header{"Content-Type": mergePatch}, `{}`, 422, "Invalid", "force: Forbidden: may not be specified for non-apply patch"},
		{"patch renames", "PATCH", maps + "/cm", header{"Content-Type": mergePatch}, `{"metadata":{"name":"other"}}`, 400, "BadRequest", "the name of the object (other) does not match the name on the URL (cm)"},
		{"patch of nothing", "PATCH", maps + "/none", header{"Content-Type": mergePatch}, `{}`, 404, "NotFound", `configmaps "none" not found`},
		{"patch of an old version", "PATCH", maps + "/cm", header{"Content-Type": mergePatch}, `{"metadata":{"resourceVersion":"1"}}`, 409, "Conflict", "the object has been modified; please apply your changes to the latest version and try again"},
		{"patch changes the uid", "PATCH", maps + "/cm", header{"Content-Type": mergePatch}, `{"metadata":{"uid":"x"}}`, 409, "Conflict", "Precondition failed"},
		{"update renames", "PUT", maps + "/cm", nil, `{"metadata":{"name":"other"}}`, 400, "BadRequest", "does not match the name on the URL"},
		{"update of nothing", "PUT", maps + "/none", nil, `{"metadata":{"name":"none"}}`, 404, "NotFound", ""},
		{"update without a name", "PUT", maps + "/cm", nil, `{}`, 400, "BadRequest", "name"},
		{"update with nonsense", "PUT", maps + "/cm", nil, `{"metadata":{"name":"cm","resourceVersion":"abc"}}`, 422, "Invalid", ""},
		{"delete with another uid", "DELETE", maps + "/cm", nil, `{"preconditions":{"uid":"x"}}`, 409, "Conflict", "the UID in the precondition (x) does not match the UID in record"},
		{"delete with another version", "DELETE", maps + "/cm", nil, `{"preconditions":{"resourceVersion":"1"}}`, 409, "Conflict", "the ResourceVersion in the precondition (1) does not match the ResourceVersion in record"},
		{"delete, two policies", "DELETE", maps + "/cm", nil, `{"orphanDependents":true,"propagationPolicy":"Foreground"}`, 422, "Invalid", "orphanDependents and deletionPropagation cannot be both set"},
		{"delete, unknown policy", "DELETE", maps + "/cm?propagationPolicy=Later", nil, ``, 422, "Invalid", "propagationPolicy"},
		{"delete, broken", "DELETE", maps + "/cm", nil, `{"propagationPolicy":`, 400, "BadRequest", ""},
		{"delete of another kind", "DELETE", maps + "/cm", nil, `{"apiVersion":"v1","kind":"Pod"}`, 400, "BadRequest", ""},
		{"no such resource", "GET", "/api/v1/namespaces/" + ns + "/nothings", nil, "", 404, "NotFound", "the server could not find the requested resource"},
		{"no such version", "GET", "/apis/apps/v7/deployments", nil, "", 404, "", ""},
		{"no such subresource", "GET", maps + "/cm/status", nil, "", 404, "", ""},
		{"method", "POST", maps + "/cm", nil, `{}`, 405, "MethodNotAllowed", "create is not supported on resources of kind"},
		{"collection in no namespace", "POST", "/api/v1/configmaps", nil, `{"metadata":{"name":"x"}}`, 405, "MethodNotAllowed", ""},
		{"bad query", "GET", maps + "?labelSelector=%zz", nil, "", 400, "BadRequest", ""},
		{"log options", "GET", "/api/v1/namespaces/" + ns + "/pods/p/log?tailLines=-1", nil, "", 422, "Invalid", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			var body []byte
			if c.body != "" {
				body = []byte(c.body)
			}
			got := do(t, c.method, c.path, c.header, body)
			reason, _ := got.at("reason").(string)
			message, _ := got.at("message").(string)
			if got.Code != c.code || c.reason != "" && reason != c.reason || !strings.Contains(message+string(got.Body), c.message) {
				t.Errorf("%d %s %s\nwant %d %s …%s…", got.Code, reason, trim(got.Body), c.code, c.reason, c.message)
			}
			if got.Code >= 400 && got.at("kind") != "Status" && c.reason != "" {
				t.Errorf("no Status: %s", trim(got.Body))
			}
		})
	}
	if left := do(t, "GET", maps+"/cm", nil, nil); left.at("data", "k") != "v" || left.at("metadata", "resourceVersion") != made.at("metadata", "resourceVersion") {
		t.Errorf("afterwards: %s", left.Body)
	}
}

func trim(b []byte) string { return string(b[:min(len(b), 600)]) }

// bomb doubles an anchor until it would be larger than memory.
func bomb() string {
	var b strings.Builder
	b.WriteString("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n")
	for i := range 12 {
		fmt.Fprintf(&b, "a%d: &a%d [*a%d,*a%d,*a%d,*a%d,*a%d,*a%d,*a%d,*a%d,*a%d]\n", i+1, i+1, i, i, i, i, i, i, i, i, i)
	}
	return b.String()
}

// TestLargeInput is about size and depth.
func TestLargeInput(t *testing.T) {
	ns := namespace(t)
	maps := "/api/v1/namespaces/" + ns + "/configmaps"
	big := func(n int) []byte {
		return fmt.Appendf(nil, `{"metadata":{"name":"big"},"data":{"k":"%s"}}`, bytes.Repeat([]byte("x"), n))
	}
	labels := &strings.Builder{}
	for i := range 5000 {
		fmt.Fprintf(labels, `"l%d":"v",`, i)
	}
	deep := func(n int) string { return strings.Repeat("[", n) + strings.Repeat("]", n) }
	for _, c := range []struct {
		name, method, path string
		header             header
		body               []byte
		code               int
	}{
		{"above the limit of a request", "POST", maps, nil, big(3 << 20), 413},
		{"above the limit of a ConfigMap", "POST", maps, nil, big(1<<20 + 1), 422},
		{"at the limit of a ConfigMap", "POST", maps, nil, big(1<<20 - 1), 201},
		{"deep", "POST", maps, nil, []byte(`{"metadata":{"name":"deep"},"x":` + deep(100_000) + `}`), 400},
		{"deep YAML", "POST", maps, header{"Content-Type": "application/yaml"}, []byte(`{"metadata":{"name":"deep"},"x":` + deep(20_000) + `}`), 400},
		{"deep merge patch", "PATCH", maps + "/big", header{"Content-Type": mergePatch}, []byte(`{"x":` + deep(100_000) + `}`), 400},
		{"deep JSON patch", "PATCH", maps + "/big", header{"Content-Type": jsonPatch}, []byte(`[{"op":"add","path":"/x","value":` + deep(100_000) + `}]`), 400},
		{"deep apply", "PATCH", maps + "/big?fieldManager=m", header{"Content-Type": applyPatch}, []byte(`{"apiVersion":"v1","kind":"ConfigMap","x":` + deep(100_000) + `}`), 400},
		{"many labels", "POST", maps, nil, []byte(`{"metadata":{"name":"many","labels":{` + strings.TrimSuffix(labels.String(), ",") + `}}}`), 201},
		{"large annotations", "POST", maps, nil, fmt.Appendf(nil, `{"metadata":{"name":"ann","annotations":{"a":"%s"}}}`, bytes.Repeat([]byte("x"), 256<<10)), 422},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := do(t, c.method, c.path, c.header, c.body); got.Code != c.code {
				t.Errorf("%d %s, want %d", got.Code, trim(got.Body), c.code)
			}
		})
	}
	// What is refused is read all the same: a stream that ends before its
	// request makes some clients lose the answer.
	for _, method := range []string{"POST", "PUT"} {
		body := &sentBody{Reader: bytes.NewReader(big(4 << 20))}
		req, err := http.NewRequestWithContext(t.Context(), method, world.rest.Host+maps, body)
		must(t, err)
		resp, err := world.http.Do(req)
		must(t, err)
		_, err = io.Copy(io.Discard, resp.Body)
		must(t, err)
		must(t, resp.Body.Close())
		if n := body.n.Load(); resp.StatusCode < 400 || n < 4<<20 {
			t.Errorf("%s: %d after %d bytes", method, resp.StatusCode, n)
		}
	}
	// The client may also send without telling how much.
	got := do(t, "POST", maps, header{"Transfer-Encoding": "chunked"}, big(3<<20))
	if got.Code != http.StatusRequestEntityTooLarge || got.at("reason") != "RequestEntityTooLarge" {
		t.Errorf("chunked: %d %s", got.Code, trim(got.Body))
	}
}

// sentBody is a body that tells how much of it was sent.
type sentBody struct {
	*bytes.Reader
	n atomic.Int64
}

func (c *sentBody) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.n.Add(int64(n))
	return n, err
}

func (c *sentBody) WriteTo(w io.Writer) (int64, error) {
	return io.Copy(w, struct{ io.Reader }{c})
}
