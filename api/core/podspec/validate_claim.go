package podspec

import (
	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"github.com/proa-dev/proa/api/validate"
)

// validateClaimTemplate allows labels and annotations alone as metadata.
func validateClaimTemplate(path *field.Path, t *corev1.PersistentVolumeClaimTemplate) field.ErrorList {
	meta := path.Child("metadata")
	errs := apivalidation.ValidateAnnotations(t.Annotations, meta.Child("annotations"))
	errs = append(errs, metavalidation.ValidateLabels(t.Labels, meta.Child("labels"))...)
	m := t.ObjectMeta
	for _, f := range []struct {
		name string
		set  bool
	}{
		{"name", m.Name != ""}, {"generateName", m.GenerateName != ""}, {"namespace", m.Namespace != ""},
		{"selfLink", m.SelfLink != ""}, {"uID", m.UID != ""}, {"resourceVersion", m.ResourceVersion != ""},
		{"generation", m.Generation != 0}, {"creationTimestamp", m.CreationTimestamp != (metav1.Time{})},
		{"deletionTimestamp", m.DeletionTimestamp != nil}, {"deletionGracePeriodSeconds", m.DeletionGracePeriodSeconds != nil},
		{"ownerReferences", m.OwnerReferences != nil}, {"finalizers", m.Finalizers != nil}, {"managedFields", m.ManagedFields != nil},
	} {
		if f.set {
			errs = append(errs, field.Forbidden(meta.Child(f.name), "cannot be set"))
		}
	}
	return append(errs, ValidateClaim(path.Child("spec"), &t.Spec, nil)...)
}

// ValidateAccessModes validates how a volume may be mounted.
func ValidateAccessModes(path *field.Path, modes []corev1.PersistentVolumeAccessMode) field.ErrorList {
	var errs field.ErrorList
	alone, others := false, false
	for _, m := range modes {
		bad := validate.OneOf(path, m, corev1.ReadWriteOnce, corev1.ReadOnlyMany, corev1.ReadWriteMany, corev1.ReadWriteOncePod)
		errs = append(errs, bad...)
		if m == corev1.ReadWriteOncePod {
			alone = true
		} else if len(bad) == 0 {
			others = true
		}
	}
	if alone && others {
		errs = append(errs, field.Forbidden(path, "may not use ReadWriteOncePod with other access modes"))
	}
	return errs
}

// ValidateClaim validates the spec of a PersistentVolumeClaim; old is nil on
// create and in templates.
func ValidateClaim(path *field.Path, s, old *corev1.PersistentVolumeClaimSpec) field.ErrorList {
	var errs field.ErrorList
	if len(s.AccessModes) == 0 {
		errs = append(errs, field.Required(path.Child("accessModes"), "at least 1 access mode is required"))
	}
	if s.Selector != nil {
		lenient := old != nil && len(validate.Selector(nil, old.Selector, false)) > 0
		errs = append(errs, validate.Selector(path.Child("selector"), s.Selector, lenient)...)
	}
	errs = append(errs, ValidateAccessModes(path.Child("accessModes"), s.AccessModes)...)
	at := path.Child("resources").Key(string(corev1.ResourceStorage))
	if size, ok := s.Resources.Requests[corev1.ResourceStorage]; !ok {
		errs = append(errs, field.Required(at, ""))
	} else {
		errs = append(errs, validate.PositiveQuantity(at, size)...)
	}
	if c := s.StorageClassName; c != nil && *c != "" {
		errs = append(errs, validate.Subdomain(path.Child("storageClassName"), *c)...)
	}
	if s.VolumeMode != nil {
		errs = append(errs, validate.OneOf(path.Child("volumeMode"), *s.VolumeMode,
			corev1.PersistentVolumeBlock, corev1.PersistentVolumeFilesystem)...)
	}
	errs = append(errs, validateDataSources(path, s, old)...)
	if c := s.VolumeAttributesClassName; c != nil && *c != "" {
		errs = append(errs, validate.Subdomain(path.Child("volumeAttributesClassName"), *c)...)
	}
	return errs
}

func validateDataSources(path *field.Path, s, old *corev1.PersistentVolumeClaimSpec) field.ErrorList {
	// An API group that was stored unchecked may stay.
	anyGroup := old != nil && ((old.DataSource != nil && old.DataSource.APIGroup != nil) ||
		(old.DataSourceRef != nil && old.DataSourceRef.APIGroup != nil))
	check := func(path *field.Path, group *string, kind, name string) field.ErrorList {
		errs := required(path, "name", name, "kind", kind)
		g := ptr.Deref(group, "")
		if g == "" && kind != "PersistentVolumeClaim" {
			errs = append(errs, field.Invalid(path, kind, "must be 'PersistentVolumeClaim' when referencing the default apiGroup"))
		}
		if g != "" && !anyGroup {
			errs = append(errs, validate.Subdomain(path.Child("apiGroup"), g)...)
		}
		return errs
	}
	var errs field.ErrorList
	if d := s.DataSource; d != nil {
		errs = append(errs, check(path.Child("dataSource"), d.APIGroup, d.Kind, d.Name)...)
	}
	r := s.DataSourceRef
	if r == nil {
		return errs
	}
	errs = append(errs, check(path.Child("dataSourceRef"), r.APIGroup, r.Kind, r.Name)...)
	if ns := ptr.Deref(r.Namespace, ""); ns != "" {
		errs = append(errs, validate.NamespaceName(path.Child("dataSourceRef", "namespace"), ns)...)
		if s.DataSource != nil {
			errs = append(errs, field.Invalid(path, path.Child("dataSource").String(), "may not be specified when dataSourceRef.namespace is specified"))
		}
	} else if d := s.DataSource; d != nil &&
		(!ptr.Equal(d.APIGroup, r.APIGroup) || d.Kind != r.Kind || d.Name != r.Name) {
		errs = append(errs, field.Invalid(path, path.Child("dataSource").String(), "must match dataSourceRef"))
	}
	return errs
}
