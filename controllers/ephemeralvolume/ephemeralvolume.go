// Package ephemeralvolume makes the claims of generic ephemeral volumes: each is
// owned by its pod and goes with it.
package ephemeralvolume

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	"k8s.io/component-helpers/storage/ephemeral"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proa-dev/proa/controllers/internal/index"
	"github.com/proa-dev/proa/controllers/internal/loop"
	"github.com/proa-dev/proa/controllers/internal/pods"
)

// Name is the controller's name in logs and events.
const Name = "ephemeral-volume-controller"

type controller struct {
	env    loop.Env
	events record.EventRecorder
}

// New makes the controller.
func New(env loop.Env) (loop.Loop, error) {
	env = env.Named(Name)
	c := &controller{env: env, events: env.Cluster.Recorder("ephemeral_volume")}
	return loop.New(env, Name, 5, c.reconcile,
		loop.Watch(env.Cluster, &corev1.Pod{}, loop.On[*corev1.Pod]{
			Created: func(_ context.Context, q loop.Queue, p *corev1.Pod) {
				for i := range p.Spec.Volumes {
					if p.Spec.Volumes[i].Ephemeral != nil {
						q.Add(loop.Key(p.Namespace, p.Name))
						return
					}
				}
			},
		}),
		// A claim that was deleted is made again for a pod that still wants it.
		loop.Watch(env.Cluster, &corev1.PersistentVolumeClaim{}, loop.On[*corev1.PersistentVolumeClaim]{
			Deleted: func(ctx context.Context, q loop.Queue, claim *corev1.PersistentVolumeClaim) {
				var users corev1.PodList
				if err := env.Cluster.Client().List(ctx, &users, index.By(claim.Namespace, index.PodClaim, claim.Name)...); err != nil {
					env.Logger.Warn("list pods of claim", "claim", claim.Namespace+"/"+claim.Name, "err", err)
					return
				}
				for i := range users.Items {
					q.Add(loop.Key(users.Items[i].Namespace, users.Items[i].Name))
				}
			},
		}),
	)
}

func (c *controller) reconcile(ctx context.Context, key types.NamespacedName) (time.Duration, error) {
	pod := &corev1.Pod{}
	if err := c.env.Cluster.Client().Get(ctx, key, pod); err != nil {
		return 0, client.IgnoreNotFound(err)
	}
	if pod.DeletionTimestamp != nil {
		return 0, nil
	}
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		if v.Ephemeral == nil {
			continue
		}
		err := c.ensure(ctx, pod, v)
		if pods.NamespaceTerminating(err) {
			return 0, nil
		}
		if err != nil {
			c.events.Eventf(pod, corev1.EventTypeWarning, "FailedBinding", "ephemeral volume %s: %v", v.Name, err)
			return 0, fmt.Errorf("ephemeral volume %s: %w", v.Name, err)
		}
	}
	return 0, nil
}

func (c *controller) ensure(ctx context.Context, pod *corev1.Pod, v *corev1.Volume) error {
	api, name := c.env.Cluster.Client(), ephemeral.VolumeClaimName(pod, v)
	claim := &corev1.PersistentVolumeClaim{}
	err := api.Get(ctx, types.NamespacedName{Namespace: pod.Namespace, Name: name}, claim)
	if err == nil {
		return ephemeral.VolumeIsForPod(pod, claim)
	}
	if !apierrors.IsNotFound(err) {
		return err
	}
	template := v.Ephemeral.VolumeClaimTemplate.DeepCopy()
	err = api.Create(ctx, &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: pod.Namespace, Name: name, Labels: template.Labels, Annotations: template.Annotations,
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(pod, corev1.SchemeGroupVersion.WithKind("Pod"))},
		},
		Spec: template.Spec,
	})
	if apierrors.IsAlreadyExists(err) {
		return err // a claim that the cache does not have yet: the next look tells whose it is
	}
	if err != nil && !pods.NamespaceTerminating(err) {
		return fmt.Errorf("create PVC %s: %w", name, err)
	}
	return err
}
