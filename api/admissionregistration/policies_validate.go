package admissionregistration

import (
	"fmt"
	"strings"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/api/validate/content"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	plugincel "k8s.io/apiserver/pkg/admission/plugin/cel"
	"k8s.io/client-go/util/jsonpath"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/api/validate"
)

// policyChecker validates what both kinds of policies have.
type policyChecker struct {
	compiler plugincel.Compiler
	params   bool
	known    expressions
}

// head checks all but the rules, and gets ready to compile those.
func (c *policyChecker) head(path *field.Path, failure *admissionv1.FailurePolicyType, kind *admissionv1.ParamKind,
	match *admissionv1.MatchResources, conditions []admissionv1.MatchCondition, variables []admissionv1.Variable,
) field.ErrorList {
	c.params = kind != nil
	var errs field.ErrorList
	if failure == nil {
		errs = append(errs, field.Required(path.Child("failurePolicy"), ""))
	} else {
		errs = append(errs, failurePolicy(path.Child("failurePolicy"), *failure)...)
	}
	if kind != nil {
		errs = append(errs, validateParamKind(path.Child("paramKind"), kind)...)
	}
	at := path.Child("matchConstraints")
	if match == nil {
		errs = append(errs, field.Required(at, ""))
	} else {
		errs = append(errs, validateMatch(at, match)...)
		if len(match.ResourceRules) == 0 { // they give expressions their types
			errs = append(errs, field.Required(at.Child("resourceRules"), ""))
		}
	}
	errs = append(errs, validateConditions(path.Child("matchConditions"), conditions, c.params, c.known)...)
	c.compiler = plain()
	if len(variables) == 0 {
		return errs
	}
	compiler, err := composed()
	if err != nil {
		return append(errs, field.InternalError(path.Child("variables"), err))
	}
	c.compiler = compiler
	for i, v := range variables {
		errs = append(errs, c.variable(path.Child("variables").Index(i), compiler, &v)...)
	}
	return errs
}

func (c *policyChecker) declared(authorizer, patches bool) plugincel.OptionalVariableDeclarations {
	return plugincel.OptionalVariableDeclarations{HasParams: c.params, HasAuthorizer: authorizer, HasPatchTypes: patches}
}

func (c *policyChecker) variable(path *field.Path, compiler *plugincel.CompositedCompiler, v *admissionv1.Variable) field.ErrorList {
	var errs field.ErrorList
	if strings.TrimSpace(v.Name) == "" {
		errs = append(errs, field.Required(path.Child("name"), "name is not specified"))
	} else if !identifier(v.Name) {
		errs = append(errs, field.Invalid(path.Child("name"), v.Name, "must be a valid CEL identifier"))
	}
	if strings.TrimSpace(v.Expression) == "" {
		return append(errs, field.Required(path.Child("expression"), "expression is not specified"))
	}
	result := compiler.CompileAndStoreVariable(Variable(v.Name, v.Expression), c.declared(true, false), c.known.env(v.Expression))
	return append(errs, celErrors(path.Child("expression"), v.Expression, result)...)
}

// identifier says that CEL takes a name for a variable's.
func identifier(name string) bool {
	switch name {
	case "true", "false", "null", "in", "as", "break", "const", "continue", "else", "for", "function", "if", "import", "let",
		"loop", "package", "namespace", "return", "var", "void", "while":
		return false
	}
	return len(content.IsCIdentifier(name)) == 0
}

func validateParamKind(path *field.Path, k *admissionv1.ParamKind) field.ErrorList {
	var errs field.ErrorList
	at := path.Child("apiVersion")
	gv, err := schema.ParseGroupVersion(k.APIVersion)
	switch {
	case k.APIVersion == "":
		errs = append(errs, field.Required(at, ""))
	case err != nil:
		errs = append(errs, field.Invalid(at, k.APIVersion, err.Error()))
	default:
		if why := validation.IsDNS1123Subdomain(gv.Group); gv.Group != "" && len(why) > 0 {
			errs = append(errs, field.Invalid(at, gv.Group, strings.Join(why, ",")))
		}
		if gv.Version == "" {
			errs = append(errs, field.Invalid(at, k.APIVersion, "version must be specified"))
		} else if why := validation.IsDNS1035Label(gv.Version); len(why) > 0 {
			errs = append(errs, field.Invalid(at, gv.Version, strings.Join(why, ",")))
		}
	}
	if k.Kind == "" {
		errs = append(errs, field.Required(path.Child("kind"), ""))
	} else if why := validation.IsDNS1035Label(strings.ToLower(k.Kind)); len(why) > 0 {
		errs = append(errs, field.Invalid(path.Child("kind"), k.Kind, "may have mixed case, but should otherwise match: "+strings.Join(why, ",")))
	}
	return errs
}

// validateValidating checks a policy in view of the old one, nil for none.
func validateValidating(p, old *admissionv1.ValidatingAdmissionPolicy) field.ErrorList {
	s, path, c := &p.Spec, field.NewPath("spec"), &policyChecker{known: expressions{}}
	conditions := s.MatchConditions
	if old != nil {
		if api.Equal(s.ParamKind, old.Spec.ParamKind) && api.Equal(&conditions, &old.Spec.MatchConditions) {
			conditions = nil // they were valid before
		}
		c.known.conditions(old.Spec.MatchConditions)
		for _, v := range old.Spec.Validations {
			c.known[v.Expression], c.known[v.MessageExpression] = true, true
		}
		for _, v := range old.Spec.Variables {
			c.known[v.Expression] = true
		}
		for _, a := range old.Spec.AuditAnnotations {
			c.known[a.ValueExpression] = true
		}
	}
	errs := c.head(path, s.FailurePolicy, s.ParamKind, s.MatchConstraints, conditions, s.Variables)
	rules, annotations := path.Child("validations"), path.Child("auditAnnotations")
	if len(s.Validations) == 0 && len(s.AuditAnnotations) == 0 {
		const one = "validations or auditAnnotations must contain at least one item"
		return append(errs, field.Required(rules, one), field.Required(annotations, one))
	}
	for i := range s.Validations {
		errs = append(errs, c.validation(rules.Index(i), &s.Validations[i])...)
	}
	const most = 20
	if len(s.AuditAnnotations) > most {
		errs = append(errs, field.Invalid(annotations, s.AuditAnnotations, fmt.Sprintf("must not have more than %d auditAnnotations", most)))
	}
	seen := sets.New[string]()
	for i, a := range s.AuditAnnotations {
		errs = append(errs, c.annotation(annotations.Index(i), p.Name, &a)...)
		if seen.Has(a.Key) {
			errs = append(errs, field.Duplicate(annotations.Index(i).Child("key"), a.Key))
		}
		seen.Insert(a.Key)
	}
	return errs
}

func (c *policyChecker) validation(path *field.Path, v *admissionv1.Validation) field.ErrorList {
	var errs field.ErrorList
	if strings.TrimSpace(v.Expression) == "" {
		errs = append(errs, field.Required(path.Child("expression"), "expression is not specified"))
	} else {
		errs = append(errs, compile(path.Child("expression"), c.compiler, Condition(v.Expression), c.declared(true, false), c.known)...)
	}
	if at := path.Child("messageExpression"); v.MessageExpression != "" {
		if strings.TrimSpace(v.MessageExpression) == "" {
			errs = append(errs, field.Invalid(at, v.MessageExpression, "must be non-empty if specified"))
		} else {
			errs = append(errs, compile(at, c.compiler, Message(v.MessageExpression), c.declared(false, false), c.known)...)
		}
	}
	message := strings.TrimSpace(v.Message)
	switch at := path.Child("message"); {
	case v.Message != "" && message == "":
		errs = append(errs, field.Invalid(at, v.Message, "must be non-empty if specified"))
	case strings.ContainsAny(message, "\n\r"):
		errs = append(errs, field.Invalid(at, v.Message, "must not contain line breaks"))
	}
	if v.Reason != nil {
		errs = append(errs, validate.OneOf(path.Child("reason"), *v.Reason,
			metav1.StatusReasonForbidden, metav1.StatusReasonInvalid, metav1.StatusReasonRequestEntityTooLarge)...)
	}
	return errs
}

func (c *policyChecker) annotation(path *field.Path, policy string, a *admissionv1.AuditAnnotation) field.ErrorList {
	const longest = 5 << 10
	var errs field.ErrorList
	if policy == "" {
		errs = append(errs, field.Invalid(path.Child("key"), a.Key, "requires metadata.name be non-empty"))
	} else {
		errs = append(errs, validate.QualifiedName(path.Child("key"), policy+"/"+a.Key)...)
	}
	at, text := path.Child("valueExpression"), strings.TrimSpace(a.ValueExpression)
	switch {
	case text == "":
		errs = append(errs, field.Required(at, "valueExpression is not specified"))
	case len(text) > longest:
		errs = append(errs, field.Required(at, fmt.Sprintf("must not exceed %d bytes in length", longest)))
	default:
		errs = append(errs, compile(at, c.compiler, Annotation(text), c.declared(true, false), c.known)...)
	}
	return errs
}

func validateStatus(s *admissionv1.ValidatingAdmissionPolicyStatus) field.ErrorList {
	path := field.NewPath("status")
	var errs field.ErrorList
	if s.TypeChecking != nil {
		for i, w := range s.TypeChecking.ExpressionWarnings {
			at := path.Child("typeChecking", "expressionWarnings").Index(i)
			errs = append(errs, validate.Required(at.Child("warning"), w.Warning)...)
			ref := strings.TrimSpace(w.FieldRef)
			if ref == "" {
				errs = append(errs, field.Required(at.Child("fieldRef"), ""))
			} else if err := jsonpath.New("spec").Parse("{" + ref + "}"); err != nil {
				errs = append(errs, field.Invalid(at.Child("fieldRef"), ref, fmt.Sprintf("invalid JSONPath: %v", err)))
			}
		}
	}
	return append(errs, metavalidation.ValidateConditions(s.Conditions, path.Child("conditions"))...)
}

// validateMutating checks a policy in view of the old one, nil for none.
func validateMutating(p, old *admissionv1.MutatingAdmissionPolicy) field.ErrorList {
	s, path, c := &p.Spec, field.NewPath("spec"), &policyChecker{known: expressions{}}
	conditions := s.MatchConditions
	if old != nil {
		if api.Equal(s.ParamKind, old.Spec.ParamKind) && api.Equal(&conditions, &old.Spec.MatchConditions) {
			conditions = nil // they were valid before
		}
		c.known.conditions(old.Spec.MatchConditions)
		for _, v := range old.Spec.Variables {
			c.known[v.Expression] = true
		}
		for _, m := range old.Spec.Mutations {
			if m.ApplyConfiguration != nil {
				c.known[strings.TrimSpace(m.ApplyConfiguration.Expression)] = true
			}
			if m.JSONPatch != nil {
				c.known[strings.TrimSpace(m.JSONPatch.Expression)] = true
			}
		}
	}
	errs := c.head(path, s.FailurePolicy, s.ParamKind, s.MatchConstraints, conditions, s.Variables)
	errs = append(errs, mutableOnly(path.Child("matchConstraints"), s.MatchConstraints)...)
	if len(s.Mutations) == 0 {
		errs = append(errs, field.Required(path.Child("mutations"), "mutations must contain at least one item"))
	}
	for i := range s.Mutations {
		errs = append(errs, c.mutation(path.Child("mutations").Index(i), &s.Mutations[i])...)
	}
	if s.ReinvocationPolicy == "" {
		return append(errs, field.Required(path.Child("reinvocationPolicy"), ""))
	}
	return append(errs, reinvocation(path.Child("reinvocationPolicy"), s.ReinvocationPolicy)...)
}

func (c *policyChecker) mutation(path *field.Path, m *admissionv1.Mutation) field.ErrorList {
	var errs field.ErrorList
	expression := func(at *field.Path, text string, as func(string) *Expression) {
		if text = strings.TrimSpace(text); text == "" {
			errs = append(errs, field.Required(at.Child("expression"), ""))
			return
		}
		errs = append(errs, compile(at.Child("expression"), c.compiler, as(text), c.declared(true, true), c.known)...)
	}
	patch, apply := path.Child("jsonPatch"), path.Child("applyConfiguration")
	switch m.PatchType {
	case admissionv1.PatchTypeJSONPatch:
		if m.JSONPatch == nil {
			errs = append(errs, field.Required(patch, "must be specified when patchType is JSONPatch"))
		} else {
			expression(patch, m.JSONPatch.Expression, Patch)
		}
		if m.ApplyConfiguration != nil {
			errs = append(errs, field.Invalid(apply, "{applyConfiguration}", "must not be specified when patchType is JSONPatch"))
		}
	case admissionv1.PatchTypeApplyConfiguration:
		if m.ApplyConfiguration == nil {
			errs = append(errs, field.Required(apply, "must be specified when patchType is ApplyConfiguration"))
		} else {
			expression(apply, m.ApplyConfiguration.Expression, Apply)
		}
		if m.JSONPatch != nil {
			errs = append(errs, field.Invalid(patch, "{jsonPatch}", "must not be specified when patchType is ApplyConfiguration"))
		}
	default:
		return validate.RequiredOneOf(path.Child("patchType"), m.PatchType, admissionv1.PatchTypeApplyConfiguration, admissionv1.PatchTypeJSONPatch)
	}
	return errs
}

func validateBinding(path *field.Path, policy string, ref *admissionv1.ParamRef, match *admissionv1.MatchResources) field.ErrorList {
	var errs field.ErrorList
	if policy == "" {
		errs = append(errs, field.Required(path.Child("policyName"), ""))
	} else {
		errs = append(errs, validate.Subdomain(path.Child("policyName"), policy)...)
	}
	if ref != nil {
		errs = append(errs, validateParamRef(path.Child("paramRef"), ref)...)
	}
	return append(errs, validateMatch(path.Child("matchResources"), match)...)
}

func validateParamRef(path *field.Path, r *admissionv1.ParamRef) field.ErrorList {
	const exclusive = "name and selector are mutually exclusive"
	var errs field.ErrorList
	if r.Name != "" {
		errs = append(errs, validate.Messages(path.Child("name"), r.Name, content.IsPathSegmentName(r.Name))...)
		if r.Selector != nil {
			errs = append(errs, field.Forbidden(path.Child("name"), exclusive))
		}
	}
	if r.Selector != nil {
		errs = append(errs, validate.Selector(path.Child("selector"), r.Selector, false)...)
		if r.Name != "" {
			errs = append(errs, field.Forbidden(path.Child("selector"), exclusive))
		}
	}
	if r.Name == "" && r.Selector == nil {
		errs = append(errs, field.Required(path, "one of name or selector must be specified"))
	}
	if a := r.ParameterNotFoundAction; a == nil || *a == "" {
		errs = append(errs, field.Required(path.Child("parameterNotFoundAction"), ""))
	} else if *a != admissionv1.DenyAction && *a != admissionv1.AllowAction {
		errs = append(errs, field.NotSupported(path.Child("parameterNotFoundAction"), *a,
			[]admissionv1.ParameterNotFoundActionType{admissionv1.DenyAction, admissionv1.AllowAction}))
	}
	return errs
}

func validateValidatingBinding(b *admissionv1.ValidatingAdmissionPolicyBinding) field.ErrorList {
	s, path := &b.Spec, field.NewPath("spec")
	errs := validateBinding(path, s.PolicyName, s.ParamRef, s.MatchResources)
	at, seen := path.Child("validationActions"), sets.New[admissionv1.ValidationAction]()
	for i, a := range s.ValidationActions {
		errs = append(errs, validate.OneOf(at.Index(i), a, admissionv1.Audit, admissionv1.Deny, admissionv1.Warn)...)
		if seen.Has(a) {
			errs = append(errs, field.Duplicate(at.Index(i), a))
		}
		seen.Insert(a)
	}
	if seen.HasAll(admissionv1.Deny, admissionv1.Warn) {
		errs = append(errs, field.Invalid(at, s.ValidationActions, "must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)"))
	}
	if len(seen) == 0 {
		errs = append(errs, field.Required(at, "at least one validation action is required"))
	}
	return errs
}

func validateMutatingBinding(b *admissionv1.MutatingAdmissionPolicyBinding) field.ErrorList {
	s, path := &b.Spec, field.NewPath("spec")
	errs := validateBinding(path, s.PolicyName, s.ParamRef, s.MatchResources)
	return append(errs, mutableOnly(path.Child("matchResources"), s.MatchResources)...)
}
