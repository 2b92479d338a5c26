package match

import (
	"context"

	celtypes "github.com/google/cel-go/common/types"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	plugincel "k8s.io/apiserver/pkg/admission/plugin/cel"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	"k8s.io/apiserver/pkg/cel/environment"

	"github.com/proa-dev/proa/api/admissionregistration"
)

// Compiler makes evaluators of expressions; those of k8s.io/apiserver do.
type Compiler interface {
	CompileCondition(list []plugincel.ExpressionAccessor, with plugincel.OptionalVariableDeclarations, env environment.Type) plugincel.ConditionEvaluator
}

// Conditions are match conditions, compiled. Nil are none.
type Conditions struct{ evaluator plugincel.ConditionEvaluator }

// Compile compiles conditions that are stored.
func Compile(c Compiler, list []admissionv1.MatchCondition, params bool) *Conditions {
	if len(list) == 0 {
		return nil
	}
	expressions := make([]plugincel.ExpressionAccessor, len(list))
	for i, m := range list {
		expressions[i] = admissionregistration.Condition(m.Expression)
	}
	return &Conditions{c.CompileCondition(expressions, plugincel.OptionalVariableDeclarations{HasParams: params, HasAuthorizer: true}, environment.StoredExpressions)}
}

// Met says that every condition holds. One that does not hold decides, also
// when another one fails; failed counts those.
func (c *Conditions) Met(ctx context.Context, r *Request, to Target, with plugincel.OptionalVariableBindings) (met bool, failed int, err error) {
	if c == nil {
		return true, 0, nil
	}
	v, err := r.Versioned(to.GVK)
	if err != nil {
		return false, 0, err
	}
	results, _, err := c.evaluator.ForInput(ctx, v, r.Review(to), with, nil, celconfig.RuntimeCELCostBudgetMatchConditions)
	if err != nil {
		return false, 0, err
	}
	var faults []error
	for _, one := range results {
		if one.Error != nil {
			faults = append(faults, one.Error)
		} else if one.EvalResult == celtypes.False {
			return false, len(faults), nil
		}
	}
	return len(faults) == 0, len(faults), utilerrors.NewAggregate(faults)
}
