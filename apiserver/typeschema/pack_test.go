package typeschema

import (
	"sigs.k8s.io/structured-merge-diff/v6/schema"
)

// Pack is the way back: what unpackTypes reads. Unions are left out, as nothing
// reads them.
func Pack(types []schema.TypeDef) any {
	out := make([]typeNode, len(types))
	for i, t := range types {
		out[i] = packAtom(t.Atom)
		out[i].Name = t.Name
	}
	return out
}

func packAtom(a schema.Atom) typeNode {
	var n typeNode
	if a.Scalar != nil {
		s := string(*a.Scalar)
		n.Scalar = &s
	}
	if a.List != nil {
		n.List = &listNode{Element: packRef(a.List.ElementType), Relation: string(a.List.ElementRelationship), Keys: a.List.Keys}
	}
	if a.Map != nil {
		n.Map = &mapNode{Relation: string(a.Map.ElementRelationship)}
		if e := packRef(a.Map.ElementType); e != (typeNode{}) {
			n.Map.Element = &e
		}
		for _, f := range a.Map.Fields {
			node := fieldNode{Name: f.Name, Type: packRef(f.Type)}
			switch f.Default.(type) {
			case string, bool, int, int64, float64:
				node.Default = f.Default
			}
			n.Map.Fields = append(n.Map.Fields, node)
		}
	}
	return n
}

func packRef(r schema.TypeRef) typeNode {
	n := packAtom(r.Inlined)
	n.Ref, n.Nullable = r.NamedType, r.Nullable
	if r.ElementRelationship != nil {
		e := string(*r.ElementRelationship)
		n.Relation = &e
	}
	return n
}
