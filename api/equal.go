package api

import (
	"bytes"
	"reflect"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Equal is equality.Semantic.DeepEqual for values without cycles, which API
// objects are, at a fraction of its cost: empty and absent lists and maps are
// equal, and so are quantities and times that mean the same. Hand it pointers:
// what they point to is compared, and nothing is copied.
func Equal(a, b any) bool {
	va, vb := reflect.ValueOf(a), reflect.ValueOf(b)
	if !va.IsValid() || !vb.IsValid() {
		return va.IsValid() == vb.IsValid()
	}
	return va.Type() == vb.Type() && equal(va, vb)
}

func equal(a, b reflect.Value) bool {
	switch a.Kind() {
	case reflect.String:
		return a.String() == b.String()
	case reflect.Bool:
		return a.Bool() == b.Bool()
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return a.Int() == b.Int()
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return a.Uint() == b.Uint()
	case reflect.Pointer:
		if a.IsNil() || b.IsNil() || a.UnsafePointer() == b.UnsafePointer() {
			return a.IsNil() == b.IsNil()
		}
		return equal(a.Elem(), b.Elem())
	case reflect.Struct:
		return equalStructs(a, b)
	case reflect.Slice:
		return equalSlices(a, b)
	case reflect.Map:
		return equalMaps(a, b)
	}
	return equality.Semantic.DeepEqual(a.Interface(), b.Interface())
}

// Structs that are equal in another way than field by field.
var (
	quantityType  = reflect.TypeFor[resource.Quantity]()
	timeType      = reflect.TypeFor[metav1.Time]()
	microTimeType = reflect.TypeFor[metav1.MicroTime]()
	fieldsType    = reflect.TypeFor[metav1.FieldsV1]()
)

func equalStructs(a, b reflect.Value) bool {
	switch t := a.Type(); t {
	case quantityType:
		return read[resource.Quantity](a).Cmp(*read[resource.Quantity](b)) == 0
	case timeType:
		return read[metav1.Time](a).Time.Equal(read[metav1.Time](b).Time)
	case microTimeType:
		return read[metav1.MicroTime](a).Time.Equal(read[metav1.MicroTime](b).Time)
	case fieldsType:
		return read[metav1.FieldsV1](a).Equal(*read[metav1.FieldsV1](b))
	}
	for i := range a.NumField() {
		if !equal(a.Field(i), b.Field(i)) {
			return false
		}
	}
	return true
}

// read returns v's value, without a copy where it has an address.
func read[T any](v reflect.Value) *T {
	if v.CanAddr() {
		return v.Addr().Interface().(*T)
	}
	t := v.Interface().(T)
	return &t
}

func equalSlices(a, b reflect.Value) bool {
	n := a.Len()
	if n != b.Len() {
		return false
	}
	if n == 0 || a.UnsafePointer() == b.UnsafePointer() {
		return true
	}
	if a.Type().Elem().Kind() == reflect.Uint8 {
		return bytes.Equal(a.Bytes(), b.Bytes())
	}
	for i := range n {
		if !equal(a.Index(i), b.Index(i)) {
			return false
		}
	}
	return true
}

func equalMaps(a, b reflect.Value) bool {
	if a.Len() != b.Len() {
		return false
	}
	if a.Len() == 0 || a.UnsafePointer() == b.UnsafePointer() {
		return true
	}
	if t := a.Type(); t.Elem().Kind() == reflect.String && t.Key().Kind() == reflect.String && a.CanInterface() {
		if ma, ok := a.Interface().(map[string]string); ok {
			mb := b.Interface().(map[string]string)
			for k, v := range ma {
				if w, ok := mb[k]; !ok || v != w {
					return false
				}
			}
			return true
		}
	}
	for it := a.MapRange(); it.Next(); {
		other := b.MapIndex(it.Key())
		if !other.IsValid() || !equal(it.Value(), other) {
			return false
		}
	}
	return true
}
