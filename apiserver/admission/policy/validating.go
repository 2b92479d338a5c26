package policy

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	celtypes "github.com/google/cel-go/common/types"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	plugincel "k8s.io/apiserver/pkg/admission/plugin/cel"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	apicel "k8s.io/apiserver/pkg/cel"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/api/admissionregistration"
	"github.com/proa-dev/proa/apiserver/admission"
	"github.com/proa-dev/proa/apiserver/admission/match"
)

// Validating refuses what ValidatingAdmissionPolicies refuse.
type Validating struct {
	cfg      Config
	policies compiled[*validating]
}

var _ admission.Validator = (*Validating)(nil)

// NewValidating returns the plugin.
func NewValidating(cfg Config) (*Validating, error) {
	return &Validating{cfg: cfg, policies: compiled[*validating]{
		policies: resource("validatingadmissionpolicies"), bindings: resource("validatingadmissionpolicybindings"),
	}}, cfg.Validate()
}

// Name implements Plugin.
func (*Validating) Name() string { return "ValidatingAdmissionPolicy" }

// validating is a policy, compiled, with its bindings.
type validating struct {
	*admissionv1.ValidatingAdmissionPolicy
	*head
	err                          error // of compiling
	rules, messages, annotations plugincel.ConditionEvaluator
	bindings                     []validatingBinding
}

// validatingBinding is a binding with what it is for.
type validatingBinding struct {
	*admissionv1.ValidatingAdmissionPolicyBinding
	criteria *match.Criteria
}

func bindValidating(p *validating, bindings []api.Object) *validating {
	bound := *p
	bound.bindings = nil
	for _, o := range bindings {
		b := o.(*admissionv1.ValidatingAdmissionPolicyBinding)
		bound.bindings = append(bound.bindings, validatingBinding{b, match.Resources(b.Spec.MatchResources)})
	}
	return &bound
}

func compileValidating(o api.Object) *validating {
	p := &validating{ValidatingAdmissionPolicy: o.(*admissionv1.ValidatingAdmissionPolicy)}
	s := &p.Spec
	if p.head, p.err = newHead(s.FailurePolicy, s.MatchConstraints, s.ParamKind, s.MatchConditions, s.Variables); p.err != nil {
		return p
	}
	rules := make([]plugincel.ExpressionAccessor, len(s.Validations))
	messages := make([]plugincel.ExpressionAccessor, len(s.Validations))
	for i, v := range s.Validations {
		rules[i] = admissionregistration.Condition(v.Expression)
		if v.MessageExpression != "" {
			messages[i] = admissionregistration.Message(v.MessageExpression)
		}
	}
	annotations := make([]plugincel.ExpressionAccessor, len(s.AuditAnnotations))
	for i, a := range s.AuditAnnotations {
		annotations[i] = admissionregistration.Annotation(a.ValueExpression)
	}
	alone := plugincel.OptionalVariableDeclarations{HasParams: s.ParamKind != nil}
	p.rules, p.messages, p.annotations = p.compile(rules, p.declared), p.compile(messages, alone), p.compile(annotations, p.declared)
	return p
}

// refusal is why a request is refused: by a policy, or by a binding of it.
type refusal struct {
	policy, binding string
	message         string
	reason          metav1.StatusReason
}

// Validate implements admission.Validator. Every policy is heard, for some warn;
// the first that denies gives the answer.
func (v *Validating) Validate(ctx context.Context, a *admission.Attributes) error {
	if exempt(a) {
		return nil
	}
	policies := v.policies.get(v.cfg.Lookup.Source,
		func(b api.Object) string { return b.(*admissionv1.ValidatingAdmissionPolicyBinding).Spec.PolicyName },
		compileValidating, bindValidating)
	if len(policies) == 0 {
		return nil
	}
	r := match.New(v.cfg.Lookup, a)
	var first *refusal
	for _, p := range policies {
		if no := v.policy(ctx, r, p); first == nil {
			first = no
		}
	}
	if first != nil {
		return first.error(r)
	}
	return nil
}

// policy returns the first reason of a policy to deny, nil for none.
func (v *Validating) policy(ctx context.Context, r *match.Request, p *validating) *refusal {
	broken := func(binding, what string, err error) *refusal {
		if !refuses(p.Spec.FailurePolicy) {
			return nil
		}
		return &refusal{policy: p.Name, binding: binding, message: fmt.Sprintf("failed to configure %s: %v", what, err)}
	}
	if p.err != nil { // it cannot even be asked what it is for
		return broken("", "policy", p.err)
	}
	to, ok, err := r.Matches(ctx, p.head.criteria)
	if err == nil && !ok {
		return nil
	}
	var kind *api.Kind
	if err == nil {
		kind, err = paramKind(r, p.Spec.ParamKind)
	}
	if err != nil {
		return broken("", "policy", err)
	}
	var first *refusal
	for _, b := range p.bindings {
		no, err := v.binding(ctx, r, to, p, b, kind)
		if err != nil {
			no = broken(b.Name, "binding", err)
		}
		if first == nil {
			first = no
		}
	}
	return first
}

// binding returns the first reason to deny for all parameters; an error says
// that the binding cannot be used.
func (v *Validating) binding(ctx context.Context, r *match.Request, to match.Target, p *validating, b validatingBinding, kind *api.Kind) (*refusal, error) {
	_, ok, err := r.Matches(ctx, b.criteria)
	if err != nil || !ok {
		return nil, err
	}
	params, err := v.cfg.params(ctx, r, kind, b.Spec.ParamRef)
	if err != nil {
		return nil, err
	}
	var first *refusal
	deny := func(no *refusal) {
		if first == nil {
			no.binding, first = b.Name, no
		}
	}
	for _, param := range params {
		found, broken := v.evaluate(ctx, r, to, p, param)
		for _, no := range found {
			for _, action := range b.Spec.ValidationActions {
				switch action {
				case admissionv1.Deny:
					deny(no)
				case admissionv1.Warn:
					r.Warn(fmt.Sprintf("Validation failed for ValidatingAdmissionPolicy '%s' with binding '%s': %s", p.Name, b.Name, no.message))
				}
			}
		}
		if broken != nil {
			deny(broken)
		}
	}
	return first, nil
}

// evaluate returns why the request is refused for one set of parameters. broken
// refuses it whatever the binding does about failures: an audit annotation could
// not be made.
func (v *Validating) evaluate(ctx context.Context, r *match.Request, to match.Target, p *validating, params runtime.Object) (out []*refusal, broken *refusal) {
	failed := func(err error) []*refusal {
		if p.ignore || err == nil {
			return nil
		}
		return []*refusal{{policy: p.Name, message: err.Error()}}
	}
	met, err := p.met(ctx, v.cfg, r, to, params)
	if err != nil {
		return failed(err), nil
	}
	if !met {
		return nil, nil
	}
	own, err := r.Namespace(ctx)
	if err != nil {
		return failed(err), nil
	}
	versioned, err := r.Versioned(to.GVK)
	if err != nil {
		return failed(err), nil
	}
	ns, asked := plugincel.CreateNamespaceObject(own), r.Review(to)
	full := plugincel.OptionalVariableBindings{VersionedParams: params, Authorizer: v.cfg.Authorizer}
	results, budget, err := p.rules.ForInput(ctx, versioned, asked, full, ns, celconfig.RuntimeCELCostBudget)
	if err != nil {
		return failed(err), nil
	}
	messages, _, messageErr := p.messages.ForInput(ctx, versioned, asked, plugincel.OptionalVariableBindings{VersionedParams: params}, ns, budget)
	for i, one := range results {
		rule := &p.Spec.Validations[i]
		switch {
		case one.Error != nil:
			out = append(out, failed(one.Error)...)
		case errors.Is(messageErr, apicel.ErrInternal) || errors.Is(messageErr, apicel.ErrOutOfBudget):
			out = append(out, failed(fmt.Errorf("failed messageExpression: %w", messageErr))...)
		case one.EvalResult != celtypes.True:
			no := &refusal{policy: p.Name, message: messageOf(rule, messages, i), reason: metav1.StatusReasonInvalid}
			if rule.Reason != nil {
				no.reason = *rule.Reason
			}
			out = append(out, no)
		}
	}
	// There is no audit log to annotate; what fails to evaluate refuses still.
	annotations, _, err := p.annotations.ForInput(ctx, versioned, asked, full, ns, celconfig.RuntimeCELCostBudget)
	if err != nil {
		return failed(err), nil
	}
	for _, one := range annotations {
		if no := failed(one.Error); no != nil && broken == nil {
			broken = no[0]
		}
	}
	return out, broken
}

// messageOf prefers what the message expression gives, if it is one short line.
func messageOf(rule *admissionv1.Validation, messages []plugincel.EvaluationResult, i int) string {
	if i < len(messages) && messages[i].Error == nil && messages[i].EvalResult != nil {
		if text, ok := messages[i].EvalResult.Value().(string); ok {
			text = strings.TrimSpace(text)
			if text != "" && len(text) <= celconfig.MaxEvaluatedMessageExpressionSizeBytes && !strings.Contains(text, "\n") {
				return text
			}
		}
	}
	if rule.Message != "" {
		return strings.TrimSpace(rule.Message)
	}
	return "failed expression: " + strings.TrimSpace(rule.Expression)
}

func (no *refusal) error(r *match.Request) error {
	message := fmt.Sprintf("ValidatingAdmissionPolicy '%s' denied request: %s", no.policy, no.message)
	if no.binding != "" {
		message = fmt.Sprintf("ValidatingAdmissionPolicy '%s' with binding '%s' denied request: %s", no.policy, no.binding, no.message)
	}
	err := admission.Forbidden(r.Attributes, errors.New(message))
	status := &err.ErrStatus
	if status.Reason = no.reason; status.Reason == "" {
		status.Reason = metav1.StatusReasonInvalid
	}
	switch status.Reason {
	case metav1.StatusReasonForbidden:
		status.Code = http.StatusForbidden
	case metav1.StatusReasonUnauthorized:
		status.Code = http.StatusUnauthorized
	case metav1.StatusReasonRequestEntityTooLarge:
		status.Code = http.StatusRequestEntityTooLarge
	default:
		status.Code = http.StatusUnprocessableEntity
	}
	status.Details.Causes = append(status.Details.Causes, metav1.StatusCause{Message: message})
	return err
}
