package openapi

import (
	"maps"
	"reflect"

	extensions "k8s.io/apiextensions-apiserver/pkg/generated/openapi"
	aggregator "k8s.io/kube-aggregator/pkg/generated/openapi"
	"k8s.io/kube-openapi/pkg/common"
	"k8s.io/kube-openapi/pkg/validation/spec"
)

// docs are the descriptions of a type's fields by their names in JSON, and its
// own below "".
func (b *builder) docs(t reflect.Type) map[string]string {
	if d, ok := reflect.New(t).Interface().(interface{ SwaggerDoc() map[string]string }); ok {
		return d.SwaggerDoc()
	}
	if b.described == nil {
		b.described = describe()
	}
	return b.described[modelName(t)]
}

// describe finds what upstream says of types without a method that says it,
// by model name.
func describe() map[string]map[string]string {
	ref := func(path string) spec.Ref {
		return spec.MustCreateRef("#/definitions/" + common.EscapeJsonPointer(path))
	}
	all := aggregator.GetOpenAPIDefinitions(ref)
	maps.Copy(all, extensions.GetOpenAPIDefinitions(ref))
	out := make(map[string]map[string]string, len(all))
	for name, def := range all {
		said := map[string]string{"": def.Schema.Description}
		for field, p := range def.Schema.Properties {
			said[field] = p.Description
		}
		out[name] = said
	}
	return out
}
