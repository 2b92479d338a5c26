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
	bindings                     []*admissionv1.ValidatingAdmissionPolicyBinding
}

func compileValidating(o api.Object) *validating {
	p := &validating{ValidatingAdmissionPolicy: o.(*admissionv1.ValidatingAdmissionPolicy)}
	s := &p.Spec
	if p.head, p.err = newHead(s.FailurePolicy, s.ParamKind, s.MatchConditions, s.Variables); p.err != nil {
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
	policy  *validating
	binding *admissionv1.ValidatingAdmissionPolicyBinding
	message string
	reason  metav1.StatusReason
}

// Validate implements admission.Validator. Every policy is heard, for some warn;
// the first that denies gives the answer.
func (v *Validating) Validate(ctx context.Context, a *admission.Attributes) error {
	if exempt(a) {
		return nil
	}
	policies := v.policies.get(v.cfg.Lookup.Source,
		func(b api.Object) string { return b.(*admissionv1.ValidatingAdmissionPolicyBinding).Spec.PolicyName },
		compileValidating,
		func(p *validating, bindings []api.Object) *validating {
			bound := *p
			bound.bindings = nil
			for _, b := range bindings {
				bound.bindings = append(bound.bindings, b.(*admissionv1.ValidatingAdmissionPolicyBinding))
			}
			return &bound
		})
	if len(policies) == 0 {
		return nil
	}
	r, err := newRequest(ctx, &v.cfg, a)
	if err != nil {
		return admission.Forbidden(a, err)
	}
	var first *refusal
	for _, p := range policies {
		if no := v.policy(ctx, r, p); first == nil && no != nil {
			first = no
		}
	}
	if first != nil {
		return first.error(r)
	}
	return nil
}

// policy returns the first reason of a policy to deny.
func (v *Validating) policy(ctx context.Context, r *request, p *validating) *refusal {
	f, ok, err := r.matches(p.Spec.MatchConstraints)
	if err == nil && !ok {
		return nil
	}
	if err == nil {
		err = p.err
	}
	var kind *api.Kind
	if err == nil {
		kind, err = r.paramKind(p.Spec.ParamKind)
	}
	if err != nil {
		return p.misconfigured(nil, fmt.Errorf("failed to configure policy: %w", err))
	}
	var first *refusal
	for _, b := range p.bindings {
		no, err := v.binding(ctx, r, p, b, f, kind)
		if err != nil {
			no = p.misconfigured(b, fmt.Errorf("failed to configure binding: %w", err))
		}
		if first == nil {
			first = no
		}
	}
	return first
}

// misconfigured refuses, unless the policy says to ignore errors.
func (p *validating) misconfigured(b *admissionv1.ValidatingAdmissionPolicyBinding, err error) *refusal {
	if !refuses(p.Spec.FailurePolicy) {
		return nil
	}
	return &refusal{policy: p, binding: b, message: err.Error()}
}

// binding returns the first reason to deny for all parameters; an error says
// that the binding cannot be used.
func (v *Validating) binding(ctx context.Context, r *request, p *validating, b *admissionv1.ValidatingAdmissionPolicyBinding, f form, kind *api.Kind) (*refusal, error) {
	_, ok, err := r.matches(b.Spec.MatchResources)
	if err != nil || !ok {
		return nil, err
	}
	params, err := v.cfg.params(ctx, r, kind, b.Spec.ParamRef)
	if err != nil || len(params) == 0 {
		return nil, err
	}
	seen, err := r.as(f)
	if err != nil {
		return nil, err
	}
	var first *refusal
	for _, param := range params {
		found, broken := v.evaluate(ctx, r, seen, p, param)
		for _, no := range found {
			no.binding = b
			for _, action := range b.Spec.ValidationActions {
				switch {
				case action == admissionv1.Deny && first == nil:
					first = no
				case action == admissionv1.Warn:
					r.Warn(fmt.Sprintf("Validation failed for ValidatingAdmissionPolicy '%s' with binding '%s': %s", p.Name, b.Name, no.message))
				}
			}
		}
		if broken != nil && first == nil {
			broken.binding = b
			first = broken
		}
	}
	return first, nil
}

// evaluate returns why the request is refused for one set of parameters. broken
// refuses it whatever the binding does about failures: an audit annotation
// could not be made.
func (v *Validating) evaluate(ctx context.Context, r *request, seen *view, p *validating, params runtime.Object) (found []*refusal, broken *refusal) {
	failed := func(err error) []*refusal {
		if p.ignore || err == nil {
			return nil
		}
		return []*refusal{{policy: p, message: err.Error()}}
	}
	met, err := p.met(ctx, &v.cfg, r, seen, params)
	if err != nil {
		return failed(err), nil
	}
	if !met {
		return nil, nil
	}
	ns := plugincel.CreateNamespaceObject(r.namespace)
	full := plugincel.OptionalVariableBindings{VersionedParams: params, Authorizer: v.cfg.Authorizer}
	alone := plugincel.OptionalVariableBindings{VersionedParams: params}
	results, budget, err := p.rules.ForInput(ctx, seen.VersionedAttributes, seen.asked, full, ns, celconfig.RuntimeCELCostBudget)
	if err != nil {
		return failed(err), nil
	}
	messages, _, messageErr := p.messages.ForInput(ctx, seen.VersionedAttributes, seen.asked, alone, ns, budget)
	for i, one := range results {
		rule := &p.Spec.Validations[i]
		switch {
		case one.Error != nil:
			found = append(found, failed(one.Error)...)
		case errors.Is(messageErr, apicel.ErrInternal) || errors.Is(messageErr, apicel.ErrOutOfBudget):
			found = append(found, failed(fmt.Errorf("failed messageExpression: %w", messageErr))...)
		case one.EvalResult != celtypes.True:
			no := &refusal{policy: p, message: messageOf(rule, messages, i), reason: metav1.StatusReasonInvalid}
			if rule.Reason != nil {
				no.reason = *rule.Reason
			}
			found = append(found, no)
		}
	}
	// There is no audit log to annotate; what fails to evaluate refuses still.
	annotations, _, err := p.annotations.ForInput(ctx, seen.VersionedAttributes, seen.asked, full, ns, celconfig.RuntimeCELCostBudget)
	if err != nil {
		return failed(err), nil
	}
	for _, one := range annotations {
		if no := failed(one.Error); no != nil && broken == nil {
			broken = no[0]
		}
	}
	return found, broken
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

func (no *refusal) error(r *request) error {
	message := fmt.Sprintf("ValidatingAdmissionPolicy '%s' denied request: %s", no.policy.Name, no.message)
	if no.binding != nil {
		message = fmt.Sprintf("ValidatingAdmissionPolicy '%s' with binding '%s' denied request: %s", no.policy.Name, no.binding.Name, no.message)
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
