package ownership

import (
	"encoding/binary"
	"encoding/json"
	"math"
	"reflect"
	"slices"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/proa-dev/proa/api"
)

// Shape is all that decides on the owners of fields after a write, as bytes:
// two writes whose shapes are equal come out alike.
type Shape struct {
	key    []byte
	failed bool
	types  *layouts
}

// Shape returns the shape of a write that leads from one object to another,
// which are thin; nil means that it has none. It goes back by Release.
func (m *Memory) Shape(k *api.Kind, subresource, manager string, before []metav1.ManagedFieldsEntry, was, is api.Object) *Shape {
	a, b := reflect.ValueOf(was), reflect.ValueOf(is)
	if a.Type() != b.Type() || a.Kind() != reflect.Pointer || a.Elem().Kind() != reflect.Struct {
		return nil
	}
	s, _ := m.pool.Get().(*Shape)
	if s == nil {
		s = &Shape{types: &m.types}
	}
	s.key, s.failed = s.key[:0], false
	s.text(k.GVK.Group)
	s.text(k.GVK.Version)
	s.text(k.GVK.Kind)
	s.text(subresource)
	s.text(manager)
	s.number(uint64(len(before)))
	for i := range before {
		e := &before[i]
		s.text(e.Manager)
		s.text(string(e.Operation))
		s.text(e.APIVersion)
		s.text(e.Subresource)
		s.flag(e.FieldsV1 != nil)
		if e.FieldsV1 != nil {
			s.bytes(e.FieldsV1.Raw)
		}
	}
	s.structs(a.Elem(), b.Elem())
	if s.failed || len(s.key) > maxShape {
		m.Release(s)
		return nil
	}
	return s
}

// Release takes back a shape, which may be nil.
func (m *Memory) Release(s *Shape) {
	if s != nil && cap(s.key) <= maxShape {
		m.pool.Put(s)
	}
}

// What is written tells its own length, so that no two sequences look alike.

func (s *Shape) number(n uint64) { s.key = binary.AppendUvarint(s.key, n) }

func (s *Shape) text(t string) {
	s.number(uint64(len(t)))
	s.key = append(s.key, t...)
}

func (s *Shape) bytes(b []byte) {
	s.number(uint64(len(b)))
	s.key = append(s.key, b...)
}

func (s *Shape) flag(b bool) {
	if b {
		s.key = append(s.key, 1)
	} else {
		s.key = append(s.key, 0)
	}
}

// structs writes the fields that are set in one of two structs.
func (s *Shape) structs(a, b reflect.Value) {
	layout := s.types.layout(a.Type())
	for i := range layout {
		f := &layout[i]
		if f.name == "ManagedFields" {
			continue
		}
		fa, fb := a.Field(i), b.Field(i)
		if fa.IsZero() && fb.IsZero() {
			continue
		}
		s.number(uint64(i) + 1)
		s.values(f.form, fa, fb)
	}
	s.number(0)
}

func (s *Shape) values(f form, a, b reflect.Value) {
	switch f {
	case formScalar:
		s.presence(!a.IsZero(), !b.IsZero())
	case formPointer:
		s.presence(!a.IsNil(), !b.IsNil())
		if !a.IsNil() || !b.IsNil() {
			a, b = elemOrZero(a), elemOrZero(b)
			s.values(s.types.form(a.Type()), a, b)
		}
	case formPresence:
		s.presence(!a.IsNil(), !b.IsNil())
	case formStruct:
		s.structs(a, b)
	case formMap:
		s.maps(a, b)
	default:
		s.whole(a)
		s.whole(b)
	}
}

func elemOrZero(v reflect.Value) reflect.Value {
	if v.IsNil() {
		return reflect.Zero(v.Type().Elem())
	}
	return v.Elem()
}

func (s *Shape) presence(a, b bool) {
	s.flag(a)
	s.flag(b)
}

// maps of scalars count by their keys and which of the values differ.
func (s *Shape) maps(a, b reflect.Value) {
	s.presence(!a.IsNil(), !b.IsNil())
	lines := make([]string, 0, a.Len()+b.Len())
	for it := a.MapRange(); it.Next(); {
		other := b.MapIndex(it.Key())
		switch {
		case !other.IsValid():
			lines = append(lines, it.Key().String()+"-")
		case equalValues(it.Value(), other):
			lines = append(lines, it.Key().String()+"=")
		default:
			lines = append(lines, it.Key().String()+"~")
		}
	}
	for it := b.MapRange(); it.Next(); {
		if !a.MapIndex(it.Key()).IsValid() {
			lines = append(lines, it.Key().String()+"+")
		}
	}
	slices.Sort(lines)
	s.number(uint64(len(lines)))
	for _, l := range lines {
		s.text(l)
	}
}

// whole counts the values themselves, empty and absent ones apart.
func (s *Shape) whole(v reflect.Value) {
	switch v.Kind() {
	case reflect.String:
		s.text(v.String())
	case reflect.Bool:
		s.flag(v.Bool())
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		s.number(uint64(v.Int()))
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		s.number(v.Uint())
	case reflect.Float32, reflect.Float64:
		s.number(math.Float64bits(v.Float()))
	case reflect.Pointer:
		s.flag(!v.IsNil())
		if !v.IsNil() {
			s.whole(v.Elem())
		}
	case reflect.Struct:
		s.wholeStruct(v)
	case reflect.Slice:
		s.flag(!v.IsNil())
		s.number(uint64(v.Len()))
		for i := range v.Len() {
			s.whole(v.Index(i))
		}
	default:
		s.encoded(v)
	}
}

func (s *Shape) wholeStruct(v reflect.Value) {
	if s.types.form(v.Type()) != formStruct {
		s.encoded(v)
		return
	}
	for i := range v.NumField() {
		if f := v.Field(i); !f.IsZero() {
			s.number(uint64(i) + 1)
			s.whole(f)
		}
	}
	s.number(0)
}

// encoded counts a value by its JSON: it has insides of its own, or an order
// that is not its own.
func (s *Shape) encoded(v reflect.Value) {
	data, err := json.Marshal(v.Interface())
	if err != nil {
		s.failed = true
		return
	}
	s.bytes(data)
}

// form is how a value of a type counts.
type form uint8

const (
	formWhole    form = iota // by its value
	formScalar               // by its presence
	formPointer              // by its presence and as what it points to
	formPresence             // a pointer to a scalar
	formStruct
	formMap
)

// scalars are structs that are written as one value whose presence alone counts.
var scalars = map[string]bool{"Time": true, "MicroTime": true, "Duration": true, "Quantity": true, "IntOrString": true}

var marshaler = reflect.TypeFor[json.Marshaler]()

type fieldLayout struct {
	name string
	form form
}

// layouts remembers the fields of Go types, which never change.
type layouts struct {
	fields sync.Map // reflect.Type to []fieldLayout
	forms  sync.Map // reflect.Type to form
}

func (l *layouts) layout(t reflect.Type) []fieldLayout {
	if f, ok := l.fields.Load(t); ok {
		return f.([]fieldLayout)
	}
	out := make([]fieldLayout, t.NumField())
	for i := range out {
		f := t.Field(i)
		out[i] = fieldLayout{name: f.Name, form: l.form(f.Type)}
	}
	l.fields.Store(t, out)
	return out
}

func (l *layouts) form(t reflect.Type) form {
	if f, ok := l.forms.Load(t); ok {
		return f.(form)
	}
	f := newForm(t)
	l.forms.Store(t, f)
	return f
}

func newForm(t reflect.Type) form {
	switch t.Kind() {
	case reflect.String, reflect.Bool, reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Float32, reflect.Float64:
		return formScalar
	case reflect.Pointer:
		if e := t.Elem(); e.Kind() == reflect.Struct && !scalars[e.Name()] {
			return formPointer
		}
		return formPresence
	case reflect.Struct:
		switch {
		case scalars[t.Name()]:
			return formScalar
		case reflect.PointerTo(t).Implements(marshaler):
			return formWhole
		}
		return formStruct
	case reflect.Map:
		if e := t.Elem(); t.Key().Kind() == reflect.String && (e.Kind() == reflect.String || e.Name() == "Quantity") {
			return formMap
		}
	}
	return formWhole
}
