package core

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/fields"

	"github.com/proa-dev/proa/api"
)

// Namespace is the kind of namespaces.
func Namespace() *api.Kind {
	return &api.Kind{
		GVK:        gvk("Namespace"),
		Resource:   "namespaces",
		ShortNames: []string{"ns"},
		Verbs:      []string{"create", "delete", "get", "list", "patch", "update", "watch"},
		New:        api.Maker[corev1.Namespace](),
		NewList:    api.ListMaker[corev1.NamespaceList](),

		StoragePath:  "namespaces",
		ValidateName: validation.ValidateNamespaceName,

		Default: api.On(labelNamespace),
		PrepareCreate: api.On(func(n *corev1.Namespace) {
			labelNamespace(n)
			n.Status = corev1.NamespaceStatus{Phase: corev1.NamespaceActive}
			if !slices.Contains(n.Spec.Finalizers, corev1.FinalizerKubernetes) {
				n.Spec.Finalizers = append(n.Spec.Finalizers, corev1.FinalizerKubernetes)
			}
		}),
		PrepareUpdate: api.OnUpdate(func(n, old *corev1.Namespace) {
			n.Spec.Finalizers = old.Spec.Finalizers
			n.Status = old.Status
			labelNamespace(n)
		}),
		Status: &api.Status{
			PrepareUpdate: api.OnUpdate(func(n, old *corev1.Namespace) { n.Spec = old.Spec }),
		},
		Subresources: []api.Subresource{{
			Name: "finalize", GVK: gvk("Namespace"), Verbs: []string{"update"},
			Update: &api.Status{
				PrepareUpdate: api.OnUpdate(func(n, old *corev1.Namespace) { n.Status = old.Status }),
			},
		}},
		Fields: api.FieldsOf(func(n *corev1.Namespace) fields.Set {
			// Upstream answers to the bare "name" too.
			return fields.Set{"status.phase": string(n.Status.Phase), "name": n.Name}
		}),
		FieldNames: []string{"status.phase", "name"},
		ResetFields: map[string][]string{
			"": {"status"}, "status": {"spec"},
		},
	}
}

// labelNamespace puts the namespace's name where label selectors see it.
func labelNamespace(n *corev1.Namespace) {
	if n.Name == "" {
		return
	}
	if n.Labels == nil {
		n.Labels = map[string]string{}
	}
	n.Labels[corev1.LabelMetadataName] = n.Name
}
