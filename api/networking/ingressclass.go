package networking

import (
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/api/validate"
)

// IngressClass is the kind of ingress classes.
func IngressClass() *api.Kind {
	type C = *networkingv1.IngressClass
	name := api.NameColumn()
	name.Value = func(o api.Object) any {
		if o.GetAnnotations()[networkingv1.AnnotationIsDefaultIngressClass] == "true" {
			return o.GetName() + " (default)"
		}
		return o.GetName()
	}
	return &api.Kind{
		GVK:         gvk("IngressClass"),
		Resource:    "ingressclasses",
		New:         api.Maker[networkingv1.IngressClass](),
		NewList:     api.ListMaker[networkingv1.IngressClassList](),
		StoragePath: "ingressclasses",
		Columns: []api.Column{
			name,
			api.Col("Controller", "string", "What serves the class.", func(c C) any { return c.Spec.Controller }),
			api.Col("Parameters", "string", "Where its parameters are.", func(c C) any { return parametersText(c.Spec.Parameters) }),
			api.AgeColumn(),
		},
		Default: api.On(func(c C) {
			if p := c.Spec.Parameters; p != nil && p.Scope == nil {
				p.Scope = ptr.To(networkingv1.IngressClassParametersReferenceScopeCluster)
			}
		}),
		PrepareCreate: api.On(func(c C) { c.Generation = 1 }),
		PrepareUpdate: api.OnUpdate(func(c, old C) { api.BumpGeneration(c, old, &c.Spec, &old.Spec) }),
		Validate:      api.Check(validateIngressClass),
		ValidateUpdate: api.CheckUpdate(func(c, old C) field.ErrorList {
			return append(validate.Unchanged(field.NewPath("spec", "controller"), c.Spec.Controller, old.Spec.Controller), validateIngressClass(c)...)
		}),
	}
}

func parametersText(p *networkingv1.IngressClassParametersReference) string {
	if p == nil {
		return "<none>"
	}
	kind := p.Kind
	if p.APIGroup != nil {
		kind += "." + *p.APIGroup
	}
	return kind + "/" + p.Name
}

func validateIngressClass(c *networkingv1.IngressClass) field.ErrorList {
	const longest = 250
	path := field.NewPath("spec")
	var errs field.ErrorList
	if len(c.Spec.Controller) > longest {
		errs = append(errs, field.TooLong(path.Child("controller"), "", longest))
	}
	errs = append(errs, validation.IsDomainPrefixedPath(path.Child("controller"), c.Spec.Controller)...)
	p, at := c.Spec.Parameters, path.Child("parameters")
	if p == nil {
		return errs
	}
	errs = append(errs, validateReference(at, &corev1.TypedLocalObjectReference{APIGroup: p.APIGroup, Kind: p.Kind, Name: p.Name})...)
	const cluster, namespace = networkingv1.IngressClassParametersReferenceScopeCluster, networkingv1.IngressClassParametersReferenceScopeNamespace
	switch {
	case p.Scope == nil:
		errs = append(errs, field.Required(at.Child("scope"), ""))
	case *p.Scope == namespace && p.Namespace == nil:
		errs = append(errs, field.Required(at.Child("namespace"), "`parameters.scope` is set to 'Namespace'"))
	case *p.Scope == namespace:
		errs = append(errs, validate.NamespaceName(at.Child("namespace"), *p.Namespace)...)
	case *p.Scope != cluster:
		errs = append(errs, validate.OneOf(at.Child("scope"), *p.Scope, cluster, namespace)...)
	case p.Namespace != nil:
		errs = append(errs, field.Forbidden(at.Child("namespace"), "`parameters.scope` is set to 'Cluster'"))
	}
	return errs
}
