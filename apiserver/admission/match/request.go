package match

import (
	"context"
	"fmt"
	"reflect"

	reviewv1 "k8s.io/api/admission/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	upstream "k8s.io/apiserver/pkg/admission"
	plugincel "k8s.io/apiserver/pkg/admission/plugin/cel"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/apiserver/admission"
	"github.com/proa-dev/proa/apiserver/kinds"
)

// Request is a write as rules, expressions and webhooks see it, in every version
// that they ask for. It is for one goroutine.
type Request struct {
	*admission.Attributes
	lookup   admission.Lookup
	record   upstream.Attributes
	versions map[schema.GroupVersionKind]*upstream.VersionedAttributes
	latest   *upstream.VersionedAttributes // has the object as it was changed last
	changed  bool
}

// New returns the view of a.
func New(lookup admission.Lookup, a *admission.Attributes) *Request {
	r := &Request{Attributes: a, lookup: lookup}
	object, old := named(a.Object, a.GVK, false), named(a.OldObject, a.GVK, true)
	namespace := a.Namespace
	if a.GVR.GroupResource() == corev1.Resource("namespaces") {
		namespace = a.Name // as upstream has it: a namespace is in itself
	}
	r.record = upstream.NewAttributesRecord(object, old, a.GVK, namespace, a.Name, a.GVR, a.Subresource,
		upstream.Operation(a.Operation), options(a.Options), a.DryRun, a.User)
	r.latest = &upstream.VersionedAttributes{
		Attributes: r.record, VersionedKind: a.GVK,
		VersionedObject: upstream.NewLazyObject(object), VersionedOldObject: upstream.NewLazyObject(old),
	}
	r.versions = map[schema.GroupVersionKind]*upstream.VersionedAttributes{a.GVK: r.latest}
	return r
}

// named returns obj, which says what it is; shared ones are copied for that.
func named(obj runtime.Object, gvk schema.GroupVersionKind, shared bool) runtime.Object {
	if obj == nil || !obj.GetObjectKind().GroupVersionKind().Empty() {
		return obj
	}
	if shared {
		obj = obj.DeepCopyObject()
	}
	obj.GetObjectKind().SetGroupVersionKind(gvk)
	return obj
}

// options returns a copy of a request's options that says what it is.
func options(o runtime.Object) runtime.Object {
	kind := ""
	switch o.(type) {
	case nil:
		return nil
	case *metav1.CreateOptions:
		kind = "CreateOptions"
	case *metav1.UpdateOptions:
		kind = "UpdateOptions"
	case *metav1.PatchOptions:
		kind = "PatchOptions"
	case *metav1.DeleteOptions:
		kind = "DeleteOptions"
	}
	o = o.DeepCopyObject()
	o.GetObjectKind().SetGroupVersionKind(metav1.SchemeGroupVersion.WithKind(kind))
	return o
}

// object is the new object as it was changed last, nil when there is none.
func (r *Request) object() runtime.Object { return r.latest.VersionedObject.Object() }

// Versioned returns the request with its objects in a version. Update alone may
// change it.
func (r *Request) Versioned(gvk schema.GroupVersionKind) (*upstream.VersionedAttributes, error) {
	if v := r.versions[gvk]; v != nil {
		return v, nil
	}
	object, err := r.convert(r.object(), r.latest.VersionedKind, gvk)
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	old, err := r.convert(r.record.GetOldObject(), r.GVK, gvk)
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	v := &upstream.VersionedAttributes{
		Attributes: r.record, VersionedKind: gvk,
		VersionedObject: upstream.NewLazyObject(object), VersionedOldObject: upstream.NewLazyObject(old),
	}
	r.versions[gvk] = v
	return v, nil
}

func (r *Request) convert(obj runtime.Object, from, to schema.GroupVersionKind) (runtime.Object, error) {
	if obj == nil || from == to {
		return obj, nil
	}
	a, b := r.Kinds.ByKind(from), r.Kinds.ByKind(to)
	o, ok := obj.(api.Object)
	if a == nil || b == nil || !ok {
		return nil, fmt.Errorf("unable to convert %v to %v: unknown kind", from, to)
	}
	return kinds.Convert(o, a, b)
}

// Update replaces the object. v has it in its version, all others follow.
func (r *Request) Update(v *upstream.VersionedAttributes, obj runtime.Object) {
	v.UpdateObject(obj)
	r.latest, r.changed = v, true
	clear(r.versions)
	r.versions[v.VersionedKind] = v
}

// Put writes a changed object into the one under decision.
func (r *Request) Put() error {
	if !r.changed {
		return nil
	}
	obj, err := r.convert(r.object(), r.latest.VersionedKind, r.GVK)
	if err != nil {
		return apierrors.NewInternalError(err)
	}
	if r.latest.VersionedKind != r.GVK {
		obj = obj.DeepCopyObject() // a conversion may be remembered
	}
	to, from := reflect.ValueOf(r.Object).Elem(), reflect.ValueOf(obj).Elem()
	if to.Type() != from.Type() {
		return apierrors.NewInternalError(fmt.Errorf("admission made a %s of a %s", from.Type(), to.Type()))
	}
	to.Set(from)
	if k := r.Object.GetObjectKind(); k.GroupVersionKind() != r.GVK {
		k.SetGroupVersionKind(r.GVK)
	}
	return nil
}

// Namespace is the namespace of the object; nil for objects of the cluster.
func (r *Request) Namespace(ctx context.Context) (*corev1.Namespace, error) {
	if r.Attributes.Namespace == "" || r.GVR.GroupResource() == corev1.Resource("namespaces") {
		return nil, nil
	}
	return r.namespaceNamed(ctx, r.Attributes.Namespace)
}

func (r *Request) namespaceNamed(ctx context.Context, name string) (*corev1.Namespace, error) {
	obj, _ := r.lookup.Get(ctx, corev1.Resource("namespaces"), "", name)
	ns, ok := obj.(*corev1.Namespace)
	if !ok {
		return nil, apierrors.NewNotFound(corev1.Resource("namespaces"), name)
	}
	return ns, nil
}

// Review is the request as expressions and webhooks are told of it, without its
// objects.
func (r *Request) Review(to Target) *reviewv1.AdmissionRequest {
	return plugincel.CreateAdmissionRequest(r.record, metav1.GroupVersionResource(to.GVR), metav1.GroupVersionKind(to.GVK))
}
