package policy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	upstream "k8s.io/apiserver/pkg/admission"
	plugincel "k8s.io/apiserver/pkg/admission/plugin/cel"
	"k8s.io/apiserver/pkg/admission/plugin/policy/mutating/patch"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	"k8s.io/apiserver/pkg/cel/environment"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/api/admissionregistration"
	"github.com/proa-dev/proa/apiserver/admission"
	"github.com/proa-dev/proa/apiserver/admission/match"
	"github.com/proa-dev/proa/apiserver/codec"
)

// Mutating changes objects as MutatingAdmissionPolicies say.
type Mutating struct {
	cfg      Config
	policies compiled[*mutating]
}

var _ admission.Mutator = (*Mutating)(nil)

// NewMutating returns the plugin.
func NewMutating(cfg Config) (*Mutating, error) {
	return &Mutating{cfg: cfg, policies: compiled[*mutating]{
		policies: resource("mutatingadmissionpolicies"), bindings: resource("mutatingadmissionpolicybindings"),
	}}, cfg.Validate()
}

// Name implements Plugin.
func (*Mutating) Name() string { return "MutatingAdmissionPolicy" }

// mutating is a policy, compiled, with its bindings.
type mutating struct {
	*admissionv1.MutatingAdmissionPolicy
	*head
	err      error // of compiling
	patchers []patch.Patcher
	bindings []mutatingBinding
}

// mutatingBinding is a binding with what it is for.
type mutatingBinding struct {
	*admissionv1.MutatingAdmissionPolicyBinding
	criteria *match.Criteria
}

func bindMutating(p *mutating, bindings []api.Object) *mutating {
	bound := *p
	bound.bindings = nil
	for _, o := range bindings {
		b := o.(*admissionv1.MutatingAdmissionPolicyBinding)
		bound.bindings = append(bound.bindings, mutatingBinding{b, match.Resources(b.Spec.MatchResources)})
	}
	return &bound
}

func compileMutating(o api.Object) *mutating {
	p := &mutating{MutatingAdmissionPolicy: o.(*admissionv1.MutatingAdmissionPolicy)}
	s := &p.Spec
	if p.head, p.err = newHead(s.FailurePolicy, s.MatchConstraints, s.ParamKind, s.MatchConditions, s.Variables); p.err != nil {
		return p
	}
	with := p.declared
	with.HasPatchTypes = true
	for _, m := range s.Mutations {
		switch {
		case m.JSONPatch != nil:
			p.patchers = append(p.patchers, patch.NewJSONPatcher(p.compiler.CompileMutatingEvaluator(
				admissionregistration.Patch(m.JSONPatch.Expression), with, environment.StoredExpressions)))
		case m.ApplyConfiguration != nil:
			p.patchers = append(p.patchers, patch.NewApplyConfigurationPatcher(p.compiler.CompileMutatingEvaluator(
				admissionregistration.Apply(m.ApplyConfiguration.Expression), with, environment.StoredExpressions)))
		}
	}
	return p
}

// call is a policy with one binding and one set of parameters.
type call struct {
	match.Target
	policy  *mutating
	binding string
	params  runtime.Object
}

// part names a call for the second round.
func (c *call) part() string {
	part := c.policy.Name + "/" + c.binding
	if o, ok := c.params.(api.Object); ok {
		part += "/" + o.GetNamespace() + "/" + o.GetName()
	}
	return part
}

// Admit implements admission.Mutator. The request, as it was sent, decides which
// policies are called; each sees what the one before left.
func (m *Mutating) Admit(ctx context.Context, a *admission.Attributes) error {
	if exempt(a) || a.Object == nil {
		return nil
	}
	policies := m.policies.get(m.cfg.Lookup.Source,
		func(b api.Object) string { return b.(*admissionv1.MutatingAdmissionPolicyBinding).Spec.PolicyName },
		compileMutating, bindMutating)
	if len(policies) == 0 {
		return nil
	}
	t := &turn{cfg: &m.cfg, Request: match.New(m.cfg.Lookup, a), recall: a.Recall(m.Name())}
	var calls []call
	for _, p := range policies {
		calls = append(calls, t.find(ctx, p)...)
	}
	for i := range calls {
		t.call(ctx, &calls[i])
	}
	if t.refused != nil {
		return t.refused
	}
	if err := t.Put(); err != nil {
		return err
	}
	t.recall.Done()
	return nil
}

// turn is one call of the plugin.
type turn struct {
	*match.Request
	cfg    *Config
	recall *admission.Recall
	// refused is the first error that refuses the request, with all others.
	refused *apierrors.StatusError
}

// refuse notes an error, unless the policy says to ignore it.
func (t *turn) refuse(p *mutating, binding string, reason metav1.StatusReason, err error) {
	if !refuses(p.Spec.FailurePolicy) {
		return
	}
	message := fmt.Sprintf("policy %q denied request: %v", p.Name, err)
	if binding != "" {
		message = fmt.Sprintf("policy '%s' with binding '%s' denied request: %v", p.Name, binding, err)
	}
	if t.refused == nil {
		t.refused = admission.Forbidden(t.Attributes, errors.New("admission request denied by policy"))
		t.refused.ErrStatus.Message = message
		if reason != "" {
			t.refused.ErrStatus.Reason = reason
		}
	}
	t.refused.ErrStatus.Details.Causes = append(t.refused.ErrStatus.Details.Causes, metav1.StatusCause{Message: message})
}

// find finds the calls of a policy.
func (t *turn) find(ctx context.Context, p *mutating) (calls []call) {
	broken := func(binding, what string, err error) {
		t.refuse(p, binding, "", fmt.Errorf("failed to configure %s: %w", what, err))
	}
	if p.err != nil { // it cannot even be asked what it is for
		broken("", "policy", p.err)
		return nil
	}
	to, ok, err := t.Matches(ctx, p.head.criteria)
	if err == nil && !ok {
		return nil
	}
	var kind *api.Kind
	if err == nil {
		kind, err = paramKind(t.Request, p.Spec.ParamKind)
	}
	if err != nil {
		broken("", "policy", err)
		return nil
	}
	for _, b := range p.bindings {
		_, ok, err := t.Matches(ctx, b.criteria)
		var params []runtime.Object
		if err == nil && ok {
			params, err = t.cfg.params(ctx, t.Request, kind, b.Spec.ParamRef)
		}
		if err != nil {
			broken(b.Name, "binding", err)
			continue
		}
		for _, param := range params {
			calls = append(calls, call{to, p, b.Name, param})
		}
	}
	return calls
}

// call applies the mutations of a call, each to what the one before left. One
// that fails does not keep the next from being tried.
func (t *turn) call(ctx context.Context, c *call) {
	p := c.policy
	met, err := p.met(ctx, *t.cfg, t.Request, c.Target, c.params)
	if err != nil {
		t.refuse(p, c.binding, metav1.StatusReasonInvalid, err)
	}
	if err != nil || !met || t.recall.Skips(c.part()) {
		return
	}
	ns, err := t.Namespace(ctx)
	if err != nil {
		t.refuse(p, c.binding, "", err)
		return
	}
	ctx = p.compiler.CreateContext(ctx) // variables are evaluated once a call
	changed := false
	for _, patcher := range p.patchers {
		one, err := t.patch(ctx, c, patcher, ns)
		if err != nil {
			t.refuse(p, c.binding, metav1.StatusReasonInvalid, err)
		}
		changed = changed || one
	}
	if changed {
		t.recall.Changed()
	}
	if p.Spec.ReinvocationPolicy == admissionv1.IfNeededReinvocationPolicy {
		t.recall.Called(c.part())
	}
}

// patch applies one mutation.
func (t *turn) patch(ctx context.Context, c *call, patcher patch.Patcher, ns *corev1.Namespace) (changed bool, err error) {
	v, err := t.Versioned(c.GVK)
	if err != nil {
		return false, err
	}
	before := v.VersionedObject.Object()
	plain, err := untyped(before)
	if err != nil {
		return false, err
	}
	shown := *v // a patcher may change what it is given
	shown.VersionedObject = upstream.NewLazyObject(plain)
	after, err := patcher.Patch(ctx, patch.Request{
		MatchedResource: c.GVR, VersionedAttributes: &shown, ObjectInterfaces: upstream.NewObjectInterfacesFromScheme(t.cfg.Scheme),
		OptionalVariables: plugincel.OptionalVariableBindings{VersionedParams: c.params, Authorizer: t.cfg.Authorizer},
		Namespace:         plugincel.CreateNamespaceObject(ns), TypeConverter: t.converter(c.GVK),
	}, celconfig.RuntimeCELCostBudget)
	if err != nil {
		return false, err
	}
	if after, err = t.typed(c.GVK, before, after); err != nil || api.Equal(before, after) {
		return false, err
	}
	t.Update(v, after)
	return true, nil
}

// untyped is a copy of an object for a patcher. Of one with a Go type it would
// read the outcome into that type, whatever quantities a patch has put there.
func untyped(obj runtime.Object) (runtime.Object, error) {
	if _, ok := obj.(*unstructured.Unstructured); ok {
		return obj.DeepCopyObject(), nil
	}
	fields, err := runtime.DefaultUnstructuredConverter.ToUnstructured(obj)
	return &unstructured.Unstructured{Object: fields}, err
}

// converter is for the fields of a kind. What is never stored (a Scale, a
// Binding, the options of exec) has no schema, nor lists that merge.
func (t *turn) converter(gvk schema.GroupVersionKind) managedfields.TypeConverter {
	k := t.Kinds.ByKind(gvk)
	switch {
	case k == nil || k.Virtual:
		return managedfields.NewDeducedTypeConverter()
	case k.Types != nil:
		return k.Types
	}
	if _, custom := k.New().(runtime.Unstructured); custom {
		return managedfields.NewDeducedTypeConverter()
	}
	return t.cfg.Converter
}

// typed returns the Go type of what a patch made, with its defaults.
func (t *turn) typed(gvk schema.GroupVersionKind, before, obj runtime.Object) (runtime.Object, error) {
	if u, ok := obj.(*unstructured.Unstructured); ok {
		if _, ok := before.(*unstructured.Unstructured); !ok {
			obj = reflect.New(reflect.TypeOf(before).Elem()).Interface().(runtime.Object)
			doc, err := json.Marshal(u.Object)
			if err == nil {
				var unknown []error
				if unknown, err = codec.DecodeJSON(doc, obj); len(unknown) > 0 {
					err = runtime.NewStrictDecodingError(unknown)
				}
			}
			if err != nil {
				return nil, fmt.Errorf("read the patched object: %w", err)
			}
		}
	}
	if k := t.Kinds.ByKind(gvk); k != nil && k.Default != nil && t.Subresource == "" {
		if o, ok := obj.(api.Object); ok {
			k.Default(o)
		}
	}
	obj.GetObjectKind().SetGroupVersionKind(gvk)
	return obj, nil
}
