package apiserver_test

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"github.com/proa-dev/proa/apiserver"
	"github.com/proa-dev/proa/apiserver/virtual"
)

// agent is a service account whose pod runs on node n1.
var agent = user.DefaultInfo{
	Name: "system:serviceaccount:ns:agent", Groups: []string{user.AllAuthenticated},
	Extra: map[string][]string{"authentication.kubernetes.io/node-name": {"n1"}},
}

// granted lets everybody review themselves, and the agent what is granted:
// "verb resource.group/subresource namespace/name".
func granted(grants *[]string) func(*apiserver.Config) {
	return func(c *apiserver.Config) {
		c.Virtual = virtual.Functions(virtual.Config{})
		byName := c.Authenticator
		c.Authenticator = authenticator.RequestFunc(func(r *http.Request) (*authenticator.Response, bool, error) {
			if r.Header.Get("Authorization") == "Bearer agent" {
				return &authenticator.Response{User: &agent}, true, nil
			}
			return byName.AuthenticateRequest(r)
		})
		c.Authorizer = authorizer.AuthorizerFunc(func(_ context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
			resource := strings.TrimSuffix(fmt.Sprintf("%s.%s/%s", a.GetResource(), a.GetAPIGroup(), a.GetSubresource()), "/")
			asked := fmt.Sprintf("%s %s %s/%s", a.GetVerb(), strings.TrimSuffix(resource, "."), a.GetNamespace(), a.GetName())
			if a.GetUser().GetName() != agent.Name || slices.Contains(*grants, asked) {
				return authorizer.DecisionAllow, "", nil
			}
			return authorizer.DecisionNoOpinion, "", nil
		})
	}
}

func TestImpersonation(t *testing.T) {
	const (
		review = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
		on     = "create selfsubjectreviews.authentication.k8s.io /"
	)
	var grants []string
	f := start(t, granted(&grants))
	for _, c := range []struct {
		name    string
		grants  []string
		headers []string
		want    string // the user and its groups, or the complaint
	}{
		{"anybody, without a grant", nil, []string{"Impersonate-User: eve"},
			`selfsubjectreviews.authentication.k8s.io is forbidden: User "system:serviceaccount:ns:agent" cannot impersonate-on:user-info:create resource "selfsubjectreviews" in API group "authentication.k8s.io" at the cluster scope`},
		{"a user, the old way", []string{"impersonate users /eve"}, []string{"Impersonate-User: eve"}, "eve [system:authenticated]"},
		{"a user, for what is done", []string{"impersonate:user-info users.authentication.k8s.io /eve", "impersonate-on:user-info:" + on},
			[]string{"Impersonate-User: eve"}, "eve [system:authenticated]"},
		{"a user, for something else", []string{"impersonate:user-info users.authentication.k8s.io /eve", "impersonate-on:user-info:list pods /"},
			[]string{"Impersonate-User: eve"}, "impersonate-on:user-info:create"},
		{"another user, for what is done", []string{"impersonate:user-info users.authentication.k8s.io /eve", "impersonate-on:user-info:" + on},
			[]string{"Impersonate-User: bob"}, `cannot impersonate:user-info resource "users" in API group "authentication.k8s.io"`},
		{"a group that is not granted", []string{"impersonate:user-info users.authentication.k8s.io /eve", "impersonate-on:user-info:" + on},
			[]string{"Impersonate-User: eve", "Impersonate-Group: devs"}, `groups.authentication.k8s.io "devs" is forbidden`},
		{"masters, whatever is granted", []string{"impersonate:user-info users.authentication.k8s.io /eve", "impersonate:user-info groups.authentication.k8s.io /system:masters", "impersonate-on:user-info:" + on},
			[]string{"Impersonate-User: eve", "Impersonate-Group: system:masters"}, "impersonating the system:masters group is not allowed"},
		{"all of an identity", []string{"impersonate:user-info users.authentication.k8s.io /eve", "impersonate:user-info groups.authentication.k8s.io /devs", "impersonate:user-info uids.authentication.k8s.io /u-1",
			"impersonate:user-info userextras.authentication.k8s.io/acme.io/team /blue", "impersonate-on:user-info:" + on},
			[]string{"Impersonate-User: eve", "Impersonate-Group: devs", "Impersonate-Uid: u-1", "Impersonate-Extra-Acme.io%2Fteam: blue"}, "eve [devs system:authenticated] u-1 map[acme.io/team:[blue]]"},
		{"a service account", []string{"impersonate:serviceaccount serviceaccounts.authentication.k8s.io ns/app", "impersonate-on:serviceaccount:" + on},
			[]string{"Impersonate-User: system:serviceaccount:ns:app"}, "system:serviceaccount:ns:app [system:serviceaccounts system:serviceaccounts:ns system:authenticated]"},
		{"a service account as a user", []string{"impersonate:user-info users.authentication.k8s.io /system:serviceaccount:ns:app", "impersonate-on:user-info:" + on},
			[]string{"Impersonate-User: system:serviceaccount:ns:app"}, "cannot impersonate-on:serviceaccount:create"},
		{"the own node", []string{"impersonate:associated-node nodes.authentication.k8s.io /*", "impersonate-on:associated-node:" + on},
			[]string{"Impersonate-User: system:node:n1"}, "system:node:n1 [system:nodes system:authenticated]"},
		{"another node", []string{"impersonate:associated-node nodes.authentication.k8s.io /*", "impersonate-on:associated-node:" + on},
			[]string{"Impersonate-User: system:node:n2"}, "cannot impersonate-on:arbitrary-node:create"},
		{"any node", []string{"impersonate:arbitrary-node nodes.authentication.k8s.io /n2", "impersonate-on:arbitrary-node:" + on},
			[]string{"Impersonate-User: system:node:n2"}, "system:node:n2 [system:nodes system:authenticated]"},
		{"a node, the old way", []string{"impersonate users /system:node:n1"},
			[]string{"Impersonate-User: system:node:n1"}, "system:node:n1 [system:authenticated]"},
		{"nobody", nil, []string{"Impersonate-Group: devs"}, "without impersonating a user name"},
	} {
		grants = c.grants
		a := f.send("POST", review, `{}`, append([]string{"Authorization: Bearer agent"}, c.headers...)...)
		got := a.text("message")
		if a.code == http.StatusCreated {
			got = fmt.Sprintf("%s %v", a.text("status.userInfo.username"), a.at("status.userInfo.groups"))
			if uid := a.text("status.userInfo.uid"); uid != "" {
				got += fmt.Sprintf(" %s %v", uid, a.at("status.userInfo.extra"))
			}
		}
		if got != c.want && (a.code == http.StatusCreated || !strings.Contains(got, c.want)) {
			t.Errorf("%s: %d %s, want %s", c.name, a.code, got, c.want)
		}
	}
}
