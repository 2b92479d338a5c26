package customresources

import (
	"fmt"
	"slices"
	"strings"

	"k8s.io/apiextensions-apiserver/pkg/apihelpers"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	structural "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// acceptNames says which of the names that d asks for it gets, beside those of
// others, and writes that into its status.
func acceptNames(d *definition, others []*definition) {
	var resources, kinds []string
	for _, o := range others {
		if o.Name == d.Name || o.Spec.Group != d.Spec.Group {
			continue
		}
		n := o.Status.AcceptedNames
		resources = append(append(resources, n.Plural, n.Singular), n.ShortNames...)
		kinds = append(kinds, n.Kind, n.ListKind)
	}
	want, have := d.Spec.Names, &d.Status.AcceptedNames
	accepted := apiextensionsv1.CustomResourceDefinitionCondition{
		Type: apiextensionsv1.NamesAccepted, Status: apiextensionsv1.ConditionTrue, Reason: "NoConflicts", Message: "no conflicts found",
	}
	refuse := func(reason, message string) {
		accepted.Status, accepted.Reason, accepted.Message = apiextensionsv1.ConditionFalse, reason, message
	}
	one := func(want string, have *string, used []string, reason string) {
		if want != *have && slices.Contains(used, want) {
			refuse(reason, fmt.Sprintf("%q is already in use", want))
			return
		}
		*have = want
	}
	one(want.Plural, &have.Plural, resources, "PluralConflict")
	one(want.Singular, &have.Singular, resources, "SingularConflict")
	var taken []string
	for _, s := range want.ShortNames {
		if !slices.Contains(have.ShortNames, s) && slices.Contains(resources, s) {
			taken = append(taken, fmt.Sprintf("%q is already in use", s))
		}
	}
	switch len(taken) {
	case 0:
		have.ShortNames = slices.Clone(want.ShortNames)
	case 1:
		refuse("ShortNamesConflict", taken[0])
	default:
		refuse("ShortNamesConflict", "["+strings.Join(taken, ", ")+"]")
	}
	one(want.Kind, &have.Kind, kinds, "KindConflict")
	one(want.ListKind, &have.ListKind, kinds, "ListKindConflict")
	have.Categories = slices.Clone(want.Categories)
	setCondition(d, accepted)
	if apihelpers.IsCRDConditionTrue(d, apiextensionsv1.Established) {
		return
	}
	established := apiextensionsv1.CustomResourceDefinitionCondition{
		Type: apiextensionsv1.Established, Status: apiextensionsv1.ConditionFalse, Reason: "NotAccepted", Message: "not all names are accepted",
	}
	if accepted.Status == apiextensionsv1.ConditionTrue {
		established.Status, established.Reason = apiextensionsv1.ConditionTrue, "InitialNamesAccepted"
		established.Message = "the initial names have been accepted"
	}
	setCondition(d, established)
}

// setCondition leaves a condition that says the same as it is.
func setCondition(d *definition, c apiextensionsv1.CustomResourceDefinitionCondition) {
	if !apihelpers.IsCRDConditionEquivalent(&c, apihelpers.FindCRDCondition(d, c.Type)) {
		apihelpers.SetCRDCondition(d, c)
	}
}

// instead replaces a condition that was set meanwhile by next, which says the
// instead replaces a condition by next. Where that says what was said before, it
// keeps its time.
func instead(d *definition, was, next apiextensionsv1.CustomResourceDefinitionCondition) {
	if next.LastTransitionTime = metav1.Now(); apihelpers.IsCRDConditionEquivalent(&was, &next) {
		next = was
	}
	if c := apihelpers.FindCRDCondition(d, next.Type); c != nil {
		*c = next
		return
	}
	d.Status.Conditions = append(d.Status.Conditions, next)
}

// approve says whether a definition in a group of the Kubernetes project was
// approved there.
func approve(d *definition) {
	if !apihelpers.IsProtectedCommunityGroup(d.Spec.Group) {
		apihelpers.RemoveCRDCondition(d, apiextensionsv1.KubernetesAPIApprovalPolicyConformant)
		return
	}
	c := apiextensionsv1.CustomResourceDefinitionCondition{Type: apiextensionsv1.KubernetesAPIApprovalPolicyConformant, Status: apiextensionsv1.ConditionUnknown}
	state, reason := apihelpers.GetAPIApprovalState(d.Annotations)
	c.Message = reason
	switch state {
	case apihelpers.APIApprovalInvalid:
		c.Status, c.Reason = apiextensionsv1.ConditionFalse, "InvalidAnnotation"
	case apihelpers.APIApprovalMissing:
		c.Status, c.Reason = apiextensionsv1.ConditionFalse, "MissingAnnotation"
	case apihelpers.APIApproved:
		c.Status, c.Reason = apiextensionsv1.ConditionTrue, "ApprovedAnnotation"
	case apihelpers.APIApprovalBypassed:
		c.Status, c.Reason = apiextensionsv1.ConditionFalse, "UnapprovedAnnotation"
	default:
		c.Reason = "UnknownAnnotation"
	}
	setCondition(d, c)
}

// structure says whether a schema leaves open what objects look like. Only
// definitions of another server's making do.
func structure(d *definition) {
	// Upstream's checks trip over some schemas that make no sense; that they cannot
	// be served is told elsewhere.
	defer func() { _ = recover() }()
	c := apiextensionsv1.CustomResourceDefinitionCondition{
		Type: apiextensionsv1.NonStructuralSchema, Status: apiextensionsv1.ConditionTrue, Reason: "Violations",
	}
	var errs field.ErrorList
	if d.Spec.PreserveUnknownFields {
		errs = append(errs, field.Invalid(field.NewPath("spec", "preserveUnknownFields"), true, "must be false"))
	}
	for i, v := range d.Spec.Versions {
		if v.Schema == nil || v.Schema.OpenAPIV3Schema == nil {
			continue
		}
		var s *structural.Structural
		in, err := internalSchema(v.Schema.OpenAPIV3Schema)
		if err == nil {
			s, err = structural.NewStructural(in)
		}
		if err != nil {
			c.Status, c.Reason = apiextensionsv1.ConditionUnknown, "StructuralError"
			c.Message = fmt.Sprintf("failed to check validation schema for version %s: %v", v.Name, err)
			setCondition(d, c)
			return
		}
		errs = append(errs, structural.ValidateStructural(field.NewPath("spec", "versions").Index(i).Child("schema", "openAPIV3Schema"), s)...)
	}
	if len(errs) == 0 {
		apihelpers.RemoveCRDCondition(d, apiextensionsv1.NonStructuralSchema)
		return
	}
	c.Message = errs.ToAggregate().Error()
	setCondition(d, c)
}
