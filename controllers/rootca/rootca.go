// Package rootca publishes the cluster's certificate authority into every
// namespace, where pods mount it to know the API server.
package rootca

import (
	"context"
	"maps"
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
const Name = "root-ca-certificate-publisher-controller"

const (
	configMap   = "kube-root-ca.crt"
	description = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes clusters."
)

type controller struct {
	env  loop.Env
	data map[string]string
}

// New makes the controller; ca is the authority's certificates in PEM.
func New(env loop.Env, ca []byte) (loop.Loop, error) {
	env = env.Named(Name)
	c := &controller{env: env, data: map[string]string{"ca.crt": string(ca)}}
	add := func(_ context.Context, q loop.Queue, ns *corev1.Namespace) { q.Add(loop.Key("", ns.Name)) }
	changed := func(_ context.Context, q loop.Queue, cm *corev1.ConfigMap) {
		if cm.Name == configMap {
			q.Add(loop.Key("", cm.Namespace))
		}
	}
	return loop.New(env, Name, 1, c.reconcile,
		loop.Watch(env.Cluster, &corev1.Namespace{}, loop.On[*corev1.Namespace]{
			Created: add,
			Updated: func(ctx context.Context, q loop.Queue, _, ns *corev1.Namespace) { add(ctx, q, ns) },
		}),
		loop.Watch(env.Cluster, &corev1.ConfigMap{}, loop.On[*corev1.ConfigMap]{
			Updated: func(ctx context.Context, q loop.Queue, _, cm *corev1.ConfigMap) { changed(ctx, q, cm) },
			Deleted: changed,
		}),
	)
}

func (c *controller) reconcile(ctx context.Context, key types.NamespacedName) (time.Duration, error) {
	api := c.env.Cluster.Client()
	ns := &corev1.Namespace{}
	if err := api.Get(ctx, key, ns); err != nil {
		return 0, client.IgnoreNotFound(err)
	}
	if ns.Status.Phase == corev1.NamespaceTerminating || ns.DeletionTimestamp != nil {
		return 0, nil
	}
	cm := &corev1.ConfigMap{}
	err := api.Get(ctx, types.NamespacedName{Namespace: ns.Name, Name: configMap}, cm)
	if apierrors.IsNotFound(err) {
		err = api.Create(ctx, &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{
				Namespace: ns.Name, Name: configMap,
				Annotations: map[string]string{"kubernetes.io/description": description},
			},
			Data: maps.Clone(c.data),
		})
		if apierrors.IsAlreadyExists(err) || pods.NamespaceTerminating(err) {
			return 0, nil
		}
		return 0, err
	}
	if err != nil {
		return 0, err
	}
	if maps.Equal(cm.Data, c.data) && cm.Annotations["kubernetes.io/description"] != "" {
		return 0, nil
	}
	cm.Data, cm.BinaryData = maps.Clone(c.data), nil
	if cm.Annotations == nil {
		cm.Annotations = map[string]string{}
	}
	cm.Annotations["kubernetes.io/description"] = description
	return 0, api.Update(ctx, cm)
}
