package customresources

import (
	"context"
	"errors"
	"fmt"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	structural "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel/model"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/defaulting"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/listtype"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/objectmeta"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/pruning"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	"k8s.io/apiserver/pkg/cel/common"

	_ "github.com/proa-dev/proa/internal/expressions" // rules compute within bounds
)

// version is one version of a custom resource, compiled.
type version struct {
	gvk      schema.GroupVersionKind
	preserve bool // unknown fields, of the whole object
	schema   *structural.Structural
	whole    validation.SchemaValidator
	status   validation.SchemaValidator
	rules    *cel.Validator
	scale    *apiextensionsv1.CustomResourceSubresourceScale
	hasState bool // the status subresource
}

// compile reads the schema of a version. Definitions are validated before they
// are stored, so that an error is one of another server's making.
func compile(d *definition, v *apiextensionsv1.CustomResourceDefinitionVersion) (*version, error) {
	out := &version{
		gvk:      schema.GroupVersionKind{Group: d.Spec.Group, Version: v.Name, Kind: d.Status.AcceptedNames.Kind},
		preserve: d.Spec.PreserveUnknownFields,
	}
	if s := v.Subresources; s != nil {
		out.scale, out.hasState = s.Scale, s.Status != nil
	}
	in := &apiextensions.JSONSchemaProps{}
	if v.Schema != nil && v.Schema.OpenAPIV3Schema != nil {
		var err error
		if in, err = internalSchema(v.Schema.OpenAPIV3Schema); err != nil {
			return nil, fmt.Errorf("version %s: %w", v.Name, err)
		}
		s, err := structural.NewStructural(in)
		if err != nil && !out.preserve {
			return nil, fmt.Errorf("version %s: the schema is not structural: %w", v.Name, err)
		}
		if err == nil {
			out.schema = s.DeepCopy()
			if !out.preserve {
				if err := defaulting.PruneDefaults(out.schema); err != nil {
					return nil, fmt.Errorf("version %s: prune defaults: %w", v.Name, err)
				}
			}
		}
	}
	var err error
	if out.whole, _, err = validation.NewSchemaValidator(in); err != nil {
		return nil, fmt.Errorf("version %s: compile the schema: %w", v.Name, err)
	}
	if status, ok := in.Properties["status"]; ok && out.hasState {
		if out.status, _, err = validation.NewSchemaValidator(&status); err != nil {
			return nil, fmt.Errorf("version %s: compile the schema of the status: %w", v.Name, err)
		}
	}
	out.rules = cel.NewValidator(out.schema, true, celconfig.PerCallLimit)
	return out, nil
}

// internalSchema is a schema as upstream's compilers take it. Conversion shares
// memory with its argument, which is everybody's: it gets a copy.
func internalSchema(s *apiextensionsv1.JSONSchemaProps) (*apiextensions.JSONSchemaProps, error) {
	in := &apiextensions.JSONSchemaProps{}
	if err := apiextensionsv1.Convert_v1_JSONSchemaProps_To_apiextensions_JSONSchemaProps(s.DeepCopy(), in, nil); err != nil {
		return nil, fmt.Errorf("read the schema: %w", err)
	}
	return in, nil
}

// coerce does for a custom resource what reading does for a built-in one: it
// drops unknown fields, malformed metadata and nulls that mean nothing. lenient
// is for what is stored already: bad metadata is dropped rather than refused.
func (v *version) coerce(u *unstructured.Unstructured, lenient bool) (unknown []string, err error) {
	if u.Object == nil {
		return nil, errors.New("the object is empty")
	}
	kind, foundKind, err := unstructured.NestedString(u.Object, "kind")
	if err != nil {
		return nil, err
	}
	apiVersion, foundVersion, err := unstructured.NestedString(u.Object, "apiVersion")
	if err != nil {
		return nil, err
	}
	meta, foundMeta, paths, err := objectmeta.GetObjectMetaWithOptions(u.Object, objectmeta.ObjectMetaOptions{
		DropMalformedFields: lenient, ReturnUnknownFieldPaths: !lenient,
	})
	if err != nil {
		return nil, err
	}
	unknown = append(unknown, paths...)
	if !v.preserve {
		unknown = append(unknown, pruning.PruneWithOptions(u.Object, v.schema, true, structural.UnknownFieldPathOptions{TrackUnknownFieldPaths: !lenient})...)
		defaulting.PruneNonNullableNullsWithoutDefaults(u.Object, v.schema)
	}
	fault, paths := objectmeta.CoerceWithOptions(nil, u.Object, v.schema, false, objectmeta.CoerceOptions{
		DropInvalidFields: lenient, ReturnUnknownFieldPaths: !lenient,
	})
	if fault != nil {
		return nil, fault
	}
	unknown = append(unknown, paths...)
	if lenient && meta.Generation == 0 {
		meta.Generation = 1
	}
	if foundKind {
		u.SetKind(kind)
	}
	if foundVersion {
		u.SetAPIVersion(apiVersion)
	}
	if foundMeta {
		if err := objectmeta.SetObjectMeta(u.Object, meta); err != nil {
			return nil, err
		}
	}
	return unknown, nil
}

func (v *version) defaults(u *unstructured.Unstructured) { defaulting.Default(u.Object, v.schema) }

// validate checks a new object.
func (v *version) validate(ctx context.Context, u *unstructured.Unstructured) field.ErrorList {
	if errs := v.checkType(u); len(errs) > 0 {
		return errs
	}
	errs := validation.ValidateCustomResource(nil, u.Object, v.whole)
	errs = append(errs, v.checkScale(u, true)...)
	errs = append(errs, objectmeta.Validate(ctx, nil, u.Object, v.schema, false)...)
	errs = append(errs, listtype.ValidateListSetsAndMaps(nil, v.schema, u.Object)...)
	return v.checkRules(ctx, u, nil, errs)
}

// validateUpdate checks a changed object; what was wrong before and did not
// change is let pass.
func (v *version) validateUpdate(ctx context.Context, u, old *unstructured.Unstructured) field.ErrorList {
	if errs := v.checkType(u); len(errs) > 0 {
		return errs
	}
	related := common.NewCorrelatedObject(u.Object, old.Object, &model.Structural{Structural: v.schema})
	errs := validation.ValidateCustomResourceUpdate(nil, u.Object, old.Object, v.whole, validation.WithRatcheting(related))
	errs = append(errs, v.checkScale(u, true)...)
	errs = append(errs, objectmeta.Validate(ctx, nil, u.Object, v.schema, false)...)
	errs = append(errs, v.checkLists(u, old)...)
	return v.checkRules(ctx, u, old, errs, cel.WithRatcheting(related))
}

// validateStatus checks a change of the status alone.
func (v *version) validateStatus(ctx context.Context, u, old *unstructured.Unstructured) field.ErrorList {
	if errs := v.checkType(u); len(errs) > 0 {
		return errs
	}
	related := common.NewCorrelatedObject(u.Object, old.Object, &model.Structural{Structural: v.schema})
	var errs field.ErrorList
	if status, ok := u.Object["status"]; ok && v.status != nil {
		var options []validation.ValidationOption
		if v.schema != nil {
			options = append(options, validation.WithRatcheting(related.Key("status")))
		}
		errs = validation.ValidateCustomResourceUpdate(field.NewPath("status"), status, old.Object["status"], v.status, options...)
	}
	errs = append(errs, v.checkScale(u, false)...)
	errs = append(errs, v.checkLists(u, old)...)
	return v.checkRules(ctx, u, old, errs, cel.WithRatcheting(related))
}

func (v *version) checkType(u *unstructured.Unstructured) (errs field.ErrorList) {
	if u.GetKind() != v.gvk.Kind {
		errs = append(errs, field.Invalid(field.NewPath("kind"), u.GetKind(), "must be "+v.gvk.Kind))
	}
	if want := v.gvk.GroupVersion().String(); u.GetAPIVersion() != want {
		errs = append(errs, field.Invalid(field.NewPath("apiVersion"), u.GetAPIVersion(), "must be "+want))
	}
	return errs
}

func (v *version) checkLists(u, old *unstructured.Unstructured) field.ErrorList {
	errs := listtype.ValidateListSetsAndMaps(nil, v.schema, u.Object)
	if len(errs) > 0 && len(listtype.ValidateListSetsAndMaps(nil, v.schema, old.Object)) > 0 {
		return nil
	}
	return errs
}

// checkRules adds what the expressions of the schema say, which take for
// granted that the object has the right form.
func (v *version) checkRules(ctx context.Context, u, old *unstructured.Unstructured, errs field.ErrorList, options ...cel.Option) field.ErrorList {
	if v.rules == nil {
		return errs
	}
	for _, err := range errs {
		switch err.Type {
		case field.ErrorTypeNotSupported, field.ErrorTypeRequired, field.ErrorTypeTooLong, field.ErrorTypeTooMany, field.ErrorTypeTypeInvalid:
			return append(errs, field.Invalid(nil, nil, "some validation rules were not checked because the object was invalid; correct the existing errors to complete validation"))
		}
	}
	var was any
	if old != nil {
		was = old.Object
	}
	more, _ := v.rules.Validate(ctx, nil, v.schema, u.Object, was, celconfig.RuntimeCELCostBudget, options...)
	return append(errs, more...)
}
