// Package admissionregistration describes the kinds of
// admissionregistration.k8s.io: webhooks and policies that admit requests.
package admissionregistration

import (
	"fmt"
	"strings"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/proa-dev/proa/api"
)

// Kinds lists the kinds of the group.
func Kinds() []*api.Kind {
	return []*api.Kind{
		MutatingAdmissionPolicy(),
		MutatingAdmissionPolicyBinding(),
		MutatingWebhookConfiguration(),
		ValidatingAdmissionPolicy(),
		ValidatingAdmissionPolicyBinding(),
		ValidatingWebhookConfiguration(),
	}
}

func gvk(kind string) schema.GroupVersionKind {
	return admissionv1.SchemeGroupVersion.WithKind(kind)
}

func categories() []string { return []string{"api-extensions"} }

// staticSuffix ends the names of what servers read from files.
const staticSuffix = ".static.k8s.io"

// nameWarnings warns of names that are for files.
func nameWarnings(name string) []string {
	if !strings.HasSuffix(name, staticSuffix) {
		return nil
	}
	return []string{fmt.Sprintf("metadata.name: names ending with %q are reserved for static manifest-based configurations and cannot be managed via the API", staticSuffix)}
}

func set[T any](p **T, v T) {
	if *p == nil {
		*p = &v
	}
}

func defaultRule(r *admissionv1.Rule) { set(&r.Scope, admissionv1.AllScopes) }

func defaultResources(m *admissionv1.MatchResources) {
	if m == nil {
		return
	}
	set(&m.MatchPolicy, admissionv1.Equivalent)
	set(&m.NamespaceSelector, metav1.LabelSelector{})
	set(&m.ObjectSelector, metav1.LabelSelector{})
	for _, rules := range [][]admissionv1.NamedRuleWithOperations{m.ResourceRules, m.ExcludeResourceRules} {
		for i := range rules {
			defaultRule(&rules[i].Rule)
		}
	}
}

func defaultClient(c *admissionv1.WebhookClientConfig) {
	if c.Service != nil {
		set(&c.Service.Port, 443)
	}
}

// paramKindText and paramRefText are columns.
func paramKindText(k *admissionv1.ParamKind) string {
	if k == nil {
		return "<unset>"
	}
	return k.APIVersion + "/" + k.Kind
}

func paramRefText(r *admissionv1.ParamRef) string {
	switch {
	case r == nil:
		return "<unset>"
	case r.Name != "" && r.Namespace != "":
		return r.Namespace + "/" + r.Name
	case r.Name != "": // of the cluster, or in every namespace
		return "*/" + r.Name
	case r.Selector != nil:
		return r.Selector.String()
	}
	return "<unset>"
}
