package policystatus_test

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/utils/clock"
	"sigs.k8s.io/yaml"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/api/builtin"
	"github.com/proa-dev/proa/apiserver/apiservertest"
	"github.com/proa-dev/proa/client/local"
	"github.com/proa-dev/proa/controllers/internal/loop"
	"github.com/proa-dev/proa/controllers/policystatus"
)

// cases are policies, each with the warnings that are to come of it: the field,
// then parts of the text, after "!" what is not to be in it.
var cases = []struct {
	name, spec string
	want       [][]string
}{
	{"right", `
matchConstraints: {resourceRules: [{apiGroups: [apps], apiVersions: [v1], resources: [deployments, replicasets]}]}
paramKind: {apiVersion: v1, kind: ConfigMap}
variables:
- {name: count, expression: object.spec.replicas}
validations:
- {expression: "variables.count <= int(params.data['most']) && oldObject == null && namespaceObject.metadata.name != request.namespace",
   messageExpression: "'too many of ' + object.metadata.name"}
- {expression: "authorizer.group('').resource('pods').check('get').allowed()"}
- {expression: "object.spec.template.spec.containers.all(c, !has(c.resources.limits) || quantity(c.resources.limits['cpu']).isLessThan(quantity('1')))"}
`, nil},
	{"each expression by each kind", `
matchConstraints: {resourceRules: [{apiGroups: [apps], apiVersions: [v1], resources: [deployments, replicasets, "deployments/scale"]}]}
variables:
- {name: count, expression: object.spec.replicas}
validations:
- {expression: "object.spec.paused == true"}
- {expression: "variables.count == 'three'", messageExpression: "string(object.metadata.nope)"}
`, [][]string{
		{"spec.validations[0].expression", "apps/v1, Kind=ReplicaSet: ERROR: <input>:1:12: undefined field 'paused'", "!Kind=Deployment"},
		{"spec.validations[1].expression", "apps/v1, Kind=Deployment: ERROR: <input>:1:17: found no matching overload for '_==_' applied to '(int, string)'",
			"\n\napps/v1, Kind=ReplicaSet: "},
		{"spec.validations[1].messageExpression", "undefined field 'nope'"},
	}},
	{"parameters", `
matchConstraints: {resourceRules: [{apiGroups: [""], apiVersions: [v1], resources: [pods]}]}
paramKind: {apiVersion: v1, kind: ConfigMap}
validations:
- {expression: "params.dota.size() > 0"}
`, [][]string{{"spec.validations[0].expression", "/v1, Kind=Pod: ERROR: <input>:1:7: undefined field 'dota'"}}},
	{"wildcards and unknown kinds", `
matchConstraints:
  resourceRules:
  - {apiGroups: ["*"], apiVersions: [v1], resources: [pods]}
  - {apiGroups: [""], apiVersions: [v1], resources: ["*"]}
  - {apiGroups: [example.com], apiVersions: [v1], resources: [nopes]}
paramKind: {apiVersion: example.com/v1, kind: Nope}
validations:
- {expression: "object.nope == params.nope"}
`, nil},
}

func TestExpressionWarnings(t *testing.T) {
	server := apiservertest.Start(t, nil)
	as, err := local.New(local.Config{
		Registry: server.Registry(), Store: server.Store, Kinds: server.Kinds(), Scheme: builtin.Scheme(), Manager: "test",
		User:   &user.DefaultInfo{Name: "admin", Groups: []string{user.SystemPrivilegedGroup}},
		Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	l, err := policystatus.New(loop.Env{Cluster: as, Logger: slog.New(slog.DiscardHandler), Clock: clock.RealClock{}},
		policystatus.Config{Kinds: func() []*api.Kind { return server.Kinds().Set().All }, Schema: server.Schema})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	var wg sync.WaitGroup
	t.Cleanup(func() { cancel(); wg.Wait() })
	wg.Go(func() { _ = as.Start(ctx) })
	wg.Go(func() {
		if err := l.Run(ctx); err != nil && ctx.Err() == nil {
			t.Error(err)
		}
	})
	for i, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			p := &admissionv1.ValidatingAdmissionPolicy{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("p", i)}}
			if err := yaml.UnmarshalStrict([]byte(c.spec), &p.Spec); err != nil {
				t.Fatal(err)
			}
			for i := range p.Spec.MatchConstraints.ResourceRules {
				p.Spec.MatchConstraints.ResourceRules[i].Operations = []admissionv1.OperationType{admissionv1.Create}
			}
			w, err := as.Client().Watch(ctx, &admissionv1.ValidatingAdmissionPolicyList{})
			if err != nil {
				t.Fatal(err)
			}
			defer w.Stop()
			if err := as.Client().Create(ctx, p); err != nil {
				t.Fatal(err)
			}
			compare(t, observed(t, w, p.Name), c.want)
		})
	}
}

// observed waits for a policy's status.
func observed(t *testing.T, w watch.Interface, name string) *admissionv1.TypeChecking {
	t.Helper()
	for e := range w.ResultChan() {
		p, ok := e.Object.(*admissionv1.ValidatingAdmissionPolicy)
		if ok && p.Name == name && p.Status.ObservedGeneration == p.Generation && p.Status.TypeChecking != nil {
			return p.Status.TypeChecking
		}
	}
	t.Fatal("the watch has ended")
	return nil
}

func compare(t *testing.T, got *admissionv1.TypeChecking, want [][]string) {
	t.Helper()
	if len(got.ExpressionWarnings) != len(want) {
		t.Fatalf("warnings: %q", got.ExpressionWarnings)
	}
	for i, w := range got.ExpressionWarnings {
		if w.FieldRef != want[i][0] {
			t.Errorf("warning %d is of %s, not %s", i, w.FieldRef, want[i][0])
		}
		for _, part := range want[i][1:] {
			if not, never := strings.CutPrefix(part, "!"); strings.Contains(w.Warning, not) == never {
				t.Errorf("%q in\n%s", part, w.Warning)
			}
		}
	}
}
