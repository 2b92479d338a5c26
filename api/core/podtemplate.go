package core

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/api/core/podspec"
)

// PodTemplate is the kind of pod templates that stand alone.
func PodTemplate() *api.Kind {
	return &api.Kind{
		GVK:           gvk("PodTemplate"),
		ReturnDeleted: true,
		Resource:      "podtemplates",
		Namespaced:    true,
		New:           api.Maker[corev1.PodTemplate](),
		NewList:       api.ListMaker[corev1.PodTemplateList](),
		StoragePath:   "podtemplates",
		Columns:       podTemplateColumns(),

		Default: api.On(func(t *corev1.PodTemplate) { podspec.Default(&t.Template.Spec) }),
		Validate: api.Check(func(t *corev1.PodTemplate) field.ErrorList {
			return podspec.ValidateTemplate(field.NewPath("template"), &t.Template, podspec.Options{})
		}),
		ValidateUpdate: api.CheckUpdate(func(t, old *corev1.PodTemplate) field.ErrorList {
			return podspec.ValidateTemplate(field.NewPath("template"), &t.Template, podspec.After(&old.Template.Spec, old.Template.Annotations))
		}),
		Warnings: api.Warn(func(t, _ *corev1.PodTemplate) []string {
			return podspec.TemplateWarnings(field.NewPath("template"), &t.Template)
		}),
		PrepareCreate: api.On(func(t *corev1.PodTemplate) {
			t.Generation = 1
			podspec.DropGatedTemplate(&t.Template, nil)
		}),
		PrepareUpdate: api.OnUpdate(func(t, old *corev1.PodTemplate) {
			podspec.DropGatedTemplate(&t.Template, &old.Template)
			api.BumpGeneration(t, old, &t.Template, &old.Template)
		}),
	}
}
