package core

import (
	"maps"
	"reflect"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/api/validate"
)

// ConfigMap is the kind of config maps.
func ConfigMap() *api.Kind {
	return &api.Kind{
		GVK:         gvk("ConfigMap"),
		Resource:    "configmaps",
		ShortNames:  []string{"cm"},
		Namespaced:  true,
		New:         api.Maker[corev1.ConfigMap](),
		NewList:     api.ListMaker[corev1.ConfigMapList](),
		StoragePath: "configmaps",
		Columns: []api.Column{
			api.Col("Data", "string", "Number of keys.", func(c *corev1.ConfigMap) any { return int64(len(c.Data) + len(c.BinaryData)) }),
			api.AgeColumn(),
		},

		Validate:       api.Check(validateConfigMap),
		ValidateUpdate: api.CheckUpdate(validateConfigMapUpdate),
	}
}

func validateConfigMap(c *corev1.ConfigMap) field.ErrorList {
	var errs field.ErrorList
	size := 0
	for _, k := range slices.Sorted(maps.Keys(c.Data)) {
		at := field.NewPath("data").Key(k)
		errs = append(errs, validate.Messages(at, k, validation.IsConfigMapKey(k))...)
		if _, ok := c.BinaryData[k]; ok {
			errs = append(errs, field.Invalid(at, k, "duplicate of key present in binaryData"))
		}
		size += len(c.Data[k])
	}
	for _, k := range slices.Sorted(maps.Keys(c.BinaryData)) {
		errs = append(errs, validate.Messages(field.NewPath("binaryData").Key(k), k, validation.IsConfigMapKey(k))...)
		size += len(c.BinaryData[k])
	}
	if size > corev1.MaxSecretSize {
		// No field by itself is too long: the path is empty.
		errs = append(errs, field.TooLong(field.NewPath(""), "", corev1.MaxSecretSize))
	}
	return errs
}

func validateConfigMapUpdate(c, old *corev1.ConfigMap) field.ErrorList {
	var errs field.ErrorList
	if old.Immutable != nil && *old.Immutable {
		errs = validateSealed(map[string]bool{
			"immutable":  c.Immutable == nil || !*c.Immutable,
			"data":       !reflect.DeepEqual(c.Data, old.Data),
			"binaryData": !reflect.DeepEqual(c.BinaryData, old.BinaryData),
		})
	}
	return append(errs, validateConfigMap(c)...)
}

// validateSealed refuses the changed fields of an object that was declared
// immutable.
func validateSealed(changed map[string]bool) field.ErrorList {
	var errs field.ErrorList
	for _, name := range []string{"immutable", "data", "binaryData"} {
		if changed[name] {
			errs = append(errs, field.Forbidden(field.NewPath(name), "field is immutable when `immutable` is set"))
		}
	}
	return errs
}
