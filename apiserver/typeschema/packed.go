package typeschema

import (
	"sigs.k8s.io/structured-merge-diff/v6/schema"
)

// typeNode is a type, or a reference to one, in the packed schema.
type typeNode struct {
	Name     string    `json:"n,omitempty"` // of a type that others refer to
	Ref      *string   `json:"r,omitempty"`
	Scalar   *string   `json:"s,omitempty"`
	List     *listNode `json:"l,omitempty"`
	Map      *mapNode  `json:"m,omitempty"`
	Relation *string   `json:"e,omitempty"`
	Nullable bool      `json:"0,omitempty"`
}

type listNode struct {
	Element  typeNode `json:"t"`
	Relation string   `json:"e,omitempty"`
	Keys     []string `json:"k,omitempty"`
}

type mapNode struct {
	Fields   []fieldNode `json:"f,omitempty"`
	Element  *typeNode   `json:"t,omitempty"`
	Relation string      `json:"e,omitempty"`
}

// fieldNode has the default only if it is a scalar: defaults matter where they
// are part of a list's key.
type fieldNode struct {
	Name    string   `json:"n"`
	Type    typeNode `json:"t"`
	Default any      `json:"d,omitempty"`
}

func unpackTypes(nodes []typeNode) []schema.TypeDef {
	out := make([]schema.TypeDef, len(nodes))
	for i := range nodes {
		out[i] = schema.TypeDef{Name: nodes[i].Name, Atom: unpackAtom(&nodes[i])}
	}
	return out
}

func unpackAtom(n *typeNode) schema.Atom {
	var a schema.Atom
	if n.Scalar != nil {
		s := schema.Scalar(*n.Scalar)
		a.Scalar = &s
	}
	if l := n.List; l != nil {
		a.List = &schema.List{ElementType: unpackRef(&l.Element), ElementRelationship: schema.ElementRelationship(l.Relation), Keys: l.Keys}
	}
	if m := n.Map; m != nil {
		a.Map = &schema.Map{ElementRelationship: schema.ElementRelationship(m.Relation)}
		if m.Element != nil {
			a.Map.ElementType = unpackRef(m.Element)
		}
		if len(m.Fields) > 0 {
			a.Map.Fields = make([]schema.StructField, len(m.Fields))
		}
		for i := range m.Fields {
			f := &m.Fields[i]
			a.Map.Fields[i] = schema.StructField{Name: f.Name, Type: unpackRef(&f.Type), Default: unpackDefault(f.Default)}
		}
	}
	return a
}

func unpackRef(n *typeNode) schema.TypeRef {
	r := schema.TypeRef{NamedType: n.Ref, Inlined: unpackAtom(n), Nullable: n.Nullable}
	if n.Relation != nil {
		e := schema.ElementRelationship(*n.Relation)
		r.ElementRelationship = &e
	}
	return r
}

// unpackDefault makes integers of JSON's numbers, as YAML has them.
func unpackDefault(v any) any {
	if f, ok := v.(float64); ok && f == float64(int(f)) {
		return int(f)
	}
	return v
}
