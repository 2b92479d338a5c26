package apiserver_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"k8s.io/utils/clock"

	"github.com/proa-dev/proa/api/builtin"
	"github.com/proa-dev/proa/apiserver"
	"github.com/proa-dev/proa/apiserver/admission"
	"github.com/proa-dev/proa/apiserver/admission/policy"
	"github.com/proa-dev/proa/apiserver/authn"
	"github.com/proa-dev/proa/apiserver/live"
	"github.com/proa-dev/proa/apiserver/typeschema"
	"github.com/proa-dev/proa/internal/certs"
)

// withPolicies changes a server's configuration: policies are in force.
func withPolicies(t *testing.T) func(*apiserver.Config) {
	t.Helper()
	return func(c *apiserver.Config) {
		objects := live.New(c.Store, c.Kinds)
		cfg := policy.Config{
			Lookup: admission.Lookup{Source: objects, Live: objects.Live}, Authorizer: c.Authorizer,
			Converter: typeschema.Converter(builtin.Scheme()), Scheme: builtin.Scheme(),
		}
		mutating, err := policy.NewMutating(cfg)
		if err != nil {
			t.Fatal(err)
		}
		validating, err := policy.NewValidating(cfg)
		if err != nil {
			t.Fatal(err)
		}
		c.Admission = admission.Chain{mutating, validating}
	}
}

const asJSON = "Content-Type: application/json"

// policy puts a ValidatingAdmissionPolicy in force that refuses whatever comes
// to some resources, with a message of what it was shown.
func (f *fixture) policy(name, group, resources, message string) {
	f.Helper()
	const base = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolic"
	f.expect(201, "POST", base+"ies", fmt.Sprintf(`{"metadata":{"name":%q},"spec":{"matchConstraints":{"resourceRules":[{"apiGroups":[%q],"apiVersions":["*"],"operations":["*"],"resources":[%q]}]},
		"validations":[{"expression":"object == null","messageExpression":%q}]}}`, name, group, resources, message), asJSON)
	f.expect(201, "POST", base+"ybindings", fmt.Sprintf(`{"metadata":{"name":%q},"spec":{"policyName":%q,"validationActions":["Deny"]}}`, name, name), asJSON)
}

// TestPoliciesOfSubresources shows policies what upstream shows them: the
// object of the subresource, not that of its parent.
func TestPoliciesOfSubresources(t *testing.T) {
	f := withKubelet(t, withPolicies(t))
	f.bound("p")
	f.expect(201, "POST", pods, podNamed("q"))
	f.expect(201, "POST", deployments, deploymentNamed("d"))
	const shown = `request.operation + ' ' + request.resource.resource + (has(request.subResource) ? '/' + request.subResource : '') + ' ' + request.name + ': ' + object.kind + ' ' + object.apiVersion + ` +
		`' ' + request.kind.kind + ' ' + request.requestKind.version + '.' + request.requestKind.group + `
	f.policy("scale", "apps", "deployments/scale", shown+`' ' + string(oldObject.spec.replicas) + ' to ' + string(object.spec.replicas)`)
	f.policy("status", "apps", "deployments/status", shown+`' ' + string(object.spec.replicas) + ' ' + string(object.status.observedGeneration)`)
	f.policy("eviction", "", "pods/eviction", shown+`string(has(object.deleteOptions)) + string(oldObject == null)`)
	f.policy("binding", "", "pods/binding", shown+`object.target.name`)
	f.policy("bindings", "", "bindings", shown+`object.target.name`)
	f.policy("exec", "", "pods/exec", shown+`object.command[0] + string(object.stdin) + string(oldObject == null)`)
	f.policy("attach", "", "pods/attach", shown+`string(object.tty)`)
	f.policy("forward", "", "pods/portforward", shown+`string(object.ports[0])`)
	f.policy("proxy", "", "*/proxy", shown+`object.path`)
	f.policy("ephemeral", "", "pods/ephemeralcontainers", shown+`object.spec.ephemeralContainers[0].name`)
	f.policy("resize", "", "pods/resize", shown+`object.spec.containers[0].name`)
	for _, c := range []struct{ method, path, body, header, want string }{
		{"PATCH", deployments + "/d/scale", `{"spec":{"replicas":7}}`, mergePatch, "UPDATE deployments/scale d: Scale autoscaling/v1 Scale v1.autoscaling 2 to 7"},
		{"PUT", deployments + "/d/scale", `{"metadata":{"name":"d","namespace":"default"},"spec":{"replicas":9}}`, asJSON,
			"UPDATE deployments/scale d: Scale autoscaling/v1 Scale v1.autoscaling 2 to 9"},
		{"PATCH", deployments + "/d/scale?fieldManager=m&force=true", `{"apiVersion":"autoscaling/v1","kind":"Scale","spec":{"replicas":5}}`, applyPatch,
			"UPDATE deployments/scale d: Scale autoscaling/v1 Scale v1.autoscaling 2 to 5"},
		{"PATCH", deployments + "/d/status", `{"spec":{"replicas":8},"status":{"observedGeneration":4}}`, mergePatch,
			"UPDATE deployments/status d: Deployment apps/v1 Deployment v1.apps 2 4"},
		{"POST", pods + "/p/eviction", `{"metadata":{"name":"p"}}`, asJSON, "CREATE pods/eviction p: Eviction policy/v1 Eviction v1.policyfalsetrue"},
		{"POST", pods + "/q/binding", `{"target":{"name":"n1"}}`, asJSON, "CREATE pods/binding q: Binding v1 Binding v1.n1"},
		{"POST", "/api/v1/namespaces/default/bindings", `{"metadata":{"name":"q"},"target":{"name":"n1"}}`, asJSON, "CREATE bindings q: Binding v1 Binding v1.n1"},
		{"POST", pods + "/p/exec?command=sh&command=-c&stdin=true", "", asJSON, "CONNECT pods/exec p: PodExecOptions v1 PodExecOptions v1.shtruetrue"},
		{"POST", pods + "/p/attach?tty=true", "", asJSON, "CONNECT pods/attach p: PodAttachOptions v1 PodAttachOptions v1.true"},
		{"POST", pods + "/p/portforward?ports=80", "", asJSON, "CONNECT pods/portforward p: PodPortForwardOptions v1 PodPortForwardOptions v1.80"},
		{"GET", pods + "/p/proxy/a/b", "", asJSON, "CONNECT pods/proxy p: PodProxyOptions v1 PodProxyOptions v1./a/b"},
		{"GET", "/api/v1/nodes/n1/proxy/healthz", "", asJSON, "CONNECT nodes/proxy n1: NodeProxyOptions v1 NodeProxyOptions v1./healthz"},
		{"PATCH", pods + "/p/ephemeralcontainers", `{"spec":{"ephemeralContainers":[{"name":"e","image":"i"}]}}`, strategicPatch,
			"UPDATE pods/ephemeralcontainers p: Pod v1 Pod v1.e"},
		{"PATCH", pods + "/p/resize", `{"metadata":{"labels":{"a":"b"}}}`, strategicPatch, "UPDATE pods/resize p: Pod v1 Pod v1.c"},
	} {
		a := f.send(c.method, c.path, c.body, c.header)
		if _, got, _ := strings.Cut(a.text("message"), "denied request: "); got != c.want || !slices.Contains([]int{403, 422}, a.code) {
			t.Errorf("%s %s: %d %s\nshown  %s\nwanted %s", c.method, c.path, a.code, a.body, got, c.want)
		}
	}
}

// mutation puts a MutatingAdmissionPolicy in force.
func (f *fixture) mutation(name, group, resource, patchType, expression string) {
	f.Helper()
	field := map[string]string{"JSONPatch": "jsonPatch", "ApplyConfiguration": "applyConfiguration"}[patchType]
	const base = "/apis/admissionregistration.k8s.io/v1/mutatingadmissionpolic"
	f.expect(201, "POST", base+"ies", fmt.Sprintf(`{"metadata":{"name":%q},"spec":{"reinvocationPolicy":"Never","matchConstraints":{"resourceRules":[{"apiGroups":[%q],"apiVersions":["*"],"operations":["*"],"resources":[%q]}]},
		"mutations":[{"patchType":%q,%q:{"expression":%q}}]}}`, name, group, resource, patchType, field, expression), asJSON)
	f.expect(201, "POST", base+"ybindings", fmt.Sprintf(`{"metadata":{"name":%q},"spec":{"policyName":%q}}`, name, name), asJSON)
}

// TestPoliciesChangeSubresources has policies change what subresources are sent.
func TestPoliciesChangeSubresources(t *testing.T) {
	f := withKubelet(t, withPolicies(t))
	f.bound("p")
	f.expect(201, "POST", pods, podNamed("q"))
	f.expect(201, "POST", deployments, deploymentNamed("d"))
	f.mutation("scale", "apps", "deployments/scale", "ApplyConfiguration", `Object{spec: Object.spec{replicas: object.spec.replicas + 1}}`)
	f.mutation("scale-again", "apps", "deployments/scale", "JSONPatch", `[JSONPatch{op: "replace", path: "/spec/replicas", value: object.spec.replicas * 2}]`)
	f.mutation("eviction", "", "pods/eviction", "JSONPatch", `[JSONPatch{op: "add", path: "/deleteOptions", value: Object.deleteOptions{dryRun: ["All"]}}]`)
	f.mutation("binding", "", "pods/binding", "JSONPatch", `[JSONPatch{op: "replace", path: "/target/name", value: ""}]`)
	f.mutation("exec", "", "pods/exec", "JSONPatch", `[JSONPatch{op: "replace", path: "/command/0", value: "changed"}]`)
	a := f.expect(200, "PATCH", deployments+"/d/scale", `{"spec":{"replicas":3}}`, mergePatch)
	if got := a.at("spec.replicas"); got != 8.0 {
		t.Errorf("scaled to %v", got)
	}
	f.expect(201, "POST", pods+"/p/eviction", `{"metadata":{"name":"p"}}`, asJSON)
	if a := f.expect(200, "GET", pods+"/p", ""); a.at("metadata.deletionTimestamp") != nil {
		t.Error("an eviction that was made a dry run: the pod goes")
	}
	if a := f.expect(422, "POST", pods+"/q/binding", `{"target":{"name":"n1"}}`, asJSON); !strings.Contains(a.text("message"), "target.name: Required value") {
		t.Error(a.body)
	}
	if got := f.stream(pods + "/p/exec?command=sh&stdout=true"); !strings.Contains(got, "command=changed&") {
		t.Error(got)
	}
}

// TestPoliciesSeeWholeTokenRequests shows policies the defaults of a request for
// a token.
func TestPoliciesSeeWholeTokenRequests(t *testing.T) {
	f := start(t, func(c *apiserver.Config) {
		withPolicies(t)(c)
		ca, err := certs.Open(t.TempDir(), clock.RealClock{}, c.Logger)
		if err != nil {
			t.Fatal(err)
		}
		objects := live.New(c.Store, c.Kinds)
		a, err := authn.New(authn.Config{Key: ca.SigningKey(), ClientCAs: ca.Pool(), Source: objects, Live: objects.Live})
		if err != nil {
			t.Fatal(err)
		}
		c.Token = a.IssueToken
	})
	account := f.expect(201, "POST", "/api/v1/namespaces/default/serviceaccounts", `{"metadata":{"name":"s"}}`)
	const path = "/api/v1/namespaces/default/serviceaccounts/s/token"
	a := f.expect(201, "POST", path, `{"status":{"token":"mine"}}`, asJSON)
	if a.text("status.token") == "mine" || a.text("metadata.uid") != account.text("metadata.uid") || a.text("metadata.creationTimestamp") == "" {
		t.Error(a.body)
	}
	f.expect(409, "POST", path, `{"metadata":{"uid":"another"}}`, asJSON)
	f.expect(422, "POST", path, `{"metadata":{"name":"another"}}`, asJSON)
	f.policy("token", "", "serviceaccounts/token", `request.kind.kind + ' ' + object.metadata.name + ' ' + object.metadata.namespace + ' ' + string(object.spec.expirationSeconds) + ' ' + object.spec.audiences[0]`)
	a = f.send("POST", path, `{}`, asJSON)
	if want := "denied request: TokenRequest s default 3600 https://kubernetes.default.svc"; !strings.Contains(a.text("message"), want) {
		t.Error(a.body)
	}
}
