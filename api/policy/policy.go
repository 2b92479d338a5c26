// Package policy holds the kinds of the group policy, v1.
package policy

import (
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/proa-dev/proa/api"
)

// EvictionKind is what is posted to a pod's eviction subresource.
func EvictionKind() schema.GroupVersionKind {
	return policyv1.SchemeGroupVersion.WithKind("Eviction")
}

// Kinds lists the kinds of the group.
func Kinds() []*api.Kind { return []*api.Kind{PodDisruptionBudget()} }

// Eviction describes what is posted to a pod's eviction subresource.
func Eviction() *api.Kind {
	return &api.Kind{
		GVK:        EvictionKind(),
		Namespaced: true,
		Verbs:      []string{"create"},
		Virtual:    true,
		New:        api.Maker[policyv1.Eviction](),
	}
}

// PodDisruptionBudget is the kind of disruption budgets.
func PodDisruptionBudget() *api.Kind {
	return &api.Kind{
		GVK:         policyv1.SchemeGroupVersion.WithKind("PodDisruptionBudget"),
		Resource:    "poddisruptionbudgets",
		ShortNames:  []string{"pdb"},
		Namespaced:  true,
		New:         api.Maker[policyv1.PodDisruptionBudget](),
		NewList:     api.ListMaker[policyv1.PodDisruptionBudgetList](),
		StoragePath: "poddisruptionbudgets",

		RequireVersionOnUpdate: true,
		PrepareCreate: api.On(func(b *policyv1.PodDisruptionBudget) {
			b.Status = policyv1.PodDisruptionBudgetStatus{}
			b.Generation = 1
		}),
		PrepareUpdate: api.OnUpdate(func(b, old *policyv1.PodDisruptionBudget) {
			b.Status = old.Status
			api.BumpGeneration(b, old, b.Spec, old.Spec)
		}),
		Status: &api.Status{
			PrepareUpdate: api.OnUpdate(func(b, old *policyv1.PodDisruptionBudget) { b.Spec = old.Spec }),
		},
		ResetFields: map[string][]string{
			"": {"status"}, "status": {"spec"},
		},
	}
}
