package policy

import (
	"slices"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/admission/plugin/webhook/predicates/rules"

	"github.com/proa-dev/proa/apiserver/admission"
)

// matches says that m is for a request. A nil m is for all.
func (r *request) matches(m *admissionv1.MatchResources) (bool, error) {
	if m == nil {
		return true, nil
	}
	for _, part := range []func(*admissionv1.MatchResources) (bool, error){r.matchesNamespace, r.matchesObject} {
		if ok, err := part(m); err != nil || !ok {
			return false, err
		}
	}
	if r.matchesRule(m.ExcludeResourceRules) {
		return false, nil
	}
	return len(m.ResourceRules) == 0 || r.matchesRule(m.ResourceRules), nil
}

func (r *request) matchesRule(list []admissionv1.NamedRuleWithOperations) bool {
	return slices.ContainsFunc(list, func(n admissionv1.NamedRuleWithOperations) bool {
		m := rules.Matcher{Rule: n.RuleWithOperations, Attr: r.record}
		return m.Matches() && (len(n.ResourceNames) == 0 || slices.Contains(n.ResourceNames, r.Name))
	})
}

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
	case r.GVR.GroupResource() != corev1.Resource("namespaces"):
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
