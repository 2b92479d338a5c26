package openapi

import (
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/kube-openapi/pkg/validation/spec"

	"github.com/proa-dev/proa/apiserver/kinds"
)

// Whole is the schema of a kind with what it refers to in place, for who types
// expressions by it; nil: the kind is not served. A type within itself is any
// object.
func Whole(set *kinds.Set, types managedfields.TypeConverter, gvk schema.GroupVersionKind) (*spec.Schema, error) {
	k := set.ByKind(gvk)
	if k == nil {
		return nil, nil
	}
	// Version 3 has no type for a quantity: expressions could not name a field
	// that holds some. As version 2 puts it, it is what it looks like, a string.
	_, custom := k.New().(runtime.Unstructured)
	d := &definitions{builder: newBuilder(set, types), v3: custom, made: map[string]object{}}
	d.described = map[string]map[string]string{} // nobody reads them there
	name, _ := d.schemaOf(k, false)["$ref"].(string)
	models, err := d.models()
	if err != nil {
		return nil, err
	}
	w := whole{models: models, open: map[string]bool{}}
	out, err := w.of(&spec.Schema{SchemaProps: spec.SchemaProps{Ref: spec.MustCreateRef(name)}})
	return &out, err
}

// whole puts models in the place of references.
type whole struct {
	models map[string]*spec.Schema
	open   map[string]bool // those around the present one
}

func (w *whole) of(s *spec.Schema) (out spec.Schema, err error) {
	if name, ok := referred(s); ok {
		if w.open[name] {
			return spec.Schema{SchemaProps: spec.SchemaProps{Type: spec.StringOrArray{"object"}}}, nil
		}
		if s = w.models[name]; s == nil {
			return out, fmt.Errorf("no schema of %s", name)
		}
		w.open[name] = true
		defer delete(w.open, name)
	}
	out = *s // models are shared by all that refer to them
	if len(s.Properties) > 0 {
		out.Properties = make(map[string]spec.Schema, len(s.Properties))
		for name, p := range s.Properties {
			if out.Properties[name], err = w.of(&p); err != nil {
				return out, err
			}
		}
	}
	if a := s.AdditionalProperties; a != nil && a.Schema != nil {
		value, err := w.of(a.Schema)
		if err != nil {
			return out, err
		}
		out.AdditionalProperties = &spec.SchemaOrBool{Allows: a.Allows, Schema: &value}
	}
	if i := s.Items; i != nil && i.Schema != nil {
		item, err := w.of(i.Schema)
		if err != nil {
			return out, err
		}
		out.Items = &spec.SchemaOrArray{Schema: &item}
	}
	return out, nil
}

// referred returns the model that a schema refers to, perhaps with a
// description of its own around.
func referred(s *spec.Schema) (string, bool) {
	if s.Ref.GetURL() != nil {
		ref := s.Ref.String()
		return ref[strings.LastIndex(ref, "/")+1:], true
	}
	for i := range s.AllOf {
		if name, ok := referred(&s.AllOf[i]); ok {
			return name, true
		}
	}
	return "", false
}
