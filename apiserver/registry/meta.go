package registry

import (
	"context"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/validate/content"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/api/validate"
)

const (
	// A generated name is cut so that it fits a label with its suffix.
	maxGeneratedBase = 58
	suffixLength     = 5
	// generateAttempts is how often a create looks for a free generated name.
	generateAttempts = 8

	modifiedText = "the object has been modified; please apply your changes to the latest version and try again"
)

func generateName(base string) string {
	if len(base) > maxGeneratedBase {
		base = base[:maxGeneratedBase]
	}
	return base + rand.String(suffixLength)
}

// asObject returns obj with metadata, or a bad request for something else.
func asObject(obj runtime.Object) (api.Object, error) {
	o, ok := obj.(api.Object)
	if !ok {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("%T has no metadata", obj))
	}
	return o, nil
}

// checkKind refuses an object of another kind or version than the target's.
func checkKind(t Target, obj api.Object) error {
	gvk := obj.GetObjectKind().GroupVersionKind()
	switch {
	case gvk.Empty():
		obj.GetObjectKind().SetGroupVersionKind(t.Kind.GVK)
	case gvk.GroupVersion() != t.Kind.GVK.GroupVersion():
		return apierrors.NewBadRequest(fmt.Sprintf("the API version in the data (%s) does not match the expected API version (%s)",
			gvk.GroupVersion(), t.Kind.GVK.GroupVersion()))
	case gvk.Kind != t.Kind.GVK.Kind:
		return apierrors.NewBadRequest(fmt.Sprintf("%s in version %q cannot be handled as a %s", gvk.Kind, gvk.Version, t.Kind.GVK.Kind))
	}
	return nil
}

// matchNamespace fills in or compares the namespace of the URL.
func matchNamespace(t Target, obj metav1.Object) error {
	want := ""
	if t.Kind.Namespaced {
		want = t.Namespace
	}
	switch have := obj.GetNamespace(); {
	case have == want:
	case have == "" || want == "":
		obj.SetNamespace(want)
	default:
		return apierrors.NewBadRequest("the namespace of the provided object does not match the namespace sent on the request")
	}
	if t.Kind.Namespaced && want == "" {
		return apierrors.NewBadRequest("an empty namespace may not be set during creation")
	}
	return nil
}

// matchName fills in or compares the name of the URL.
func matchName(t Target, obj metav1.Object) error {
	switch have := obj.GetName(); {
	case t.Name == "" || have == t.Name:
		return nil
	case have == "":
		return apierrors.NewBadRequest("name must be provided")
	default:
		return apierrors.NewBadRequest(fmt.Sprintf("the name of the object (%s) does not match the name on the URL (%s)", have, t.Name))
	}
}

// fillSystemFields sets what only the server decides on.
func (c *Core) fillSystemFields(obj metav1.Object) {
	obj.SetCreationTimestamp(metav1.Time{Time: c.cfg.Now().UTC().Truncate(time.Second)})
	obj.SetUID(uuid.NewUUID())
	obj.SetDeletionTimestamp(nil)
	obj.SetDeletionGracePeriodSeconds(nil)
	obj.SetSelfLink("")
}

// keepSystemFields carries over from old what an update may not change.
func keepSystemFields(obj, old metav1.Object) {
	obj.SetGeneration(old.GetGeneration())
	if obj.GetUID() == "" {
		obj.SetUID(old.GetUID())
	}
	obj.SetCreationTimestamp(old.GetCreationTimestamp())
	if old.GetDeletionTimestamp() != nil {
		obj.SetDeletionTimestamp(old.GetDeletionTimestamp())
	}
	if old.GetDeletionGracePeriodSeconds() != nil {
		obj.SetDeletionGracePeriodSeconds(old.GetDeletionGracePeriodSeconds())
	}
	obj.SetSelfLink("")
}

// dedupOwners drops repeated owner references and says so.
func dedupOwners(ctx context.Context, obj metav1.Object, afterAdmission bool) {
	refs := obj.GetOwnerReferences()
	if len(refs) < 2 {
		return
	}
	seen := make(map[metav1.OwnerReference]bool, len(refs))
	out := refs[:0:0]
	var uid string
	for _, ref := range refs {
		flat := ref
		flat.Controller, flat.BlockOwnerDeletion = nil, nil
		if ref.Controller != nil && *ref.Controller {
			flat.Name += "\x00c"
		}
		if ref.BlockOwnerDeletion != nil && *ref.BlockOwnerDeletion {
			flat.Name += "\x00b"
		}
		if seen[flat] {
			if uid == "" {
				uid = string(ref.UID)
			}
			continue
		}
		seen[flat] = true
		out = append(out, ref)
	}
	if len(out) == len(refs) {
		return
	}
	obj.SetOwnerReferences(out)
	when := "; first occurrence will be used"
	if afterAdmission {
		when = " after mutating admission happens; first occurrence will be used"
	}
	warn(ctx, fmt.Sprintf(".metadata.ownerReferences contains duplicate entries, API server dedups owner references in 1.20+, and may reject such requests as early as 1.24; please fix your requests; duplicate UID(s) observed: [%s]%s", uid, when))
}

// validateMeta names what is wrong with the metadata of a new object.
func validateMeta(k *api.Kind, obj api.Object) field.ErrorList {
	nameFn := k.ValidateName
	if nameFn == nil {
		nameFn = nameIsSubdomain
	}
	errs := validation.ValidateObjectMetaAccessor(doubtful{obj}, k.Namespaced, nameFn, field.NewPath("metadata"))
	for _, msg := range content.IsPathSegmentName(obj.GetName()) {
		errs = append(errs, field.Invalid(field.NewPath("metadata").Child("name"), obj.GetName(), msg))
	}
	return errs
}

// nameIsSubdomain is the rule for names of kinds that have none of their own.
func nameIsSubdomain(name string, prefix bool) []string {
	if validate.PlainSubdomain(name) {
		return nil
	}
	return validation.NameIsDNSSubdomain(name, prefix)
}

// doubtful is metadata for the library to judge, without the labels and
// annotations that are valid beyond doubt.
type doubtful struct{ metav1.Object }

// GetLabels implements metav1.Object.
func (d doubtful) GetLabels() map[string]string {
	if labels := d.Object.GetLabels(); !validate.PlainLabels(labels) {
		return labels
	}
	return nil
}

// GetAnnotations implements metav1.Object.
func (d doubtful) GetAnnotations() map[string]string {
	if annotations := d.Object.GetAnnotations(); !validate.PlainAnnotations(annotations) {
		return annotations
	}
	return nil
}

// validateMetaUpdate names what is wrong with the metadata of a changed one.
func validateMetaUpdate(obj, old api.Object) field.ErrorList {
	errs := validation.ValidateObjectMetaAccessorUpdate(doubtful{obj}, doubtful{old}, field.NewPath("metadata"))
	if old.GetDeletionTimestamp() != nil {
		errs = append(errs, validation.ValidateNoNewFinalizers(obj.GetFinalizers(), old.GetFinalizers(), field.NewPath("metadata", "finalizers"))...)
	}
	return errs
}
