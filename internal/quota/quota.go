// Package quota measures what objects use of the resources that a
// ResourceQuota bounds. The API server asks it before a write, the quota
// controller when it counts what there is.
package quota

import (
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/selection"
)

// Evaluator measures the objects of one resource.
type Evaluator interface {
	// Tracks says that a name in a quota's hard limits is one of those that
	// the objects use.
	Tracks(name corev1.ResourceName) bool
	// Usage is what one object uses. now is the time of day: what has been
	// ending for too long uses nothing.
	Usage(obj runtime.Object, now time.Time) corev1.ResourceList
	// InScope says that an object is one that a quota's scope selects.
	InScope(s corev1.ScopedResourceSelectorRequirement, obj runtime.Object) bool
	// Lacking says what an object has to name so that it can be counted.
	Lacking(bounded []corev1.ResourceName, obj runtime.Object) error
	// Charged says that a write may change what is used.
	Charged(w Write) bool
}

// Write is a create or an update as far as quotas are concerned.
type Write struct {
	Create, Update bool
	Subresource    string
	Object, Old    runtime.Object
}

// For returns the evaluator for a resource in a cluster. What is not known better
// is counted.
func For(gr schema.GroupResource, view View) Evaluator {
	switch gr {
	case schema.GroupResource{Resource: "pods"}:
		return pods{}
	case schema.GroupResource{Resource: "services"}:
		return services{}
	case schema.GroupResource{Resource: "persistentvolumeclaims"}:
		return claims{}
	case schema.GroupResource{Group: "resource.k8s.io", Resource: "resourceclaims"}:
		return deviceClaims{view}
	}
	c := count{names: []corev1.ResourceName{countName(gr)}}
	if gr.Group == "" && slices.Contains([]string{"configmaps", "resourcequotas", "replicationcontrollers", "secrets"}, gr.Resource) {
		c.names = append(c.names, corev1.ResourceName(gr.Resource))
	}
	return c
}

// Ignored says that quotas never count a resource: what is not stored, and
// events.
func Ignored(gr schema.GroupResource) bool {
	switch gr.Group {
	case "authentication.k8s.io", "authorization.k8s.io":
		return true
	case "":
		return gr.Resource == "events" || gr.Resource == "bindings" || gr.Resource == "componentstatuses"
	}
	return gr == schema.GroupResource{Group: "events.k8s.io", Resource: "events"}
}

func countName(gr schema.GroupResource) corev1.ResourceName {
	return corev1.ResourceName("count/" + gr.String())
}

// count is the evaluator of resources of which only the number matters.
type count struct{ names []corev1.ResourceName }

func (c count) Tracks(name corev1.ResourceName) bool { return slices.Contains(c.names, name) }

func (c count) Usage(runtime.Object, time.Time) corev1.ResourceList {
	used := corev1.ResourceList{}
	for _, name := range c.names {
		used[name] = pieces(1)
	}
	return used
}

func (c count) InScope(corev1.ScopedResourceSelectorRequirement, runtime.Object) bool { return false }

func (c count) Lacking([]corev1.ResourceName, runtime.Object) error { return nil }

func (c count) Charged(w Write) bool { return w.Create && w.Subresource == "" }

func pieces(n int) resource.Quantity { return *resource.NewQuantity(int64(n), resource.DecimalSI) }

// Scopes are the conditions of a quota on the objects that it counts.
func Scopes(spec *corev1.ResourceQuotaSpec) []corev1.ScopedResourceSelectorRequirement {
	var out []corev1.ScopedResourceSelectorRequirement
	for _, s := range spec.Scopes {
		out = append(out, corev1.ScopedResourceSelectorRequirement{ScopeName: s, Operator: corev1.ScopeSelectorOpExists})
	}
	if spec.ScopeSelector != nil {
		out = append(out, spec.ScopeSelector.MatchExpressions...)
	}
	return out
}

// Selects says that an object is in all scopes of a quota.
func Selects(e Evaluator, spec *corev1.ResourceQuotaSpec, obj runtime.Object) bool {
	for _, s := range Scopes(spec) {
		if !e.InScope(s, obj) {
			return false
		}
	}
	return true
}

// Tracked are the names in hard that e measures, in order.
func Tracked(e Evaluator, hard corev1.ResourceList) []corev1.ResourceName {
	var out []corev1.ResourceName
	for name := range hard {
		if e.Tracks(name) {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

// hasClass matches a scope with values against the classes that an object
// names.
func hasClass(s corev1.ScopedResourceSelectorRequirement, classes ...string) bool {
	classes = slices.DeleteFunc(classes, func(c string) bool { return c == "" })
	var op selection.Operator
	switch s.Operator {
	case corev1.ScopeSelectorOpExists:
		return len(classes) > 0
	case corev1.ScopeSelectorOpIn:
		op = selection.In
	case corev1.ScopeSelectorOpNotIn:
		op = selection.NotIn
	case corev1.ScopeSelectorOpDoesNotExist:
		op = selection.DoesNotExist
	}
	r, err := labels.NewRequirement(string(s.ScopeName), op, s.Values)
	if err != nil {
		return false // validation lets in none of these
	}
	if len(classes) == 0 {
		return r.Matches(labels.Set{})
	}
	return slices.ContainsFunc(classes, func(c string) bool { return r.Matches(labels.Set{string(s.ScopeName): c}) })
}

// Add adds b to a, which it may change and returns.
func Add(a, b corev1.ResourceList) corev1.ResourceList {
	if a == nil {
		a = corev1.ResourceList{}
	}
	for name, q := range b {
		sum := a[name].DeepCopy()
		if _, ok := a[name]; !ok {
			sum = q.DeepCopy()
		} else {
			sum.Add(q)
		}
		a[name] = sum
	}
	return a
}

// Less is what a has more than b; nothing is below zero.
func Less(a, b corev1.ResourceList) corev1.ResourceList {
	out := corev1.ResourceList{}
	for name, q := range a {
		rest := q.DeepCopy()
		if taken, ok := b[name]; ok {
			rest.Sub(taken)
		}
		if rest.Sign() > 0 {
			out[name] = rest
		}
	}
	return out
}

// Only is the part of l that has one of the names.
func Only(l corev1.ResourceList, names []corev1.ResourceName) corev1.ResourceList {
	out := corev1.ResourceList{}
	for _, name := range names {
		if q, ok := l[name]; ok {
			out[name] = q.DeepCopy()
		}
	}
	return out
}

// Same says that two lists have the same names and amounts.
func Same(a, b corev1.ResourceList) bool {
	if len(a) != len(b) {
		return false
	}
	for name, q := range a {
		other, ok := b[name]
		if !ok || q.Cmp(other) != 0 {
			return false
		}
	}
	return true
}

// Names are the names in l, in order.
func Names(l corev1.ResourceList) []corev1.ResourceName {
	out := make([]corev1.ResourceName, 0, len(l))
	for name := range l {
		out = append(out, name)
	}
	slices.Sort(out)
	return out
}

func requests(name corev1.ResourceName) corev1.ResourceName {
	return corev1.DefaultResourceRequestsPrefix + name
}

func hasPrefix(name corev1.ResourceName, prefix string) bool {
	return strings.HasPrefix(string(name), prefix)
}
