// Package apiextensions describes the kinds of apiextensions.k8s.io.
package apiextensions

import (
	"context"
	"fmt"
	"slices"

	"k8s.io/apiextensions-apiserver/pkg/apihelpers"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/proa-dev/proa/api"
)

type definition = apiextensionsv1.CustomResourceDefinition

// Kinds lists the kinds of the group.
func Kinds() []*api.Kind { return []*api.Kind{CustomResourceDefinition()} }

// CustomResourceDefinition is the kind of definitions of users' own kinds.
func CustomResourceDefinition() *api.Kind {
	return &api.Kind{
		GVK:         apiextensionsv1.SchemeGroupVersion.WithKind("CustomResourceDefinition"),
		Resource:    "customresourcedefinitions",
		ShortNames:  []string{"crd", "crds"},
		Categories:  []string{"api-extensions"},
		New:         api.Maker[definition](),
		NewList:     api.ListMaker[apiextensionsv1.CustomResourceDefinitionList](),
		StoragePath: "apiextensions.k8s.io/customresourcedefinitions",
		Columns:     []api.Column{api.CreatedColumn()},
		Default:     api.On(func(d *definition) { apiextensionsv1.SetObjectDefaults_CustomResourceDefinition(d) }),
		PrepareCreate: api.On(func(d *definition) {
			d.Status = apiextensionsv1.CustomResourceDefinitionStatus{}
			d.Generation = 1
			noteStored(d)
		}),
		PrepareUpdate: api.OnUpdate(func(d, old *definition) {
			d.Status = *old.Status.DeepCopy()
			api.BumpGeneration(d, old, &d.Spec, &old.Spec)
			noteStored(d)
		}),
		Validate: api.Check(func(d *definition) field.ErrorList {
			return checked(func(o ...*apiextensions.CustomResourceDefinition) field.ErrorList {
				return validation.ValidateCustomResourceDefinition(noContext(), o[0])
			}, d)
		}),
		ValidateUpdate: api.CheckUpdate(func(d, old *definition) field.ErrorList {
			return checked(func(o ...*apiextensions.CustomResourceDefinition) field.ErrorList {
				return validation.ValidateCustomResourceDefinitionUpdate(noContext(), o[0], o[1])
			}, d, old)
		}),
		Status: &api.Status{
			PrepareUpdate: api.OnUpdate(func(d, old *definition) { d.Spec = old.Spec }),
			ValidateUpdate: api.CheckUpdate(func(d, old *definition) field.ErrorList {
				return checked(func(o ...*apiextensions.CustomResourceDefinition) field.ErrorList {
					return validation.ValidateUpdateCustomResourceDefinitionStatus(noContext(), o[0], o[1])
				}, d, old)
			}),
		},
		BeginDelete:            api.On(beginDelete),
		Warnings:               warnings,
		RequireVersionOnUpdate: true,
		ResetFields:            map[string][]string{"": {"status"}, "status": {"spec"}},
	}
}

// noteStored remembers that objects are stored in the storage version from
// now on.
func noteStored(d *definition) {
	for _, v := range d.Spec.Versions {
		if v.Storage && !slices.Contains(d.Status.StoredVersions, v.Name) {
			d.Status.StoredVersions = append(d.Status.StoredVersions, v.Name)
		}
	}
}

// beginDelete makes a definition wait until its objects are gone.
func beginDelete(d *definition) {
	if !slices.Contains(d.Finalizers, apiextensionsv1.CustomResourceCleanupFinalizer) {
		d.Finalizers = append(d.Finalizers, apiextensionsv1.CustomResourceCleanupFinalizer)
	}
	apihelpers.SetCRDCondition(d, apiextensionsv1.CustomResourceDefinitionCondition{
		Type: apiextensionsv1.Terminating, Status: apiextensionsv1.ConditionTrue, Reason: "InstanceDeletionPending",
		Message: "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon",
	})
}

// checked hands copies of definitions, as upstream's validation takes them.
// That validation trips over some schemas that make no sense: they are refused.
func checked(check func(...*apiextensions.CustomResourceDefinition) field.ErrorList, defs ...*definition) (errs field.ErrorList) {
	defer func() {
		if p := recover(); p != nil {
			errs = field.ErrorList{field.Invalid(field.NewPath("spec"), "<value omitted>", fmt.Sprintf("cannot be validated: %v", p))}
		}
	}()
	in := make([]*apiextensions.CustomResourceDefinition, len(defs))
	for i, d := range defs {
		in[i] = &apiextensions.CustomResourceDefinition{}
		// Conversion shares memory with its argument: a copy, for validation is not ours.
		if err := apiextensionsv1.Convert_v1_CustomResourceDefinition_To_apiextensions_CustomResourceDefinition(d.DeepCopy(), in[i], nil); err != nil {
			return field.ErrorList{field.InternalError(field.NewPath("spec"), fmt.Errorf("read schemas: %w", err))}
		}
	}
	return check(in...)
}

// noContext is for validation that waits for nothing and may not be cut short.
func noContext() context.Context { return context.Background() }
