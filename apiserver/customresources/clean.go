package customresources

import (
	"context"
	"fmt"

	"k8s.io/apiextensions-apiserver/pkg/apihelpers"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/apiserver/registry"
)

// clean removes the objects of a definition that goes, then lets it go. done
// is false while objects wait for their finalizers.
func (s *Server) clean(ctx context.Context, st *state, d *definition) (done bool, err error) {
	end := apiextensionsv1.CustomResourceDefinitionCondition{
		Type: apiextensionsv1.Terminating, Status: apiextensionsv1.ConditionFalse,
		Reason: "NeverEstablished", Message: "resource was never established",
	}
	if isServed(d) {
		stored := bare(d)
		if st.family != nil {
			stored = st.family.stored
		}
		left, err := s.removeObjects(ctx, stored)
		if err != nil || left > 0 {
			c := apiextensionsv1.CustomResourceDefinitionCondition{
				Type: apiextensionsv1.Terminating, Status: apiextensionsv1.ConditionTrue,
				Reason: "InstanceDeletionInProgress", Message: "CustomResource deletion is in progress",
			}
			if err != nil {
				c.Reason, c.Message = "InstanceDeletionFailed", fmt.Sprintf("could not issue all deletes: %v", err)
			}
			if !apihelpers.IsCRDConditionEquivalent(&c, apihelpers.FindCRDCondition(d, c.Type)) {
				setCondition(d, c)
				if _, werr := s.write(ctx, d); werr != nil && err == nil {
					err = werr
				}
			}
			return false, err
		}
		end.Reason, end.Message = "InstanceDeletionCompleted", "removed all instances"
	}
	setCondition(d, end)
	if d, err = s.write(ctx, d); err != nil {
		return false, err
	}
	apihelpers.CRDRemoveFinalizer(d, apiextensionsv1.CustomResourceCleanupFinalizer)
	_, err = s.cfg.Registry.Update(ctx, registry.Target{Kind: s.kind, Name: d.Name}, d, &metav1.UpdateOptions{FieldManager: "proa"})
	return err == nil, err
}

// bare is the kind of a definition whose schema cannot be used: enough to remove
// its objects.
func bare(d *definition) *api.Kind {
	names := d.Status.AcceptedNames
	k := &api.Kind{
		Resource: names.Plural, Namespaced: d.Spec.Scope == apiextensionsv1.NamespaceScoped, ListKind: names.ListKind,
		New:         func() api.Object { return &unstructured.Unstructured{Object: map[string]any{}} },
		NewList:     func() runtime.Object { return &unstructured.UnstructuredList{Object: map[string]any{}} },
		StoragePath: d.Spec.Group + "/" + names.Plural,
	}
	for _, v := range d.Spec.Versions {
		if v.Storage {
			k.GVK = schema.GroupVersionKind{Group: d.Spec.Group, Version: v.Name, Kind: names.Kind}
		}
	}
	return k
}

// removeObjects asks all objects of a kind to go and says how many stay.
func (s *Server) removeObjects(ctx context.Context, k *api.Kind) (left int, err error) {
	all := registry.Target{Kind: k}
	l, err := s.cfg.Registry.List(ctx, all, nil)
	if err != nil {
		return 0, err
	}
	waiting := false
	for _, e := range l.Entries {
		waiting = waiting || e.Object.GetDeletionTimestamp() == nil
	}
	if waiting {
		if _, err := s.cfg.Registry.DeleteCollection(registry.WithAdmitted(ctx), all, nil, nil); err != nil {
			return 0, err
		}
		if l, err = s.cfg.Registry.List(ctx, all, nil); err != nil {
			return 0, err
		}
	}
	return len(l.Entries), nil
}
