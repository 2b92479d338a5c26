package policy

import (
	"context"

	celtypes "github.com/google/cel-go/common/types"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	plugincel "k8s.io/apiserver/pkg/admission/plugin/cel"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	"k8s.io/apiserver/pkg/cel/environment"

	"github.com/proa-dev/proa/api/admissionregistration"
)

// head is what both kinds of policies have, compiled.
type head struct {
	compiler   *plugincel.CompositedCompiler
	declared   plugincel.OptionalVariableDeclarations
	conditions plugincel.ConditionEvaluator // nil for none
	ignore     bool                         // errors
}

// refuses says that an error of a policy refuses the request.
func refuses(f *admissionv1.FailurePolicyType) bool { return f == nil || *f != admissionv1.Ignore }

func newHead(failure *admissionv1.FailurePolicyType, kind *admissionv1.ParamKind, conditions []admissionv1.MatchCondition, variables []admissionv1.Variable) (*head, error) {
	compiler, err := plugincel.NewCompositedCompiler(admissionregistration.Environment())
	if err != nil {
		return nil, err
	}
	h := &head{
		compiler: compiler, ignore: !refuses(failure),
		declared: plugincel.OptionalVariableDeclarations{HasParams: kind != nil, HasAuthorizer: true},
	}
	for _, v := range variables {
		compiler.CompileAndStoreVariable(admissionregistration.Variable(v.Name, v.Expression), h.declared, environment.StoredExpressions)
	}
	if len(conditions) > 0 {
		list := make([]plugincel.ExpressionAccessor, len(conditions))
		for i, c := range conditions {
			list[i] = admissionregistration.Condition(c.Expression)
		}
		h.conditions = h.compile(list, h.declared)
	}
	return h, nil
}

func (h *head) compile(list []plugincel.ExpressionAccessor, with plugincel.OptionalVariableDeclarations) plugincel.ConditionEvaluator {
	return h.compiler.CompileCondition(list, with, environment.StoredExpressions)
}

// met says that every condition holds. One that does not hold decides, also
// when another one fails.
func (h *head) met(ctx context.Context, c *Config, r *request, v *view, params runtime.Object) (bool, error) {
	if h.conditions == nil {
		return true, nil
	}
	// Conditions see the resource that the request names, whatever the form.
	asked := *v.asked
	asked.Resource = metav1.GroupVersionResource(r.GVR)
	results, _, err := h.conditions.ForInput(ctx, v.VersionedAttributes, &asked,
		plugincel.OptionalVariableBindings{VersionedParams: params, Authorizer: c.Authorizer}, nil, celconfig.RuntimeCELCostBudgetMatchConditions)
	if err != nil {
		return false, err
	}
	var failed []error
	for _, one := range results {
		if one.Error != nil {
			failed = append(failed, one.Error)
		} else if one.EvalResult == celtypes.False {
			return false, nil
		}
	}
	// As upstream words several.
	return len(failed) == 0, utilerrors.NewAggregate(failed)
}
