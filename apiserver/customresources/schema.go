package customresources

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	structural "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	openapiv2 "k8s.io/apiextensions-apiserver/pkg/controller/openapi/v2"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/kube-openapi/pkg/validation/spec"
)

const metadataModel = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"

// document is the schema of a version as clients read it.
func (v *version) document(v3 bool) *spec.Schema {
	out := (&spec.Schema{}).Typed("object", "")
	s := v.schema
	if s != nil && len(structural.ValidateStructural(nil, s)) > 0 {
		s = nil
	}
	// kubectl takes listed properties for all there are.
	if s != nil && (v3 || !s.XPreserveUnknownFields && !v.preserve) {
		if s = s.Unfold(); !v3 {
			s = openapiv2.ToStructuralOpenAPIV2(s)
		}
		out = s.ToKubeOpenAPI()
		addType(out, v3)
		addEmbedded(out, v3)
	}
	out.AddExtension("x-kubernetes-group-version-kind", []any{
		map[string]any{"group": v.gvk.Group, "version": v.gvk.Version, "kind": v.gvk.Kind},
	})
	return out
}

// addType adds what every object has.
func addType(s *spec.Schema, v3 bool) {
	text := func(description string) spec.Schema {
		return *spec.StringProperty().WithDescription(description)
	}
	s.SetProperty("apiVersion", text("APIVersion defines the versioned schema of this representation of an object. Servers should convert recognized schemas to the latest internal value, and may reject unrecognized values. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#resources"))
	s.SetProperty("kind", text("Kind is a string value representing the REST resource this object represents. Servers may infer this from the endpoint the client submits requests to. Cannot be updated. In CamelCase. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds"))
	about := "Standard object's metadata. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata"
	if !v3 {
		s.SetProperty("metadata", *spec.RefSchema("#/definitions/" + metadataModel).WithDescription(about))
		return
	}
	// Beside a reference nothing else counts.
	meta := (&spec.Schema{}).WithAllOf(*spec.RefSchema("#/components/schemas/" + metadataModel)).WithDescription(about)
	s.SetProperty("metadata", *meta)
}

// addEmbedded does so for objects inside of the object.
func addEmbedded(s *spec.Schema, v3 bool) {
	if s == nil {
		return
	}
	for name, p := range s.Properties {
		addEmbedded(&p, v3)
		s.Properties[name] = p
	}
	if s.Items != nil {
		addEmbedded(s.Items.Schema, v3)
	}
	if s.AdditionalProperties != nil {
		addEmbedded(s.AdditionalProperties.Schema, v3)
	}
	if any, ok := s.Extensions.GetBool("x-kubernetes-preserve-unknown-fields"); ok && any && !v3 {
		return
	}
	if embedded, ok := s.Extensions.GetBool("x-kubernetes-embedded-resource"); !ok || !embedded {
		return
	}
	addType(s, v3)
	for _, name := range []string{"kind", "apiVersion"} {
		if !slices.Contains(s.Required, name) {
			s.Required = append(s.Required, name)
		}
	}
}

// published is document as the OpenAPI handler merges it into its own.
func (v *version) published(v3 bool) map[string]any {
	out := map[string]any{}
	data, err := json.Marshal(v.document(v3))
	if err == nil {
		err = json.Unmarshal(data, &out)
	}
	if err != nil { // of what was read from JSON: cannot be
		return map[string]any{"type": "object"}
	}
	return out
}

// mergeTypes tells how the fields of all versions merge.
func mergeTypes(versions map[string]*version, metadata map[string]*spec.Schema) (managedfields.TypeConverter, error) {
	models := maps.Clone(metadata)
	preserve := false
	for _, v := range versions {
		group := strings.Split(v.gvk.Group, ".")
		slices.Reverse(group)
		models[strings.Join(group, ".")+"."+v.gvk.Version+"."+v.gvk.Kind] = v.model()
		preserve = preserve || v.preserve || v.schema == nil
	}
	out, err := managedfields.NewTypeConverter(models, preserve)
	if err != nil {
		return nil, fmt.Errorf("how fields merge: %w", err)
	}
	return out, nil
}

// model is the schema of a version by which fields merge. The second version
// of OpenAPI says less than is needed; its references are wanted.
func (v *version) model() *spec.Schema {
	if v.schema == nil {
		return v.document(false)
	}
	s := v.schema.Unfold().ToKubeOpenAPI()
	addType(s, false)
	addEmbedded(s, false)
	s.Extensions = maps.Clone(s.Extensions)
	s.AddExtension("x-kubernetes-group-version-kind", []any{
		map[string]any{"group": v.gvk.Group, "version": v.gvk.Version, "kind": v.gvk.Kind},
	})
	return s
}
