package policystatus

import (
	"cmp"
	"fmt"
	"log/slog"
	"slices"
	"strings"

	"github.com/google/cel-go/cel"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apimachinery/pkg/util/version"
	plugincel "k8s.io/apiserver/pkg/admission/plugin/cel"
	apicel "k8s.io/apiserver/pkg/cel"
	"k8s.io/apiserver/pkg/cel/common"
	"k8s.io/apiserver/pkg/cel/environment"
	"k8s.io/apiserver/pkg/cel/library"
	"k8s.io/apiserver/pkg/cel/openapi"

	"github.com/proa-dev/proa/api/admissionregistration"
)

// maxTypes bounds the types that the expressions of a policy are checked with.
const maxTypes = 10

// checker types the expressions of policies.
type checker struct {
	cfg    Config
	logger *slog.Logger
}

// check returns what is wrong with a policy's expressions, each with all the
// kinds for which it is.
func (c *checker) check(p *admissionv1.ValidatingAdmissionPolicy) []admissionv1.ExpressionWarning {
	type expression struct{ at, text string }
	var all []expression
	path := field.NewPath("spec", "validations")
	for i, v := range p.Spec.Validations {
		all = append(all, expression{path.Index(i).Child("expression").String(), v.Expression})
		if v.MessageExpression != "" {
			all = append(all, expression{path.Index(i).Child("messageExpression").String(), v.MessageExpression})
		}
	}
	var params *apicel.DeclType
	if k := p.Spec.ParamKind; k != nil {
		params = c.typeOf(schema.FromAPIVersionAndKind(k.APIVersion, k.Kind), "Params")
	}
	wrong := make([][]string, len(all))
	for _, gvk := range c.kinds(p) {
		object := c.typeOf(gvk, "Object")
		if object == nil {
			continue
		}
		compiler, err := newCompiler(object, params, p.Spec.ParamKind != nil)
		if err != nil {
			c.logger.Error("type the expressions of a policy", "policy", p.Name, "kind", gvk, "error", err)
			continue
		}
		with := plugincel.OptionalVariableDeclarations{HasParams: p.Spec.ParamKind != nil, HasAuthorizer: true}
		for _, v := range p.Spec.Variables {
			compiler.CompileAndStoreVariable(admissionregistration.Variable(v.Name, v.Expression), with, environment.StoredExpressions)
		}
		for i, e := range all {
			if r := compiler.CompileCELExpression(admissionregistration.Variable("", e.text), with, environment.StoredExpressions); r.Error != nil {
				wrong[i] = append(wrong[i], describe(gvk, r.Error))
			}
		}
	}
	var out []admissionv1.ExpressionWarning
	for i, w := range wrong {
		if len(w) > 0 {
			out = append(out, admissionv1.ExpressionWarning{FieldRef: all[i].at, Warning: strings.Join(w, "\n")})
		}
	}
	return out
}

func describe(gvk schema.GroupVersionKind, err *apicel.Error) string {
	if err.Type == apicel.ErrorTypeInvalid {
		return fmt.Sprintf("%v: %s\n", gvk, err)
	}
	return fmt.Sprintf("%v: type checking error: %v\n", gvk, err)
}

// kinds are those that a policy names, in order. What it names by wildcards is
// left out: that could be anything.
func (c *checker) kinds(p *admissionv1.ValidatingAdmissionPolicy) []schema.GroupVersionKind {
	if p.Spec.MatchConstraints == nil {
		return nil
	}
	var out []schema.GroupVersionKind
	served := c.cfg.Kinds()
	for _, r := range p.Spec.MatchConstraints.ResourceRules {
		wild := func(s string) bool { return strings.Contains(s, "*") }
		if slices.ContainsFunc(r.APIGroups, wild) || slices.ContainsFunc(r.APIVersions, wild) {
			continue
		}
		for _, k := range served {
			// Without a group upstream's mapper takes the resource of any group.
			group := slices.Contains(r.APIGroups, k.GVK.Group) || slices.Contains(r.APIGroups, "")
			if group && slices.Contains(r.APIVersions, k.GVK.Version) && slices.Contains(r.Resources, k.Resource) && !slices.Contains(out, k.GVK) {
				out = append(out, k.GVK)
			}
		}
	}
	slices.SortFunc(out, func(a, b schema.GroupVersionKind) int {
		return cmp.Or(strings.Compare(a.Group, b.Group), strings.Compare(a.Version, b.Version), strings.Compare(a.Kind, b.Kind))
	})
	return out[:min(len(out), maxTypes)]
}

// typeOf is the type of a kind, nil if that is not known. suffix tells the types
// of one compiler apart.
func (c *checker) typeOf(gvk schema.GroupVersionKind, suffix string) *apicel.DeclType {
	s, err := c.cfg.Schema(gvk)
	if err != nil {
		c.logger.Warn("find the schema of a kind that a policy names", "kind", gvk, "error", err)
	}
	if s == nil || err != nil {
		return nil
	}
	t := common.SchemaDeclType(&openapi.Schema{Schema: s}, true)
	if t == nil {
		return nil
	}
	return t.MaybeAssignTypeName(gvk.Kind + suffix)
}

// typed compiles as the compiler of policies does, but with types, any result,
// and no program.
type typed struct{ compiler *plugincel.CompositedCompiler }

// CompileCELExpression implements plugincel.Compiler.
func (t typed) CompileCELExpression(e plugincel.ExpressionAccessor, _ plugincel.OptionalVariableDeclarations, mode environment.Type) plugincel.CompilationResult {
	failed := func(kind apicel.ErrorType, detail string) plugincel.CompilationResult {
		return plugincel.CompilationResult{Error: &apicel.Error{Type: kind, Detail: detail}, ExpressionAccessor: e}
	}
	env, err := t.compiler.Env(mode)
	if err != nil {
		return failed(apicel.ErrorTypeInternal, fmt.Sprintf("fail to build env: %v", err))
	}
	ast, issues := env.Compile(e.GetExpression())
	if issues != nil {
		return failed(apicel.ErrorTypeInvalid, issues.String())
	}
	return plugincel.CompilationResult{OutputType: ast.OutputType()}
}

// newCompiler makes a compiler of expressions over an object of a type. A nil
// type of params is any.
func newCompiler(object, params *apicel.DeclType, hasParams bool) (*plugincel.CompositedCompiler, error) {
	request, namespace := plugincel.BuildRequestType(), plugincel.BuildNamespaceType()
	declared := []*apicel.DeclType{namespace, request, object}
	variables := []cel.EnvOption{
		cel.Variable(plugincel.NamespaceVarName, namespace.CelType()),
		cel.Variable(plugincel.RequestVarName, request.CelType()),
		cel.Variable(plugincel.ObjectVarName, object.CelType()),
		cel.Variable(plugincel.OldObjectVarName, object.CelType()),
		cel.Variable("authorizer", library.AuthorizerType),
	}
	if hasParams {
		t := cel.DynType
		if params != nil {
			t, declared = params.CelType(), append(declared, params)
		}
		variables = append(variables, cel.Variable(plugincel.ParamsVarName, t))
	}
	env, err := admissionregistration.Environment().Extend(environment.VersionedOptions{
		IntroducedVersion: version.MajorMinor(1, 0), EnvOptions: variables, DeclTypes: declared,
	})
	if err != nil {
		return nil, err
	}
	compiler, err := plugincel.NewCompositedCompilerForTypeChecking(env)
	if err != nil {
		return nil, err
	}
	compiler.Compiler = typed{compiler}
	return compiler, nil
}
