package apiserver_test

import (
	"context"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"github.com/proa-dev/proa/api/builtin"
	"github.com/proa-dev/proa/apiserver"
	"github.com/proa-dev/proa/store"
)

// What is stored and cannot be read is neither served nor taken for gone, until
// somebody who may deletes it unseen.
func TestUnreadableObjects(t *testing.T) {
	dir := t.TempDir()
	st, err := store.Open(t.Context(), store.Config{DataDir: dir, Scheme: builtin.Scheme(), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = st.Close() }) // after the server has ended
	f := start(t, func(c *apiserver.Config) {
		c.Store = st
		c.Authorizer = authorizer.AuthorizerFunc(func(_ context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
			if a.GetVerb() == "unsafe-delete-ignore-read-errors" && (a.GetName() == "guarded" || a.GetResource() != "configmaps") {
				return authorizer.DecisionNoOpinion, "guarded", nil
			}
			return authorizer.DecisionAllow, "", nil
		})
	})
	etcd, err := clientv3.New(clientv3.Config{Endpoints: []string{"unix://" + filepath.Join(dir, "etcd", "client.sock")}, DialTimeout: 10 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = etcd.Close() }()
	const unseen = "?ignoreStoreReadErrorWithClusterBreakingPotential=true"
	f.expect(201, "POST", configMaps, `{"metadata":{"name":"good"}}`)
	for _, name := range []string{"bad", "guarded"} {
		if _, err := etcd.Put(t.Context(), "/registry/configmaps/default/"+name, "k8s:enc:aescbc:v1:key:x"); err != nil {
			t.Fatal(err)
		}
	}
	const told = "Internal error occurred: StorageError: corrupt object, Code: 7, Key: /registry/configmaps/default/bad, ResourceVersion: 0, AdditionalErrorMsg: object not decodable revision="
	for _, request := range [][]string{
		{"GET", "", ""}, {"GET", "?resourceVersion=0", ""}, {"GET", "?resourceVersion=1", ""}, {"DELETE", "", ""},
		{"PUT", "", `{"metadata":{"name":"bad"}}`}, {"PATCH", "", `{"data":{"a":"b"}}`, mergePatch},
	} {
		if a := f.expect(500, request[0], configMaps+"/bad"+request[1], request[2], request[3:]...); a.text("reason") != "InternalError" || !strings.HasPrefix(a.text("message"), told) {
			t.Errorf("%v: %s", request, a.body)
		}
	}
	f.expect(409, "POST", configMaps, `{"metadata":{"name":"bad"}}`)
	a := f.expect(500, "GET", configMaps, "")
	if causes, _ := a.at("details.causes").([]any); a.text("reason") != "StorageReadError" || len(causes) != 2 || !strings.Contains(a.text("message"), "(and 1 more)") {
		t.Error(a.body)
	}
	f.expect(500, "DELETE", configMaps, "") // as a namespace does before it ends
	f.expect(200, "GET", configMaps+"?fieldSelector=metadata.name%3Dgood", "")
	f.expect(200, "GET", "/api/v1/namespaces/other/configmaps", "")
	f.watch(configMaps + "?watch=1").expect("ADDED good") // the others go on

	for _, c := range []struct {
		path    string
		code    int
		message string
	}{
		{"/good" + unseen, 409, "unsafe deletion is not allowed because the object is decodable from storage"},
		{"/none" + unseen, 404, `configmaps "none" not found`},
		{"/guarded" + unseen, 403, `configmaps "guarded" is forbidden: not permitted to do "unsafe-delete-ignore-read-errors", reason: guarded`},
		{"/bad" + unseen + "&gracePeriodSeconds=1", 422, "cannot be set together with .gracePeriodSeconds"},
		{unseen, 422, "is not allowed with DELETECOLLECTION, try again after removing the option"},
	} {
		if a := f.expect(c.code, "DELETE", configMaps+c.path, ""); !strings.Contains(a.text("message"), c.message) {
			t.Errorf("%s: %s", c.path, a.body)
		}
	}
	f.expect(200, "DELETE", configMaps+"/bad"+unseen+"&dryRun=All", "")
	f.expect(500, "GET", configMaps+"/bad", "")
	if a := f.expect(200, "DELETE", configMaps+"/bad", `{"kind":"DeleteOptions","apiVersion":"v1","ignoreStoreReadErrorWithClusterBreakingPotential":true}`); a.text("status") != "Success" || a.text("details.name") != "bad" || a.text("details.kind") != "ConfigMap" {
		t.Error(a.body)
	}
	f.expect(404, "GET", configMaps+"/bad", "")
	f.expect(201, "POST", configMaps, `{"metadata":{"name":"bad"}}`)
}
