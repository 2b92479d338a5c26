package policy

import (
	"context"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/runtime"
	plugincel "k8s.io/apiserver/pkg/admission/plugin/cel"
	"k8s.io/apiserver/pkg/cel/environment"

	"github.com/proa-dev/proa/api/admissionregistration"
	"github.com/proa-dev/proa/apiserver/admission/match"
	"github.com/proa-dev/proa/internal/expressions"
)

// head is what both kinds of policies have, compiled.
type head struct {
	compiler   *plugincel.CompositedCompiler
	declared   plugincel.OptionalVariableDeclarations
	conditions *match.Conditions
	criteria   *match.Criteria
	ignore     bool // errors
}

// refuses says that an error of a policy refuses the request.
func refuses(f *admissionv1.FailurePolicyType) bool { return f == nil || *f != admissionv1.Ignore }

func newHead(failure *admissionv1.FailurePolicyType, m *admissionv1.MatchResources, kind *admissionv1.ParamKind, conditions []admissionv1.MatchCondition, variables []admissionv1.Variable) (*head, error) {
	compiler, err := plugincel.NewCompositedCompiler(expressions.Environment())
	if err != nil {
		return nil, err
	}
	h := &head{
		compiler: compiler, criteria: match.Resources(m), ignore: !refuses(failure),
		declared: plugincel.OptionalVariableDeclarations{HasParams: kind != nil, HasAuthorizer: true},
	}
	for _, v := range variables {
		compiler.CompileAndStoreVariable(admissionregistration.Variable(v.Name, v.Expression), h.declared, environment.StoredExpressions)
	}
	h.conditions = match.Compile(compiler, conditions, kind != nil)
	return h, nil
}

func (h *head) compile(list []plugincel.ExpressionAccessor, with plugincel.OptionalVariableDeclarations) plugincel.ConditionEvaluator {
	return h.compiler.CompileCondition(list, with, environment.StoredExpressions)
}

// met says that every condition holds.
func (h *head) met(ctx context.Context, c Config, r *match.Request, to match.Target, params runtime.Object) (bool, error) {
	met, _, err := h.conditions.Met(ctx, r, to, plugincel.OptionalVariableBindings{VersionedParams: params, Authorizer: c.Authorizer})
	return met, err
}
