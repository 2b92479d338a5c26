// Package ownership says which fields an object sets, as managedFields record
// it, without the general machinery of structured-merge-diff: one walk over
// the Go value that writes the encoded set as it goes.
//
// The result is the library's own, byte for byte. What is unusual (an item
// without its key, two items with the same key, values that the schema does
// not know) is left to the library.
package ownership

import (
	"reflect"
	"strings"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"sigs.k8s.io/structured-merge-diff/v6/schema"

	"github.com/proa-dev/proa/api"
)

// unowned are the fields that belong to nobody, since the server sets them or
// they name the object.
var unowned = []string{
	"apiVersion", "kind", "metadata.name", "metadata.namespace", "metadata.creationTimestamp", "metadata.selfLink",
	"metadata.uid", "metadata.clusterName", "metadata.generation", "metadata.managedFields", "metadata.resourceVersion",
}

// Builder writes the fields of new objects of one kind. Safe for concurrent use.
type Builder struct {
	schema *schema.Schema
	root   schema.TypeRef
	empty  reflect.Value // the struct that a new object differs from
	skip   *skip
}

// New returns the builder for objects like empty, whose type is set, or nil
// where the library has to do it. reset are the paths that writers may not
// own.
func New(types managedfields.TypeConverter, empty api.Object, reset []string) *Builder {
	if _, custom := empty.(runtime.Unstructured); custom {
		return nil
	}
	t, err := types.ObjectToTyped(empty)
	if err != nil {
		return nil
	}
	b := &Builder{schema: t.Schema(), root: t.TypeRef(), empty: reflect.ValueOf(empty).Elem(), skip: &skip{}}
	for _, path := range append(reset, unowned...) {
		b.skip.add(path)
	}
	return b
}

// Fields returns the fields of obj as FieldsV1, nil when it sets none. ok is
// false when the library has to do it. obj is only read.
func (b *Builder) Fields(obj api.Object) (raw []byte, ok bool) {
	v := reflect.ValueOf(obj)
	if b == nil || v.Kind() != reflect.Pointer || v.IsNil() || v.Elem().Type() != b.empty.Type() {
		return nil, false
	}
	defer func() {
		switch p := recover().(type) {
		case nil:
		case unusual:
			raw, ok = nil, false
		default:
			panic(p)
		}
	}()
	w := walker{schema: b.schema, out: make([]byte, 0, 1024)}
	w.out = append(w.out, '{')
	w.visit(b.root, b.empty, v.Elem(), true, b.skip)
	if len(w.out) == 1 {
		return nil, true
	}
	return append(w.out, '}'), true
}

// skip is a tree of fields that are left out.
type skip struct {
	whole    bool
	children map[string]*skip
}

func (s *skip) add(path string) {
	for name := range strings.SplitSeq(path, ".") {
		next := s.children[name]
		if next == nil {
			if s.children == nil {
				s.children = map[string]*skip{}
			}
			next = &skip{}
			s.children[name] = next
		}
		s = next
	}
	s.whole = true
}

func (s *skip) child(name string) *skip {
	if s == nil {
		return nil
	}
	return s.children[name]
}
