// Package table makes the rows that kubectl prints.
package table

import (
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/proa-dev/proa/api"
)

// Include says how much of the object comes with each row.
type Include = metav1.IncludeObjectPolicy

// OfList makes the table of a list.
func OfList(k *api.Kind, objs []api.Object, meta metav1.ListMeta, include Include) *metav1.Table {
	if k.ListColumns == nil {
		return of(k, k.TableColumns(), objs, meta, include)
	}
	return of(k, k.ListColumns(objs), objs, meta, include)
}

// Of makes a table of one object.
func Of(k *api.Kind, obj api.Object, meta metav1.ListMeta, include Include) *metav1.Table {
	return of(k, k.TableColumns(), []api.Object{obj}, meta, include)
}

func of(k *api.Kind, columns []api.Column, objs []api.Object, meta metav1.ListMeta, include Include) *metav1.Table {
	t := &metav1.Table{
		TypeMeta: metav1.TypeMeta{Kind: "Table", APIVersion: "meta.k8s.io/v1"},
		ListMeta: meta,
		Rows:     make([]metav1.TableRow, 0, len(objs)),
	}
	t.ColumnDefinitions = make([]metav1.TableColumnDefinition, 0, len(columns))
	for _, c := range columns {
		t.ColumnDefinitions = append(t.ColumnDefinitions, c.TableColumnDefinition)
	}
	for _, obj := range objs {
		row := metav1.TableRow{Cells: make([]any, 0, len(columns))}
		for _, c := range columns {
			row.Cells = append(row.Cells, c.Value(obj))
		}
		if k.RowConditions != nil {
			row.Conditions = k.RowConditions(obj)
		}
		row.Object = included(obj, include)
		t.Rows = append(t.Rows, row)
	}
	return t
}

// Scales are the columns of the scale subresource.
func Scales() *api.Kind {
	type scale = autoscalingv1.Scale
	return &api.Kind{Columns: []api.Column{
		api.Col("Desired", "integer", "replicas is the desired number of instances for the scaled object.", func(s *scale) any { return int64(s.Spec.Replicas) }),
		api.Col("Available", "integer", "replicas is the actual number of observed instances of the scaled object.", func(s *scale) any { return int64(s.Status.Replicas) }),
		api.AgeColumn(),
	}}
}

// Mark is the table of a bookmark, which has metadata alone.
func Mark(obj api.Object) *metav1.Table {
	return &metav1.Table{
		TypeMeta: metav1.TypeMeta{Kind: "Table", APIVersion: "meta.k8s.io/v1"},
		ListMeta: metav1.ListMeta{ResourceVersion: obj.GetResourceVersion()},
		Rows:     []metav1.TableRow{{Cells: []any{}, Object: included(obj, metav1.IncludeMetadata)}},
	}
}

func included(obj api.Object, include Include) runtime.RawExtension {
	switch include {
	case metav1.IncludeNone:
		return runtime.RawExtension{}
	case metav1.IncludeObject:
		return runtime.RawExtension{Object: obj}
	}
	return runtime.RawExtension{Object: Partial(obj)}
}

// Partial returns the metadata of obj alone.
func Partial(obj api.Object) *metav1.PartialObjectMetadata {
	p := &metav1.PartialObjectMetadata{TypeMeta: metav1.TypeMeta{Kind: "PartialObjectMetadata", APIVersion: "meta.k8s.io/v1"}}
	if a, ok := obj.(metav1.ObjectMetaAccessor); ok {
		if m, ok := a.GetObjectMeta().(*metav1.ObjectMeta); ok {
			p.ObjectMeta = *m // shared with the object: for reading
			return p
		}
	}
	p.ObjectMeta = metav1.ObjectMeta{
		Name: obj.GetName(), GenerateName: obj.GetGenerateName(), Namespace: obj.GetNamespace(), SelfLink: obj.GetSelfLink(),
		UID: obj.GetUID(), ResourceVersion: obj.GetResourceVersion(), Generation: obj.GetGeneration(),
		CreationTimestamp: obj.GetCreationTimestamp(), DeletionTimestamp: obj.GetDeletionTimestamp(),
		DeletionGracePeriodSeconds: obj.GetDeletionGracePeriodSeconds(), Labels: obj.GetLabels(), Annotations: obj.GetAnnotations(),
		OwnerReferences: obj.GetOwnerReferences(), Finalizers: obj.GetFinalizers(), ManagedFields: obj.GetManagedFields(),
	}
	return p
}

// PartialList returns the metadata of objs alone.
func PartialList(objs []api.Object, meta metav1.ListMeta) *metav1.PartialObjectMetadataList {
	l := &metav1.PartialObjectMetadataList{
		TypeMeta: metav1.TypeMeta{Kind: "PartialObjectMetadataList", APIVersion: "meta.k8s.io/v1"},
		ListMeta: meta,
		Items:    make([]metav1.PartialObjectMetadata, len(objs)),
	}
	for i, o := range objs {
		l.Items[i] = *Partial(o)
	}
	return l
}
