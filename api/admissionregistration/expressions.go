package admissionregistration

import (
	"errors"
	"fmt"
	"strings"
	"sync"

	celgo "github.com/google/cel-go/cel"
	celtypes "github.com/google/cel-go/common/types"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apimachinery/pkg/util/version"
	plugincel "k8s.io/apiserver/pkg/admission/plugin/cel"
	apicel "k8s.io/apiserver/pkg/cel"
	"k8s.io/apiserver/pkg/cel/environment"

	"github.com/proa-dev/proa/api/validate"
)

// Expression is a CEL expression with the types that it may give.
type Expression struct {
	Name string // of a variable
	Text string
	Type []*celgo.Type
}

// GetExpression returns the text.
func (e *Expression) GetExpression() string { return e.Text }

// ReturnTypes returns the types.
func (e *Expression) ReturnTypes() []*celgo.Type { return e.Type }

// GetName returns the variable's name.
func (e *Expression) GetName() string { return e.Name }

// Condition is an expression that says yes or no.
func Condition(text string) *Expression {
	return &Expression{Text: text, Type: []*celgo.Type{celgo.BoolType}}
}

// Message is an expression that gives a text.
func Message(text string) *Expression {
	return &Expression{Text: text, Type: []*celgo.Type{celgo.StringType}}
}

// Annotation is an expression that gives a text or nothing.
func Annotation(text string) *Expression {
	return &Expression{Text: text, Type: []*celgo.Type{celgo.StringType, celgo.NullType}}
}

// Variable is an expression that gives anything.
func Variable(name, text string) *Expression {
	return &Expression{Name: name, Text: text, Type: []*celgo.Type{celgo.AnyType, celgo.DynType}}
}

// Apply is an expression that gives an object to apply.
func Apply(text string) *Expression {
	return &Expression{Text: text, Type: []*celgo.Type{celtypes.NewObjectType("Object")}}
}

// Patch is an expression that gives the operations of a JSON patch.
func Patch(text string) *Expression {
	return &Expression{Text: text, Type: []*celgo.Type{celgo.ListType(celtypes.NewObjectType("JSONPatch"))}}
}

// expressions are those that an old object holds: they are compiled with all
// that was ever allowed, new ones with what every server of the cluster knows.
type expressions map[string]bool

func (e expressions) conditions(list []admissionv1.MatchCondition) {
	for _, c := range list {
		e[c.Expression] = true
	}
}

func (e expressions) env(text string) environment.Type {
	if e[text] {
		return environment.StoredExpressions
	}
	return environment.NewExpressions
}

// Environment returns what expressions are compiled in.
func Environment() *environment.EnvSet { return bounded() }

// bounded is upstream's environment but for quantities. It is made once and
// never changes.
var bounded = sync.OnceValue(func() *environment.EnvSet {
	base := environment.MustBaseEnvSet(environment.DefaultCompatibilityVersion())
	out, err := base.Extend(environment.VersionedOptions{IntroducedVersion: version.MajorMinor(1, 0), EnvOptions: boundedQuantities()})
	if err != nil {
		panic(err) // as upstream's: it is one of the program
	}
	return out
})

// plain compiles expressions without variables. It is made once, for it takes
// long, and never changes.
var plain = sync.OnceValue(func() plugincel.Compiler { return plugincel.NewCompiler(Environment()) })

// composed returns a compiler that remembers variables.
func composed() (*plugincel.CompositedCompiler, error) {
	return plugincel.NewCompositedCompiler(Environment())
}

func compile(path *field.Path, c plugincel.Compiler, e *Expression, with plugincel.OptionalVariableDeclarations, known expressions) field.ErrorList {
	return celErrors(path, e.Text, c.CompileCELExpression(e, with, known.env(e.Text)))
}

func celErrors(path *field.Path, text string, r plugincel.CompilationResult) field.ErrorList {
	if r.Error == nil {
		return nil
	}
	var wrong *apicel.Error
	if !errors.As(error(r.Error), &wrong) {
		return field.ErrorList{field.InternalError(path, fmt.Errorf("unsupported error type: %w", r.Error))}
	}
	switch wrong.Type {
	case apicel.ErrorTypeRequired:
		return field.ErrorList{field.Required(path, wrong.Detail)}
	case apicel.ErrorTypeInvalid:
		return field.ErrorList{field.Invalid(path, text, wrong.Detail)}
	}
	return field.ErrorList{field.InternalError(path, wrong)}
}

func validateConditions(path *field.Path, list []admissionv1.MatchCondition, params bool, known expressions) field.ErrorList {
	const most = 64
	var errs field.ErrorList
	if len(list) > most {
		return field.ErrorList{field.TooMany(path, len(list), most)}
	}
	seen := sets.New[string]()
	for i, c := range list {
		at := path.Index(i)
		if text := strings.TrimSpace(c.Expression); text == "" {
			errs = append(errs, field.Required(at.Child("expression"), ""))
		} else {
			errs = append(errs, compile(at.Child("expression"), plain(), Condition(text),
				plugincel.OptionalVariableDeclarations{HasParams: params, HasAuthorizer: true}, known)...)
		}
		if c.Name == "" {
			errs = append(errs, field.Required(at.Child("name"), ""))
			continue
		}
		errs = append(errs, validate.QualifiedName(at.Child("name"), c.Name)...)
		if seen.Has(c.Name) {
			errs = append(errs, field.Duplicate(at.Child("name"), c.Name))
		}
		seen.Insert(c.Name)
	}
	return errs
}
