package policy

import (
	"context"
	"errors"
	"fmt"
	"reflect"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/managedfields"
	upstream "k8s.io/apiserver/pkg/admission"
	plugincel "k8s.io/apiserver/pkg/admission/plugin/cel"
	"k8s.io/apiserver/pkg/admission/plugin/policy/mutating/patch"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	"k8s.io/apiserver/pkg/cel/environment"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/api/admissionregistration"
	"github.com/proa-dev/proa/apiserver/admission"
	"github.com/proa-dev/proa/apiserver/kinds"
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
	bindings []*admissionv1.MutatingAdmissionPolicyBinding
}

func compileMutating(o api.Object) *mutating {
	p := &mutating{MutatingAdmissionPolicy: o.(*admissionv1.MutatingAdmissionPolicy)}
	s := &p.Spec
	if p.head, p.err = newHead(s.FailurePolicy, s.ParamKind, s.MatchConditions, s.Variables); p.err != nil {
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

// key names one call of a policy.
type key struct {
	policy, binding string
	params          types.NamespacedName
}

// history is what the plugin notes for the time that mutators are called again.
type history struct {
	output runtime.Object // what the policies left behind
	// changed says that they changed something.
	changed bool
	// callable are the calls that may be repeated.
	callable map[key]bool
}

// call is a policy with one binding and one set of parameters.
type call struct {
	key
	form
	policy  *mutating
	binding *admissionv1.MutatingAdmissionPolicyBinding
	params  runtime.Object
}

// Admit implements admission.Mutator. A change may be the business of what ran
// before: all mutators are then called once more, and of the policies those that
// ask for it.
func (m *Mutating) Admit(ctx context.Context, a *admission.Attributes) error {
	if exempt(a) {
		return nil
	}
	policies := m.policies.get(m.cfg.Lookup.Source,
		func(b api.Object) string { return b.(*admissionv1.MutatingAdmissionPolicyBinding).Spec.PolicyName },
		compileMutating,
		func(p *mutating, bindings []api.Object) *mutating {
			bound := *p
			bound.bindings = nil
			for _, b := range bindings {
				bound.bindings = append(bound.bindings, b.(*admissionv1.MutatingAdmissionPolicyBinding))
			}
			return &bound
		})
	if len(policies) == 0 {
		return nil
	}
	past, _ := a.Note(m.Name()).(*history)
	if a.Second() && (past == nil || len(past.callable) == 0 || !past.changed && api.Equal(past.output, a.Object)) {
		return nil
	}
	r, err := newRequest(ctx, &m.cfg, a)
	if err != nil {
		return admission.Forbidden(a, err)
	}
	turn := &turn{cfg: &m.cfg, request: r, history: &history{callable: map[key]bool{}}}
	for _, p := range policies {
		turn.find(ctx, p)
	}
	for _, c := range turn.calls {
		if !a.Second() || past.callable[c.key] {
			turn.call(ctx, c)
		}
	}
	if err := turn.end(); err != nil {
		return err
	}
	if !a.Second() {
		a.SetNote(m.Name(), turn.history)
		if turn.changed {
			a.CallAgain()
		}
	}
	return nil
}

// turn is one call of the plugin.
type turn struct {
	*history
	cfg     *Config
	request *request
	calls   []call
	// now is the object in the form that the last call wanted; nil as long as
	// nothing was called.
	now   *view
	first *refused
}

// refused is the first error that refuses the request, and all of them.
type refused struct {
	message string
	reason  metav1.StatusReason
	causes  []metav1.StatusCause
}

// refuse notes an error, unless the policy says to ignore it.
func (t *turn) refuse(p *mutating, binding *admissionv1.MutatingAdmissionPolicyBinding, reason metav1.StatusReason, err error) {
	if !refuses(p.Spec.FailurePolicy) {
		return
	}
	message := fmt.Sprintf("policy %q denied request: %v", p.Name, err)
	if binding != nil {
		message = fmt.Sprintf("policy '%s' with binding '%s' denied request: %v", p.Name, binding.Name, err)
	}
	if t.first == nil {
		t.first = &refused{message: message, reason: reason}
	}
	t.first.causes = append(t.first.causes, metav1.StatusCause{Message: message})
}

// find finds the calls of a policy that the request, as it was sent, asks for.
func (t *turn) find(ctx context.Context, p *mutating) {
	r := t.request
	f, ok, err := r.matches(p.Spec.MatchConstraints)
	if err == nil && !ok {
		return
	}
	if err == nil {
		err = p.err
	}
	var kind *api.Kind
	if err == nil {
		kind, err = r.paramKind(p.Spec.ParamKind)
	}
	if err != nil {
		t.refuse(p, nil, "", fmt.Errorf("failed to configure policy: %w", err))
		return
	}
	for _, b := range p.bindings {
		_, ok, err := r.matches(b.Spec.MatchResources)
		var params []runtime.Object
		if err == nil && ok {
			params, err = t.cfg.params(ctx, r, kind, b.Spec.ParamRef)
		}
		if err != nil {
			t.refuse(p, b, "", fmt.Errorf("failed to configure binding: %w", err))
			continue
		}
		for _, param := range params {
			c := call{key: key{policy: p.Name, binding: b.Name}, form: f, policy: p, binding: b, params: param}
			if o, ok := param.(metav1.Object); ok {
				c.key.params = types.NamespacedName{Namespace: o.GetNamespace(), Name: o.GetName()}
			}
			t.calls = append(t.calls, c)
		}
	}
}

// call applies the mutations of a call, each to what the one before left. One
// that fails does not keep the next from being tried.
func (t *turn) call(ctx context.Context, c call) {
	seen, err := t.as(c.form)
	if err != nil {
		t.refuse(c.policy, nil, "", fmt.Errorf("failed to configure policy: %w", err))
		return
	}
	met, err := c.policy.met(ctx, t.cfg, t.request, seen, c.params)
	if err != nil {
		t.refuse(c.policy, c.binding, metav1.StatusReasonInvalid, err)
		return
	}
	if !met {
		return
	}
	ctx = c.policy.compiler.CreateContext(ctx) // variables are evaluated once a call
	for _, patcher := range c.policy.patchers {
		before := seen.VersionedObject.Object()
		if before == nil {
			break // nothing to change
		}
		after, err := patcher.Patch(ctx, patch.Request{
			MatchedResource: c.resource, VersionedAttributes: seen.VersionedAttributes,
			ObjectInterfaces:  upstream.NewObjectInterfacesFromScheme(t.cfg.Scheme),
			OptionalVariables: plugincel.OptionalVariableBindings{VersionedParams: c.params, Authorizer: t.cfg.Authorizer},
			Namespace:         plugincel.CreateNamespaceObject(t.request.namespace), TypeConverter: t.cfg.converter(t.request.kinds, c.kind),
		}, celconfig.RuntimeCELCostBudget)
		if err == nil {
			after, err = t.typed(c.form, before, after)
		}
		if err != nil {
			t.refuse(c.policy, c.binding, metav1.StatusReasonInvalid, err)
			continue
		}
		if !api.Equal(before, after) {
			seen.UpdateObject(after)
			t.changed = true
		}
	}
	if c.policy.Spec.ReinvocationPolicy == admissionv1.IfNeededReinvocationPolicy {
		t.callable[c.key] = true
	}
}

// as returns the request in a form, with the object as it is by now.
func (t *turn) as(f form) (*view, error) {
	if t.now != nil && t.now.kind == f.kind {
		return t.now, nil
	}
	next, err := t.request.as(f)
	if err != nil {
		return nil, err
	}
	if t.now != nil && t.changed {
		obj, err := convert(t.request.kinds, t.now.VersionedObject.Object(), t.now.kind, f.kind)
		if err != nil {
			return nil, err
		}
		next.UpdateObject(obj)
	}
	t.now = next
	return next, nil
}

// converter is for the fields of a kind.
func (c *Config) converter(set *kinds.Set, gvk schema.GroupVersionKind) managedfields.TypeConverter {
	k := set.ByKind(gvk)
	switch {
	case k == nil:
		return c.Converter
	case k.Types != nil:
		return k.Types
	}
	if _, custom := k.New().(runtime.Unstructured); custom {
		return managedfields.NewDeducedTypeConverter()
	}
	return c.Converter
}

// typed returns the Go type of what a patch made, with its defaults.
func (t *turn) typed(f form, before, obj runtime.Object) (runtime.Object, error) {
	if before == obj {
		return obj, nil
	}
	if u, ok := obj.(*unstructured.Unstructured); ok {
		if _, ok := before.(*unstructured.Unstructured); !ok {
			obj = reflect.New(reflect.TypeOf(before).Elem()).Interface().(runtime.Object)
			if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, obj); err != nil {
				return nil, fmt.Errorf("read the patched object: %w", err)
			}
		}
	}
	if k := t.request.kinds.ByKind(f.kind); k != nil && k.Default != nil {
		if o, ok := obj.(api.Object); ok {
			k.Default(o)
		}
	}
	obj.GetObjectKind().SetGroupVersionKind(f.kind)
	return obj, nil
}

// end writes the result into the object under decision, or says why not.
func (t *turn) end() error {
	a := t.request.Attributes
	if t.first != nil {
		refused := admission.Forbidden(a, errors.New("admission request denied by policy"))
		refused.ErrStatus.Message = t.first.message
		if t.first.reason != "" {
			refused.ErrStatus.Reason = t.first.reason
		}
		refused.ErrStatus.Details.Causes = append(refused.ErrStatus.Details.Causes, t.first.causes...)
		return refused
	}
	if t.changed {
		obj, err := convert(t.request.kinds, t.now.VersionedObject.Object(), t.now.kind, a.GVK)
		if err != nil {
			return apierrors.NewInternalError(err)
		}
		to, from := reflect.ValueOf(a.Object).Elem(), reflect.ValueOf(obj).Elem()
		if to.Type() != from.Type() {
			return apierrors.NewInternalError(fmt.Errorf("policies made a %s of a %s", from.Type(), to.Type()))
		}
		kind := a.Object.GetObjectKind().GroupVersionKind()
		to.Set(from)
		a.Object.GetObjectKind().SetGroupVersionKind(kind)
	}
	if len(t.callable) > 0 && !t.changed && a.Object != nil {
		t.output = a.Object.DeepCopyObject() // to see whether somebody else changes it
	}
	return nil
}
