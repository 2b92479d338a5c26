package apiserver_test

import (
	"encoding/base64"
	"fmt"
	"net/url"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
)

func (f *fixture) configMaps(n int) {
	f.Helper()
	for i := range n {
		f.expect(201, "POST", configMaps, fmt.Sprintf(`{"metadata":{"name":"c%02d","labels":{"i":"%d"}},"data":{"i":"%d"}}`, i, i, i))
	}
}

func names(a *answer) []string {
	var out []string
	items, _ := a.at("items").([]any)
	for _, i := range items {
		out = append(out, (&answer{object: i.(map[string]any)}).text("metadata.name"))
	}
	return out
}

// Pages are of one version: what is written meanwhile is not in them.
func TestPages(t *testing.T) {
	f := start(t, nil)
	f.configMaps(7)
	first := f.expect(200, "GET", configMaps+"?limit=3", "")
	if first.at("metadata.remainingItemCount") != 4.0 || first.text("metadata.continue") == "" {
		t.Fatalf("metadata: %v", first.at("metadata"))
	}
	f.expect(200, "DELETE", configMaps+"/c05", "")
	f.expect(201, "POST", configMaps, `{"metadata":{"name":"c055"}}`)
	got, next := names(first), first.text("metadata.continue")
	for next != "" {
		page := f.expect(200, "GET", configMaps+"?limit=3&continue="+next, "")
		if page.text("metadata.resourceVersion") != first.text("metadata.resourceVersion") {
			t.Errorf("a page at version %s", page.text("metadata.resourceVersion"))
		}
		got, next = append(got, names(page)...), page.text("metadata.continue")
	}
	if want := "c00 c01 c02 c03 c04 c05 c06"; strings.Join(got, " ") != want {
		t.Errorf("%v", got)
	}
}

func TestListRefuses(t *testing.T) {
	f := start(t, nil)
	f.configMaps(3)
	token := f.expect(200, "GET", configMaps+"?limit=1", "").text("metadata.continue")
	gone := base64.RawURLEncoding.EncodeToString([]byte(`{"v":"meta.k8s.io/v1","rv":1,"start":"c00\u0000"}`))
	for _, c := range []struct {
		query   string
		code    int
		message string
	}{
		{"continue=xx", 400, "continue key is not valid"},
		{"continue=" + token + "&resourceVersion=5", 400, "specifying resource version is not allowed when using continue"},
		{"resourceVersionMatch=Exact", 422, "resourceVersionMatch is forbidden unless resourceVersion is provided"},
		{"resourceVersion=0&resourceVersionMatch=Exact", 422, `resourceVersionMatch "exact" is forbidden for resourceVersion "0"`},
		{"resourceVersion=1&resourceVersionMatch=Other", 422, "Unsupported value"},
		{"resourceVersion=x", 400, "Invalid value"},
		{"sendInitialEvents=true", 422, "sendInitialEvents is forbidden for list"},
		{"labelSelector=a%3D%3D%3Db", 400, ""},
		{"fieldSelector=spec.nothing%3Db", 400, `"spec.nothing" is not a known field selector: only "metadata.name", "metadata.namespace"`},
		{"limit=x", 400, ""},
		{"timeout=soon", 400, "invalid timeout specified in the request URL"},
		{"continue=" + gone, 410, "The provided continue parameter is too old to display a consistent list result."},
		{"watch=1&resourceVersionMatch=NotOlderThan&resourceVersion=1", 422, "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided"},
	} {
		a := f.send("GET", configMaps+"?"+c.query, "")
		if a.code != c.code || !strings.Contains(a.text("message"), c.message) {
			t.Errorf("%s: %d %s", c.query, a.code, a.text("message"))
		}
	}
	if a := f.expect(400, "GET", pods+"?fieldSelector=spec.nothing%3Db", ""); a.text("message") != "field label not supported: spec.nothing" {
		t.Error(a.text("message"))
	}
}

func TestSelectors(t *testing.T) {
	f := start(t, nil)
	f.configMaps(5)
	f.bound("p1")
	f.expect(201, "POST", pods, podNamed("p2"))
	for _, c := range []struct{ path, query, want string }{
		{configMaps, "labelSelector=i in (1,3)", "c01 c03"},
		{configMaps, "labelSelector=i!=0,i notin (1,2)", "c03 c04"},
		{configMaps, "fieldSelector=metadata.name=c02", "c02"},
		{"/api/v1/configmaps", "fieldSelector=metadata.namespace=default,metadata.name!=c02", "c00 c01 c03 c04"},
		{configMaps, "fieldSelector=metadata.name=none", ""},
		{pods, "fieldSelector=spec.nodeName=n1", "p1"},
		{pods, "fieldSelector=spec.nodeName=", "p2"},
		{pods, "fieldSelector=status.phase=Pending,spec.nodeName!=n1", "p2"},
	} {
		key, value, _ := strings.Cut(c.query, "=")
		a := f.expect(200, "GET", c.path+"?"+key+"="+url.QueryEscape(value), "")
		if got := strings.Join(names(a), " "); got != c.want {
			t.Errorf("%s: %q, want %q", c.query, got, c.want)
		}
	}
}

// Whatever the encoding, a client decodes the same list.
func TestListEncodings(t *testing.T) {
	f := start(t, nil)
	f.configMaps(4)
	f.bound("p")
	var want *corev1.ConfigMapList
	for _, media := range []string{"application/json", "application/vnd.kubernetes.protobuf"} {
		cfg := f.Config("admin")
		cfg.ContentType = media
		c := kubernetes.NewForConfigOrDie(cfg)
		got, err := c.CoreV1().ConfigMaps("default").List(t.Context(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if want == nil {
			want = got
		}
		if len(got.Items) != 4 || got.ResourceVersion != want.ResourceVersion || got.Items[3].Data["i"] != "3" || got.Items[3].ResourceVersion == "" || got.Items[3].Kind != "" {
			t.Errorf("%s: %+v", media, got.Items)
		}
		pod, err := c.CoreV1().Pods("default").Get(t.Context(), "p", metav1.GetOptions{})
		if err != nil || pod.Spec.NodeName != "n1" || pod.ResourceVersion == "" {
			t.Errorf("%s: %v %v", media, pod, err)
		}
	}
	md, err := metadata.NewForConfig(f.Config("admin"))
	if err != nil {
		t.Fatal(err)
	}
	l, err := md.Resource(corev1.SchemeGroupVersion.WithResource("configmaps")).Namespace("default").List(t.Context(), metav1.ListOptions{})
	if err != nil || len(l.Items) != 4 || l.Items[0].Name != "c00" {
		t.Errorf("metadata: %v %v", l, err)
	}
}

func TestTable(t *testing.T) {
	f := start(t, nil)
	f.bound("p")
	a := f.expect(200, "GET", pods, "", "Accept: application/json;as=Table;v=v1;g=meta.k8s.io,application/json")
	rows, _ := a.at("rows").([]any)
	if a.text("kind") != "Table" || a.text("apiVersion") != "meta.k8s.io/v1" || len(rows) != 1 {
		t.Fatal(a.body)
	}
	row := &answer{object: rows[0].(map[string]any)}
	if cells := row.at("cells").([]any); cells[0] != "p" || len(cells) < 2 {
		t.Errorf("cells %v", cells)
	}
	if row.text("object.kind") != "PartialObjectMetadata" || row.text("object.metadata.name") != "p" {
		t.Errorf("object %v", row.at("object"))
	}
	a = f.expect(200, "GET", pods+"/p?includeObject=Object", "", "Accept: application/json;as=Table;v=v1;g=meta.k8s.io")
	rows, _ = a.at("rows").([]any)
	if row = (&answer{object: rows[0].(map[string]any)}); row.text("object.kind") != "Pod" {
		t.Errorf("object %v", row.at("object"))
	}
}

func TestBigAnswersAreCompressed(t *testing.T) {
	f := start(t, nil)
	f.expect(201, "POST", configMaps, `{"metadata":{"name":"big"},"data":{"a":"`+strings.Repeat("x", 300<<10)+`"}}`)
	a := f.expect(200, "GET", configMaps, "", "Accept-Encoding: gzip")
	if a.header.Get("Content-Encoding") != "gzip" || len(a.body) > 100<<10 {
		t.Errorf("%q, %d bytes", a.header.Get("Content-Encoding"), len(a.body))
	}
	for _, like := range []string{"", "gzip;q=0", "x-gzip"} {
		if a = f.expect(200, "GET", configMaps, "", "Accept-Encoding: "+like); a.header.Get("Content-Encoding") != "" {
			t.Errorf("compressed for a client that likes %q", like)
		}
	}
}

// A large list that is asked for again is sent in one piece that was kept: it
// says the same, of the version that it is read at, until something in it
// changes.
func TestLargeListAgain(t *testing.T) {
	f := start(t, nil)
	filler := strings.Repeat("x", 2000)
	for i := range 300 {
		f.expect(201, "POST", configMaps, fmt.Sprintf(`{"metadata":{"name":"c%03d","labels":{"even":"%v"}},"data":{"k":"%s"}}`, i, i%2 == 0, filler))
	}
	items := func(a *answer) string {
		_, rest, _ := strings.Cut(a.body, `"items":`)
		return rest
	}
	first := f.expect(200, "GET", configMaps, "")
	for range 3 {
		again := f.expect(200, "GET", configMaps, "")
		if items(again) != items(first) || len(names(again)) != 300 {
			t.Fatalf("a list of %d bytes, the first was of %d", len(again.body), len(first.body))
		}
		if fmt.Sprint(len(again.body)) != again.header.Get("Content-Length") {
			t.Fatalf("%d bytes of %s", len(again.body), again.header.Get("Content-Length"))
		}
		if half := f.expect(200, "GET", configMaps+"?labelSelector=even%3Dtrue", ""); len(names(half)) != 150 {
			t.Fatalf("%d with the label", len(names(half)))
		}
	}
	other := f.expect(201, "POST", "/api/v1/namespaces", `{"metadata":{"name":"other"}}`)
	newer := f.expect(200, "GET", configMaps, "")
	if items(newer) != items(first) || newer.text("metadata.resourceVersion") < other.text("metadata.resourceVersion") {
		t.Errorf("version %s after a write elsewhere made %s", newer.text("metadata.resourceVersion"), other.text("metadata.resourceVersion"))
	}
	f.expect(200, "DELETE", configMaps+"/c007", "")
	for range 3 {
		if after := f.expect(200, "GET", configMaps, ""); len(names(after)) != 299 {
			t.Fatalf("%d after one was deleted", len(names(after)))
		}
	}
}
