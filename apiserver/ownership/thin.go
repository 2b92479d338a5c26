package ownership

import (
	"bytes"
	"maps"
	"reflect"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/proa-dev/proa/api"
)

// Thin returns copies of two objects of one Go type without the fields in
// which they are equal. What differs between the copies is what differs between
// the objects, at a fraction of the cost of comparing all of them: most updates
// touch a handful of fields. Names, kinds and managed fields stay.
func Thin(a, b api.Object) (api.Object, api.Object) {
	if u, ok := a.(*unstructured.Unstructured); ok {
		return ownMeta(u), b
	}
	va, vb := reflect.ValueOf(a), reflect.ValueOf(b)
	if va.Type() != vb.Type() || va.Kind() != reflect.Pointer || va.Elem().Kind() != reflect.Struct {
		return a, b
	}
	ca, cb := thinCopy(va), thinCopy(vb)
	thinFields(ca.Elem(), cb.Elem())
	oa, ob := ca.Interface().(api.Object), cb.Interface().(api.Object)
	for _, pair := range [2][2]api.Object{{oa, a}, {ob, b}} {
		to, from := pair[0], pair[1]
		to.GetObjectKind().SetGroupVersionKind(from.GetObjectKind().GroupVersionKind())
		to.SetName(from.GetName())
		to.SetNamespace(from.GetNamespace())
		to.SetManagedFields(from.GetManagedFields())
	}
	return oa, ob
}

// ownMeta copies as much of an object as changes of its metadata touch.
func ownMeta(u *unstructured.Unstructured) *unstructured.Unstructured {
	content := maps.Clone(u.Object)
	if meta, ok := content["metadata"].(map[string]any); ok {
		content["metadata"] = maps.Clone(meta)
	}
	return &unstructured.Unstructured{Object: content}
}

// Share makes what is equal in two versions of an object one and the same, so
// that it is kept, and walked by the garbage collector, once: of a pod whose
// labels or status change, the spec. obj must not be changed from here on.
func Share(obj, old api.Object) {
	a, b := reflect.ValueOf(obj), reflect.ValueOf(old)
	if a.Type() != b.Type() || a.Kind() != reflect.Pointer || a.Elem().Kind() != reflect.Struct {
		return
	}
	if _, ok := obj.(*unstructured.Unstructured); ok {
		return
	}
	a, b = a.Elem(), b.Elem()
	for i := range a.NumField() {
		if a.Type().Field(i).Anonymous {
			continue // metadata, which always differs
		}
		if fa, fb := a.Field(i), b.Field(i); fa.CanSet() && equalValues(fa, fb) {
			fa.Set(fb)
		}
	}
}

// Shallow returns a copy that shares its insides.
func Shallow(obj api.Object) api.Object {
	v := reflect.ValueOf(obj)
	if _, ok := obj.(*unstructured.Unstructured); ok || v.Kind() != reflect.Pointer || v.Elem().Kind() != reflect.Struct {
		return obj
	}
	return thinCopy(v).Interface().(api.Object)
}

func thinCopy(v reflect.Value) reflect.Value {
	c := reflect.New(v.Type().Elem())
	c.Elem().Set(v.Elem())
	return c
}

// thinFields clears what is equal in two structs, which are copies: what they
// point to is not, and is copied before it is changed.
func thinFields(a, b reflect.Value) {
	for i := range a.NumField() {
		fa, fb := a.Field(i), b.Field(i)
		if !fa.CanSet() {
			return // a struct with insides of its own: a time, a quantity
		}
		switch {
		case equalValues(fa, fb):
			fa.SetZero()
			fb.SetZero()
		case fa.Kind() == reflect.Struct:
			thinFields(fa, fb)
		case fa.Kind() == reflect.Pointer && fa.Type().Elem().Kind() == reflect.Struct && !fa.IsNil() && !fb.IsNil():
			fa.Set(thinCopy(fa))
			fb.Set(thinCopy(fb))
			thinFields(fa.Elem(), fb.Elem())
		}
	}
}

// equalValues is reflect.DeepEqual for values without cycles, which API objects
// are, without its bookkeeping.
func equalValues(a, b reflect.Value) bool {
	switch a.Kind() {
	case reflect.String:
		return a.String() == b.String()
	case reflect.Bool:
		return a.Bool() == b.Bool()
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return a.Int() == b.Int()
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return a.Uint() == b.Uint()
	case reflect.Float32, reflect.Float64:
		return a.Float() == b.Float()
	case reflect.Pointer:
		if a.IsNil() || b.IsNil() || a.UnsafePointer() == b.UnsafePointer() {
			return a.IsNil() == b.IsNil()
		}
		return equalValues(a.Elem(), b.Elem())
	case reflect.Struct:
		for i := range a.NumField() {
			if !equalValues(a.Field(i), b.Field(i)) {
				return false
			}
		}
		return true
	case reflect.Slice:
		return equalSlices(a, b)
	case reflect.Map:
		return equalMaps(a, b)
	case reflect.Interface:
		if a.IsNil() || b.IsNil() {
			return a.IsNil() == b.IsNil()
		}
		return a.Elem().Type() == b.Elem().Type() && equalValues(a.Elem(), b.Elem())
	case reflect.Array:
		for i := range a.Len() {
			if !equalValues(a.Index(i), b.Index(i)) {
				return false
			}
		}
		return true
	}
	return false // functions and channels: not in an object
}

func equalSlices(a, b reflect.Value) bool {
	if a.IsNil() != b.IsNil() || a.Len() != b.Len() {
		return false
	}
	if a.UnsafePointer() == b.UnsafePointer() {
		return true
	}
	if a.Type().Elem().Kind() == reflect.Uint8 {
		return bytes.Equal(a.Bytes(), b.Bytes())
	}
	for i := range a.Len() {
		if !equalValues(a.Index(i), b.Index(i)) {
			return false
		}
	}
	return true
}

func equalMaps(a, b reflect.Value) bool {
	if a.IsNil() != b.IsNil() || a.Len() != b.Len() {
		return false
	}
	for it := a.MapRange(); it.Next(); {
		other := b.MapIndex(it.Key())
		if !other.IsValid() || !equalValues(it.Value(), other) {
			return false
		}
	}
	return true
}
