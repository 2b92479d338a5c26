package apiserver_test

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/proa-dev/proa/apiserver"
)

// described is one operation of a document, with the parameters of its path.
type described struct {
	OperationID string                       `json:"operationId"`
	Action      string                       `json:"x-kubernetes-action"`
	Kind        struct{ Group, Kind string } `json:"x-kubernetes-group-version-kind"`
	Parameters  []parameter
	Responses   map[string]json.RawMessage
}

type parameter struct {
	Ref  string `json:"$ref"`
	Name string
}

// operations reads a document: by path and method. It fails the test for names
// that are there twice.
func (f *fixture) operations(path string) map[string]described {
	f.Helper()
	var doc struct {
		Paths map[string]map[string]json.RawMessage
	}
	if err := json.Unmarshal([]byte(f.expect(200, "GET", path, "").body), &doc); err != nil {
		f.Fatal(err)
	}
	out, ids := map[string]described{}, map[string]string{}
	for path, item := range doc.Paths {
		var common described
		if raw := item["parameters"]; raw != nil {
			if err := json.Unmarshal(raw, &common.Parameters); err != nil {
				f.Fatal(err)
			}
		}
		for method, raw := range item {
			if method == "parameters" {
				continue
			}
			var o described
			if err := json.Unmarshal(raw, &o); err != nil {
				f.Fatal(err)
			}
			if other := ids[o.OperationID]; other != "" {
				f.Errorf("%s is both %s and %s %s", o.OperationID, other, method, path)
			}
			ids[o.OperationID] = method + " " + path
			o.Parameters = append(o.Parameters, common.Parameters...)
			out[method+" "+path] = o
		}
	}
	return out
}

// parameters are the names of an operation's parameters.
func (o described) parameters() string {
	var names []string
	for _, p := range o.Parameters {
		name := p.Name
		if name == "" {
			name = p.Ref[strings.LastIndex(p.Ref, "/")+1 : strings.LastIndex(p.Ref, "-")]
		}
		names = append(names, name)
	}
	slices.Sort(names)
	return strings.Join(names, " ")
}

func TestOpenAPIDescribesEveryPath(t *testing.T) {
	f := start(t, func(c *apiserver.Config) {
		c.Paths = map[string]http.Handler{"/openid/v1/jwks": http.NotFoundHandler()}
	})
	whole := f.operations("/openapi/v2")
	const inPod = "/api/v1/namespaces/{namespace}/pods/{name}"
	const list = "allowWatchBookmarks continue fieldSelector labelSelector limit"
	for _, c := range []struct{ path, id, action, kind, parameters string }{
		{"get /api/v1/namespaces/{namespace}/pods", "listCoreV1NamespacedPod", "list", "Pod",
			list + " namespace pretty resourceVersion resourceVersionMatch sendInitialEvents shardSelector timeoutSeconds watch"},
		{"delete /api/v1/namespaces/{namespace}/pods", "deleteCoreV1CollectionNamespacedPod", "deletecollection", "Pod",
			"body continue dryRun fieldSelector gracePeriodSeconds ignoreStoreReadErrorWithClusterBreakingPotential labelSelector limit namespace orphanDependents pretty propagationPolicy resourceVersion resourceVersionMatch sendInitialEvents shardSelector timeoutSeconds"},
		{"post " + inPod + "/exec", "connectCoreV1PostNamespacedPodExec", "connect", "PodExecOptions", "command container name namespace stderr stdin stdout tty"},
		{"get " + inPod + "/portforward", "connectCoreV1GetNamespacedPodPortforward", "connect", "PodPortForwardOptions", "name namespace ports"},
		{"head /api/v1/nodes/{name}/proxy/{path}", "connectCoreV1HeadNodeProxyWithPath", "connect", "NodeProxyOptions", "name path path"},
		{"get " + inPod + "/log", "readCoreV1NamespacedPodLog", "get", "Pod", "container follow insecureSkipTLSVerifyBackend limitBytes name namespace pretty previous sinceSeconds stream tailLines timestamps"},
		{"post " + inPod + "/eviction", "createCoreV1NamespacedPodEviction", "post", "Eviction", "body dryRun fieldManager fieldValidation name namespace pretty"},
		{"patch " + inPod + "/resize", "patchCoreV1NamespacedPodResize", "patch", "Pod", "body dryRun fieldManager fieldValidation force name namespace pretty"},
		{"put /api/v1/namespaces/{name}/finalize", "replaceCoreV1NamespaceFinalize", "put", "Namespace", "body dryRun fieldManager fieldValidation name pretty"},
		{"get /apis/apps/v1/namespaces/{namespace}/deployments/{name}/scale", "readAppsV1NamespacedDeploymentScale", "get", "Scale", "name namespace pretty"},
		{"get /apis/rbac.authorization.k8s.io/v1/watch/namespaces/{namespace}/roles/{name}", "watchRbacAuthorizationV1NamespacedRole", "watch", "Role",
			list + " name namespace pretty resourceVersion resourceVersionMatch sendInitialEvents shardSelector timeoutSeconds watch"},
		{"get /api/v1/watch/pods", "watchCoreV1PodListForAllNamespaces", "watchlist", "Pod", list + " pretty resourceVersion resourceVersionMatch sendInitialEvents shardSelector timeoutSeconds watch"},
		{"get /apis/apps/v1/", "getAppsV1APIResources", "", "", ""},
		{"get /apis/apps/", "getAppsAPIGroup", "", "", ""},
		{"get /openid/v1/jwks/", "getServiceAccountIssuerOpenIDKeyset", "", "", ""},
	} {
		o, ok := whole[c.path]
		if !ok || o.OperationID != c.id || o.Action != c.action || o.Kind.Kind != c.kind || o.parameters() != c.parameters {
			t.Errorf("%s: %v %+v %q", c.path, ok, o, o.parameters())
		}
	}
	if o := whole["post /api/v1/namespaces/{namespace}/pods"]; o.Responses["201"] == nil || o.Responses["202"] == nil {
		t.Errorf("%+v", o)
	}

	// kubectl looks for this one by its name, and follows no references.
	const patched = "patch " + inPod
	validates := func(o described) bool {
		return slices.ContainsFunc(o.Parameters, func(p parameter) bool { return p.Name == "fieldValidation" })
	}
	if !validates(whole[patched]) || !validates(f.operations("/openapi/v3/api/v1")[patched]) {
		t.Error("kubectl does not find that the server validates fields")
	}

	// The documents of version 3 are parts of it, and leave nothing out.
	var index struct {
		Paths map[string]struct{ ServerRelativeURL string }
	}
	if err := json.Unmarshal([]byte(f.expect(200, "GET", "/openapi/v3", "").body), &index); err != nil {
		t.Fatal(err)
	}
	f.expect(200, "GET", "/openapi/v2", "", "Accept: application/com.github.proto-openapi.spec.v2@v1.0+protobuf")
	for name, at := range index.Paths {
		f.expect(200, "GET", at.ServerRelativeURL, "", "Accept: application/com.github.proto-openapi.spec.v3@v1.0+protobuf")
		for path, o := range f.operations(at.ServerRelativeURL) {
			if o.OperationID != whole[path].OperationID {
				t.Errorf("%s: %s is %s, and %q in version 2", name, path, o.OperationID, whole[path].OperationID)
			}
			delete(whole, path)
		}
	}
	for path := range whole {
		t.Errorf("%s is in version 2 alone", path)
	}
}

// What is described without parameters can be asked for as it stands there.
func TestDescribedPathsAreServed(t *testing.T) {
	f := start(t, nil)
	for path := range f.operations("/openapi/v2") {
		method, path, _ := strings.Cut(path, " ")
		if method == "get" && !strings.Contains(path, "{") && !strings.Contains(path, "/watch/") && !strings.Contains(path, "metrics.k8s.io/v1beta1/") {
			if a := f.send("GET", path, ""); a.code != 200 {
				t.Errorf("%s: %d", path, a.code)
			}
		}
	}
}
