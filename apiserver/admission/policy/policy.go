// Package policy admits writes by the policies of admissionregistration.k8s.io:
// expressions that change objects (MutatingAdmissionPolicy) or refuse them
// (ValidatingAdmissionPolicy), put in force by bindings.
//
// Policies are compiled when they change, and looked up by every write: a
// cluster without any pays for two reads of a revision.
package policy

import (
	"context"
	"errors"
	"fmt"
	"sync"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/apiserver/admission"
	"github.com/proa-dev/proa/apiserver/admission/match"
)

// Config is what both plugins need.
type Config struct {
	Lookup     admission.Lookup
	Authorizer authorizer.UnconditionalAuthorizer
	// Kind returns the kind that is served as gvk, or nil.
	Kind func(gvk schema.GroupVersionKind) *api.Kind
	// Converter and Scheme read and make the objects that mutations change.
	Converter managedfields.TypeConverter
	Scheme    *runtime.Scheme
}

// Validate says what is missing.
func (c Config) Validate() error {
	if c.Lookup.Source == nil || c.Authorizer == nil || c.Kind == nil || c.Converter == nil || c.Scheme == nil {
		return errors.New("policy: every field of the configuration is required")
	}
	return nil
}

func resource(name string) schema.GroupResource {
	return admissionv1.SchemeGroupVersion.WithResource(name).GroupResource()
}

// compiled remembers what was made of the objects of two resources until one
// of them changes.
type compiled[T any] struct {
	policies, bindings schema.GroupResource

	mu   sync.Mutex
	at   [2]int64
	made []T
	old  map[string]T // by the policy's UID and version
}

// get returns what make makes of each policy that has bindings.
func (c *compiled[T]) get(source admission.Source, bind func(binding api.Object) string, make func(policy api.Object) T, join func(T, []api.Object) T) []T {
	at := [2]int64{source.Revision(c.policies), source.Revision(c.bindings)}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.at == at {
		return c.made
	}
	bindings := map[string][]api.Object{}
	for _, b := range source.List(c.bindings, "") {
		bindings[bind(b)] = append(bindings[bind(b)], b)
	}
	known := map[string]T{}
	c.made = nil
	for _, p := range source.List(c.policies, "") {
		bound := bindings[p.GetName()]
		if len(bound) == 0 {
			continue
		}
		key := string(p.GetUID()) + "/" + p.GetResourceVersion()
		policy, ok := c.old[key]
		if !ok {
			policy = make(p)
		}
		known[key] = policy
		c.made = append(c.made, join(policy, bound))
	}
	c.old, c.at = known, at
	return c.made
}

// exempt says that no policy is asked: about policies themselves, lest one
// locks out who would mend it, about questions that change nothing, and about
// what the server needs to start.
func exempt(a *admission.Attributes) bool {
	switch a.GVR.Group {
	case admissionv1.GroupName:
		return true
	case "authentication.k8s.io", "authorization.k8s.io":
		return true
	}
	return a.Own
}

// params returns the parameters that a binding names: one nil where there are
// none to be had, and no element where their absence allows the request.
func (c Config) params(ctx context.Context, r *match.Request, kind *admissionv1.ParamKind, ref *admissionv1.ParamRef) ([]runtime.Object, error) {
	if kind == nil || ref == nil {
		return []runtime.Object{nil}, nil
	}
	gvk := schema.FromAPIVersionAndKind(kind.APIVersion, kind.Kind)
	k := c.Kind(gvk)
	if k == nil {
		return nil, fmt.Errorf("failed to find resource referenced by paramKind: '%v'", gvk)
	}
	namespace := ref.Namespace
	switch {
	case !k.Namespaced && namespace != "":
		return nil, errors.New("paramRef.namespace must not be provided for a cluster-scoped `paramKind`")
	case k.Namespaced && namespace == "" && r.Attributes.Namespace == "":
		return nil, errors.New("cannot use namespaced paramRef in policy binding that matches cluster-scoped resources")
	case k.Namespaced && namespace == "":
		namespace = r.Attributes.Namespace
	}
	var found []runtime.Object
	add := func(o runtime.Object) {
		o = o.DeepCopyObject()
		o.GetObjectKind().SetGroupVersionKind(gvk)
		found = append(found, o)
	}
	if ref.Name != "" {
		if o, ok := c.Lookup.Get(ctx, k.GR(), namespace, ref.Name); ok {
			add(o)
		}
	} else {
		selector, err := metav1.LabelSelectorAsSelector(ref.Selector)
		if err != nil {
			return nil, err
		}
		for _, o := range c.Lookup.Source.List(k.GR(), namespace) {
			if selector.Matches(labels.Set(o.GetLabels())) {
				add(o)
			}
		}
	}
	if len(found) == 0 && ref.ParameterNotFoundAction != nil && *ref.ParameterNotFoundAction == admissionv1.DenyAction {
		return nil, errors.New("no params found for policy binding with `Deny` parameterNotFoundAction")
	}
	return found, nil
}
