package local

import (
	"reflect"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

var (
	timeType      = reflect.TypeFor[metav1.Time]()
	microTimeType = reflect.TypeFor[metav1.MicroTime]()
)

// precision cuts times to what the wire carries, seconds or microseconds: what
// is written here is stored as it is handed over, and would differ from what a
// reader sends back.
type precision struct {
	// plans hold, by struct type, the fields in which a time may be.
	plans sync.Map
}

// cut changes the times in the object that obj points to.
func (p *precision) cut(obj any) { p.visit(reflect.ValueOf(obj)) }

func (p *precision) visit(v reflect.Value) {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			p.visit(v.Elem())
		}
	case reflect.Slice:
		for i := range v.Len() {
			p.visit(v.Index(i))
		}
	case reflect.Struct:
		switch t := v.Addr().Interface().(type) {
		case *metav1.Time:
			t.Time = t.Truncate(time.Second)
		case *metav1.MicroTime:
			t.Time = t.Truncate(time.Microsecond)
		default:
			for _, i := range p.fields(v.Type()) {
				p.visit(v.Field(i))
			}
		}
	}
}

// fields gives those fields of a struct in which a time may be.
func (p *precision) fields(t reflect.Type) []int {
	if known, ok := p.plans.Load(t); ok {
		return known.([]int)
	}
	var out []int
	for i := range t.NumField() {
		if f := t.Field(i); f.IsExported() && holdsTime(f.Type, map[reflect.Type]bool{}) {
			out = append(out, i)
		}
	}
	p.plans.Store(t, out)
	return out
}

// holdsTime looks through pointers, lists and structs. No API type has times
// in maps.
func holdsTime(t reflect.Type, seen map[reflect.Type]bool) bool {
	switch t.Kind() {
	case reflect.Pointer, reflect.Slice:
		return holdsTime(t.Elem(), seen)
	case reflect.Struct:
		if t == timeType || t == microTimeType {
			return true
		}
		if seen[t] {
			return false
		}
		seen[t] = true
		for i := range t.NumField() {
			if f := t.Field(i); f.IsExported() && holdsTime(f.Type, seen) {
				return true
			}
		}
	}
	return false
}
