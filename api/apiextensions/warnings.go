package apiextensions

import (
	"fmt"
	"slices"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/validation"
	formats "k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	"k8s.io/apiserver/pkg/cel/environment"
	"k8s.io/kube-openapi/pkg/validation/spec"

	"github.com/proa-dev/proa/api"
)

// warnings tell of what a schema says and nobody checks, where that is new.
func warnings(obj, old api.Object) []string {
	d, ok := obj.(*definition)
	if !ok {
		return nil
	}
	known, sets := oddities(d)
	var hadFormats, hadSets []string
	if before, ok := old.(*definition); ok && before != nil {
		hadFormats, hadSets = oddities(before)
	}
	var out []string
	for _, f := range known {
		if !slices.Contains(hadFormats, f) {
			out = append(out, fmt.Sprintf("unrecognized format %q", f))
		}
	}
	for _, typ := range sets {
		if !slices.Contains(hadSets, typ) {
			out = append(out, fmt.Sprintf("x-kubernetes-list-type: set for items of type %q is not supported by server-side apply or CEL validation rules", typ))
		}
	}
	return out
}

// oddities are the unknown formats of a definition's schemas, and the types other
// than scalars of which there are sets.
func oddities(d *definition) (unknown, sets []string) {
	version := environment.DefaultCompatibilityVersion()
	for _, v := range d.Spec.Versions {
		if v.Schema == nil || v.Schema.OpenAPIV3Schema == nil {
			continue
		}
		in := &apiextensions.JSONSchemaProps{}
		// Conversion shares memory with its argument.
		if err := apiextensionsv1.Convert_v1_JSONSchemaProps_To_apiextensions_JSONSchemaProps(v.Schema.OpenAPIV3Schema.DeepCopy(), in, nil); err != nil {
			continue // validation tells
		}
		validation.SchemaHas(in, func(s *apiextensions.JSONSchemaProps) bool {
			if s.Format != "" {
				one := &spec.Schema{SchemaProps: spec.SchemaProps{Format: s.Format, Type: []string{s.Type}}}
				unknown = append(unknown, formats.GetUnrecognizedFormats(one, version)...)
			}
			if s.XListType != nil && *s.XListType == "set" && s.Items != nil && s.Items.Schema != nil {
				if typ := s.Items.Schema.Type; typ == "object" || typ == "array" {
					sets = append(sets, typ)
				}
			}
			return false
		})
	}
	slices.Sort(sets)
	return unknown, slices.Compact(sets)
}
