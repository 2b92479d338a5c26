package registry

import (
	"reflect"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/proa-dev/proa/api"
)

// thin returns copies of two objects of one Go type without the fields in
// which they are equal. What differs between the copies is what differs between
// the objects, at a fraction of the cost of comparing all of them: most updates
// touch a handful of fields. Names, kinds and managed fields stay.
func thin(a, b api.Object) (api.Object, api.Object) {
	if _, ok := a.(*unstructured.Unstructured); ok {
		return a, b
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

func equalValues(a, b reflect.Value) bool {
	switch a.Kind() {
	case reflect.String:
		return a.String() == b.String()
	case reflect.Bool:
		return a.Bool() == b.Bool()
	case reflect.Int, reflect.Int32, reflect.Int64:
		return a.Int() == b.Int()
	}
	return reflect.DeepEqual(a.Interface(), b.Interface())
}
