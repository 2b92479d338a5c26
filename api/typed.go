package api

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// The functions below turn functions on a Go type into the functions on Object
// that a Kind wants. A kind is only ever handed objects that its New made, so
// the type assertion inside cannot fail.

// Maker returns a Kind's New for the Go type T.
func Maker[T any, P interface {
	*T
	Object
}]() func() Object {
	return func() Object { return P(new(T)) }
}

// ListMaker returns a Kind's NewList for the Go type T.
func ListMaker[T any, P interface {
	*T
	runtime.Object
}]() func() runtime.Object {
	return func() runtime.Object { return P(new(T)) }
}

// On adapts functions that change one object.
func On[P Object](f func(P)) func(Object) {
	return func(o Object) { f(o.(P)) }
}

// OnUpdate adapts functions that change an object in view of the old one.
func OnUpdate[P Object](f func(obj, old P)) func(Object, Object) {
	return func(o, old Object) { f(o.(P), old.(P)) }
}

// Check adapts validation of one object.
func Check[P Object](f func(P) field.ErrorList) func(Object) field.ErrorList {
	return func(o Object) field.ErrorList { return f(o.(P)) }
}

// CheckUpdate adapts validation of an object in view of the old one.
func CheckUpdate[P Object](f func(obj, old P) field.ErrorList) func(Object, Object) field.ErrorList {
	return func(o, old Object) field.ErrorList { return f(o.(P), old.(P)) }
}

// Warn adapts warnings; old is nil on create.
func Warn[P Object](f func(obj, old P) []string) func(Object, Object) []string {
	return func(o, old Object) []string {
		var before P
		if old != nil {
			before = old.(P)
		}
		return f(o.(P), before)
	}
}

// FieldsOf adapts the function that gives selectable fields.
func FieldsOf[P Object](f func(P) fields.Set) func(Object) fields.Set {
	return func(o Object) fields.Set { return f(o.(P)) }
}

// BumpGeneration sets the generation of an update: the old one, plus one when
// the spec changed. The specs are best pointers, see Equal.
func BumpGeneration(obj, old metav1.Object, spec, oldSpec any) {
	obj.SetGeneration(old.GetGeneration())
	if !Equal(spec, oldSpec) {
		obj.SetGeneration(old.GetGeneration() + 1)
	}
}
