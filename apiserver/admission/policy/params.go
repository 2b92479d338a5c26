package policy

import (
	"context"
	"errors"
	"fmt"
	"reflect"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/apiserver/admission/match"
	"github.com/proa-dev/proa/apiserver/kinds"
)

// paramKind returns the kind of a policy's parameters, nil if it has none.
func paramKind(r *match.Request, kind *admissionv1.ParamKind) (*api.Kind, error) {
	if kind == nil {
		return nil, nil
	}
	gv, err := schema.ParseGroupVersion(kind.APIVersion)
	if err != nil {
		return nil, fmt.Errorf("failed to parse paramKind APIVersion: %w", err)
	}
	k := r.Kinds.ByKind(gv.WithKind(kind.Kind))
	if k == nil || k.Virtual {
		return nil, fmt.Errorf("failed to find resource referenced by paramKind: '%v'", gv.WithKind(kind.Kind))
	}
	return k, nil
}

// params returns the parameters that a binding names: one nil where there are
// none to be had, and no element where their absence allows the request.
func (c *Config) params(ctx context.Context, r *match.Request, k *api.Kind, ref *admissionv1.ParamRef) ([]runtime.Object, error) {
	if k == nil || ref == nil {
		return []runtime.Object{nil}, nil
	}
	namespace := ref.Namespace
	switch {
	case !k.Namespaced && namespace != "":
		return nil, errors.New("paramRef.namespace must not be provided for a cluster-scoped `paramKind`")
	case ref.Name == "" && ref.Selector == nil:
		return nil, errors.New("one of name or selector must be provided")
	case ref.Name != "" && ref.Selector != nil:
		return nil, errors.New("paramRef.name and paramRef.selector are mutually exclusive")
	case k.Namespaced && namespace == "":
		if namespace = scope(r); namespace == "" {
			return nil, errors.New("cannot use namespaced paramRef in policy binding that matches cluster-scoped resources")
		}
	}
	objects, err := c.find(ctx, k, namespace, ref)
	if err != nil {
		return nil, err
	}
	stored := r.Kinds.Stored(k)
	found := make([]runtime.Object, len(objects))
	for i, o := range objects {
		if stored != k {
			if o, err = kinds.Convert(o, stored, k); err != nil {
				return nil, err
			}
		}
		found[i] = named(o, k.GVK)
	}
	if len(found) == 0 && ref.ParameterNotFoundAction != nil && *ref.ParameterNotFoundAction == admissionv1.DenyAction {
		return nil, errors.New("no params found for policy binding with `Deny` parameterNotFoundAction")
	}
	return found, nil
}

// scope is the namespace that a request is about: a namespace is in itself.
func scope(r *match.Request) string {
	if r.GVR.GroupResource() == corev1.Resource("namespaces") {
		return r.Name
	}
	return r.Attributes.Namespace
}

// named returns an object that says what it is. It shares all else with obj, so
// that nobody may change it.
func named(obj api.Object, gvk schema.GroupVersionKind) runtime.Object {
	if obj.GetObjectKind().GroupVersionKind() == gvk {
		return obj
	}
	own := reflect.New(reflect.TypeOf(obj).Elem())
	own.Elem().Set(reflect.ValueOf(obj).Elem())
	out, ok := own.Interface().(runtime.Object)
	if _, custom := out.(runtime.Unstructured); custom || !ok {
		out = obj.DeepCopyObject() // what it is stands among its fields
	}
	out.GetObjectKind().SetGroupVersionKind(gvk)
	return out
}

// find reads the objects that ref names, as they are stored.
func (c *Config) find(ctx context.Context, k *api.Kind, namespace string, ref *admissionv1.ParamRef) ([]api.Object, error) {
	if ref.Name != "" {
		if o, ok := c.Lookup.Get(ctx, k.GR(), namespace, ref.Name); ok {
			return []api.Object{o}, nil
		}
		return nil, nil
	}
	selector, err := metav1.LabelSelectorAsSelector(ref.Selector)
	if err != nil {
		return nil, err
	}
	var found []api.Object
	for _, o := range c.Lookup.Source.List(k.GR(), namespace) {
		if selector.Matches(labels.Set(o.GetLabels())) {
			found = append(found, o)
		}
	}
	return found, nil
}
