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
	"k8s.io/apimachinery/pkg/runtime/schema"
	upstream "k8s.io/apiserver/pkg/admission"
	plugincel "k8s.io/apiserver/pkg/admission/plugin/cel"
	"k8s.io/apiserver/pkg/admission/plugin/policy/mutating/patch"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	"k8s.io/apiserver/pkg/cel/environment"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/api/admissionregistration"
	"github.com/proa-dev/proa/apiserver/admission"
	"github.com/proa-dev/proa/apiserver/admission/match"
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

// Admit implements admission.Mutator.
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
	r, recall := match.New(m.cfg.Lookup, a), a.Recall(m.Name())
	for _, p := range policies {
		to, ok, err := r.Matches(ctx, p.head.criteria)
		if err == nil && ok {
			err = p.err
		}
		for i := 0; err == nil && ok && i < len(p.bindings); i++ {
			err = m.binding(ctx, r, to, p, p.bindings[i], recall)
		}
		if err != nil && (p.Spec.FailurePolicy == nil || *p.Spec.FailurePolicy != admissionv1.Ignore) {
			return fail(r, p, err)
		}
	}
	if err := r.Put(); err != nil {
		return err
	}
	recall.Done()
	return nil
}

// binding calls a policy for each of a binding's parameters.
func (m *Mutating) binding(ctx context.Context, r *match.Request, to match.Target, p *mutating, b mutatingBinding, recall *admission.Recall) error {
	if _, ok, err := r.Matches(ctx, b.criteria); err != nil || !ok {
		return err
	}
	params, err := m.cfg.params(ctx, r, p.Spec.ParamKind, b.Spec.ParamRef)
	if err != nil {
		return err
	}
	for _, param := range params {
		part := p.Name + "/" + b.Name + "/" + nameOf(param)
		met, err := p.met(ctx, m.cfg, r, to, param)
		if err != nil {
			return err
		}
		if !met || recall.Skips(part) {
			continue
		}
		changed, err := m.mutate(ctx, r, to, p, param)
		if changed {
			recall.Changed()
		}
		if p.Spec.ReinvocationPolicy == admissionv1.IfNeededReinvocationPolicy {
			recall.Called(part)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func nameOf(param runtime.Object) string {
	if o, ok := param.(api.Object); ok {
		return o.GetNamespace() + "/" + o.GetName()
	}
	return ""
}

// mutate applies the mutations of a policy in order.
func (m *Mutating) mutate(ctx context.Context, r *match.Request, to match.Target, p *mutating, param runtime.Object) (changed bool, err error) {
	ns, err := r.Namespace(ctx)
	if err != nil {
		return false, err
	}
	for _, patcher := range p.patchers {
		v, err := r.Versioned(to.GVK)
		if err != nil {
			return changed, err
		}
		converter := m.cfg.Converter
		if k := r.Kinds.ByKind(to.GVK); k != nil && k.Types != nil {
			converter = k.Types
		}
		before := v.VersionedObject.Object()
		shown := *v // a patcher may change what it is given
		shown.VersionedObject = upstream.NewLazyObject(before.DeepCopyObject())
		after, err := patcher.Patch(p.compiler.CreateContext(ctx), patch.Request{
			MatchedResource: to.GVR, VersionedAttributes: &shown, ObjectInterfaces: upstream.NewObjectInterfacesFromScheme(m.cfg.Scheme),
			OptionalVariables: plugincel.OptionalVariableBindings{VersionedParams: param, Authorizer: m.cfg.Authorizer},
			Namespace:         plugincel.CreateNamespaceObject(ns), TypeConverter: converter,
		}, celconfig.RuntimeCELCostBudget)
		if err != nil {
			return changed, err
		}
		if after, err = m.typed(r, to.GVK, before, after); err != nil {
			return changed, err
		}
		r.Update(v, after)
		changed = changed || !api.Equal(before, after)
	}
	return changed, nil
}

// typed returns the Go type of what a patch made, with its defaults.
func (m *Mutating) typed(r *match.Request, gvk schema.GroupVersionKind, before, obj runtime.Object) (runtime.Object, error) {
	if u, ok := obj.(*unstructured.Unstructured); ok {
		if _, ok := before.(*unstructured.Unstructured); !ok {
			obj = reflect.New(reflect.TypeOf(before).Elem()).Interface().(runtime.Object)
			if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, obj); err != nil {
				return nil, fmt.Errorf("read the patched object: %w", err)
			}
		}
	}
	if k := r.Kinds.ByKind(gvk); k != nil && k.Default != nil && r.Subresource == "" {
		if o, ok := obj.(api.Object); ok {
			k.Default(o)
		}
	}
	obj.GetObjectKind().SetGroupVersionKind(gvk)
	return obj, nil
}

func fail(r *match.Request, p *mutating, err error) error {
	message := fmt.Sprintf("policy '%s' denied request: %v", p.Name, err)
	refused := admission.Forbidden(r.Attributes, errors.New(message))
	refused.ErrStatus.Reason, refused.ErrStatus.Code = metav1.StatusReasonInvalid, http.StatusUnprocessableEntity
	refused.ErrStatus.Details.Causes = append(refused.ErrStatus.Details.Causes, metav1.StatusCause{Message: message})
	return refused
}
