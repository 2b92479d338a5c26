package ownership

import (
	"reflect"
	"slices"
	"strings"

	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
	"sigs.k8s.io/structured-merge-diff/v6/schema"
	"sigs.k8s.io/structured-merge-diff/v6/value"
)

// unusual ends a walk: the library has to do it.
type unusual struct{}

func bail() { panic(unusual{}) }

// walker writes a set in the order in which fieldpath.Set encodes it: members
// by name, a member that has children as "." before them.
type walker struct {
	schema *schema.Schema
	out    []byte
}

// visit writes what stands between the braces of a path. have is the present
// value, was is what a new object has there when had is set: a field that is
// there from the beginning belongs to nobody. self says that the path itself
// is a member of the set.
func (w *walker) visit(tr schema.TypeRef, was, have reflect.Value, had bool, s *skip) (self bool) {
	atom, ok := w.schema.Resolve(tr)
	if !ok {
		bail()
	}
	if e := value.TypeReflectEntryOf(have.Type()); e.CanConvertToUnstructured() {
		if !isLeaf(atom) {
			bail()
		}
		return !had || !sameConverted(e, was, have)
	}
	have = dereference(have)
	if had {
		was = dereference(was)
	}
	switch have.Kind() {
	case reflect.Struct:
		return w.structure(atom.Map, was, have, had, s)
	case reflect.Map:
		return w.mapping(atom, was, have, had, s)
	case reflect.Slice:
		if have.Type().Elem().Kind() != reflect.Uint8 {
			return w.list(atom, was, have, had)
		}
		if !have.IsNil() && !accepts(atom.Scalar, schema.String) {
			bail()
		}
	case reflect.Pointer: // nil
	case reflect.String:
		if !accepts(atom.Scalar, schema.String) {
			bail()
		}
	case reflect.Bool:
		if !accepts(atom.Scalar, schema.Boolean) {
			bail()
		}
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Float32, reflect.Float64:
		if !accepts(atom.Scalar, schema.Numeric) {
			bail()
		}
	default:
		bail()
	}
	return !had || !reflect.DeepEqual(was.Interface(), have.Interface())
}

func accepts(s *schema.Scalar, want schema.Scalar) bool {
	return s != nil && (*s == want || *s == schema.Untyped)
}

// isLeaf says that values are owned as a whole, whatever they are.
func isLeaf(a schema.Atom) bool {
	return (a.Map == nil || a.Map.ElementRelationship == schema.Atomic) && (a.List == nil || a.List.ElementRelationship == schema.Atomic)
}

func sameConverted(e *value.TypeReflectCacheEntry, was, have reflect.Value) bool {
	a, err := e.ToUnstructured(was)
	if err != nil {
		bail()
	}
	b, err := e.ToUnstructured(have)
	if err != nil {
		bail()
	}
	return reflect.DeepEqual(a, b)
}

// dereference follows a pointer that is not nil.
func dereference(v reflect.Value) reflect.Value {
	if v.Kind() == reflect.Pointer && !v.IsNil() {
		return v.Elem()
	}
	return v
}

func (w *walker) structure(m *schema.Map, was, have reflect.Value, had bool, s *skip) (self bool) {
	if m == nil {
		bail()
	}
	if m.ElementRelationship == schema.Atomic {
		return !had || !reflect.DeepEqual(was.Interface(), have.Interface())
	}
	below := had && was.Kind() == reflect.Struct // else a nil pointer
	start := w.begin(!had)
	for _, f := range value.TypeReflectEntryOf(have.Type()).OrderedFields() {
		v := f.GetFrom(have)
		if f.CanOmit(v) {
			continue
		}
		inner := s.child(f.JsonName)
		if inner != nil && inner.whole {
			continue
		}
		var before reflect.Value
		hadField := false
		if below {
			before = f.GetFrom(was)
			hadField = !f.CanOmit(before)
		}
		w.field(m, f.JsonName, before, v, hadField, inner)
	}
	w.end(start, !had)
	return !had
}

// field writes one field of a map or struct.
func (w *walker) field(m *schema.Map, name string, was, have reflect.Value, had bool, s *skip) {
	tr := m.ElementType
	if f, ok := m.FindField(name); ok {
		tr = f.Type
	} else if tr == (schema.TypeRef{}) {
		bail()
	}
	start := w.open("f:", name)
	w.close(start, w.visit(tr, was, have, had, s))
}

func (w *walker) mapping(atom schema.Atom, was, have reflect.Value, had bool, s *skip) (self bool) {
	switch {
	case atom.Map == nil || have.Type().Key().Kind() != reflect.String || had && (was.Kind() != reflect.Map || was.Len() > 0):
		bail()
	case have.Len() == 0:
		return !had || was.IsNil() != have.IsNil()
	case atom.Map.ElementRelationship == schema.Atomic:
		return true
	}
	keys := make([]string, 0, have.Len())
	for it := have.MapRange(); it.Next(); {
		keys = append(keys, it.Key().String())
	}
	slices.Sort(keys)
	start := w.begin(!had)
	for _, k := range keys {
		below := s.child(k)
		if below != nil && below.whole {
			continue
		}
		v := have.MapIndex(reflect.ValueOf(k).Convert(have.Type().Key()))
		w.field(atom.Map, k, reflect.Value{}, v, false, below)
	}
	w.end(start, !had)
	return !had
}

// item is an element of a list under its key.
type item struct {
	at    fieldpath.PathElement
	value reflect.Value
}

func (w *walker) list(atom schema.Atom, was, have reflect.Value, had bool) (self bool) {
	switch {
	case atom.List == nil || had && (was.Kind() != reflect.Slice || was.Len() > 0):
		bail()
	case have.Len() == 0:
		return !had || was.IsNil() != have.IsNil()
	case atom.List.ElementRelationship == schema.Atomic:
		return true
	}
	start := w.begin(!had)
	for _, it := range w.items(atom.List, have) {
		key, err := fieldpath.SerializePathElement(it.at)
		if err != nil {
			bail()
		}
		at := w.open("", key)
		w.close(at, w.visit(atom.List.ElementType, reflect.Value{}, it.value, false, nil))
	}
	w.end(start, !had)
	return !had
}

// key is the path element of an item of an associative list.
func (w *walker) key(l *schema.List, v reflect.Value) (pe fieldpath.PathElement) {
	if l.ElementRelationship != schema.Associative {
		bail()
	}
	if len(l.Keys) == 0 {
		scalar := scalarOf(v)
		pe.Value = &scalar
		return pe
	}
	v = dereference(v)
	if v.Kind() != reflect.Struct {
		bail()
	}
	fields := value.TypeReflectEntryOf(v.Type()).Fields()
	keys := make(value.FieldList, 0, len(l.Keys))
	for _, name := range l.Keys {
		f := fields[name]
		if f == nil {
			bail()
		}
		if fv := f.GetFrom(v); !f.CanOmit(fv) {
			keys = append(keys, value.Field{Name: name, Value: scalarOf(fv)})
		} else if def := w.defaultOf(l, name); def != nil {
			keys = append(keys, value.Field{Name: name, Value: value.NewValueInterface(def)})
		}
	}
	if len(keys) == 0 {
		bail()
	}
	keys.Sort()
	pe.Key = &keys
	return pe
}

func (w *walker) defaultOf(l *schema.List, name string) any {
	atom, ok := w.schema.Resolve(l.ElementType)
	if !ok || atom.Map == nil {
		bail()
	}
	f, _ := atom.Map.FindField(name)
	return f.Default
}

func scalarOf(v reflect.Value) value.Value {
	if value.TypeReflectEntryOf(v.Type()).CanConvertToUnstructured() {
		bail()
	}
	switch v = dereference(v); v.Kind() {
	case reflect.String:
		return value.NewValueInterface(v.String())
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return value.NewValueInterface(v.Int())
	case reflect.Bool:
		return value.NewValueInterface(v.Bool())
	}
	bail()
	return nil
}

// begin and end enclose the children of a path; a path that is a member
// itself says so before them.
func (w *walker) begin(self bool) (start int) {
	start = len(w.out)
	if self {
		w.out = append(w.out, `".":{}`...)
	}
	return start
}

func (w *walker) end(start int, self bool) {
	if self && len(w.out) == start+len(`".":{}`) {
		w.out = w.out[:start]
	}
}

// open writes a key and its brace, close takes both back when nothing came
// between them.
func (w *walker) open(prefix, key string) (start int) {
	start = len(w.out)
	if w.out[start-1] != '{' {
		w.out = append(w.out, ',')
	}
	w.out = append(w.out, '"')
	w.out = append(w.out, prefix...)
	if strings.ContainsAny(key, `"\`) {
		for i := range len(key) {
			if key[i] == '"' || key[i] == '\\' {
				w.out = append(w.out, '\\')
			}
			w.out = append(w.out, checked(key[i]))
		}
	} else {
		for i := range len(key) {
			w.out = append(w.out, checked(key[i]))
		}
	}
	w.out = append(w.out, `":{`...)
	return start
}

// checked leaves characters that are escaped in more ways to the library.
func checked(c byte) byte {
	if c < 0x20 {
		bail()
	}
	return c
}

func (w *walker) close(start int, self bool) {
	if !self && w.out[len(w.out)-1] == '{' {
		w.out = w.out[:start]
		return
	}
	w.out = append(w.out, '}')
}
