// Package storagemigration describes the kinds of storagemigration.k8s.io.
package storagemigration

import (
	"strings"

	storagemigrationv1 "k8s.io/api/storagemigration/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/api/validate"
)

// Kinds lists the kinds of the group.
func Kinds() []*api.Kind { return []*api.Kind{StorageVersionMigration()} }

type migration = storagemigrationv1.StorageVersionMigration

// StorageVersionMigration is the kind of orders to write all objects of a
// resource again.
func StorageVersionMigration() *api.Kind {
	return &api.Kind{
		GVK:         storagemigrationv1.SchemeGroupVersion.WithKind("StorageVersionMigration"),
		Resource:    "storageversionmigrations",
		New:         api.Maker[migration](),
		NewList:     api.ListMaker[storagemigrationv1.StorageVersionMigrationList](),
		StoragePath: "storageversionmigrations",
		Columns: []api.Column{
			api.Col("Resource", "string", "What is written again.", func(m *migration) any { return m.Spec.Resource.String() }),
			api.Col("Status", "string", "How far it is.", func(m *migration) any { return state(m) }),
		},
		PrepareCreate: api.On(func(m *migration) { m.Status = storagemigrationv1.StorageVersionMigrationStatus{} }),
		PrepareUpdate: api.OnUpdate(func(m, old *migration) { m.Status = old.Status }),
		Validate:      api.Check(validateMigration),
		ValidateUpdate: api.CheckUpdate(func(m, old *migration) field.ErrorList {
			return append(validateMigration(m), validate.Unchanged(field.NewPath("spec"), m.Spec, old.Spec)...)
		}),
		Status: &api.Status{
			PrepareUpdate: api.OnUpdate(func(m, old *migration) {
				m.Spec = old.Spec
				metav1.ResetObjectMetaForStatus(&m.ObjectMeta, &old.ObjectMeta)
			}),
			ValidateUpdate: api.CheckUpdate(validateStatus),
		},
		RequireVersionOnUpdate: true,
		ResetFields:            map[string][]string{"": {"status"}, "status": {"metadata", "spec"}},
	}
}

func state(m *migration) string {
	last := "Unknown"
	for _, c := range m.Status.Conditions {
		switch storagemigrationv1.MigrationConditionType(c.Type) {
		case storagemigrationv1.MigrationRunning, storagemigrationv1.MigrationFailed, storagemigrationv1.MigrationSucceeded:
			if c.Status == metav1.ConditionTrue {
				last = c.Type
			}
		}
	}
	return last
}

func validateMigration(m *migration) field.ErrorList {
	r, path := m.Spec.Resource, field.NewPath("spec", "resource")
	var errs field.ErrorList
	if r.Resource == "" {
		errs = append(errs, field.Required(path.Child("resource"), "resource is required to be set"))
	} else if why := validation.IsDNS1035Label(r.Resource); len(why) > 0 {
		errs = append(errs, field.Invalid(path.Child("resource"), r.Resource, strings.Join(why, ",")))
	}
	if why := validation.IsDNS1123Subdomain(r.Group); r.Group != "" && len(why) > 0 {
		errs = append(errs, field.Invalid(path.Child("group"), r.Group, strings.Join(why, ",")))
	}
	return errs
}

func validateStatus(m, old *migration) field.ErrorList {
	path := field.NewPath("status")
	version, conditions := path.Child("resourceVersion"), path.Child("conditions")
	var errs field.ErrorList
	if v := m.Status.ResourceVersion; v != "" {
		if _, err := resourceversion.CompareResourceVersion(v, v); err != nil {
			errs = append(errs, field.Invalid(version, v, err.Error()))
		}
	}
	errs = append(errs, metavalidation.ValidateConditions(m.Status.Conditions, conditions)...)
	if v := old.Status.ResourceVersion; v != "" && v != m.Status.ResourceVersion {
		errs = append(errs, field.Invalid(version, m.Status.ResourceVersion, "field is immutable"))
	}
	is := func(m *migration, t storagemigrationv1.MigrationConditionType) bool {
		return meta.IsStatusConditionTrue(m.Status.Conditions, string(t))
	}
	if is(m, storagemigrationv1.MigrationSucceeded) && is(m, storagemigrationv1.MigrationFailed) {
		errs = append(errs, field.Invalid(conditions, m.Status.Conditions, "Both success and failed conditions cannot be true at the same time"))
	}
	if is(old, storagemigrationv1.MigrationSucceeded) && !is(m, storagemigrationv1.MigrationSucceeded) {
		errs = append(errs, field.Invalid(conditions, m.Status.Conditions, "Success condition cannot be set to false once it is true"))
	}
	if is(old, storagemigrationv1.MigrationFailed) && !is(m, storagemigrationv1.MigrationFailed) {
		errs = append(errs, field.Invalid(conditions, m.Status.Conditions, "Failed condition cannot be set to false once it is true"))
	}
	return errs
}
