package api

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
)

// "should return chunks of results for list calls"
func TestChunks(t *testing.T) {
	ns := namespace(t)
	templates := world.kube.CoreV1().PodTemplates(ns)
	const total = 400
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for i := w; i < total; i += 8 {
				_, err := templates.Create(t.Context(), &corev1.PodTemplate{
					ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("template-%04d", i)},
					Template:   corev1.PodTemplateSpec{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "test", Image: "test2"}}}},
				}, metav1.CreateOptions{})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	for _, limit := range []int64{1000, 37, 100} {
		opts := metav1.ListOptions{Limit: limit}
		found, version := 0, ""
		for {
			list, err := templates.List(t.Context(), opts)
			must(t, err)
			for i, item := range list.Items {
				if want := fmt.Sprintf("template-%04d", found+i); item.Name != want {
					t.Fatalf("item %d is %s", found+i, item.Name)
				}
			}
			found += len(list.Items)
			if int64(len(list.Items)) > limit || version != "" && list.ResourceVersion != version {
				t.Fatalf("%d items at %s, the first page was at %s", len(list.Items), list.ResourceVersion, version)
			}
			version = list.ResourceVersion
			if list.Continue == "" {
				break
			}
			if list.RemainingItemCount == nil || *list.RemainingItemCount != int64(total-found) {
				t.Fatalf("remaining %v after %d", list.RemainingItemCount, found)
			}
			opts.Continue = list.Continue
			// What is written now is no part of the list that was begun.
			_, err = templates.Patch(t.Context(), "template-0399", types.MergePatchType, fmt.Appendf(nil, `{"metadata":{"labels":{"l":"%d"}}}`, found), metav1.PatchOptions{})
			must(t, err)
		}
		if found != total {
			t.Errorf("%d items by %d", found, limit)
		}
	}
}

// Watches from a version, by label, resumed, and in one order for all.
func TestWatchers(t *testing.T) {
	ns := namespace(t)
	maps := world.kube.CoreV1().ConfigMaps(ns)
	ctx := t.Context()
	begin := func(selector, version string) watch.Interface {
		w, err := maps.Watch(ctx, metav1.ListOptions{LabelSelector: selector, ResourceVersion: version})
		must(t, err)
		t.Cleanup(w.Stop)
		return w
	}
	start := get[*corev1.ConfigMapList](t)(maps.List(ctx, metav1.ListOptions{})).ResourceVersion
	a, b, either := begin("l=a", start), begin("l=b", start), begin("l in (a,b)", start)
	patch := func(body string) string {
		t.Helper()
		return get[*corev1.ConfigMap](t)(maps.Patch(ctx, "cm", types.MergePatchType, []byte(body), metav1.PatchOptions{})).ResourceVersion
	}
	created := get[*corev1.ConfigMap](t)(maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "cm", Labels: map[string]string{"l": "a"}}}, metav1.CreateOptions{}))
	first := patch(`{"data":{"n":"1"}}`)
	second := patch(`{"data":{"n":"2"}}`)
	patch(`{"metadata":{"labels":{"l":"b"}}}`)
	patch(`{"data":{"n":"3"}}`)
	patch(`{"metadata":{"labels":{"l":"a"}}}`)
	must(t, maps.Delete(ctx, "cm", metav1.DeleteOptions{}))

	told := func(w watch.Interface, want ...string) {
		t.Helper()
		for _, x := range want {
			kind, n, _ := strings.Cut(x, " ")
			o := event(t, w, watch.EventType(kind)).(*corev1.ConfigMap)
			if o.Data["n"] != n {
				t.Errorf("%s of %v, want n=%s", kind, o.Data, n)
			}
		}
	}
	told(a, "ADDED", "MODIFIED 1", "MODIFIED 2", "DELETED 2", "ADDED 3", "DELETED 3")
	told(b, "ADDED 2", "MODIFIED 3", "DELETED 3")
	told(either, "ADDED", "MODIFIED 1", "MODIFIED 2", "MODIFIED 2", "MODIFIED 3", "MODIFIED 3", "DELETED 3")
	told(begin("l=a", created.ResourceVersion), "MODIFIED 1", "MODIFIED 2", "DELETED 2", "ADDED 3", "DELETED 3")
	told(begin("l=a", first), "MODIFIED 2", "DELETED 2")
	told(begin("l in (a,b)", second), "MODIFIED 2", "MODIFIED 3", "MODIFIED 3", "DELETED 3")
	named, err := maps.Watch(ctx, metav1.ListOptions{FieldSelector: "metadata.name=cm", ResourceVersion: second})
	must(t, err)
	defer named.Stop()
	told(named, "MODIFIED 2", "MODIFIED 3", "MODIFIED 3", "DELETED 3")
}

// "should receive events on concurrent watches in same order"
func TestWatchOrder(t *testing.T) {
	ns := namespace(t)
	maps := world.kube.CoreV1().ConfigMaps(ns)
	version := get[*corev1.ConfigMapList](t)(maps.List(t.Context(), metav1.ListOptions{})).ResourceVersion
	const watchers, writes = 20, 200
	var wg sync.WaitGroup
	seen := make([][]string, watchers)
	open := func(i int, version string) {
		w, err := maps.Watch(t.Context(), metav1.ListOptions{ResourceVersion: version, LabelSelector: "order"})
		must(t, err)
		wg.Go(func() {
			defer w.Stop()
			for e := range w.ResultChan() {
				o, ok := e.Object.(*corev1.ConfigMap)
				if !ok {
					t.Errorf("watcher %d: %v", i, e)
					return
				}
				seen[i] = append(seen[i], string(e.Type)+" "+o.Name+" "+o.ResourceVersion)
				if o.Name == "last" {
					return
				}
			}
		})
	}
	for i := range watchers / 2 {
		open(i, version)
	}
	labels := map[string]string{"order": ""}
	var writers sync.WaitGroup
	for n := range 4 {
		writers.Go(func() {
			for i := range writes / 4 {
				name := fmt.Sprintf("cm-%d-%d", n, i%7)
				switch _, err := maps.Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}}, metav1.CreateOptions{}); {
				case apierrors.IsAlreadyExists(err):
					if i%3 == 0 {
						err = maps.Delete(t.Context(), name, metav1.DeleteOptions{})
					} else {
						_, err = maps.Patch(t.Context(), name, types.MergePatchType, fmt.Appendf(nil, `{"data":{"i":"%d"}}`, i), metav1.PatchOptions{})
					}
					if err != nil {
						t.Error(err)
					}
				case err != nil:
					t.Error(err)
				}
			}
		})
	}
	for i := watchers / 2; i < watchers; i++ {
		open(i, version)
	}
	writers.Wait()
	_, err := maps.Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "last", Labels: labels}}, metav1.CreateOptions{})
	must(t, err)
	wg.Wait()
	for i := range seen {
		if !slices.Equal(seen[i], seen[0]) {
			t.Errorf("watcher %d saw %d events, the first %d:\n%v\n%v", i, len(seen[i]), len(seen[0]), seen[i], seen[0])
		}
	}
}

// TestRawWatch is about what clients other than client-go see: bookmarks, the
// streamed list, and the end.
func TestRawWatch(t *testing.T) {
	ns := namespace(t)
	maps := "/api/v1/namespaces/" + ns + "/configmaps"
	do(t, "POST", maps, nil, []byte(`{"metadata":{"name":"cm"}}`))
	type line struct {
		Type   string
		Object struct {
			Code     int
			Reason   string
			Metadata metav1.ObjectMeta
		}
	}
	read := func(query string, h header) (out []line) {
		t.Helper()
		a := do(t, "GET", maps+"?watch=1&timeoutSeconds=1&"+query, h, nil)
		if a.Code != http.StatusOK {
			t.Fatalf("%d %s", a.Code, a.Body)
		}
		for l := range strings.Lines(string(a.Body)) {
			var x line
			must(t, json.Unmarshal([]byte(l), &x))
			out = append(out, x)
		}
		return out
	}
	streamed := read("sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&fieldSelector=metadata.name%3Dcm", nil)
	if len(streamed) < 2 || streamed[0].Type != "ADDED" || streamed[1].Type != "BOOKMARK" || streamed[1].Object.Metadata.Annotations[metav1.InitialEventsAnnotationKey] != "true" {
		t.Errorf("streamed list: %+v", streamed)
	}
	if old := read("resourceVersion=1", nil); len(old) == 1 && (old[0].Type != "ERROR" || old[0].Object.Code != 410 || old[0].Object.Reason != "Expired") {
		t.Errorf("from a version that is gone: %+v", old)
	}
	if a := do(t, "GET", maps+"?watch=1&resourceVersion=99999999999&timeoutSeconds=1", nil, nil); a.Code == http.StatusOK && strings.Contains(string(a.Body), "ADDED") {
		t.Errorf("from the future: %d %s", a.Code, a.Body)
	}
	table := read("fieldSelector=metadata.name%3Dcm", header{"Accept": "application/json;as=Table;v=v1;g=meta.k8s.io"})
	if len(table) != 1 || table[0].Type != "ADDED" {
		t.Errorf("as tables: %+v", table)
	}
}

// "should return pod details", "should return generic metadata details across
// all namespaces for nodes", "should return a 406 …"
func TestTables(t *testing.T) {
	ns := namespace(t)
	table := header{"Accept": "application/json;as=Table;v=v1;g=meta.k8s.io"}
	columns := func(a *answer) (names []string) {
		list, _ := a.at("columnDefinitions").([]any)
		for _, c := range list {
			names = append(names, c.(map[string]any)["name"].(string))
		}
		return names
	}
	for path, want := range map[string]string{
		"/api/v1/namespaces/" + ns + "/pods":                      "Name Ready Status Restarts Age IP Node Nominated Node Readiness Gates",
		"/api/v1/nodes":                                           "Name Status Roles Age Version Internal-IP External-IP OS-Image Kernel-Version Container-Runtime",
		"/api/v1/namespaces":                                      "Name Status Age",
		"/api/v1/namespaces/" + ns + "/services":                  "Name Type Cluster-IP External-IP Port(s) Age Selector",
		"/apis/apps/v1/namespaces/" + ns + "/deployments":         "Name Ready Up-to-date Available Age Containers Images Selector",
		"/apis/apps/v1/namespaces/" + ns + "/replicasets":         "Name Desired Current Ready Age Containers Images Selector",
		"/api/v1/namespaces/" + ns + "/configmaps":                "Name Data Age",
		"/apis/rbac.authorization.k8s.io/v1/clusterroles":         "Name Created At",
		"/apis/scheduling.k8s.io/v1/priorityclasses":              "Name Value Global-Default Age PreemptionPolicy",
		"/apis/coordination.k8s.io/v1/leases":                     "Name Holder Age",
		"/api/v1/namespaces/" + ns + "/events":                    "Last Seen Type Reason Object Subobject Source Message First Seen Count Name",
		"/api/v1/namespaces/" + ns + "/podtemplates":              "Name Containers Images Pod Labels",
		"/apis/discovery.k8s.io/v1/endpointslices":                "Name AddressType Ports Endpoints Age",
		"/apis/apps/v1/namespaces/" + ns + "/statefulsets":        "Name Ready Age Containers Images",
		"/api/v1/persistentvolumes":                               "Name Capacity Access Modes Reclaim Policy Status Claim StorageClass VolumeAttributesClass Reason Age VolumeMode",
		"/apis/policy/v1/poddisruptionbudgets":                    "Name Min Available Max Unavailable Allowed Disruptions Age",
		"/apis/apps/v1/namespaces/" + ns + "/controllerrevisions": "Name Controller Revision Age",
	} {
		a := do(t, "GET", path, table, nil)
		if got := strings.Join(columns(a), " "); got != want {
			t.Errorf("%s: %s\nwant %s", path, got, want)
		}
	}
	for _, c := range []struct{ method, path, body string }{
		{"POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", `{"spec":{"resourceAttributes":{"verb":"get"}}}`},
	} {
		if a := do(t, c.method, c.path, table, []byte(c.body)); a.Code != http.StatusNotAcceptable {
			t.Errorf("%s as a table: %d %s", c.path, a.Code, a.Body)
		}
	}
	partial := do(t, "GET", "/api/v1/namespaces", header{"Accept": "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"}, nil)
	if partial.at("kind") != "PartialObjectMetadataList" || partial.at("spec") != nil {
		t.Errorf("metadata: %s", trim(partial.Body))
	}
}

// "should detect unknown and duplicate fields of a typed object", "… unknown
// metadata fields …", for every way to write.
func TestFieldValidation(t *testing.T) {
	ns := namespace(t)
	path := "/apis/apps/v1/namespaces/" + ns + "/deployments"
	body := func(name, extra string) []byte {
		return fmt.Appendf(nil, `{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":%q,"unknownMeta":"x"},"spec":{%s"replicas":0,"selector":{"matchLabels":{"a":"b"}},"template":{"metadata":{"labels":{"a":"b"}},"spec":{"containers":[{"name":"c","image":"i"}]}}}}`, name, extra)
	}
	const extra = `"unknown":1,"paused":true,"paused":false,`
	do(t, "POST", path, nil, []byte(strings.Replace(string(body("d", "")), `,"unknownMeta":"x"`, "", 1)))
	for _, c := range []struct {
		name, method, path, media string
		body                      []byte
		faults                    []string
	}{
		{"create", "POST", path, "application/json", body("n", extra), []string{`unknown field "metadata.unknownMeta"`, `unknown field "spec.unknown"`, `duplicate field "spec.paused"`}},
		{"update", "PUT", path + "/d", "application/json", body("d", extra), []string{`unknown field "metadata.unknownMeta"`, `unknown field "spec.unknown"`, `duplicate field "spec.paused"`}},
		{"merge patch", "PATCH", path + "/d", mergePatch, []byte(`{"spec":{"unknown":1,"paused":true,"paused":false},"metadata":{"unknownMeta":"x"}}`), []string{`unknown field "metadata.unknownMeta"`, `unknown field "spec.unknown"`, `duplicate field "spec.paused"`}},
		{"strategic patch", "PATCH", path + "/d", strategicPatch, []byte(`{"spec":{"unknown":1,"paused":true,"paused":false},"metadata":{"unknownMeta":"x"}}`), []string{`unknown field "metadata.unknownMeta"`, `unknown field "spec.unknown"`, `duplicate field "spec.paused"`}},
		{"JSON patch", "PATCH", path + "/d", jsonPatch, []byte(`[{"op":"add","path":"/spec/unknown","value":1,"foo":"bar"},{"op":"add","path":"/spec/paused","value":true,"value":false}]`), []string{`json patch unknown field "[0].foo"`, `json patch duplicate field "[1].value"`, `unknown field "spec.unknown"`}},
		{"apply", "PATCH", path + "/d?fieldManager=m", applyPatch, []byte("apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d}\nspec:\n  paused: true\n  paused: false\n"), []string{`key "paused" already set in map`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			send := func(mode string) *answer {
				join := "?"
				if strings.Contains(c.path, "?") {
					join = "&"
				}
				return do(t, c.method, c.path+join+"dryRun=All&fieldValidation="+mode, header{"Content-Type": c.media}, c.body)
			}
			strict, warn, ignore := send("Strict"), send("Warn"), send("Ignore")
			warnings := strings.Join(warn.Header.Values("Warning"), "\n")
			for _, f := range c.faults {
				if message, _ := strict.at("message").(string); strict.Code < 400 || !strings.Contains(message, f) {
					t.Errorf("strict: %d %v\nwant %s", strict.Code, message, f)
				}
				if quoted := strings.ReplaceAll(f, `"`, `\"`); c.name != "apply" && (warn.Code >= 300 || !strings.Contains(warnings, quoted)) {
					t.Errorf("warn: %d %v\nwant %s", warn.Code, warnings, f)
				}
			}
			if len(ignore.Header.Values("Warning")) > 0 || c.name != "apply" && ignore.Code >= 300 {
				t.Errorf("ignore: %d %v %s", ignore.Code, ignore.Header, trim(ignore.Body))
			}
		})
	}
	if a := do(t, "PATCH", path+"/d?fieldManager=m&fieldValidation=Strict", header{"Content-Type": applyPatch}, body("d", `"unknown":1,`)); a.Code < 400 || !strings.Contains(fmt.Sprint(a.at("message")), "unknown") {
		t.Errorf("apply of unknown fields: %d %s", a.Code, trim(a.Body))
	}
}

// TestServerSideApply follows owners through applies, updates and conflicts.
func TestServerSideApply(t *testing.T) {
	ns := namespace(t)
	path := "/apis/apps/v1/namespaces/" + ns + "/deployments/d"
	apply := func(manager, query, spec string) *answer {
		return do(t, "PATCH", path+"?fieldManager="+manager+query, header{"Content-Type": applyPatch}, []byte(
			"apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d}\nspec: "+spec))
	}
	const whole = `{replicas: 0, selector: {matchLabels: {a: b}}, template: {metadata: {labels: {a: b}}, spec: {containers: [{name: c, image: "i:1", ports: [{containerPort: 80, protocol: TCP}, {containerPort: 80, protocol: UDP}]}]}}}`
	if a := apply("one", "", whole); a.Code != http.StatusCreated {
		t.Fatalf("apply makes it: %d %s", a.Code, a.Body)
	}
	eventually(t, func() (bool, any) { // the controller writes the status meanwhile
		first, again := apply("one", "", whole), apply("one", "", whole)
		return again.at("metadata", "resourceVersion") == first.at("metadata", "resourceVersion"), "the same again is a write"
	})
	conflict := apply("two", "", `{template: {spec: {containers: [{name: c, image: "i:2"}]}}}`)
	if conflict.Code != http.StatusConflict || !strings.Contains(fmt.Sprint(conflict.at("message")), `Apply failed with 1 conflict: conflict with "one": .spec.template.spec.containers[name="c"].image`) {
		t.Errorf("conflict: %d %s", conflict.Code, trim(conflict.Body))
	}
	forced := apply("two", "&force=true", `{template: {spec: {containers: [{name: c, image: "i:2"}, {name: side, image: s}]}}}`)
	if forced.Code != http.StatusOK {
		t.Fatalf("force: %d %s", forced.Code, forced.Body)
	}
	// The first owner no longer owns the image, and removes a port that was its alone.
	less := apply("one", "", strings.Replace(strings.Replace(whole, `, image: "i:1"`, "", 1), `, {containerPort: 80, protocol: UDP}`, "", 1))
	containers, _ := less.at("spec", "template", "spec", "containers").([]any)
	if less.Code != http.StatusOK || len(containers) != 2 {
		t.Fatalf("less: %d %s", less.Code, trim(less.Body))
	}
	c := containers[0].(map[string]any)
	if c["image"] != "i:2" || len(c["ports"].([]any)) != 1 {
		t.Errorf("container: %v", c)
	}
	// An update takes ownership; the applier then conflicts with it.
	do(t, "PATCH", path+"?fieldManager=editor", header{"Content-Type": mergePatch}, []byte(`{"spec":{"replicas":0,"minReadySeconds":4}}`))
	scale := do(t, "PATCH", path+"/scale?fieldManager=scaler", header{"Content-Type": mergePatch}, []byte(`{"spec":{"replicas":1}}`))
	if scale.Code != http.StatusOK {
		t.Fatalf("scale: %d %s", scale.Code, scale.Body)
	}
	if a := apply("one", "", strings.Replace(whole, `, image: "i:1"`, "", 1)); a.Code != http.StatusConflict || !strings.Contains(fmt.Sprint(a.at("message")), `conflict with "scaler" with subresource "scale" using apps/v1: .spec.replicas`) {
		t.Errorf("after a scale: %d %s", a.Code, trim(a.Body))
	}
	var managers []string
	list, _ := do(t, "GET", path, nil, nil).at("metadata", "managedFields").([]any)
	for _, m := range list {
		m := m.(map[string]any)
		managers = append(managers, fmt.Sprint(m["manager"], "/", m["operation"]))
	}
	for _, want := range []string{"one/Apply", "two/Apply", "editor/Update", "scaler/Update"} {
		if !slices.Contains(managers, want) {
			t.Errorf("owners %v lack %s", managers, want)
		}
	}
	// An empty list of owners is a reset.
	do(t, "PATCH", path+"?fieldManager=editor", header{"Content-Type": mergePatch}, []byte(`{"metadata":{"managedFields":[{}]}}`))
	if left, _ := do(t, "GET", path, nil, nil).at("metadata", "managedFields").([]any); len(left) > 1 {
		t.Errorf("after a reset: %v", left)
	}
}

// "should find the server version", discovery of both forms, OpenAPI.
func TestDiscovery(t *testing.T) {
	v := get[interface{ String() string }](t)(world.kube.Discovery().ServerVersion())
	if !strings.HasPrefix(v.String(), "v1.37.") {
		t.Errorf("version %s", v)
	}
	version := do(t, "GET", "/version", nil, nil)
	for _, k := range []string{"major", "minor"} {
		if _, err := strconv.Atoi(fmt.Sprint(version.at(k))); err != nil {
			t.Errorf("%s: %v", k, version.at(k))
		}
	}
	groups := get[*metav1.APIGroupList](t)(world.kube.Discovery().ServerGroups())
	for _, g := range groups.Groups {
		if g.PreferredVersion.GroupVersion == "" || !slices.Contains(g.Versions, g.PreferredVersion) {
			t.Errorf("%s prefers %v of %v", g.Name, g.PreferredVersion, g.Versions)
		}
		list, err := world.kube.Discovery().ServerResourcesForGroupVersion(g.PreferredVersion.GroupVersion)
		if err != nil || len(list.APIResources) == 0 || list.GroupVersion != g.PreferredVersion.GroupVersion {
			t.Errorf("%s: %v, %v", g.Name, list, err)
		}
	}
	const aggregated = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
	for _, path := range []string{"/api", "/apis"} {
		a := do(t, "GET", path, header{"Accept": aggregated}, nil)
		if a.at("kind") != "APIGroupDiscoveryList" || a.at("apiVersion") != "apidiscovery.k8s.io/v2" || a.Header.Get("Etag") == "" || a.Header.Get("Vary") == "" {
			t.Errorf("%s: %v %s", path, a.Header, trim(a.Body))
		}
		if same := do(t, "GET", path, header{"Accept": aggregated, "If-None-Match": a.Header.Get("Etag")}, nil); same.Code != http.StatusNotModified {
			t.Errorf("%s again: %d", path, same.Code)
		}
	}
	v3 := do(t, "GET", "/openapi/v3", nil, nil)
	paths, _ := v3.at("paths").(map[string]any)
	if paths["api/v1"] == nil || paths["apis/apps/v1"] == nil {
		t.Errorf("OpenAPI v3: %s", trim(v3.Body))
	}
	for path, p := range paths {
		url := fmt.Sprint(p.(map[string]any)["serverRelativeURL"])
		if a := do(t, "GET", url, nil, nil); a.Code != http.StatusOK || a.at("openapi") == nil {
			t.Errorf("OpenAPI v3 of %s: %d", path, a.Code)
		}
	}
	v2 := do(t, "GET", "/openapi/v2", nil, nil)
	if defs, _ := v2.at("definitions").(map[string]any); v2.at("swagger") != "2.0" || defs["io.k8s.api.apps.v1.Deployment"] == nil {
		t.Errorf("OpenAPI v2: %d %s", v2.Code, trim(v2.Body))
	}
	if a := do(t, "GET", "/openapi/v2", header{"Accept": "application/com.github.proto-openapi.spec.v2@v1.0+protobuf"}, nil); a.Code != http.StatusOK || len(a.Body) == 0 {
		t.Errorf("OpenAPI v2 in protobuf: %d", a.Code)
	}
}
