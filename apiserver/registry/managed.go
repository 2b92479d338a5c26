package registry

import (
	"fmt"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/apiserver/kinds"
	"github.com/proa-dev/proa/apiserver/ownership"
)

// unknownManager owns fields of requests that name no manager.
const unknownManager = "unknown"

// manager returns the field manager of the kind, or of one of its
// subresources.
func (c *Core) manager(r *resource, subresource string) (*managedfields.FieldManager, error) {
	if m, ok := r.managers.Load(subresource); ok {
		return m.(*managedfields.FieldManager), nil
	}
	gv := r.kind.GVK.GroupVersion()
	equivalents := []*api.Kind{r.kind}
	if r.kind.Versions == nil && r.kind.StoragePath != "" {
		equivalents = c.cfg.Kinds.Set().Equivalents(r.kind)
	}
	reset := map[fieldpath.APIVersion]fieldpath.Filter{}
	for _, k := range equivalents {
		if paths := k.ResetFields[subresource]; len(paths) > 0 {
			reset[fieldpath.APIVersion(k.GVK.GroupVersion().String())] = without(paths)
		}
	}
	if paths := r.kind.ResetFields[subresource]; len(paths) > 0 {
		for v := range r.kind.Versions {
			reset[fieldpath.APIVersion(schema.GroupVersion{Group: gv.Group, Version: v}.String())] = without(paths)
		}
	}
	types := c.cfg.Types
	newManager := managedfields.NewDefaultFieldManager
	_, custom := r.kind.New().(runtime.Unstructured)
	if custom {
		newManager = managedfields.NewDefaultCRDFieldManager
	}
	switch {
	case r.kind.Types != nil:
		types = r.kind.Types
	case custom || r.kind.GVK == scaleGVK:
		// There is no schema, or (for Scale) none is needed: it has scalars alone.
		types = managedfields.NewDeducedTypeConverter()
	}
	conv := versions{kind: r.kind, equivalents: equivalents}
	m, err := newManager(types, conv, conv, conv, r.kind.GVK, gv, subresource, reset)
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	actual, _ := r.managers.LoadOrStore(subresource, m)
	return actual.(*managedfields.FieldManager), nil
}

// without leaves out the fields at dotted paths.
func without(paths []string) fieldpath.Filter {
	set := fieldpath.NewSet()
	for _, p := range paths {
		set.Insert(fieldPath(strings.Split(p, ".")))
	}
	return fieldpath.NewExcludeSetFilter(set)
}

// manageUpdate records manager as the owner of the fields that obj changes in
// live (nil for a new object). It never fails: what cannot be tracked keeps
// the owners it had.
func (c *Core) manageUpdate(r *resource, subresource string, live, obj api.Object, manager string) {
	m, err := c.manager(r, subresource)
	if err != nil {
		return
	}
	if manager == "" {
		manager = unknownManager
	}
	obj.GetObjectKind().SetGroupVersionKind(r.kind.GVK)
	var was, is api.Object
	if live == nil {
		live = r.kind.New()
		live.GetObjectKind().SetGroupVersionKind(r.kind.GVK)
		was, is = live, ownership.Shallow(obj) // nothing is equal in them
	} else {
		was, is = ownership.Thin(live, obj)
	}
	before := live.GetManagedFields()
	known := c.shapeOf(r.kind, subresource, manager, before, was, is, obj)
	defer c.owners.Release(known)
	if known != nil {
		if entries, ok := c.owners.Recall(known, before, c.cfg.Now().UTC().Truncate(time.Second)); ok {
			obj.SetManagedFields(entries)
			return
		}
	}
	if subresource == "" && live.GetUID() != "" {
		was.SetManagedFields(nil) // the entries are read from the new object
		if entries := obj.GetManagedFields(); entries == nil {
			is.SetManagedFields(before)
		}
	}
	out, err := m.Update(was, is, manager)
	if err != nil {
		obj.SetManagedFields(before)
		return
	}
	o, err := apimeta.Accessor(out)
	if err != nil {
		return
	}
	obj.SetManagedFields(o.GetManagedFields())
	if known != nil {
		c.owners.Remember(known, before, o.GetManagedFields(), manager, subresource)
	}
}

// manyManagers is where entries of old managers begin to be joined by age.
const manyManagers = 10

// shapeOf is the shape of a write if its outcome depends on that alone, else
// nil. A client that sends entries of its own has a say in it, and so have the
// values of fields that are owned in another version.
func (c *Core) shapeOf(k *api.Kind, subresource, manager string, before []metav1.ManagedFieldsEntry, was, is, obj api.Object) *ownership.Shape {
	if _, custom := obj.(runtime.Unstructured); custom || len(before) >= manyManagers {
		return nil
	}
	version := k.GVK.GroupVersion().String()
	if slices.ContainsFunc(before, func(e metav1.ManagedFieldsEntry) bool { return e.APIVersion != version }) {
		return nil
	}
	if sent := obj.GetManagedFields(); subresource == "" && sent != nil && !slices.EqualFunc(sent, before, ownership.SameEntry) {
		return nil
	}
	return c.owners.Shape(k, subresource, manager, before, was, is)
}

// keepManagedTimes gives the entries of obj that only differ in their time
// from those of old the old time, so that a write that changes nothing else
// changes nothing.
func keepManagedTimes(obj, old api.Object) {
	had := old.GetManagedFields()
	if !slices.EqualFunc(obj.GetManagedFields(), had, ownership.SameEntry) {
		return
	}
	obj.SetManagedFields(had)
}

// versions stands in for a scheme's conversions: fields are compared in the
// version in which they are owned. Those that are owned in a version of no
// equivalent are unknown.
type versions struct {
	kind *api.Kind
	// equivalents show the same objects, kind among them. Custom resources have
	// functions to that end in the kind.
	equivalents []*api.Kind
}

// ConvertToVersion implements runtime.ObjectConvertor.
func (v versions) ConvertToVersion(in runtime.Object, target runtime.GroupVersioner) (runtime.Object, error) {
	gvk := in.GetObjectKind().GroupVersionKind()
	unknown := runtime.NewNotRegisteredErrForKind("the served version", gvk)
	u, raw := in.(*unstructured.Unstructured)
	if _, custom := v.kind.New().(runtime.Unstructured); custom && raw {
		return v.custom(u, target, unknown)
	}
	var from, to *api.Kind
	for _, k := range v.equivalents {
		if want, ok := target.KindForGroupVersionKinds([]schema.GroupVersionKind{k.GVK}); ok && want == k.GVK {
			to = k
		}
		if k.GVK == gvk {
			from = k
		}
	}
	if from == nil || to == nil {
		return nil, unknown
	}
	obj, ok := in.(api.Object)
	if raw {
		obj = from.New()
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, obj); err != nil {
			return nil, fmt.Errorf("failed to convert object (%v): %w", gvk, err)
		}
		obj.GetObjectKind().SetGroupVersionKind(gvk)
	} else if !ok {
		return nil, unknown
	}
	return kinds.Convert(obj, from, to)
}

// custom converts a custom resource.
func (v versions) custom(u *unstructured.Unstructured, target runtime.GroupVersioner, unknown error) (runtime.Object, error) {
	want, ok := target.KindForGroupVersionKinds([]schema.GroupVersionKind{v.kind.GVK})
	if to := v.kind.Versions[want.Version]; ok && to != nil && want.Group == v.kind.GVK.Group {
		return to(u)
	}
	if !ok || want.GroupVersion() != v.kind.GVK.GroupVersion() {
		return nil, unknown
	}
	return u, nil
}

// Convert implements runtime.ObjectConvertor; field managers never call it.
func (v versions) Convert(in, out, context interface{}) error {
	return fmt.Errorf("no conversion from %T to %T", in, out)
}

// ConvertFieldLabel implements runtime.ObjectConvertor.
func (v versions) ConvertFieldLabel(gvk schema.GroupVersionKind, label, value string) (string, string, error) {
	return label, value, nil
}

// Default implements runtime.ObjectDefaulter.
func (v versions) Default(in runtime.Object) {
	if obj, ok := in.(api.Object); ok && v.kind.Default != nil {
		v.kind.Default(obj)
	}
}

// New implements runtime.ObjectCreater.
func (v versions) New(gvk schema.GroupVersionKind) (runtime.Object, error) {
	if gvk != v.kind.GVK {
		return nil, runtime.NewNotRegisteredErrForKind("the served version", gvk)
	}
	obj := v.kind.New()
	obj.GetObjectKind().SetGroupVersionKind(gvk)
	return obj, nil
}
