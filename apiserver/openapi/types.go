package openapi

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/kube-openapi/pkg/validation/spec"
	smdschema "sigs.k8s.io/structured-merge-diff/v6/schema"

	"github.com/proa-dev/proa/apiserver/kinds"
)

type object = map[string]any

// builder makes documents of one generation of the table.
type builder struct {
	set *kinds.Set
	// elsewhere says that another server serves a group and version; nil: none
	// does.
	elsewhere func(schema.GroupVersion) bool
	// tokens says that the server tells who issues its tokens.
	tokens bool
	// gvks are the kinds that a Go type serves.
	gvks  map[reflect.Type][]schema.GroupVersionKind
	merge *smdschema.Schema
	// described are descriptions by model name and field; nil until one is needed.
	described map[string]map[string]string
	// corrections of what is required, by model name; nil until one is needed.
	corrections map[string][]string
}

func newBuilder(set *kinds.Set, types managedfields.TypeConverter) *builder {
	b := &builder{set: set, gvks: map[reflect.Type][]schema.GroupVersionKind{}}
	for _, k := range set.All {
		obj := k.New()
		if _, custom := obj.(runtime.Unstructured); custom {
			continue
		}
		b.addKind(obj, k.GVK)
		if k.NewList != nil {
			b.addKind(k.NewList(), k.ListGVK())
		}
		if b.merge == nil && types != nil {
			obj.GetObjectKind().SetGroupVersionKind(k.GVK)
			if typed, err := types.ObjectToTyped(obj); err == nil {
				b.merge = typed.Schema()
			}
		}
	}
	return b
}

func (b *builder) addKind(obj runtime.Object, gvk schema.GroupVersionKind) {
	t := reflect.TypeOf(obj).Elem()
	b.gvks[t] = append(b.gvks[t], gvk)
}

// definitions collects schemas by name for one document.
type definitions struct {
	*builder
	v3   bool
	made map[string]object
	// shared are parameters that paths of version 2 refer to.
	shared map[string]object
}

func (d *definitions) refTo(name string) object {
	if d.v3 {
		return object{"$ref": "#/components/schemas/" + name}
	}
	return object{"$ref": "#/definitions/" + name}
}

// ref returns the schema of a type; that of a named struct is a reference.
func (d *definitions) ref(t reflect.Type) object {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if s := formatted(t, d.v3); s != nil || t.Kind() == reflect.Struct {
		name := modelName(t)
		if _, ok := d.made[name]; !ok {
			if s == nil {
				d.made[name] = object{} // ends recursion
				s = d.structure(t, name)
			} else if doc := d.docs(t)[""]; doc != "" {
				s["description"] = doc
			}
			d.made[name] = s
		}
		return d.refTo(name)
	}
	switch t.Kind() {
	case reflect.Slice, reflect.Array:
		if t.Elem().Kind() == reflect.Uint8 {
			return object{"type": "string", "format": "byte"}
		}
		return object{"type": "array", "items": d.ref(t.Elem())}
	case reflect.Map:
		return object{"type": "object", "additionalProperties": d.ref(t.Elem())}
	case reflect.String:
		return object{"type": "string"}
	case reflect.Bool:
		return object{"type": "boolean"}
	case reflect.Int32, reflect.Int16, reflect.Int8, reflect.Uint8, reflect.Uint16, reflect.Uint32:
		return object{"type": "integer", "format": "int32"}
	case reflect.Int, reflect.Int64, reflect.Uint, reflect.Uint64:
		return object{"type": "integer", "format": "int64"}
	case reflect.Float32, reflect.Float64:
		return object{"type": "number", "format": "double"}
	}
	return object{"type": "object"}
}

// formatted is the schema of a type that says itself how it is written: times,
// quantities, numbers that may be names.
func formatted(t reflect.Type, v3 bool) object {
	if t.PkgPath() == "" {
		return nil
	}
	v := reflect.New(t).Interface()
	if t.PkgPath() == "k8s.io/apimachinery/pkg/runtime" && t.Name() == "RawExtension" || t.Name() == "FieldsV1" {
		return object{"type": "object"}
	}
	typed, ok := v.(interface{ OpenAPISchemaType() []string })
	if !ok {
		return nil
	}
	s := object{}
	if one, ok := v.(interface{ OpenAPIV3OneOfTypes() []string }); ok && v3 {
		var of []any
		for _, name := range one.OpenAPIV3OneOfTypes() {
			of = append(of, object{"type": name})
		}
		s["oneOf"] = of
	} else if types := typed.OpenAPISchemaType(); len(types) > 0 {
		s["type"] = types[0]
	}
	if f, ok := v.(interface{ OpenAPISchemaFormat() string }); ok && f.OpenAPISchemaFormat() != "" {
		s["format"] = f.OpenAPISchemaFormat()
	}
	return s
}

// modelName is the name that upstream publishes a type under.
func modelName(t reflect.Type) string {
	if n, ok := reflect.New(t).Interface().(interface{ OpenAPIModelName() string }); ok {
		return n.OpenAPIModelName()
	}
	parts := strings.Split(t.PkgPath(), "/")
	host := strings.Split(parts[0], ".")
	for i, j := 0, len(host)-1; i < j; i, j = i+1, j-1 {
		host[i], host[j] = host[j], host[i]
	}
	parts[0] = strings.Join(host, ".")
	return strings.Join(append(parts, t.Name()), ".")
}

func (d *definitions) structure(t reflect.Type, name string) object {
	out := object{"type": "object"}
	doc := d.docs(t)
	if doc[""] != "" {
		out["description"] = doc[""]
	}
	properties, required := object{}, []string{}
	d.fields(t, doc, d.mergeOf(name), properties, &required)
	if len(properties) > 0 {
		out["properties"] = properties
	}
	if required = d.corrected(name, required); len(required) > 0 {
		out["required"] = required
	}
	if m := d.mergeOf(name); m != nil && m.ElementRelationship == smdschema.Atomic {
		out["x-kubernetes-map-type"] = "atomic"
	}
	if gvks := d.gvks[t]; len(gvks) > 0 {
		out["x-kubernetes-group-version-kind"] = gvkList(gvks)
	}
	return out
}

func gvkList(gvks []schema.GroupVersionKind) []any {
	var out []any
	for _, g := range gvks {
		out = append(out, gvkOf(g))
	}
	return out
}

func gvkOf(g schema.GroupVersionKind) object {
	return object{"group": g.Group, "version": g.Version, "kind": g.Kind}
}

// mergeOf finds how the fields of a type merge.
func (b *builder) mergeOf(name string) *smdschema.Map {
	if b.merge == nil {
		return nil
	}
	def, ok := b.merge.FindNamedType(name)
	if !ok {
		return nil
	}
	return def.Map
}

// fields adds the fields of a struct, those of inlined structs among them.
func (d *definitions) fields(t reflect.Type, doc map[string]string, merge *smdschema.Map, properties object, required *[]string) {
	for i := range t.NumField() {
		f := t.Field(i)
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name == "-" || !f.IsExported() {
			continue
		}
		if name == "" {
			inner := f.Type
			for inner.Kind() == reflect.Pointer {
				inner = inner.Elem()
			}
			if f.Anonymous && inner.Kind() == reflect.Struct {
				d.fields(inner, d.docs(inner), merge, properties, required)
			}
			continue
		}
		properties[name] = d.property(f, doc[name], name, merge)
		if !strings.Contains(options, "omitempty") && !strings.Contains(options, "omitzero") && f.Type.Kind() != reflect.Pointer {
			*required = append(*required, name)
		}
	}
}

func (d *definitions) property(f reflect.StructField, description, name string, merge *smdschema.Map) object {
	p := d.ref(f.Type)
	if ref, ok := p["$ref"]; ok && d.v3 {
		p = object{"allOf": []any{object{"$ref": ref}}}
	}
	if description != "" {
		p["description"] = description
	}
	if v := f.Tag.Get("patchStrategy"); v != "" {
		p["x-kubernetes-patch-strategy"] = v
	}
	if v := f.Tag.Get("patchMergeKey"); v != "" {
		p["x-kubernetes-patch-merge-key"] = v
	}
	if merge == nil || d.merge == nil {
		return p
	}
	field, ok := merge.FindField(name)
	if !ok {
		return p
	}
	atom, ok := d.merge.Resolve(field.Type)
	if !ok {
		return p
	}
	switch {
	case atom.List != nil && p["type"] == "array":
		switch {
		case atom.List.ElementRelationship != smdschema.Associative:
			p["x-kubernetes-list-type"] = "atomic"
		case len(atom.List.Keys) > 0:
			p["x-kubernetes-list-type"] = "map"
			p["x-kubernetes-list-map-keys"] = atom.List.Keys
		default:
			p["x-kubernetes-list-type"] = "set"
		}
	case atom.Map != nil && p["type"] == "object" && atom.Map.ElementRelationship == smdschema.Atomic:
		p["x-kubernetes-map-type"] = "atomic"
	}
	return p
}

// Metadata is the schema of metadata with all that it refers to, by model name,
// for schemas of users' own kinds that include it.
func Metadata(set *kinds.Set, types managedfields.TypeConverter) (map[string]*spec.Schema, error) {
	d := &definitions{builder: newBuilder(set, types), made: map[string]object{}}
	d.described = map[string]map[string]string{} // nobody reads them there
	d.ref(reflect.TypeFor[metav1.ObjectMeta]())
	return d.models()
}

// models are the schemas that were collected, as what reads schemas knows them.
func (d *definitions) models() (map[string]*spec.Schema, error) {
	out := make(map[string]*spec.Schema, len(d.made))
	for name, s := range d.made {
		data, err := json.Marshal(s)
		if err != nil {
			return nil, err
		}
		out[name] = &spec.Schema{}
		if err := json.Unmarshal(data, out[name]); err != nil {
			return nil, fmt.Errorf("schema of %s: %w", name, err)
		}
	}
	return out, nil
}
