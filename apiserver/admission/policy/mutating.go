package policy

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"reflect"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	upstream "k8s.io/apiserver/pkg/admission"
	plugincel "k8s.io/apiserver/pkg/admission/plugin/cel"
	"k8s.io/apiserver/pkg/admission/plugin/policy/mutating/patch"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	"k8s.io/apiserver/pkg/cel/environment"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/api/admissionregistration"
	"github.com/proa-dev/proa/apiserver/admission"
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

// Admit implements admission.Mutator.
func (m *Mutating) Admit(ctx context.Context, a *admission.Attributes) error {
	if exempt(a) || a.Object == nil {
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
	r, err := newRequest(ctx, m.cfg.Lookup, a)
	if err != nil {
		return admission.Forbidden(a, err)
	}
	// A change may be another policy's business: those that ask for it are
	// called once more.
	changed, err := m.round(ctx, r, policies, false)
	if err != nil {
		return err
	}
	if changed {
		if _, err := m.round(ctx, r, policies, true); err != nil {
			return err
		}
		return m.put(a, r.versioned.VersionedObject.Object())
	}
	return nil
}

// round calls each policy; again means those alone that may be called again.
func (m *Mutating) round(ctx context.Context, r *request, policies []*mutating, again bool) (changed bool, err error) {
	for _, p := range policies {
		if again && p.Spec.ReinvocationPolicy != admissionv1.IfNeededReinvocationPolicy {
			continue
		}
		ok, err := r.matches(p.Spec.MatchConstraints)
		if err == nil && ok {
			err = p.err
		}
		for i := 0; err == nil && ok && i < len(p.bindings); i++ {
			var one bool
			one, err = m.binding(ctx, r, p, p.bindings[i])
			changed = changed || one
		}
		if err != nil && (p.Spec.FailurePolicy == nil || *p.Spec.FailurePolicy != admissionv1.Ignore) {
			return changed, fail(r, p, err)
		}
	}
	return changed, nil
}

func (m *Mutating) binding(ctx context.Context, r *request, p *mutating, b *admissionv1.MutatingAdmissionPolicyBinding) (bool, error) {
	if ok, err := r.matches(b.Spec.MatchResources); err != nil || !ok {
		return false, err
	}
	params, err := m.cfg.params(ctx, r, p.Spec.ParamKind, b.Spec.ParamRef)
	if err != nil {
		return false, err
	}
	changed := false
	for _, param := range params {
		met, err := p.met(ctx, m.cfg, r, param)
		if err != nil {
			return changed, err
		}
		if !met {
			continue
		}
		for _, patcher := range p.patchers {
			before := r.versioned.VersionedObject.Object()
			after, err := patcher.Patch(p.compiler.CreateContext(ctx), patch.Request{
				MatchedResource: r.GVR, VersionedAttributes: r.versioned, ObjectInterfaces: upstream.NewObjectInterfacesFromScheme(m.cfg.Scheme),
				OptionalVariables: plugincel.OptionalVariableBindings{VersionedParams: param, Authorizer: m.cfg.Authorizer},
				Namespace:         plugincel.CreateNamespaceObject(r.namespace), TypeConverter: m.cfg.Converter,
			}, celconfig.RuntimeCELCostBudget)
			if err != nil {
				return changed, err
			}
			if after, err = m.typed(r, after); err != nil {
				return changed, err
			}
			r.versioned.UpdateObject(after)
			changed = changed || !api.Equal(before, after)
		}
	}
	return changed, nil
}

// typed returns the Go type of what a patch made, with its defaults.
func (m *Mutating) typed(r *request, obj runtime.Object) (runtime.Object, error) {
	if u, ok := obj.(*unstructured.Unstructured); ok {
		if _, ok := r.Object.(*unstructured.Unstructured); !ok {
			obj = reflect.New(reflect.TypeOf(r.Object).Elem()).Interface().(runtime.Object)
			if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, obj); err != nil {
				return nil, fmt.Errorf("read the patched object: %w", err)
			}
		}
	}
	if k := m.cfg.Kind(r.GVK); k != nil && k.Default != nil && r.Subresource == "" {
		if o, ok := obj.(api.Object); ok {
			k.Default(o)
		}
	}
	obj.GetObjectKind().SetGroupVersionKind(r.GVK)
	return obj, nil
}

// put writes the result into the object under decision.
func (m *Mutating) put(a *admission.Attributes, obj runtime.Object) error {
	kind := a.Object.GetObjectKind().GroupVersionKind()
	to, from := reflect.ValueOf(a.Object).Elem(), reflect.ValueOf(obj).Elem()
	if to.Type() != from.Type() {
		return fmt.Errorf("policies made a %s of a %s", from.Type(), to.Type())
	}
	to.Set(from)
	a.Object.GetObjectKind().SetGroupVersionKind(kind)
	return nil
}

func fail(r *request, p *mutating, err error) error {
	message := fmt.Sprintf("policy '%s' denied request: %v", p.Name, err)
	refused := admission.Forbidden(r.Attributes, errors.New(message))
	refused.ErrStatus.Reason, refused.ErrStatus.Code = metav1.StatusReasonInvalid, http.StatusUnprocessableEntity
	refused.ErrStatus.Details.Causes = append(refused.ErrStatus.Details.Causes, metav1.StatusCause{Message: message})
	return refused
}
