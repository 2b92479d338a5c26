package admission

import (
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
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
