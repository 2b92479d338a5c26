package local

import (
	"context"
	"fmt"
	"reflect"
	"strings"
	"sync"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/endpoints/request"
	"sigs.k8s.io/controller-runtime/pkg/client/apiutil"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/apiserver/registry"
)

// access is what clients and informers share.
type access struct {
	Config
	mapper    *mapper
	precision precision
	gvks      sync.Map // of Go types, which say what they are: reflect.Type to schema.GroupVersionKind
}

// as marks ctx with the user.
func (a *access) as(ctx context.Context) context.Context {
	return request.WithUser(ctx, a.User)
}

// kindOf returns the served kind of an object or a list.
func (a *access) kindOf(obj runtime.Object) (*api.Kind, error) {
	t := reflect.TypeOf(obj)
	if known, ok := a.gvks.Load(t); ok {
		return a.kindFor(known.(schema.GroupVersionKind))
	}
	gvk, err := apiutil.GVKForObject(obj, a.Scheme)
	if err != nil {
		return nil, err
	}
	if meta.IsListType(obj) {
		gvk.Kind = strings.TrimSuffix(gvk.Kind, "List")
	}
	if !saysItself(obj) {
		a.gvks.Store(t, gvk)
	}
	return a.kindFor(gvk)
}

// saysItself says that the object, not its Go type, has the kind.
func saysItself(obj runtime.Object) bool {
	switch obj.(type) {
	case runtime.Unstructured, *metav1.PartialObjectMetadata, *metav1.PartialObjectMetadataList:
		return true
	}
	return false
}

func (a *access) kindFor(gvk schema.GroupVersionKind) (*api.Kind, error) {
	if k := a.Kinds.Set().ByKind(gvk); k != nil {
		return k, nil
	}
	return nil, &meta.NoKindMatchError{GroupKind: gvk.GroupKind(), SearchedVersions: []string{gvk.Version}}
}

func target(k *api.Kind, namespace, name, subresource string) registry.Target {
	if !k.Namespaced {
		namespace = ""
	}
	return registry.Target{Kind: k, Namespace: namespace, Name: name, Subresource: subresource}
}

var converter = runtime.DefaultUnstructuredConverter

// own returns a copy of the caller's object, in the Go type of k and with
// times as the wire has them, for the registry to keep.
func (a *access) own(k *api.Kind, obj runtime.Object) (runtime.Object, error) {
	out := k.New()
	switch {
	case reflect.TypeOf(out) == reflect.TypeOf(obj):
		c := obj.DeepCopyObject()
		c.GetObjectKind().SetGroupVersionKind(k.GVK)
		a.precision.cut(c)
		return c, coerce(k, c)
	case isPartial(obj):
		return nil, fmt.Errorf("cannot write %s using only metadata", k.GVK.Kind)
	}
	if u, ok := obj.(*unstructured.Unstructured); ok {
		if err := converter.FromUnstructured(u.Object, out); err != nil {
			return nil, fmt.Errorf("read %s: %w", k.GVK.Kind, err)
		}
	} else if u, ok := out.(*unstructured.Unstructured); ok {
		content, err := converter.ToUnstructured(obj)
		if err != nil {
			return nil, fmt.Errorf("convert %s: %w", k.GVK.Kind, err)
		}
		u.Object = content
	} else {
		return nil, fmt.Errorf("%s is a %T here, not a %T", k.GVK.Kind, out, obj)
	}
	out.GetObjectKind().SetGroupVersionKind(k.GVK)
	return out, coerce(k, out)
}

// coerce drops what the schema of a custom resource does not know.
func coerce(k *api.Kind, obj runtime.Object) error {
	o, ok := obj.(api.Object)
	if k.Coerce == nil || !ok {
		return nil
	}
	_, err := k.Coerce(o)
	return err
}

// ownBody is own for what is sent to a subresource: the parent's kind or one
// of its own.
func (a *access) ownBody(k *api.Kind, obj runtime.Object) (runtime.Object, error) {
	gvk, err := apiutil.GVKForObject(obj, a.Scheme)
	if err != nil {
		return nil, err
	}
	if gvk == k.GVK {
		return a.own(k, obj)
	}
	u, ok := obj.(*unstructured.Unstructured)
	if !ok {
		c := obj.DeepCopyObject()
		c.GetObjectKind().SetGroupVersionKind(gvk)
		return c, nil
	}
	out, err := a.Scheme.New(gvk)
	if err != nil {
		return nil, err
	}
	if err := converter.FromUnstructured(u.Object, out); err != nil {
		return nil, fmt.Errorf("read %s: %w", gvk.Kind, err)
	}
	out.GetObjectKind().SetGroupVersionKind(gvk)
	return out, nil
}

func isPartial(obj runtime.Object) bool {
	_, ok := obj.(*metav1.PartialObjectMetadata)
	return ok
}

// into fills the caller's object with src, which is shared with all readers
// unless share says that the caller takes care.
func into(dst, src runtime.Object, share bool) error {
	if _, ok := src.(*metav1.Status); ok && reflect.TypeOf(dst) != reflect.TypeOf(src) {
		return nil // the answer of subresources that only do something
	}
	if reflect.TypeOf(dst) == reflect.TypeOf(src) {
		if !share {
			src = src.DeepCopyObject()
		}
		reflect.ValueOf(dst).Elem().Set(reflect.ValueOf(src).Elem())
		return nil
	}
	gvk := src.GetObjectKind().GroupVersionKind()
	switch d := dst.(type) {
	case *unstructured.Unstructured:
		content, err := converter.ToUnstructured(src)
		if err != nil {
			return fmt.Errorf("convert %s: %w", gvk.Kind, err)
		}
		d.Object = content
		d.SetGroupVersionKind(gvk)
		return nil
	case *metav1.PartialObjectMetadata:
		m, err := meta.Accessor(src)
		if err != nil {
			return err
		}
		p := meta.AsPartialObjectMetadata(m)
		if !share {
			p = p.DeepCopy()
		}
		*d = *p
		d.SetGroupVersionKind(gvk)
		return nil
	}
	u, ok := src.(*unstructured.Unstructured)
	if !ok {
		return fmt.Errorf("%s is a %T, but %T was asked for", gvk.Kind, src, dst)
	}
	v := reflect.ValueOf(dst).Elem()
	v.Set(reflect.Zero(v.Type()))
	if err := converter.FromUnstructured(u.Object, dst); err != nil {
		return fmt.Errorf("read %s: %w", gvk.Kind, err)
	}
	return nil
}

// intoList fills the caller's list.
func intoList(list runtime.Object, objs []api.Object, share bool) error {
	ptr, err := meta.GetItemsPtr(list)
	if err != nil {
		return err
	}
	items := reflect.ValueOf(ptr).Elem()
	out := reflect.MakeSlice(items.Type(), len(objs), len(objs))
	elem := items.Type().Elem()
	pointers := elem.Kind() == reflect.Pointer
	if pointers {
		elem = elem.Elem()
	}
	for i, src := range objs {
		slot := out.Index(i)
		if pointers {
			slot.Set(reflect.New(elem))
		} else {
			slot = slot.Addr()
		}
		dst, ok := slot.Interface().(runtime.Object)
		if pointers {
			dst, ok = out.Index(i).Interface().(runtime.Object)
		}
		if !ok {
			return fmt.Errorf("the items of %T are not objects", list)
		}
		if err := into(dst, src, share); err != nil {
			return err
		}
	}
	items.Set(out)
	return nil
}
