package customresources

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	kubeversion "k8s.io/apimachinery/pkg/version"

	"github.com/proa-dev/proa/api"
)

type definition = apiextensionsv1.CustomResourceDefinition

// family is all that is served of one definition.
type family struct {
	stored *api.Kind
	served []*api.Kind
}

// leaving is a family whose objects may go, and be helped to, but not come.
func (f *family) leaving() *family {
	out := &family{stored: f.stored}
	for _, k := range f.served {
		going := *k
		going.NoCreate = "create not allowed while custom resource definition is terminating"
		out.served = append(out.served, &going)
	}
	return out
}

// build makes the kinds of a definition whose names are accepted. Upstream's
// compilers trip over some schemas that make no sense: those are an error like
// any other, not the server's end.
func (s *Server) build(ctx context.Context, d *definition) (_ *family, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("its schema cannot be used: %v", p)
		}
	}()
	versions := map[string]*version{}
	for i := range d.Spec.Versions {
		v := &d.Spec.Versions[i]
		if versions[v.Name], err = compile(d, v); err != nil {
			return nil, err
		}
	}
	merge, err := mergeTypes(versions, s.metadata)
	if err != nil {
		return nil, err
	}
	conv, err := newConversions(ctx, d, versions, s.cfg.Webhooks)
	if err != nil {
		return nil, err
	}
	var all []*api.Kind
	f := &family{}
	for i := range d.Spec.Versions {
		v := &d.Spec.Versions[i]
		k := kindOf(ctx, d, v, versions)
		k.Types, k.Versions = merge, map[string]func(api.Object) (api.Object, error){}
		for name, other := range versions {
			k.Versions[name] = conv.to(other)
		}
		all = append(all, k)
		if v.Storage {
			f.stored = k
		}
		if v.Served {
			f.served = append(f.served, k)
		}
	}
	if f.stored == nil {
		return nil, errors.New("no version is stored")
	}
	storage := versions[f.stored.GVK.Version]
	if conv.mixed {
		// The cache holds objects as they are stored, in several versions. So no
		// version is served as it is stored.
		own := *f.stored
		f.stored = &own
	}
	f.stored.Read = func(o api.Object) { conv.read(o, storage) }
	for _, k := range all {
		if k == f.stored {
			continue
		}
		v := versions[k.GVK.Version]
		k.Storage = &api.Conversion{Kind: f.stored.GVK, Stored: f.stored, To: conv.to(storage), From: conv.from(v)}
		if conv.review != nil {
			k.Storage.Prepare = conv.prepare(v)
		}
	}
	if d.DeletionTimestamp != nil {
		return f.leaving(), nil
	}
	return f, nil
}

// kindOf makes the row of one version.
func kindOf(ctx context.Context, d *definition, v *apiextensionsv1.CustomResourceDefinitionVersion, versions map[string]*version) *api.Kind {
	c := versions[v.Name]
	names := d.Status.AcceptedNames
	listKind := c.gvk.GroupVersion().WithKind(names.ListKind)
	k := &api.Kind{
		GVK: c.gvk, ListKind: names.ListKind, Resource: names.Plural, Singular: names.Singular, ShortNames: names.ShortNames, Categories: names.Categories,
		Namespaced:  d.Spec.Scope == apiextensionsv1.NamespaceScoped,
		StoragePath: d.Spec.Group + "/" + names.Plural,
		New: func() api.Object {
			u := &unstructured.Unstructured{Object: map[string]any{}}
			u.SetGroupVersionKind(c.gvk)
			return u
		},
		NewList: func() runtime.Object {
			l := &unstructured.UnstructuredList{Object: map[string]any{}}
			l.SetGroupVersionKind(listKind)
			return l
		},
		Coerce:        func(o api.Object) ([]string, error) { return coerceOwn(c, o) },
		Default:       on(c.defaults),
		PrepareCreate: on(c.prepareCreate),
		PrepareUpdate: onUpdate(c.prepareUpdate),
		Validate:      func(o api.Object) field.ErrorList { return c.validate(ctx, o.(*unstructured.Unstructured)) },
		ValidateUpdate: func(o, old api.Object) field.ErrorList {
			return c.validateUpdate(ctx, o.(*unstructured.Unstructured), old.(*unstructured.Unstructured))
		},
		Warnings:               finalizerWarnings,
		Schema:                 c.published,
		Columns:                columns(v),
		Scale:                  c.scaleOf(versions),
		RequireVersionOnUpdate: true,
	}
	k.FieldNames, k.Fields = selectable(v)
	if c.hasState {
		k.Status = &api.Status{
			PrepareUpdate: onUpdate(prepareStatus),
			ValidateUpdate: func(o, old api.Object) field.ErrorList {
				return c.validateStatus(ctx, o.(*unstructured.Unstructured), old.(*unstructured.Unstructured))
			},
		}
		k.ResetFields = map[string][]string{"": {"status"}, "status": {"metadata", "spec"}}
	}
	if v.Deprecated {
		k.Deprecated = deprecation(d, v)
	}
	return k
}

func coerceOwn(c *version, o api.Object) ([]string, error) {
	u, ok := o.(*unstructured.Unstructured)
	if !ok {
		return nil, fmt.Errorf("%T is not a custom resource", o)
	}
	return c.coerce(u, false)
}

func on(f func(*unstructured.Unstructured)) func(api.Object) {
	return func(o api.Object) { f(o.(*unstructured.Unstructured)) }
}

func onUpdate(f func(u, old *unstructured.Unstructured)) func(o, old api.Object) {
	return func(o, old api.Object) { f(o.(*unstructured.Unstructured), old.(*unstructured.Unstructured)) }
}

func (v *version) prepareCreate(u *unstructured.Unstructured) {
	if v.hasState {
		delete(u.Object, "status")
	}
	u.SetGeneration(1)
}

func (v *version) prepareUpdate(u, old *unstructured.Unstructured) {
	if v.hasState {
		if status, ok := old.Object["status"]; ok {
			u.Object["status"] = runtime.DeepCopyJSONValue(status)
		} else {
			delete(u.Object, "status")
		}
	}
	if !equality.Semantic.DeepEqual(withoutMeta(u), withoutMeta(old)) {
		u.SetGeneration(old.GetGeneration() + 1)
	}
}

func withoutMeta(u *unstructured.Unstructured) map[string]any {
	out := maps.Clone(u.Object)
	delete(out, "metadata")
	return out
}

// prepareStatus keeps all but the status and who owns its fields.
func prepareStatus(u, old *unstructured.Unstructured) {
	status, ok := u.Object["status"]
	owners := u.GetManagedFields()
	version := u.GetResourceVersion()
	u.Object = old.DeepCopy().Object
	u.SetManagedFields(owners)
	u.SetResourceVersion(version)
	delete(u.Object, "status")
	if ok {
		u.Object["status"] = status
	}
}

var standardFinalizers = []string{metav1.FinalizerOrphanDependents, metav1.FinalizerDeleteDependents, string(corev1.FinalizerKubernetes)}

// finalizerWarnings tell of new finalizers whose names may collide.
func finalizerWarnings(o, old api.Object) (out []string) {
	for _, f := range slices.Sorted(slices.Values(o.GetFinalizers())) {
		if old != nil && !reflect.ValueOf(old).IsNil() && slices.Contains(old.GetFinalizers(), f) {
			continue
		}
		for _, msg := range validation.IsQualifiedName(f) {
			out = append(out, fmt.Sprintf("metadata.finalizers: %q: %s", f, msg))
		}
		switch {
		case strings.Contains(f, "/"), slices.Contains(standardFinalizers, f):
		case strings.Contains(f, "."):
			out = append(out, fmt.Sprintf("metadata.finalizers: %q: prefer a domain-qualified finalizer name including a path (/) to avoid accidental conflicts with other finalizer writers", f))
		default:
			out = append(out, fmt.Sprintf("metadata.finalizers: %q: prefer a domain-qualified finalizer name to avoid accidental conflicts with other finalizer writers", f))
		}
	}
	return out
}

// deprecation is the warning to users of a deprecated version.
func deprecation(d *definition, v *apiextensionsv1.CustomResourceDefinitionVersion) string {
	if v.DeprecationWarning != nil {
		return *v.DeprecationWarning
	}
	kind := d.Spec.Names.Kind
	best := ""
	for _, other := range d.Spec.Versions {
		if other.Served && !other.Deprecated && kubeversion.CompareKubeAwareVersionStrings(v.Name, other.Name) < 0 &&
			(best == "" || kubeversion.CompareKubeAwareVersionStrings(best, other.Name) < 0) {
			best = other.Name
		}
	}
	text := fmt.Sprintf("%s/%s %s is deprecated", d.Spec.Group, v.Name, kind)
	if best != "" {
		text += fmt.Sprintf("; use %s/%s %s", d.Spec.Group, best, kind)
	}
	return text
}
