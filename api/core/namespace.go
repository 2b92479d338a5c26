package core

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/proa-dev/proa/api"
)

// Namespace is the kind of namespaces.
func Namespace() *api.Kind {
	return &api.Kind{
		GVK:           gvk("Namespace"),
		ReturnDeleted: true,
		Resource:      "namespaces",
		ShortNames:    []string{"ns"},
		Verbs:         []string{"create", "delete", "get", "list", "patch", "update", "watch"},
		New:           api.Maker[corev1.Namespace](),
		NewList:       api.ListMaker[corev1.NamespaceList](),

		StoragePath: "namespaces",
		Columns: []api.Column{
			api.Col("Status", "string", "The status of the namespace.", func(n *corev1.Namespace) any { return string(n.Status.Phase) }),
			api.AgeColumn(),
		},
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
		Validate: api.Check(func(n *corev1.Namespace) field.ErrorList {
			return validateFinalizers(field.NewPath("spec", "finalizers"), n.Spec.Finalizers)
		}),
		Status: &api.Status{
			PrepareUpdate:  api.OnUpdate(func(n, old *corev1.Namespace) { n.Spec = old.Spec }),
			ValidateUpdate: api.CheckUpdate(validateNamespaceStatus),
		},
		Subresources: []api.Subresource{{
			Name: "finalize", GVK: gvk("Namespace"), Verbs: []string{"update"},
			Update: &api.Status{
				PrepareUpdate: api.OnUpdate(func(n, old *corev1.Namespace) { n.Status = old.Status }),
				ValidateUpdate: api.CheckUpdate(func(n, _ *corev1.Namespace) field.ErrorList {
					return validateFinalizers(field.NewPath("spec", "finalizers"), n.Spec.Finalizers)
				}),
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

// validateFinalizers wants finalizers of Kubernetes' own, or with a domain.
func validateFinalizers(path *field.Path, list []corev1.FinalizerName) field.ErrorList {
	var errs field.ErrorList
	for i, f := range list {
		name := string(f)
		errs = append(errs, validation.ValidateFinalizerName(name, path.Index(i))...)
		switch name {
		case string(corev1.FinalizerKubernetes), metav1.FinalizerOrphanDependents, metav1.FinalizerDeleteDependents:
			continue
		}
		if !strings.Contains(name, "/") {
			errs = append(errs, field.Invalid(path.Index(i), name, "name is neither a standard finalizer name nor is it fully qualified"))
		}
	}
	return errs
}

// validateNamespaceStatus wants the phase to say whether it is being deleted.
func validateNamespaceStatus(n, _ *corev1.Namespace) field.ErrorList {
	path := field.NewPath("status", "Phase")
	if n.DeletionTimestamp.IsZero() {
		if n.Status.Phase != corev1.NamespaceActive {
			return field.ErrorList{field.Invalid(path, n.Status.Phase, "may only be 'Active' if `deletionTimestamp` is empty")}
		}
	} else if n.Status.Phase != corev1.NamespaceTerminating {
		return field.ErrorList{field.Invalid(path, n.Status.Phase, "may only be 'Terminating' if `deletionTimestamp` is not empty")}
	}
	return nil
}
