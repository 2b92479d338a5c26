package resource

import (
	"encoding/json"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	apicel "k8s.io/apiserver/pkg/cel"
	"k8s.io/apiserver/pkg/cel/environment"
	dracel "k8s.io/dynamic-resource-allocation/cel"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/api/validate"
)

// DeviceClass is the kind of device classes.
func DeviceClass() *api.Kind {
	type C = *resourcev1.DeviceClass
	return &api.Kind{
		GVK:            gvk("DeviceClass"),
		ReturnDeleted:  true,
		Resource:       "deviceclasses",
		New:            api.Maker[resourcev1.DeviceClass](),
		NewList:        api.ListMaker[resourcev1.DeviceClassList](),
		StoragePath:    "deviceclasses",
		PrepareCreate:  api.On(func(c C) { c.Generation = 1 }),
		PrepareUpdate:  api.OnUpdate(func(c, old C) { api.BumpGeneration(c, old, &c.Spec, &old.Spec) }),
		Validate:       api.Check(func(c C) field.ErrorList { return validateClass(c, nil) }),
		ValidateUpdate: api.CheckUpdate(validateClass),
	}
}

// validateClass checks a class in view of the old one, nil for none. What did
// not change was valid when it came.
func validateClass(c, old *resourcev1.DeviceClass) field.ErrorList {
	s, path := &c.Spec, field.NewPath("spec")
	oldSelectors := old != nil && api.Equal(&s.Selectors, &old.Spec.Selectors)
	oldConfig := old != nil && api.Equal(&s.Config, &old.Spec.Config)
	errs := validateSelectors(path.Child("selectors"), s.Selectors, oldSelectors)
	errs = append(errs, each(path.Child("config"), s.Config, resourcev1.DeviceConfigMaxSize,
		func(at *field.Path, c *resourcev1.DeviceClassConfiguration) field.ErrorList {
			return validateConfig(at, &c.DeviceConfiguration, oldConfig)
		})...)
	if n := s.ExtendedResourceName; n != nil && !validate.ExtendedResource(corev1.ResourceName(*n)) {
		errs = append(errs, field.Invalid(path.Child("extendedResourceName"), *n, "must be a valid extended resource name"))
	}
	return errs
}

func validateSelectors(path *field.Path, list []resourcev1.DeviceSelector, stored bool) field.ErrorList {
	return each(path, list, resourcev1.DeviceSelectorsMaxSize, func(at *field.Path, s *resourcev1.DeviceSelector) field.ErrorList {
		if s.CEL == nil {
			return field.ErrorList{field.Required(at.Child("cel"), "")}
		}
		if stored {
			return nil
		}
		return validateExpression(at.Child("cel", "expression"), s.CEL.Expression)
	})
}

func validateExpression(path *field.Path, text string) field.ErrorList {
	if len(text) > resourcev1.CELSelectorExpressionMaxLength {
		return field.ErrorList{field.TooLong(path, "", resourcev1.CELSelectorExpressionMaxLength)}
	}
	env := environment.NewExpressions
	r := dracel.GetCompiler(dracel.Features{EnableConsumableCapacity: true}).CompileCELExpression(text, dracel.Options{EnvType: &env})
	var wrong *apicel.Error
	switch {
	case r.Error == nil && r.MaxCost > resourcev1.CELSelectorExpressionMaxCost:
		return field.ErrorList{field.Forbidden(path, "too complex, exceeds cost limit")}
	case r.Error == nil:
		return nil
	case !errors.As(error(r.Error), &wrong):
		return field.ErrorList{field.InternalError(path, fmt.Errorf("unsupported error type: %w", r.Error))}
	case wrong.Type == apicel.ErrorTypeRequired:
		return field.ErrorList{field.Required(path, wrong.Detail)}
	case wrong.Type == apicel.ErrorTypeInvalid:
		return field.ErrorList{field.Invalid(path, text, wrong.Detail)}
	}
	return field.ErrorList{field.InternalError(path, wrong)}
}

func validateConfig(path *field.Path, c *resourcev1.DeviceConfiguration, stored bool) field.ErrorList {
	if c.Opaque == nil {
		return field.ErrorList{field.Required(path.Child("opaque"), "")}
	}
	path = path.Child("opaque")
	errs := driverName(path.Child("driver"), c.Opaque.Driver)
	most := resourcev1.OpaqueParametersMaxLength
	if stored { // from before there was a limit
		most = -1
	}
	return append(errs, jsonObject(path.Child("parameters"), &c.Opaque.Parameters, most)...)
}

// jsonObject wants a JSON object of a limited size.
func jsonObject(path *field.Path, raw *runtime.RawExtension, most int) field.ErrorList {
	var v any
	if len(raw.Raw) == 0 {
		return field.ErrorList{field.Required(path, "")}
	}
	if most >= 0 && len(raw.Raw) > most {
		return field.ErrorList{field.TooLong(path, "", most)}
	}
	if err := json.Unmarshal(raw.Raw, &v); err != nil {
		return field.ErrorList{field.Invalid(path, "<value omitted>", fmt.Sprintf("error parsing data as JSON: %v", err))}
	}
	switch v.(type) {
	case nil:
		return field.ErrorList{field.Required(path, "")}
	case map[string]any:
		return nil
	}
	return field.ErrorList{field.Invalid(path, "<value omitted>", "must be a valid JSON object")}
}
