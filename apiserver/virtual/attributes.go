package virtual

import (
	"fmt"

	authzv1 "k8s.io/api/authorization/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

func specUser(spec *authzv1.SubjectAccessReviewSpec) user.Info {
	u := &user.DefaultInfo{Name: spec.User, UID: spec.UID, Groups: spec.Groups}
	for k, v := range spec.Extra {
		if u.Extra == nil {
			u.Extra = map[string][]string{}
		}
		u.Extra[k] = v
	}
	return u
}

// resourceRecord turns the attributes of a review into those of a request. A
// selector that cannot be understood is left out, which can only make the
// answer stricter; the error says so.
func resourceRecord(u user.Info, in *authzv1.ResourceAttributes) (authorizer.AttributesRecord, error) {
	out := authorizer.AttributesRecord{
		User: u, Verb: in.Verb, Namespace: in.Namespace, APIGroup: in.Group, APIVersion: in.Version,
		Resource: in.Resource, Subresource: in.Subresource, Name: in.Name, ResourceRequest: true,
	}
	if out.APIVersion == "" {
		out.APIVersion = "*"
	}
	var errs []error
	if s := in.FieldSelector; s != nil {
		reqs, err := fieldRequirements(s)
		out.FieldSelectorRequirements = reqs
		if err != nil {
			errs = append(errs, err)
		}
	}
	if s := in.LabelSelector; s != nil {
		reqs, err := labelRequirements(s)
		out.LabelSelectorRequirements = reqs
		if err != nil {
			errs = append(errs, err)
		}
	}
	return out, utilerrors.NewAggregate(errs)
}

func fieldRequirements(s *authzv1.FieldSelectorAttributes) (fields.Requirements, error) {
	if s.RawSelector != "" {
		parsed, err := fields.ParseSelector(s.RawSelector)
		if err != nil {
			return nil, err
		}
		return parsed.Requirements(), nil
	}
	var out fields.Requirements
	var errs []error
	for _, r := range s.Requirements {
		op := selection.Equals
		switch r.Operator {
		case metav1.FieldSelectorOpIn:
		case metav1.FieldSelectorOpNotIn:
			op = selection.NotEquals
		default:
			errs = append(errs, fmt.Errorf("%q is not a valid field selector operator", r.Operator))
			continue
		}
		if len(r.Values) != 1 {
			errs = append(errs, fmt.Errorf("fieldSelectors in %q need exactly one value", r.Key))
			continue
		}
		out = append(out, fields.Requirement{Field: r.Key, Operator: op, Value: r.Values[0]})
	}
	return out, utilerrors.NewAggregate(errs)
}

func labelRequirements(s *authzv1.LabelSelectorAttributes) (labels.Requirements, error) {
	if s.RawSelector != "" {
		return labels.ParseToRequirements(s.RawSelector)
	}
	ops := map[metav1.LabelSelectorOperator]selection.Operator{
		metav1.LabelSelectorOpIn: selection.In, metav1.LabelSelectorOpNotIn: selection.NotIn,
		metav1.LabelSelectorOpExists: selection.Exists, metav1.LabelSelectorOpDoesNotExist: selection.DoesNotExist,
	}
	var out labels.Requirements
	var errs []error
	for _, r := range s.Requirements {
		op, ok := ops[r.Operator]
		if !ok {
			errs = append(errs, fmt.Errorf("%q is not a valid label selector operator", r.Operator))
			continue
		}
		req, err := labels.NewRequirement(r.Key, op, r.Values)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		out = append(out, *req)
	}
	return out, utilerrors.NewAggregate(errs)
}

func validateSpec(spec *authzv1.SubjectAccessReviewSpec) field.ErrorList {
	errs := validateAttributes(spec.ResourceAttributes, spec.NonResourceAttributes)
	if spec.User == "" && len(spec.Groups) == 0 {
		errs = append(errs, field.Invalid(field.NewPath("spec", "user"), spec.User, "at least one of user or group must be specified"))
	}
	return errs
}

func validateAttributes(resource *authzv1.ResourceAttributes, path *authzv1.NonResourceAttributes) field.ErrorList {
	at := field.NewPath("spec")
	var errs field.ErrorList
	switch {
	case resource != nil && path != nil:
		errs = append(errs, field.Invalid(at.Child("nonResourceAttributes"), path, "cannot be specified in combination with resourceAttributes"))
	case resource == nil && path == nil:
		errs = append(errs, field.Invalid(at.Child("resourceAttributes"), resource, "exactly one of nonResourceAttributes or resourceAttributes must be specified"))
	}
	if resource == nil {
		return errs
	}
	at = at.Child("resourceAttributes")
	if s := resource.FieldSelector; s != nil && s.RawSelector != "" && len(s.Requirements) > 0 {
		errs = append(errs, field.Invalid(at.Child("fieldSelector", "rawSelector"), s.RawSelector, "may not specified at the same time as requirements"))
	} else if s != nil && s.RawSelector == "" && len(s.Requirements) == 0 {
		errs = append(errs, field.Required(at.Child("fieldSelector", "requirements"), "when "+at.Child("fieldSelector").String()+" is specified, requirements or rawSelector is required"))
	}
	if s := resource.LabelSelector; s != nil && s.RawSelector != "" && len(s.Requirements) > 0 {
		errs = append(errs, field.Invalid(at.Child("labelSelector", "rawSelector"), s.RawSelector, "may not specified at the same time as requirements"))
	} else if s != nil && s.RawSelector == "" && len(s.Requirements) == 0 {
		errs = append(errs, field.Required(at.Child("labelSelector", "requirements"), "when "+at.Child("labelSelector").String()+" is specified, requirements or rawSelector is required"))
	}
	return errs
}

func validateLocal(review *authzv1.LocalSubjectAccessReview) field.ErrorList {
	errs := validateSpec(&review.Spec)
	meta := review.ObjectMeta
	meta.Namespace = ""
	meta.ManagedFields = nil
	if !equality.Semantic.DeepEqual(metav1.ObjectMeta{}, meta) {
		errs = append(errs, field.Invalid(field.NewPath("metadata"), review.ObjectMeta, "must be empty except for namespace"))
	}
	if review.Spec.ResourceAttributes != nil && review.Spec.ResourceAttributes.Namespace != review.Namespace && review.Namespace != "" {
		errs = append(errs, field.Invalid(field.NewPath("spec", "resourceAttributes", "namespace"), review.Spec.ResourceAttributes.Namespace, "must match metadata.namespace"))
	}
	if review.Spec.NonResourceAttributes != nil {
		errs = append(errs, field.Invalid(field.NewPath("spec", "nonResourceAttributes"), review.Spec.NonResourceAttributes, "disallowed on this kind of request"))
	}
	return errs
}
