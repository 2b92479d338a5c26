package policy

import (
	"slices"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	upstream "k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/plugin/webhook/predicates/rules"

	"github.com/proa-dev/proa/apiserver/admission"
)

// matches says that m is for a request, and in which form m wants to see it. A
// nil m is for all. A selector that cannot be read is an error only where all
// else matches.
func (r *request) matches(m *admissionv1.MatchResources) (form, bool, error) {
	if m == nil {
		return r.sent(), true, nil
	}
	inNamespace, err := r.matchesNamespace(m)
	if !inNamespace && err == nil {
		return form{}, false, nil
	}
	object, objectErr := r.matchesObject(m)
	if !object && objectErr == nil {
		return form{}, false, nil
	}
	if _, excluded := r.matchesRule(m.ExcludeResourceRules, m.MatchPolicy); excluded {
		return form{}, false, nil
	}
	f, ok := r.sent(), true
	if len(m.ResourceRules) > 0 {
		f, ok = r.matchesRule(m.ResourceRules, m.MatchPolicy)
	}
	if err == nil {
		err = objectErr
	}
	if !ok {
		err = nil
	}
	return f, ok && err == nil, err
}

// matchesRule looks for a rule for the object as it was sent, then for one for
// another of its versions.
func (r *request) matchesRule(list []admissionv1.NamedRuleWithOperations, policy *admissionv1.MatchPolicyType) (form, bool) {
	any := func(attr upstream.Attributes) bool {
		return slices.ContainsFunc(list, func(n admissionv1.NamedRuleWithOperations) bool {
			m := rules.Matcher{Rule: n.RuleWithOperations, Attr: attr}
			return m.Matches() && (len(n.ResourceNames) == 0 || slices.Contains(n.ResourceNames, r.Name))
		})
	}
	switch {
	case len(list) == 0:
		return form{}, false
	case any(r.record):
		return r.sent(), true
	case policy == nil || *policy == admissionv1.Exact:
		return form{}, false
	}
	for _, f := range r.forms() {
		if any(otherResource{r.record, f.resource}) {
			return f, true
		}
	}
	return form{}, false
}

// otherResource is a request as if it was for another resource.
type otherResource struct {
	upstream.Attributes
	resource schema.GroupVersionResource
}

// GetResource implements upstream's interface.
func (o otherResource) GetResource() schema.GroupVersionResource { return o.resource }

func everything(s *metav1.LabelSelector) bool {
	return s == nil || len(s.MatchLabels) == 0 && len(s.MatchExpressions) == 0
}

func (r *request) matchesNamespace(m *admissionv1.MatchResources) (bool, error) {
	if everything(m.NamespaceSelector) {
		return true, nil
	}
	selector, err := metav1.LabelSelectorAsSelector(m.NamespaceSelector)
	if err != nil {
		return false, err
	}
	switch {
	case r.namespace != nil:
		return selector.Matches(labels.Set(r.namespace.Labels)), nil
	case !r.isNamespace():
		return true, nil // of the cluster
	case r.Operation == admission.Delete:
		return selected(selector, r.OldObject), nil
	}
	return selected(selector, r.Object), nil
}

func (r *request) matchesObject(m *admissionv1.MatchResources) (bool, error) {
	if everything(m.ObjectSelector) {
		return true, nil
	}
	selector, err := metav1.LabelSelectorAsSelector(m.ObjectSelector)
	if err != nil {
		return false, err
	}
	return selected(selector, r.Object) || selected(selector, r.OldObject), nil
}

func selected(s labels.Selector, obj runtime.Object) bool {
	if obj == nil {
		return false
	}
	m, err := meta.Accessor(obj)
	return err == nil && s.Matches(labels.Set(m.GetLabels()))
}
