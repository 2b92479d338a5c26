// Package replicaset is the ReplicaSet controller: it keeps the wanted number
// of equal pods alive.
package replicaset

import (
	"context"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/proa-dev/proa/controllers/internal/index"
	"github.com/proa-dev/proa/controllers/internal/loop"
	"github.com/proa-dev/proa/controllers/internal/matching"
	"github.com/proa-dev/proa/controllers/internal/replica"
)

// Name is the controller's name in logs and events.
const Name = "replicaset-controller"

const workers = 5

// New makes the controller.
func New(env loop.Env) (loop.Loop, error) {
	env = env.Named(Name)
	owners := matching.New(func(rs *appsv1.ReplicaSet) labels.Selector { return matching.Adopting(rs.Spec.Selector) })
	return replica.New(env, Name, &adapter{env, owners}, workers)
}

type adapter struct {
	env    loop.Env
	owners *matching.Index[*appsv1.ReplicaSet]
}

func (a *adapter) Kind() schema.GroupVersionKind {
	return appsv1.SchemeGroupVersion.WithKind("ReplicaSet")
}

func (a *adapter) New() client.Object { return &appsv1.ReplicaSet{} }

func (a *adapter) Get(ctx context.Context, key types.NamespacedName) (*replica.Set, error) {
	rs := &appsv1.ReplicaSet{}
	if err := a.env.Cluster.Client().Get(ctx, key, rs); err != nil {
		return nil, err
	}
	return set(rs)
}

func (a *adapter) Adopters(namespace string, l labels.Set) []string {
	return a.owners.Names(namespace, l)
}

func (a *adapter) Siblings(ctx context.Context, s *replica.Set) ([]*replica.Set, error) {
	ref := metav1.GetControllerOfNoCopy(s.Object)
	if ref == nil {
		return []*replica.Set{s}, nil
	}
	return a.list(ctx, index.By(s.Object.GetNamespace(), index.Controller, string(ref.UID))...)
}

func (a *adapter) list(ctx context.Context, opts ...client.ListOption) ([]*replica.Set, error) {
	var list appsv1.ReplicaSetList
	if err := a.env.Cluster.Client().List(ctx, &list, opts...); err != nil {
		return nil, fmt.Errorf("list ReplicaSets: %w", err)
	}
	sets := make([]*replica.Set, 0, len(list.Items))
	for i := range list.Items {
		s, err := set(&list.Items[i])
		if err != nil {
			a.env.Logger.Error("ReplicaSet without a valid selector", "err", err)
			continue
		}
		sets = append(sets, s)
	}
	return sets, nil
}

func (a *adapter) WriteStatus(ctx context.Context, s *replica.Set, status appsv1.ReplicaSetStatus) error {
	rs := s.Object.DeepCopyObject().(*appsv1.ReplicaSet)
	rs.Status = status
	return a.env.Cluster.Client().Status().Update(ctx, rs)
}

func (a *adapter) Watch(gone func(types.UID)) source.Source {
	add := func(_ context.Context, q loop.Queue, rs *appsv1.ReplicaSet) { q.Add(loop.Key(rs.Namespace, rs.Name)) }
	return loop.Watch(a.env.Cluster, &appsv1.ReplicaSet{}, a.owners.Fed(loop.On[*appsv1.ReplicaSet]{
		Created: add,
		Updated: func(ctx context.Context, q loop.Queue, _, rs *appsv1.ReplicaSet) { add(ctx, q, rs) },
		Deleted: func(_ context.Context, _ loop.Queue, rs *appsv1.ReplicaSet) { gone(rs.UID) },
	}))
}

func set(rs *appsv1.ReplicaSet) (*replica.Set, error) {
	selector, err := metav1.LabelSelectorAsSelector(rs.Spec.Selector)
	if err != nil {
		return nil, fmt.Errorf("selector of ReplicaSet %s/%s: %w", rs.Namespace, rs.Name, err)
	}
	replicas := int32(1)
	if rs.Spec.Replicas != nil {
		replicas = *rs.Spec.Replicas
	}
	return &replica.Set{
		Object: rs, Selector: selector, Replicas: replicas, MinReady: rs.Spec.MinReadySeconds,
		Template: &rs.Spec.Template, Status: rs.Status,
	}, nil
}
