package policy_test

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"sigs.k8s.io/yaml"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/api/builtin"
	"github.com/proa-dev/proa/apiserver/admission"
	"github.com/proa-dev/proa/apiserver/admission/admissiontest"
	"github.com/proa-dev/proa/apiserver/admission/policy"
	"github.com/proa-dev/proa/apiserver/kinds"
	"github.com/proa-dev/proa/apiserver/typeschema"
)

// limit is a custom kind.
func limit() *api.Kind {
	gvk := schema.GroupVersionKind{Group: "example.com", Version: "v1", Kind: "Limit"}
	return &api.Kind{GVK: gvk, Resource: "limits", Namespaced: true, StoragePath: "example.com/limits", New: func() api.Object {
		u := &unstructured.Unstructured{}
		u.SetGroupVersionKind(gvk)
		return u
	}}
}

type world struct {
	t       *testing.T
	set     *kinds.Set
	plugins admission.Chain
	// warnings are those of the last request.
	warnings []string
}

// rights says who may do what, as "user verb group/resource".
type rights []string

func (r rights) Authorize(_ context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
	if slices.Contains(r, a.GetUser().GetName()+" "+a.GetVerb()+" "+a.GetAPIGroup()+"/"+a.GetResource()) {
		return authorizer.DecisionAllow, "", nil
	}
	return authorizer.DecisionNoOpinion, "", nil
}

// newWorld has some objects, given as YAML documents.
func newWorld(t *testing.T, objects string, more ...admission.Plugin) *world {
	t.Helper()
	table := kinds.New(builtin.Kinds())
	table.Put("limits.example.com", []*api.Kind{limit()})
	w := &world{t: t, set: table.Set()}
	source := admissiontest.New().Put(corev1.Resource("namespaces"), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop"}})
	for _, text := range strings.Split(objects, "---\n") {
		if strings.TrimSpace(text) != "" {
			o, k := w.read(text)
			source.Put(k.GR(), o)
		}
	}
	scheme := builtin.Scheme()
	cfg := policy.Config{
		Lookup: admission.Lookup{Source: source}, Authorizer: rights{"ann get /configmaps", "ann list example.com/limits", "bob get */*"},
		Converter: typeschema.Converter(scheme), Scheme: scheme,
	}
	mutating, err := policy.NewMutating(cfg)
	validating, err2 := policy.NewValidating(cfg)
	access, err3 := policy.NewAccess(cfg)
	if err := errors.Join(err, err2, err3); err != nil {
		t.Fatal(err)
	}
	w.plugins = append(w.plugins, more...)
	w.plugins = append(w.plugins, mutating, validating, access)
	return w
}

func (w *world) read(text string) (api.Object, *api.Kind) {
	w.t.Helper()
	var head metav1.TypeMeta
	if err := yaml.Unmarshal([]byte(text), &head); err != nil {
		w.t.Fatal(err)
	}
	k := w.set.ByKind(head.GroupVersionKind())
	if k == nil {
		w.t.Fatalf("no kind for %s", text)
	}
	o := k.New()
	if err := yaml.Unmarshal([]byte(text), o); err != nil {
		w.t.Fatal(err)
	}
	if k.Default != nil {
		k.Default(o)
	}
	o.SetResourceVersion("1")
	return o, k
}

// admit creates an object, or updates it if old is given, as a user.
func (w *world) admit(obj, old api.Object, who string) error {
	w.t.Helper()
	k := w.set.ByKind(obj.GetObjectKind().GroupVersionKind())
	a := &admission.Attributes{
		Operation: admission.Create, GVK: k.GVK, GVR: k.GVR(), Namespace: obj.GetNamespace(), Name: obj.GetName(), Object: obj,
		Kinds: w.set, User: &user.DefaultInfo{Name: who}, Warn: func(text string) { w.warnings = append(w.warnings, text) },
	}
	if old != nil {
		a.Operation, a.OldObject = admission.Update, old
	}
	w.warnings = nil
	if err := w.plugins.Admit(w.t.Context(), a); err != nil {
		return err
	}
	return w.plugins.Validate(w.t.Context(), a)
}

// says admits an object and compares the error; want is its end, empty for none.
func (w *world) says(obj api.Object, want string) {
	w.t.Helper()
	err := w.admit(obj, nil, "ann")
	switch {
	case want == "" && err != nil:
		w.t.Errorf("refused: %v", err)
	case want != "" && err == nil:
		w.t.Errorf("not refused, want %q", want)
	case err != nil && !strings.HasSuffix(err.Error(), want):
		w.t.Errorf("got  %q\nwant %q", err, want)
	}
}

func labelled(text ...string) *corev1.ConfigMap {
	cm := &corev1.ConfigMap{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"},
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "c", Labels: map[string]string{"app": "c"}},
	}
	for _, l := range text {
		cm.Labels[l] = "yes"
	}
	return cm
}

const head = `
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: p, uid: p}
spec:
  matchConstraints:
    resourceRules:
    - {apiGroups: [""], apiVersions: [v1], operations: ["*"], resources: [configmaps]}
`

const binding = `
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: b}
`

func TestParameters(t *testing.T) {
	policy := head + `
  paramKind: {apiVersion: example.com/v1, kind: Limit}
  validations:
  - {expression: "size(object.metadata.labels) <= params.spec.most", messageExpression: "'at most ' + string(params.spec.most) + ' of ' + params.kind"}
` + binding
	object := `
---
apiVersion: example.com/v1
kind: Limit
metadata: {name: labels, namespace: shop, labels: {for: labels}}
spec: {most: 2}
`
	const denied = "ValidatingAdmissionPolicy 'p' with binding 'b' denied request: "
	for _, c := range []struct{ name, ref, object, want string }{
		{"by name", "{name: labels, parameterNotFoundAction: Deny}", object, denied + "at most 2 of Limit"},
		{"by labels", "{selector: {matchLabels: {for: labels}}, parameterNotFoundAction: Deny}", object, denied + "at most 2 of Limit"},
		{"absent, denied", "{name: labels, parameterNotFoundAction: Deny}", "",
			denied + "failed to configure binding: no params found for policy binding with `Deny` parameterNotFoundAction"},
		{"absent, allowed", "{name: labels, parameterNotFoundAction: Allow}", "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, policy+"spec: {policyName: p, validationActions: [Deny], paramRef: "+c.ref+"}"+c.object)
			w.says(labelled("a", "b"), c.want)
		})
	}
	t.Run("of an unknown kind", func(t *testing.T) {
		w := newWorld(t, strings.ReplaceAll(policy, "kind: Limit", "kind: Nope")+"spec: {policyName: p, validationActions: [Deny], paramRef: {name: a, parameterNotFoundAction: Deny}}")
		w.says(labelled(), "ValidatingAdmissionPolicy 'p' denied request: failed to configure policy: failed to find resource referenced by paramKind: 'example.com/v1, Kind=Nope'")
	})
}

// An audit annotation that fails refuses whatever the binding does; a warning is
// told although another validation denies.
func TestActions(t *testing.T) {
	rules := `
  validations:
  - {expression: "!('bad' in object.metadata.labels)", message: bad}
  - {expression: "!('odd' in object.metadata.labels)", message: odd, reason: Forbidden}
  auditAnnotations:
  - {key: a, valueExpression: "'text' in object.metadata.labels ? string(int(object.metadata.labels['text'])) : ''"}
`
	actions := func(list string) string {
		return head + rules + binding + "spec: {policyName: p, validationActions: " + list + "}"
	}
	w := newWorld(t, actions("[Warn]"))
	w.says(labelled("bad", "odd"), "")
	prefix := "Validation failed for ValidatingAdmissionPolicy 'p' with binding 'b': "
	if want := []string{prefix + "bad", prefix + "odd"}; !slices.Equal(w.warnings, want) {
		t.Errorf("warnings: %q", w.warnings)
	}
	w.says(labelled("text"), "type conversion error from 'string' to 'int'") // yes is no number
	w = newWorld(t, actions("[Deny]")+strings.ReplaceAll(binding, "name: b", "name: later")+"spec: {policyName: p, validationActions: [Warn]}")
	w.says(labelled("bad"), "denied request: bad")
	if want := strings.ReplaceAll(prefix, "'b'", "'later'") + "bad"; !slices.Equal(w.warnings, []string{want}) {
		t.Errorf("warnings beside a denial: %q", w.warnings)
	}
}

func TestFailures(t *testing.T) {
	for failure, want := range map[string]string{"Fail": "no such key: none", "Ignore": ""} {
		w := newWorld(t, head+"  failurePolicy: "+failure+"\n  validations: [{expression: \"object.metadata.labels['none'] == 'x'\"}]\n"+
			binding+"spec: {policyName: p, validationActions: [Deny]}")
		w.says(labelled(), want)
	}
}

const autoscaler = `
apiVersion: autoscaling/v1
kind: HorizontalPodAutoscaler
metadata: {name: h, namespace: shop}
spec: {maxReplicas: 9, targetCPUUtilizationPercentage: 90, scaleTargetRef: {kind: Deployment, name: d, apiVersion: apps/v1}}
`

// A policy for one version of a kind is asked about the other, which it sees as
// its own, unless it is for that version exactly.
func TestEquivalentVersions(t *testing.T) {
	rule := `
  matchConstraints:
    matchPolicy: POLICY
    resourceRules:
    - {apiGroups: [autoscaling], apiVersions: [v2], operations: [CREATE], resources: [horizontalpodautoscalers]}
`
	begin, _, _ := strings.Cut(head, "  matchConstraints")
	validating := begin + rule + `
  validations:
  - expression: object.spec.metrics[0].resource.target.averageUtilization < 80
    messageExpression: "object.apiVersion + ' ' + request.kind.version + ' ' + request.resource.version + ' sent as ' + request.requestKind.version"
` + binding + "spec: {policyName: p, validationActions: [Deny]}"
	mutating := strings.ReplaceAll(begin, "Validating", "Mutating") + rule + `
  reinvocationPolicy: Never
  mutations:
  - {patchType: JSONPatch, jsonPatch: {expression: "[JSONPatch{op: 'replace', path: '/spec/metrics/0/resource/target/averageUtilization', value: 50}]"}}
` + strings.ReplaceAll(binding, "Validating", "Mutating") + "spec: {policyName: p}"
	for match, want := range map[string]string{"Equivalent": "autoscaling/v2 v2 v2 sent as v1", "Exact": ""} {
		w := newWorld(t, strings.ReplaceAll(validating, "POLICY", match))
		h, _ := w.read(autoscaler)
		w.says(h, want)

		w = newWorld(t, strings.ReplaceAll(mutating, "POLICY", match))
		h, _ = w.read(autoscaler)
		w.says(h, "")
		got := *h.(*autoscalingv1.HorizontalPodAutoscaler).Spec.TargetCPUUtilizationPercentage
		if wanted := map[string]int32{"Equivalent": 50, "Exact": 90}[match]; got != wanted {
			t.Errorf("%s: mutated to %d, want %d", match, got, wanted)
		}
	}
}

// tidy is a mutator of the server's own: it answers what policies do.
type tidy struct{ calls int }

func (*tidy) Name() string { return "Tidy" }

func (p *tidy) Admit(_ context.Context, a *admission.Attributes) error {
	p.calls++
	if cm, ok := a.Object.(*corev1.ConfigMap); ok && cm.Labels["b"] != "" {
		cm.Labels["tidied"] = "yes"
	}
	return nil
}

// mutation is a policy that adds a label.
func mutation(name, label, again string) string {
	return `
---
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingAdmissionPolicy
metadata: {name: ` + name + `, uid: ` + name + `}
spec:
  reinvocationPolicy: ` + again + `
  matchConstraints:
    resourceRules:
    - {apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [configmaps]}
  mutations:
  - {patchType: ApplyConfiguration, applyConfiguration: {expression: "Object{metadata: Object.metadata{labels: {'` + label + `': 'yes'}}}"}}
---
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingAdmissionPolicyBinding
metadata: {name: ` + name + `}
spec: {policyName: ` + name + `}
`
}

// What a policy changes is seen by the server's own mutators, and by the
// policies before it that ask for that.
func TestReinvocation(t *testing.T) {
	for _, c := range []struct{ again, labels string }{
		{"Never", "app, b, tidied"},
		{"IfNeeded", "a, app, b, tidied"},
	} {
		own, cm := &tidy{}, labelled()
		one := strings.ReplaceAll(mutation("one", "a", c.again), "Object{", "'b' in object.metadata.labels ? Object{")
		one = strings.ReplaceAll(one, "}}}\"}}", "}}} : Object{}\"}}")
		w := newWorld(t, one+mutation("two", "b", "Never"), own)
		w.says(cm, "")
		if text := strings.Join(slices.Sorted(maps.Keys(cm.Labels)), ", "); text != c.labels {
			t.Errorf("%s: labels %s, want %s", c.again, text, c.labels)
		}
		if own.calls != 2 {
			t.Errorf("%s: the server's own mutator was called %d times", c.again, own.calls)
		}
		own.calls = 0
		w.says(&corev1.Secret{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"}, ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "s"}}, "")
		if own.calls != 1 {
			t.Errorf("nothing was changed, but mutators were called %d times", own.calls)
		}
	}
}

// One mutation that fails does not keep others from being tried, where errors
// are ignored; where they are not, the answer has each.
func TestMutationFails(t *testing.T) {
	bad := strings.ReplaceAll(mutation("bad", "x", "Never"), "Object{metadata: Object.metadata{labels: {'x': 'yes'}}}",
		"Object{metadata: Object.metadata{labels: {'x': object.metadata.labels['none']}}}")
	cm := labelled()
	w := newWorld(t, strings.ReplaceAll(bad, "spec:\n  reinvocation", "spec:\n  failurePolicy: Ignore\n  reinvocation")+mutation("good", "a", "Never"))
	w.says(cm, "")
	if cm.Labels["a"] != "yes" {
		t.Errorf("labels: %v", cm.Labels)
	}
	w = newWorld(t, bad)
	err := w.admit(labelled(), nil, "ann")
	var status *apierrors.StatusError
	if !errors.As(err, &status) || status.ErrStatus.Reason != metav1.StatusReasonInvalid || status.ErrStatus.Code != 403 ||
		!strings.HasPrefix(status.ErrStatus.Message, "policy 'bad' with binding 'bad' denied request: ") || len(status.ErrStatus.Details.Causes) != 1 {
		t.Errorf("got %#v", err)
	}
}

// A custom resource is mutated along its own schema.
// TestMutationsBeyondBounds has patches make what cannot be read: a quantity
// whose arithmetic does not end, chosen by who sends the object, and a field
// that there is not.
func TestMutationsBeyondBounds(t *testing.T) {
	for mutation, want := range map[string]string{
		`patchType: JSONPatch, jsonPatch: {expression: '[JSONPatch{op: "add", path: "/spec/hard", value: {"pods": object.metadata.annotations["most"]}}]'}`:                                                "unable to parse quantity's suffix",
		`patchType: ApplyConfiguration, applyConfiguration: {expression: 'Object{spec: Object.spec{hard: {"pods": object.metadata.annotations["most"]}}}'}`:                                                "unable to parse quantity's suffix",
		`patchType: JSONPatch, jsonPatch: {expression: '[JSONPatch{op: "add", path: "/spec/nonsense", value: "x"}]'}`:                                                                                      `unknown field "spec.nonsense"`,
		`patchType: JSONPatch, jsonPatch: {expression: '[JSONPatch{op: "add", path: "/spec/hard", value: {"pods": string(quantity(object.metadata.annotations["most"]).isGreaterThan(quantity("1")))}}]'}`: "unable to parse quantity's suffix",
	} {
		w := newWorld(t, `
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingAdmissionPolicy
metadata: {name: p, uid: p}
spec:
  matchConstraints:
    resourceRules:
    - {apiGroups: [""], apiVersions: [v1], operations: ["*"], resources: [resourcequotas]}
  mutations: [{`+mutation+`}]
---
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingAdmissionPolicyBinding
metadata: {name: b}
spec: {policyName: p}
`)
		quota := &corev1.ResourceQuota{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "ResourceQuota"}}
		quota.Name, quota.Namespace, quota.Annotations = "q", "shop", map[string]string{"most": "1e-1000000000"}
		if err := w.admit(quota, nil, "ann"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", mutation, err)
		}
	}
}

func TestMutateCustomResource(t *testing.T) {
	w := newWorld(t, strings.NewReplacer(`apiGroups: [""]`, `apiGroups: [example.com]`, "resources: [configmaps]", "resources: [limits]").
		Replace(mutation("one", "a", "Never")))
	l, _ := w.read("apiVersion: example.com/v1\nkind: Limit\nmetadata: {name: l, namespace: shop}\nspec: {most: 1}\n")
	w.says(l, "")
	if l.GetLabels()["a"] != "yes" {
		t.Errorf("labels: %v", l.GetLabels())
	}
}

func TestAccessToParameters(t *testing.T) {
	stored := `
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: limits}
spec: {paramKind: {apiVersion: example.com/v1, kind: Limit}}
`
	w := newWorld(t, stored)
	policy := func(kind string) *admissionv1.MutatingAdmissionPolicy {
		p := &admissionv1.MutatingAdmissionPolicy{ObjectMeta: metav1.ObjectMeta{Name: "p"}, TypeMeta: metav1.TypeMeta{APIVersion: "admissionregistration.k8s.io/v1", Kind: "MutatingAdmissionPolicy"}}
		if kind != "" {
			p.Spec.ParamKind = &admissionv1.ParamKind{APIVersion: "v1", Kind: kind}
		}
		return p
	}
	bind := func(policy string, ref *admissionv1.ParamRef) *admissionv1.ValidatingAdmissionPolicyBinding {
		return &admissionv1.ValidatingAdmissionPolicyBinding{ObjectMeta: metav1.ObjectMeta{Name: "b"},
			TypeMeta: metav1.TypeMeta{APIVersion: "admissionregistration.k8s.io/v1", Kind: "ValidatingAdmissionPolicyBinding"},
			Spec:     admissionv1.ValidatingAdmissionPolicyBindingSpec{PolicyName: policy, ParamRef: ref}}
	}
	byName, byLabel := &admissionv1.ParamRef{Name: "x"}, &admissionv1.ParamRef{Selector: &metav1.LabelSelector{}}
	const ann = "user &{ann  [] map[]} "
	for _, c := range []struct {
		name     string
		obj, old api.Object
		who      string
		want     string
	}{
		{"no parameters", policy(""), nil, "ann", ""},
		{"may read them", policy("ConfigMap"), nil, "ann", ""},
		{"may not", policy("Secret"), nil, "ann", `spec.paramKind: Forbidden: ` + ann + `must have "get" permission on all objects of the referenced paramKind (kind=Secret, apiVersion=v1)`},
		{"no change", policy("Secret"), policy("Secret"), "ann", ""},
		{"a kind that nobody knows", policy("Nope"), nil, "ann", `spec.paramKind: Forbidden: ` + ann + `must have "get" permission on all objects of the referenced paramKind (kind=Nope, apiVersion=v1)`},
		{"may list", bind("limits", byLabel), nil, "ann", ""},
		{"may not get", bind("limits", byName), nil, "ann", `spec.paramRef: Forbidden: ` + ann + `does not have "get" permission on the object referenced by paramRef`},
		{"no change of a binding", bind("limits", byName), bind("limits", byName.DeepCopy()), "ann", ""},
		{"no such policy", bind("none", byName), nil, "ann", `spec.paramRef: Forbidden: unable to get policy none to determine minimum required permissions and ` + ann + `does not have "get" permission for all groups, versions and resources`},
		{"no such policy, but all rights", bind("none", byName), nil, "bob", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := w.admit(c.obj, c.old, c.who)
			switch {
			case c.want == "" && err != nil:
				t.Error(err)
			case c.want != "" && (!apierrors.IsInvalid(err) || !strings.HasSuffix(err.Error(), c.want)):
				t.Errorf("got  %v\nwant %s", err, c.want)
			}
		})
	}
}
