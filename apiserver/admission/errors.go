package admission

import (
	"errors"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

// Forbidden is a refusal of a as upstream words it:
//
//	pods "name" is forbidden: reason
func Forbidden(a *Attributes, reason error) *apierrors.StatusError {
	name := a.Name
	if name == "" {
		name = "Unknown"
		if a.Object != nil {
			if m, err := meta.Accessor(a.Object); err == nil {
				if m.GetName() != "" {
					name = m.GetName()
				} else if m.GetGenerateName() != "" {
					name = m.GetGenerateName()
				}
			}
		}
	}
	return apierrors.NewForbidden(a.GVR.GroupResource(), name, reason)
}

// Unauthorized says that somebody may not do what an authorizer was asked.
func Unauthorized(a authorizer.AttributesRecord, reason string) error {
	name := ""
	if a.User != nil {
		name = a.User.GetName()
	}
	var text string
	switch {
	case !a.ResourceRequest:
		text = fmt.Sprintf("User %q cannot %s path %q", name, a.Verb, a.Path)
	default:
		res := a.Resource
		if a.Subresource != "" {
			res += "/" + a.Subresource
		}
		text = fmt.Sprintf("User %q cannot %s resource %q in API group %q", name, a.Verb, res, a.APIGroup)
		if a.Namespace != "" {
			text += fmt.Sprintf(" in the namespace %q", a.Namespace)
		} else {
			text += " at the cluster scope"
		}
	}
	if reason != "" {
		text += ": " + reason
	}
	return apierrors.NewForbidden(schema.GroupResource{Group: a.APIGroup, Resource: a.Resource}, a.Name, errors.New(text))
}
