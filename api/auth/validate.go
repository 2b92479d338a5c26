package auth

import (
	"fmt"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/proa-dev/proa/api"
)

// validateReview checks the questions of both groups.
func validateReview(o api.Object) field.ErrorList {
	spec := field.NewPath("spec")
	switch r := o.(type) {
	case *authenticationv1.TokenReview:
		if r.Spec.Token == "" {
			return field.ErrorList{field.Required(spec.Child("token"), "")}
		}
	case *authenticationv1.TokenRequest:
		return validateTokenRequest(spec, &r.Spec)
	case *authorizationv1.SubjectAccessReview:
		return append(validateAccess(spec, &r.Spec), bareMeta(&r.ObjectMeta)...)
	case *authorizationv1.SelfSubjectAccessReview:
		return append(validateAttributes(spec, r.Spec.ResourceAttributes, r.Spec.NonResourceAttributes), bareMeta(&r.ObjectMeta)...)
	case *authorizationv1.LocalSubjectAccessReview:
		return validateLocal(spec, r)
	}
	return nil
}

func validateTokenRequest(spec *field.Path, s *authenticationv1.TokenRequestSpec) field.ErrorList {
	const leastMinutes = 10
	at := spec.Child("expirationSeconds")
	switch {
	case s.ExpirationSeconds == nil:
		return field.ErrorList{field.Required(at, "")}
	case *s.ExpirationSeconds < leastMinutes*60:
		return field.ErrorList{field.Invalid(at, *s.ExpirationSeconds, fmt.Sprintf("may not specify a duration less than %d minutes", leastMinutes))}
	case *s.ExpirationSeconds > 1<<32:
		return field.ErrorList{field.Invalid(at, *s.ExpirationSeconds, "may not specify a duration larger than 2^32 seconds")}
	}
	return nil
}

// bareMeta wants no metadata: a question is not an object. What servers fill
// in by themselves does not count.
func bareMeta(m *metav1.ObjectMeta) field.ErrorList {
	bare := m.DeepCopy()
	bare.ManagedFields, bare.UID, bare.CreationTimestamp = nil, "", metav1.Time{}
	if !equality.Semantic.DeepEqual(*bare, metav1.ObjectMeta{}) {
		return field.ErrorList{field.Invalid(field.NewPath("metadata"), m, "must be empty")}
	}
	return nil
}

func validateAccess(spec *field.Path, s *authorizationv1.SubjectAccessReviewSpec) field.ErrorList {
	errs := validateAttributes(spec, s.ResourceAttributes, s.NonResourceAttributes)
	if s.User == "" && len(s.Groups) == 0 {
		errs = append(errs, field.Invalid(spec.Child("user"), s.User, "at least one of user or group must be specified"))
	}
	return errs
}

func validateAttributes(spec *field.Path, r *authorizationv1.ResourceAttributes, n *authorizationv1.NonResourceAttributes) field.ErrorList {
	var errs field.ErrorList
	if r != nil && n != nil {
		errs = append(errs, field.Invalid(spec.Child("nonResourceAttributes"), n, "cannot be specified in combination with resourceAttributes"))
	}
	if r == nil && n == nil {
		errs = append(errs, field.Invalid(spec.Child("resourceAttributes"), n, "exactly one of nonResourceAttributes or resourceAttributes must be specified"))
	}
	if r == nil {
		return errs
	}
	at := spec.Child("resourceAttributes")
	if f := r.FieldSelector; f != nil {
		errs = append(errs, oneForm(at.Child("fieldSelector"), f.RawSelector, len(f.Requirements))...)
		for i := range f.Requirements {
			errs = append(errs, metavalidation.ValidateFieldSelectorRequirement(f.Requirements[i],
				metavalidation.FieldSelectorValidationOptions{AllowUnknownOperatorInRequirement: true}, at.Child("fieldSelector", "requirements").Index(i))...)
		}
	}
	if l := r.LabelSelector; l != nil {
		errs = append(errs, oneForm(at.Child("labelSelector"), l.RawSelector, len(l.Requirements))...)
		for i := range l.Requirements {
			errs = append(errs, metavalidation.ValidateLabelSelectorRequirement(l.Requirements[i],
				metavalidation.LabelSelectorValidationOptions{AllowUnknownOperatorInRequirement: true}, at.Child("labelSelector", "requirements").Index(i))...)
		}
	}
	return errs
}

// oneForm wants a selector as text or as requirements.
func oneForm(at *field.Path, raw string, requirements int) field.ErrorList {
	switch {
	case raw != "" && requirements > 0:
		return field.ErrorList{field.Invalid(at.Child("rawSelector"), raw, "may not specified at the same time as requirements")}
	case raw == "" && requirements == 0:
		return field.ErrorList{field.Required(at.Child("requirements"), fmt.Sprintf("when %s is specified, requirements or rawSelector is required", at))}
	}
	return nil
}

// validateLocal wants a question about the namespace that it is asked in.
func validateLocal(spec *field.Path, r *authorizationv1.LocalSubjectAccessReview) field.ErrorList {
	errs := validateAccess(spec, &r.Spec)
	meta := r.ObjectMeta.DeepCopy()
	meta.Namespace = ""
	errs = append(errs, bareMeta(meta)...)
	if a := r.Spec.ResourceAttributes; a != nil && a.Namespace != r.Namespace {
		errs = append(errs, field.Invalid(spec.Child("resourceAttributes", "namespace"), a.Namespace, "must match metadata.namespace"))
	}
	if r.Spec.NonResourceAttributes != nil {
		errs = append(errs, field.Invalid(spec.Child("nonResourceAttributes"), r.Spec.NonResourceAttributes, "disallowed on this kind of request"))
	}
	return errs
}
