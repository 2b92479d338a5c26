// Package apijson writes API objects as encoding/json does, byte for byte, at
// less than half of its cost: what a Go type is made of is looked up once, and
// what managedFields hold, which is JSON already, is not parsed to be written.
package apijson

import (
	"encoding/base64"
	"encoding/json"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"

	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// Marshal is json.Marshal.
func Marshal(v any) ([]byte, error) {
	s, _ := scratch.Get().(*[]byte)
	if s == nil {
		s = new([]byte)
	}
	out, err := Append((*s)[:0], v)
	if err != nil {
		return nil, err
	}
	data := slices.Clone(out)
	if cap(out) <= maxScratch {
		*s = out
		scratch.Put(s)
	}
	return data, nil
}

// maxScratch is the size of the largest buffer that is kept.
const maxScratch = 256 << 10

var scratch sync.Pool

// Append appends v's JSON to out.
func Append(out []byte, v any) ([]byte, error) {
	rv := reflect.ValueOf(v)
	if !rv.IsValid() {
		return append(out, "null"...), nil
	}
	return planOf(rv.Type())(out, rv)
}

// plan appends a value of one type.
type plan func(out []byte, v reflect.Value) ([]byte, error)

// plans holds what never changes: how Go types are written.
var plans sync.Map // reflect.Type to plan

func planOf(t reflect.Type) plan {
	if p, ok := plans.Load(t); ok {
		return p.(plan)
	}
	// A type may contain itself: whoever meets it meanwhile waits for the plan.
	var (
		once sync.Once
		made plan
	)
	lazy := plan(func(out []byte, v reflect.Value) ([]byte, error) {
		once.Do(func() { made = newPlan(t) })
		return made(out, v)
	})
	if p, loaded := plans.LoadOrStore(t, lazy); loaded {
		return p.(plan)
	}
	once.Do(func() { made = newPlan(t) })
	plans.Store(t, made)
	return made
}

var (
	marshalerType = reflect.TypeFor[json.Marshaler]()
	textType      = reflect.TypeFor[interface{ MarshalText() ([]byte, error) }]()
)

func newPlan(t reflect.Type) plan {
	switch t {
	case reflect.TypeFor[metav1.Time]():
		return writeTime
	case reflect.TypeFor[*metav1.FieldsV1]():
		return writeFields
	case reflect.TypeFor[resource.Quantity]():
		return writeQuantity
	case reflect.TypeFor[intstr.IntOrString]():
		return writeIntOrString
	}
	if marshals(t) {
		return standard
	}
	switch t.Kind() {
	case reflect.Bool:
		return func(out []byte, v reflect.Value) ([]byte, error) { return strconv.AppendBool(out, v.Bool()), nil }
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return func(out []byte, v reflect.Value) ([]byte, error) { return strconv.AppendInt(out, v.Int(), 10), nil }
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return func(out []byte, v reflect.Value) ([]byte, error) { return strconv.AppendUint(out, v.Uint(), 10), nil }
	case reflect.String:
		if t == reflect.TypeFor[json.Number]() {
			return standard
		}
		return func(out []byte, v reflect.Value) ([]byte, error) { return appendString(out, v.String()), nil }
	case reflect.Pointer:
		return pointerPlan(t)
	case reflect.Struct:
		return structPlan(t)
	case reflect.Slice:
		return slicePlan(t)
	case reflect.Map:
		if t.Key().Kind() == reflect.String && !t.Key().Implements(textType) {
			return mapPlan(t)
		}
	}
	return standard
}

func marshals(t reflect.Type) bool {
	p := reflect.PointerTo(t)
	return p.Implements(marshalerType) || p.Implements(textType)
}

// standard leaves it to encoding/json: numbers with a fraction, interfaces,
// types that know best themselves.
func standard(out []byte, v reflect.Value) ([]byte, error) {
	if v.CanAddr() { // methods of pointers count
		v = v.Addr()
	}
	data, err := json.Marshal(v.Interface())
	return append(out, data...), err
}

func pointerPlan(t reflect.Type) plan {
	elem := planOf(t.Elem())
	return func(out []byte, v reflect.Value) ([]byte, error) {
		if v.IsNil() {
			return append(out, "null"...), nil
		}
		return elem(out, v.Elem())
	}
}

func slicePlan(t reflect.Type) plan {
	if e := t.Elem(); e.Kind() == reflect.Uint8 {
		if marshals(e) {
			return standard
		}
		return func(out []byte, v reflect.Value) ([]byte, error) {
			if v.IsNil() {
				return append(out, "null"...), nil
			}
			out = append(out, '"')
			out = base64.StdEncoding.AppendEncode(out, v.Bytes())
			return append(out, '"'), nil
		}
	}
	elem := planOf(t.Elem())
	return func(out []byte, v reflect.Value) ([]byte, error) {
		if v.IsNil() {
			return append(out, "null"...), nil
		}
		out = append(out, '[')
		var err error
		for i := range v.Len() {
			if i > 0 {
				out = append(out, ',')
			}
			if out, err = elem(out, v.Index(i)); err != nil {
				return out, err
			}
		}
		return append(out, ']'), nil
	}
}

func mapPlan(t reflect.Type) plan {
	elem := planOf(t.Elem())
	if t == reflect.TypeFor[map[string]string]() {
		return writeStrings
	}
	return func(out []byte, v reflect.Value) ([]byte, error) {
		if v.IsNil() {
			return append(out, "null"...), nil
		}
		type entry struct {
			key   string
			value reflect.Value
		}
		entries := make([]entry, 0, v.Len())
		for it := v.MapRange(); it.Next(); {
			entries = append(entries, entry{it.Key().String(), it.Value()})
		}
		slices.SortFunc(entries, func(a, b entry) int { return strings.Compare(a.key, b.key) })
		out = append(out, '{')
		var err error
		for i, e := range entries {
			if i > 0 {
				out = append(out, ',')
			}
			out = append(appendString(out, e.key), ':')
			if out, err = elem(out, e.value); err != nil {
				return out, err
			}
		}
		return append(out, '}'), nil
	}
}

func writeStrings(out []byte, v reflect.Value) ([]byte, error) {
	m, _ := v.Interface().(map[string]string)
	if m == nil {
		return append(out, "null"...), nil
	}
	var room [16]string
	keys := room[:0]
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	out = append(out, '{')
	for i, k := range keys {
		if i > 0 {
			out = append(out, ',')
		}
		out = append(appendString(out, k), ':')
		out = appendString(out, m[k])
	}
	return append(out, '}'), nil
}
