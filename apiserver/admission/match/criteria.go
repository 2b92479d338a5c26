// Package match says which writes webhooks and policies are for: by rules about
// resources, by labels, and by expressions (match conditions). A rule for one
// version of a resource is for its other versions too, if it wants that; the
// object is shown in the version that the rule names.
package match

import (
	"context"
	"slices"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	upstream "k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/plugin/webhook/predicates/rules"

	"github.com/proa-dev/proa/apiserver/admission"
)

// Criteria select requests by rules and labels. The zero value is for all.
type Criteria struct {
	rules, exclude      []admissionv1.NamedRuleWithOperations
	namespaces, objects labels.Selector // nil: all
	equivalent          bool            // rules are for other versions too
	chosen              bool            // without rules: none rather than all
	err                 error           // of a selector
}

// Resources returns the criteria of a policy or a binding; a nil m is for all.
func Resources(m *admissionv1.MatchResources) *Criteria {
	c := &Criteria{}
	if m == nil {
		return c
	}
	c.rules, c.exclude = m.ResourceRules, m.ExcludeResourceRules
	c.equivalent = m.MatchPolicy != nil && *m.MatchPolicy == admissionv1.Equivalent
	c.selectors(m.NamespaceSelector, m.ObjectSelector)
	return c
}

// Webhook returns the criteria of a webhook.
func Webhook(list []admissionv1.RuleWithOperations, policy *admissionv1.MatchPolicyType, namespaces, objects *metav1.LabelSelector) *Criteria {
	c := &Criteria{chosen: true, equivalent: policy != nil && *policy == admissionv1.Equivalent}
	for _, r := range list {
		c.rules = append(c.rules, admissionv1.NamedRuleWithOperations{RuleWithOperations: r})
	}
	c.selectors(namespaces, objects)
	return c
}

func (c *Criteria) selectors(namespaces, objects *metav1.LabelSelector) {
	read := func(s *metav1.LabelSelector) labels.Selector {
		if s == nil || len(s.MatchLabels) == 0 && len(s.MatchExpressions) == 0 {
			return nil
		}
		out, err := metav1.LabelSelectorAsSelector(s)
		if err != nil {
			c.err = err
			return nil
		}
		return out
	}
	c.namespaces, c.objects = read(namespaces), read(objects)
}

// Target is how a request is shown to who matched it.
type Target struct {
	GVK schema.GroupVersionKind
	GVR schema.GroupVersionResource
}

// Matches says whether c is for the request, and as what. An error is a status
// error, of a request that the rules are for.
func (r *Request) Matches(ctx context.Context, c *Criteria) (Target, bool, error) {
	own := Target{GVK: r.GVK, GVR: r.GVR}
	if len(c.exclude) > 0 {
		if _, excluded := r.find(c.exclude, c.equivalent); excluded {
			return own, false, nil
		}
	}
	to, ok := own, !c.chosen && len(c.rules) == 0
	if !ok {
		to, ok = r.find(c.rules, c.equivalent)
	}
	if !ok || c.objects != nil && !r.selected(c.objects) {
		return to, false, nil
	}
	if c.err != nil {
		return to, false, apierrors.NewInternalError(c.err)
	}
	ok, err := r.inNamespace(ctx, c.namespaces)
	return to, ok, err
}

// find returns the first rule's view of the request: rules for the resource as
// it was asked for go before those for another version of it.
func (r *Request) find(list []admissionv1.NamedRuleWithOperations, equivalent bool) (Target, bool) {
	own := Target{GVK: r.GVK, GVR: r.GVR}
	if slices.ContainsFunc(list, func(n admissionv1.NamedRuleWithOperations) bool { return r.names(&n) && applies(&n, r.record) }) {
		return own, true
	}
	if !equivalent || r.Kinds == nil {
		return own, false
	}
	kind := r.Kinds.ByResource(r.GVR)
	if kind == nil || kind.Virtual {
		return own, false
	}
	others := r.Kinds.Equivalents(kind)
	if len(others) < 2 {
		return own, false
	}
	for i := range list {
		if !r.names(&list[i]) {
			continue
		}
		for _, k := range others {
			if k == kind || !applies(&list[i], renamed{r.record, k.GVR()}) {
				continue
			}
			to := Target{GVK: r.GVK, GVR: k.GVR()}
			if r.GVK == kind.GVK { // else it is a subresource's own kind
				to.GVK = k.GVK
			}
			return to, true
		}
	}
	return own, false
}

func (r *Request) names(n *admissionv1.NamedRuleWithOperations) bool {
	return len(n.ResourceNames) == 0 || slices.Contains(n.ResourceNames, r.Name)
}

func applies(n *admissionv1.NamedRuleWithOperations, a upstream.Attributes) bool {
	m := rules.Matcher{Rule: n.RuleWithOperations, Attr: a}
	return m.Matches()
}

// renamed is a request as one for another resource.
type renamed struct {
	upstream.Attributes
	resource schema.GroupVersionResource
}

// GetResource implements upstream.Attributes.
func (r renamed) GetResource() schema.GroupVersionResource { return r.resource }

// inNamespace compares the labels of the namespace. Objects of the cluster are
// in every namespace, and a namespace is in itself: with its new labels when it
// is written.
func (r *Request) inNamespace(ctx context.Context, s labels.Selector) (bool, error) {
	own := r.GVR.GroupResource() == corev1.Resource("namespaces")
	switch {
	case s == nil || r.Attributes.Namespace == "" && !own:
		return true, nil
	case own && r.Subresource == "" && (r.Operation == admission.Create || r.Operation == admission.Update):
		return labelled(s, r.object()), nil
	case own && r.OldObject != nil:
		return labelled(s, r.OldObject), nil
	}
	name := r.Attributes.Namespace
	if own {
		name = r.Name
	}
	ns, err := r.namespaceNamed(ctx, name)
	if err != nil {
		return false, err
	}
	return s.Matches(labels.Set(ns.Labels)), nil
}

// selected says that the new object or the old one is meant.
func (r *Request) selected(s labels.Selector) bool {
	return labelled(s, r.object()) || labelled(s, r.OldObject)
}

func labelled(s labels.Selector, obj runtime.Object) bool {
	if obj == nil {
		return false
	}
	m, err := meta.Accessor(obj)
	return err == nil && s.Matches(labels.Set(m.GetLabels()))
}
