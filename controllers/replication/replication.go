// Package replication is the ReplicationController controller: the older form
// of a ReplicaSet, which selects by plain labels.
package replication

import (
	"context"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/proa-dev/proa/controllers/internal/loop"
	"github.com/proa-dev/proa/controllers/internal/matching"
	"github.com/proa-dev/proa/controllers/internal/replica"
)

// Name is the controller's name in logs and events.
const Name = "replication-controller"

const workers = 5

// New makes the controller.
func New(env loop.Env) (loop.Loop, error) {
	env = env.Named(Name)
	owners := matching.New(func(rc *corev1.ReplicationController) labels.Selector {
		return matching.Adopting(&metav1.LabelSelector{MatchLabels: rc.Spec.Selector})
	})
	return replica.New(env, Name, &adapter{env, owners}, workers)
}

type adapter struct {
	env    loop.Env
	owners *matching.Index[*corev1.ReplicationController]
}

func (a *adapter) Kind() schema.GroupVersionKind {
	return corev1.SchemeGroupVersion.WithKind("ReplicationController")
}

func (a *adapter) New() client.Object { return &corev1.ReplicationController{} }

func (a *adapter) Get(ctx context.Context, key types.NamespacedName) (*replica.Set, error) {
	rc := &corev1.ReplicationController{}
	if err := a.env.Cluster.Client().Get(ctx, key, rc); err != nil {
		return nil, err
	}
	return set(rc), nil
}

func (a *adapter) Adopters(namespace string, l labels.Set) []string {
	return a.owners.Names(namespace, l)
}

// Siblings is the set alone: nothing controls ReplicationControllers.
func (a *adapter) Siblings(_ context.Context, s *replica.Set) ([]*replica.Set, error) {
	return []*replica.Set{s}, nil
}

func (a *adapter) WriteStatus(ctx context.Context, s *replica.Set, status appsv1.ReplicaSetStatus) error {
	rc := s.Object.DeepCopyObject().(*corev1.ReplicationController)
	rc.Status = corev1.ReplicationControllerStatus{
		Replicas: status.Replicas, FullyLabeledReplicas: status.FullyLabeledReplicas, ReadyReplicas: status.ReadyReplicas,
		AvailableReplicas: status.AvailableReplicas, ObservedGeneration: status.ObservedGeneration,
	}
	for _, c := range status.Conditions {
		rc.Status.Conditions = append(rc.Status.Conditions, corev1.ReplicationControllerCondition{
			Type: corev1.ReplicationControllerConditionType(c.Type), Status: c.Status,
			LastTransitionTime: c.LastTransitionTime, Reason: c.Reason, Message: c.Message,
		})
	}
	return a.env.Cluster.Client().Status().Update(ctx, rc)
}

func (a *adapter) Watch(gone func(types.UID)) source.Source {
	add := func(_ context.Context, q loop.Queue, rc *corev1.ReplicationController) {
		q.Add(loop.Key(rc.Namespace, rc.Name))
	}
	return loop.Watch(a.env.Cluster, &corev1.ReplicationController{}, a.owners.Fed(loop.On[*corev1.ReplicationController]{
		Created: add,
		Updated: func(ctx context.Context, q loop.Queue, _, rc *corev1.ReplicationController) { add(ctx, q, rc) },
		Deleted: func(_ context.Context, _ loop.Queue, rc *corev1.ReplicationController) { gone(rc.UID) },
	}))
}

// set shows a ReplicationController as the core sees it.
func set(rc *corev1.ReplicationController) *replica.Set {
	s := &replica.Set{
		Object: rc, Selector: labels.SelectorFromSet(rc.Spec.Selector), Replicas: 1, MinReady: rc.Spec.MinReadySeconds,
		Template: rc.Spec.Template, NoTerminating: true,
		Status: appsv1.ReplicaSetStatus{
			Replicas: rc.Status.Replicas, FullyLabeledReplicas: rc.Status.FullyLabeledReplicas, ReadyReplicas: rc.Status.ReadyReplicas,
			AvailableReplicas: rc.Status.AvailableReplicas, ObservedGeneration: rc.Status.ObservedGeneration,
		},
	}
	if rc.Spec.Replicas != nil {
		s.Replicas = *rc.Spec.Replicas
	}
	if s.Template == nil {
		s.Template = &corev1.PodTemplateSpec{}
	}
	for _, c := range rc.Status.Conditions {
		s.Status.Conditions = append(s.Status.Conditions, appsv1.ReplicaSetCondition{
			Type: appsv1.ReplicaSetConditionType(c.Type), Status: c.Status,
			LastTransitionTime: c.LastTransitionTime, Reason: c.Reason, Message: c.Message,
		})
	}
	return s
}
