package core

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/validation"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/api/auth"
)

// ServiceAccount is the kind of service accounts.
func ServiceAccount() *api.Kind {
	return &api.Kind{
		GVK:           gvk("ServiceAccount"),
		ReturnDeleted: true,
		Resource:      "serviceaccounts",
		ShortNames:    []string{"sa"},
		Namespaced:    true,
		New:           api.Maker[corev1.ServiceAccount](),
		NewList:       api.ListMaker[corev1.ServiceAccountList](),
		StoragePath:   "serviceaccounts",

		ValidateName:  validation.ValidateServiceAccountName,
		PrepareCreate: api.On(cleanSecretReferences),
		PrepareUpdate: api.OnUpdate(func(s, _ *corev1.ServiceAccount) { cleanSecretReferences(s) }),
		Warnings: api.Warn(func(s, old *corev1.ServiceAccount) []string {
			const key = "kubernetes.io/enforce-mountable-secrets"
			if old != nil {
				if _, ok := old.Annotations[key]; ok {
					return nil
				}
			}
			if _, ok := s.Annotations[key]; ok {
				return []string{"metadata.annotations[" + key + "]: deprecated in v1.32+; prefer separate namespaces to isolate access to mounted secrets"}
			}
			return nil
		}),
		Subresources: []api.Subresource{{
			Name: "token", GVK: auth.TokenRequestKind(), Verbs: []string{"create"}, Body: auth.TokenRequest(),
		}},
	}
}

// cleanSecretReferences keeps the names alone: a service account's secrets
// are in its own namespace.
func cleanSecretReferences(s *corev1.ServiceAccount) {
	for i, ref := range s.Secrets {
		s.Secrets[i] = corev1.ObjectReference{Name: ref.Name}
	}
}
