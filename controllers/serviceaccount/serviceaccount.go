// Package serviceaccount gives every namespace its default ServiceAccount.
package serviceaccount

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proa-dev/proa/controllers/internal/loop"
	"github.com/proa-dev/proa/controllers/internal/pods"
)

// Name is the controller's name in logs.
const Name = "serviceaccount-controller"

const account = "default"

// New makes the controller.
func New(env loop.Env) (loop.Loop, error) {
	env = env.Named(Name)
	c := &controller{env}
	add := func(_ context.Context, q loop.Queue, ns *corev1.Namespace) { q.Add(loop.Key("", ns.Name)) }
	return loop.New(env, Name, 1, c.reconcile,
		loop.Watch(env.Cluster, &corev1.Namespace{}, loop.On[*corev1.Namespace]{
			Created: add,
			Updated: func(ctx context.Context, q loop.Queue, _, ns *corev1.Namespace) { add(ctx, q, ns) },
		}),
		loop.Watch(env.Cluster, &corev1.ServiceAccount{}, loop.On[*corev1.ServiceAccount]{
			Deleted: func(_ context.Context, q loop.Queue, sa *corev1.ServiceAccount) {
				if sa.Name == account {
					q.Add(loop.Key("", sa.Namespace))
				}
			},
		}),
	)
}

type controller struct{ env loop.Env }

func (c *controller) reconcile(ctx context.Context, key types.NamespacedName) (time.Duration, error) {
	api := c.env.Cluster.Client()
	ns := &corev1.Namespace{}
	if err := api.Get(ctx, key, ns); err != nil {
		return 0, client.IgnoreNotFound(err)
	}
	if ns.Status.Phase == corev1.NamespaceTerminating || ns.DeletionTimestamp != nil {
		return 0, nil
	}
	name := types.NamespacedName{Namespace: ns.Name, Name: account}
	if err := api.Get(ctx, name, &corev1.ServiceAccount{}); !apierrors.IsNotFound(err) {
		return 0, err
	}
	err := api.Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: ns.Name, Name: account}})
	if apierrors.IsAlreadyExists(err) || pods.NamespaceTerminating(err) {
		return 0, nil
	}
	return 0, err
}
