package admissionregistration

import (
	admissionv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/proa-dev/proa/api"
)

// ValidatingWebhookConfiguration is the kind of webhooks that validate.
func ValidatingWebhookConfiguration() *api.Kind {
	type C = *admissionv1.ValidatingWebhookConfiguration
	hooks := func(c C) []webhook {
		out := make([]webhook, len(c.Webhooks))
		for i := range c.Webhooks {
			out[i] = webhook{ValidatingWebhook: &c.Webhooks[i]}
		}
		return out
	}
	return &api.Kind{
		GVK:         gvk("ValidatingWebhookConfiguration"),
		Resource:    "validatingwebhookconfigurations",
		Categories:  categories(),
		New:         api.Maker[admissionv1.ValidatingWebhookConfiguration](),
		NewList:     api.ListMaker[admissionv1.ValidatingWebhookConfigurationList](),
		StoragePath: "validatingwebhookconfigurations",
		Columns: []api.Column{
			api.Col("Webhooks", "integer", "Number of webhooks.", func(c C) any { return int64(len(c.Webhooks)) }),
			api.AgeColumn(),
		},
		Default: api.On(func(c C) {
			for i := range c.Webhooks {
				h := &c.Webhooks[i]
				set(&h.FailurePolicy, admissionv1.Fail)
				set(&h.MatchPolicy, admissionv1.Equivalent)
				set(&h.NamespaceSelector, metav1.LabelSelector{})
				set(&h.ObjectSelector, metav1.LabelSelector{})
				set(&h.TimeoutSeconds, 10)
				defaultClient(&h.ClientConfig)
				for j := range h.Rules {
					defaultRule(&h.Rules[j].Rule)
				}
			}
		}),
		PrepareCreate:          api.On(func(c C) { c.Generation = 1 }),
		PrepareUpdate:          api.OnUpdate(func(c, old C) { api.BumpGeneration(c, old, &c.Webhooks, &old.Webhooks) }),
		Validate:               api.Check(func(c C) field.ErrorList { return validateWebhooks(hooks(c), nil) }),
		ValidateUpdate:         api.CheckUpdate(func(c, old C) field.ErrorList { return validateWebhooks(hooks(c), hooks(old)) }),
		Warnings:               api.Warn(func(c, _ C) []string { return nameWarnings(c.Name) }),
		RequireVersionOnUpdate: true,
		Governs:                true,
	}
}

// MutatingWebhookConfiguration is the kind of webhooks that mutate.
func MutatingWebhookConfiguration() *api.Kind {
	type C = *admissionv1.MutatingWebhookConfiguration
	return &api.Kind{
		GVK:         gvk("MutatingWebhookConfiguration"),
		Resource:    "mutatingwebhookconfigurations",
		Categories:  categories(),
		New:         api.Maker[admissionv1.MutatingWebhookConfiguration](),
		NewList:     api.ListMaker[admissionv1.MutatingWebhookConfigurationList](),
		StoragePath: "mutatingwebhookconfigurations",
		Columns: []api.Column{
			api.Col("Webhooks", "integer", "Number of webhooks.", func(c C) any { return int64(len(c.Webhooks)) }),
			api.AgeColumn(),
		},
		Default: api.On(func(c C) {
			for i := range c.Webhooks {
				h := &c.Webhooks[i]
				set(&h.FailurePolicy, admissionv1.Fail)
				set(&h.MatchPolicy, admissionv1.Equivalent)
				set(&h.NamespaceSelector, metav1.LabelSelector{})
				set(&h.ObjectSelector, metav1.LabelSelector{})
				set(&h.TimeoutSeconds, 10)
				set(&h.ReinvocationPolicy, admissionv1.NeverReinvocationPolicy)
				defaultClient(&h.ClientConfig)
				for j := range h.Rules {
					defaultRule(&h.Rules[j].Rule)
				}
			}
		}),
		PrepareCreate:          api.On(func(c C) { c.Generation = 1 }),
		PrepareUpdate:          api.OnUpdate(func(c, old C) { api.BumpGeneration(c, old, &c.Webhooks, &old.Webhooks) }),
		Validate:               api.Check(func(c C) field.ErrorList { return validateWebhooks(mutating(c), nil) }),
		ValidateUpdate:         api.CheckUpdate(func(c, old C) field.ErrorList { return validateWebhooks(mutating(c), mutating(old)) }),
		Warnings:               api.Warn(func(c, _ C) []string { return nameWarnings(c.Name) }),
		RequireVersionOnUpdate: true,
		Governs:                true,
	}
}

// webhook is what validating and mutating ones have in common.
type webhook struct {
	*admissionv1.ValidatingWebhook
	reinvocation *admissionv1.ReinvocationPolicyType
}

func mutating(c *admissionv1.MutatingWebhookConfiguration) []webhook {
	out := make([]webhook, len(c.Webhooks))
	for i := range c.Webhooks {
		h := &c.Webhooks[i]
		out[i] = webhook{&admissionv1.ValidatingWebhook{
			Name: h.Name, ClientConfig: h.ClientConfig, Rules: h.Rules, FailurePolicy: h.FailurePolicy, MatchPolicy: h.MatchPolicy,
			NamespaceSelector: h.NamespaceSelector, ObjectSelector: h.ObjectSelector, SideEffects: h.SideEffects,
			TimeoutSeconds: h.TimeoutSeconds, AdmissionReviewVersions: h.AdmissionReviewVersions, MatchConditions: h.MatchConditions,
		}, h.ReinvocationPolicy}
	}
	return out
}
