package patch

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strings"
	"sync"

	jsonv2 "github.com/go-json-experiment/json"
	kjson "sigs.k8s.io/json"

	"github.com/proa-dev/proa/internal/quantities"
)

// Merger applies JSON merge patches to Go values. A patch touches little of an
// object, so this is far less work than to patch its JSON and read all of that
// again. Safe for concurrent use.
type Merger struct {
	fields sync.Map // reflect.Type to map[string][]int
}

// Merge applies a patch to obj, a pointer to a struct that nobody else holds.
// False means that obj is spoilt and the patch has to go the long way, because
// there is something about it to report or something that only JSON can say.
func (m *Merger) Merge(obj any, data []byte) bool {
	if !bytes.Contains(data, null) {
		// Nothing is taken away: to merge is to read over what is there.
		if quantities.CheckJSON(data, obj) != nil {
			return false // the long way says what is wrong
		}
		return jsonv2.Unmarshal(data, obj, jsonv2.RejectUnknownMembers(true)) == nil
	}
	patch := map[string]any{}
	if faults, err := kjson.UnmarshalStrict(data, &patch); err != nil || len(faults) > 0 || patch == nil {
		return false
	}
	v := reflect.ValueOf(obj)
	if v.Kind() != reflect.Pointer || v.Elem().Kind() != reflect.Struct {
		return false
	}
	return m.structure(v.Elem(), patch)
}

var null = []byte("null")

func (m *Merger) structure(v reflect.Value, patch map[string]any) bool {
	fields := m.fieldsOf(v.Type())
	for name, change := range patch {
		index, ok := fields[name]
		if !ok || !m.value(v.FieldByIndex(index), change) {
			return false
		}
	}
	return true
}

var unmarshaler = reflect.TypeFor[json.Unmarshaler]()

func (m *Merger) value(v reflect.Value, change any) bool {
	if change == nil {
		v.SetZero()
		return true
	}
	nested, isObject := change.(map[string]any)
	t := v.Type()
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if !isObject || reflect.PointerTo(t).Implements(unmarshaler) {
		return replace(v, change)
	}
	switch t.Kind() {
	case reflect.Struct:
		for v.Kind() == reflect.Pointer {
			if v.IsNil() {
				v.Set(reflect.New(v.Type().Elem()))
			}
			v = v.Elem()
		}
		return m.structure(v, nested)
	case reflect.Map:
		return v.Kind() == reflect.Map && t.Key().Kind() == reflect.String && m.entries(v, nested)
	}
	return false
}

func (m *Merger) entries(v reflect.Value, patch map[string]any) bool {
	if v.IsNil() {
		v.Set(reflect.MakeMapWithSize(v.Type(), len(patch)))
	}
	for name, change := range patch {
		key := reflect.ValueOf(name).Convert(v.Type().Key())
		if change == nil {
			v.SetMapIndex(key, reflect.Value{})
			continue
		}
		elem := reflect.New(v.Type().Elem()).Elem()
		if old := v.MapIndex(key); old.IsValid() {
			elem.Set(old)
		}
		if !m.value(elem, change) {
			return false
		}
		v.SetMapIndex(key, elem)
	}
	return true
}

// replace sets v to what change says, forgetting what it was.
func replace(v reflect.Value, change any) bool {
	if s, ok := change.(string); ok && v.Kind() == reflect.String {
		v.SetString(s)
		return true
	}
	data, err := json.Marshal(change)
	if err != nil {
		return false
	}
	next := reflect.New(v.Type())
	if quantities.CheckJSON(data, next.Interface()) != nil {
		return false // the long way says what is wrong
	}
	if faults, err := kjson.UnmarshalStrict(data, next.Interface()); err != nil || len(faults) > 0 {
		return false
	}
	v.Set(next.Elem())
	return true
}

// fieldsOf maps JSON names to fields, those of inlined structs among them.
func (m *Merger) fieldsOf(t reflect.Type) map[string][]int {
	if f, ok := m.fields.Load(t); ok {
		return f.(map[string][]int)
	}
	out := map[string][]int{}
	for _, f := range reflect.VisibleFields(t) {
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name == "" || name == "-" || !f.IsExported() || strings.Contains(options, "string") || !throughStructs(t, f.Index) {
			continue
		}
		out[name] = f.Index
	}
	f, _ := m.fields.LoadOrStore(t, out)
	return f.(map[string][]int)
}

// throughStructs says that a promoted field is reached without a pointer and
// without a JSON name of the struct it is in.
func throughStructs(t reflect.Type, index []int) bool {
	for _, i := range index[:len(index)-1] {
		f := t.Field(i)
		if name, _, _ := strings.Cut(f.Tag.Get("json"), ","); f.Type.Kind() != reflect.Struct || name != "" {
			return false
		}
		t = f.Type
	}
	return true
}
