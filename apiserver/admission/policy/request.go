package policy

import (
	"context"
	"fmt"
	"reflect"
	"slices"

	reviewv1 "k8s.io/api/admission/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	upstream "k8s.io/apiserver/pkg/admission"
	plugincel "k8s.io/apiserver/pkg/admission/plugin/cel"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/apiserver/admission"
	"github.com/proa-dev/proa/apiserver/kinds"
)

// request is a write as expressions see it.
type request struct {
	*admission.Attributes
	kinds     *kinds.Set
	record    upstream.Attributes
	namespace *corev1.Namespace // of the object, nil for cluster-scoped ones

	equivalent []form // found when first asked for
	searched   bool
	// views are the request in the versions that policies asked for.
	views map[schema.GroupVersionKind]*view
}

// form is a version that a request's object can take, the one that was sent
// included.
type form struct {
	resource schema.GroupVersionResource
	kind     schema.GroupVersionKind
}

// view is a request in one form.
type view struct {
	form
	*upstream.VersionedAttributes
	asked *reviewv1.AdmissionRequest
}

func newRequest(ctx context.Context, c *Config, a *admission.Attributes) (*request, error) {
	r := &request{Attributes: a, kinds: c.Kinds(), views: map[schema.GroupVersionKind]*view{}}
	r.record = upstream.NewAttributesRecord(labelled(a.Object, a.GVK), labelled(a.OldObject, a.GVK), a.GVK, r.scope(), a.Name, a.GVR,
		a.Subresource, upstream.Operation(a.Operation), a.Options, a.DryRun, a.User)
	if a.Namespace == "" || r.isNamespace() {
		return r, nil
	}
	obj, ok := c.Lookup.Get(ctx, corev1.Resource("namespaces"), "", a.Namespace)
	if !ok {
		return nil, fmt.Errorf("namespace %s not found", a.Namespace)
	}
	r.namespace = obj.(*corev1.Namespace)
	return r, nil
}

func (r *request) isNamespace() bool { return r.GVR.GroupResource() == corev1.Resource("namespaces") }

// scope is the namespace that a request is about: a namespace is in itself.
func (r *request) scope() string {
	if r.isNamespace() {
		return r.Name
	}
	return r.Namespace
}

// labelled returns an object that says what it is; it shares all else with obj,
// so that nobody may change it.
func labelled(obj runtime.Object, gvk schema.GroupVersionKind) runtime.Object {
	if obj == nil || reflect.ValueOf(obj).IsNil() {
		return nil
	}
	if obj.GetObjectKind().GroupVersionKind() == gvk {
		return obj
	}
	if u, ok := obj.(*unstructured.Unstructured); ok {
		u = u.DeepCopy()
		u.SetGroupVersionKind(gvk)
		return u
	}
	own := reflect.New(reflect.TypeOf(obj).Elem())
	own.Elem().Set(reflect.ValueOf(obj).Elem())
	obj = own.Interface().(runtime.Object)
	obj.GetObjectKind().SetGroupVersionKind(gvk)
	return obj
}

func (r *request) sent() form { return form{r.GVR, r.GVK} }

// forms returns the other versions of the object, in the order of the table.
func (r *request) forms() []form {
	if r.searched {
		return r.equivalent
	}
	r.searched = true
	own := r.kinds.ByResource(r.GVR)
	if own == nil {
		return nil
	}
	stored := r.kinds.Stored(own)
	for _, k := range r.kinds.All {
		if k == own || r.kinds.Stored(k) != stored {
			continue
		}
		f := form{k.GVR(), k.GVK}
		switch {
		case r.Subresource == "":
		case r.Subresource == "status" && k.Status != nil:
		case r.Subresource == "scale" && k.Scale != nil:
			f.kind = r.GVK
		case slices.ContainsFunc(k.Subresources, func(s api.Subresource) bool { return s.Name == r.Subresource }):
			f.kind = r.GVK
		default:
			continue
		}
		r.equivalent = append(r.equivalent, f)
	}
	return r.equivalent
}

// as returns the request, as it was sent, in a form.
func (r *request) as(f form) (*view, error) {
	if v := r.views[f.kind]; v != nil {
		return v, nil
	}
	v := &view{form: f, VersionedAttributes: &upstream.VersionedAttributes{Attributes: r.record, VersionedKind: f.kind}}
	for _, one := range []struct {
		from runtime.Object
		to   *upstream.LazyObject
	}{{r.record.GetObject(), &v.VersionedObject}, {r.record.GetOldObject(), &v.VersionedOldObject}} {
		obj, err := convert(r.kinds, one.from, r.GVK, f.kind)
		if err != nil {
			return nil, err
		}
		one.to.Set(obj)
	}
	v.asked = plugincel.CreateAdmissionRequest(r.record, metav1.GroupVersionResource(f.resource), metav1.GroupVersionKind(f.kind))
	r.views[f.kind] = v
	return v, nil
}

// convert brings an object into another version of its kind.
func convert(set *kinds.Set, obj runtime.Object, from, to schema.GroupVersionKind) (runtime.Object, error) {
	o, ok := obj.(api.Object)
	if obj == nil || from == to || !ok {
		return obj, nil
	}
	k, target := set.ByKind(from), set.ByKind(to)
	if k == nil || target == nil {
		return nil, fmt.Errorf("unable to convert to %v: unknown kind", to)
	}
	var err error
	if k.Storage != nil {
		if o, err = k.Storage.To(o); err != nil {
			return nil, fmt.Errorf("failed to convert object version: %w", err)
		}
	}
	if target.Storage != nil {
		if o, err = target.Storage.From(o); err != nil {
			return nil, fmt.Errorf("failed to convert object version: %w", err)
		}
	}
	return labelled(o, to), nil
}
