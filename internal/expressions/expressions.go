// Package expressions bounds what CEL expressions compute.
//
// What expressions read is chosen by whoever writes an object or offers a
// device, and no cost limit ends the arithmetic of a quantity out of all bounds:
// to the limit, quantity("1e-1000000000") is one call. So the functions of
// upstream's library that read quantities are replaced, and format is kept from
// writing a million digits at the cost of a few.
//
// They are replaced in upstream's base environment itself, before anything can
// use it: the rules of custom resources and the selectors of devices are compiled
// by packages of upstream that take no other. Whoever lets one of those evaluate
// expressions imports this package.
package expressions

import (
	"fmt"
	"strings"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/functions"
	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/version"
	apicel "k8s.io/apiserver/pkg/cel"
	"k8s.io/apiserver/pkg/cel/environment"

	"github.com/proa-dev/proa/internal/quantities"
)

// base is made before main: from then on everybody reads it, and nobody writes.
var base = bounded()

// Environment is what expressions are compiled in that are going to be
// evaluated. It is upstream's base environment, bounded.
func Environment() *environment.EnvSet { return base }

func bounded() *environment.EnvSet {
	set := environment.MustBaseEnvSet(environment.DefaultCompatibilityVersion())
	format, err := binding(set.StoredExpressionsEnv(), "format", "string_format")
	if err != nil {
		panic(err) // as upstream's: it is one of the program
	}
	better, err := set.Extend(environment.VersionedOptions{IntroducedVersion: version.MajorMinor(1, 0), EnvOptions: []cel.EnvOption{
		cel.Function("quantity", cel.Overload("string_to_quantity", []*cel.Type{cel.StringType}, apicel.QuantityType, cel.UnaryBinding(quantity))),
		cel.Function("isQuantity", cel.Overload("is_quantity_string", []*cel.Type{cel.StringType}, cel.BoolType, cel.UnaryBinding(isQuantity))),
		cel.Function("format", cel.MemberOverload("string_format", []*cel.Type{cel.StringType, cel.ListType(cel.DynType)}, cel.StringType, cel.FunctionBinding(precise(format)))),
	}})
	if err != nil {
		panic(err)
	}
	*set = *better
	return set
}

// binding is what an overload of a function does.
func binding(env *cel.Env, function, overload string) (functions.FunctionOp, error) {
	all, err := env.Functions()[function].Bindings()
	if err != nil {
		return nil, err
	}
	for _, b := range all {
		if b.Operator == overload && b.Function != nil {
			return b.Function, nil
		}
	}
	return nil, fmt.Errorf("the library has no %s", overload)
}

// precise is the function format for texts that ask for less than a thousand
// digits.
func precise(format functions.FunctionOp) functions.FunctionOp {
	const most = 3
	return func(args ...ref.Val) ref.Val {
		text, ok := args[0].Value().(string)
		if !ok {
			return types.MaybeNoSuchOverloadErr(args[0])
		}
		for i := 0; i < len(text); i++ {
			if text[i] != '%' {
				continue
			}
			i++ // what follows is a precision, a verb, or another %
			if i == len(text) || text[i] != '.' {
				continue
			}
			digits := len(text[i+1:]) - len(strings.TrimLeft(text[i+1:], "0123456789"))
			if digits > most {
				return types.NewErr("precision of %d digits exceeds the maximum of %d", digits, most)
			}
		}
		return format(args...)
	}
}

func quantity(arg ref.Val) ref.Val {
	text, ok := arg.Value().(string)
	if !ok {
		return types.MaybeNoSuchOverloadErr(arg)
	}
	if err := quantities.Check(text); err != nil {
		return types.WrapErr(err)
	}
	q, err := resource.ParseQuantity(text)
	if err != nil {
		return types.WrapErr(err)
	}
	return apicel.Quantity{Quantity: &q}
}

func isQuantity(arg ref.Val) ref.Val {
	text, ok := arg.Value().(string)
	if !ok {
		return types.MaybeNoSuchOverloadErr(arg)
	}
	if quantities.Check(text) != nil {
		return types.False
	}
	_, err := resource.ParseQuantity(text)
	return types.Bool(err == nil)
}
