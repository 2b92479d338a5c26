// Package persistentvolume binds claims to volumes: it picks a volume that
// exists, or asks a provisioner for one, and keeps the phases of both.
//
// A binding is four writes: the volume's claimRef, its phase, the claim's
// volumeName, its phase. Each is done where it is missing, whatever was done
// before: a binder that was stopped in between goes on at its next look. Two
// claims that want one volume are told apart by the volume's resourceVersion.
package persistentvolume

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/client-go/tools/record"
	"k8s.io/component-helpers/storage/volume"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proa-dev/proa/controllers/internal/index"
	"github.com/proa-dev/proa/controllers/internal/loop"
)

// Name is the controller's name in logs and events.
const Name = "persistentvolume-controller"

// retry is when a claim that waits for something is looked at again.
const retry = 15 * time.Second

type binder struct {
	env    loop.Env
	events record.EventRecorder
}

// New makes the controller.
func New(env loop.Env) (loop.Loop, error) {
	env = env.Named(Name)
	b := &binder{env: env, events: env.Cluster.Recorder(Name)}
	claims, err := loop.New(env, Name+"-claims", 1, b.syncClaim,
		loop.Self(env.Cluster, &corev1.PersistentVolumeClaim{}),
		loop.Watch(env.Cluster, &corev1.PersistentVolume{}, loop.On[*corev1.PersistentVolume]{
			Created: b.wakeClaims,
			Updated: func(ctx context.Context, q loop.Queue, _, v *corev1.PersistentVolume) { b.wakeClaims(ctx, q, v) },
			Deleted: b.wakeClaims,
		}),
		loop.Watch(env.Cluster, &storagev1.StorageClass{}, loop.On[*storagev1.StorageClass]{
			Created: b.wakeUnbound,
			Updated: func(ctx context.Context, q loop.Queue, _, c *storagev1.StorageClass) { b.wakeUnbound(ctx, q, c) },
		}),
	)
	if err != nil {
		return loop.Loop{}, err
	}
	volumes, err := loop.New(env, Name+"-volumes", 1, b.syncVolume,
		loop.Self(env.Cluster, &corev1.PersistentVolume{}),
		loop.Watch(env.Cluster, &corev1.PersistentVolumeClaim{}, loop.On[*corev1.PersistentVolumeClaim]{
			Updated: func(ctx context.Context, q loop.Queue, _, c *corev1.PersistentVolumeClaim) { b.wakeVolumes(ctx, q, c) },
			Deleted: b.wakeVolumes,
		}),
	)
	if err != nil {
		return loop.Loop{}, err
	}
	return loop.Join(Name, claims, volumes), nil
}

// wakeClaims queues the claims that a change of a volume matters to.
func (b *binder) wakeClaims(ctx context.Context, q loop.Queue, v *corev1.PersistentVolume) {
	if ref := v.Spec.ClaimRef; ref != nil {
		q.Add(loop.Key(ref.Namespace, ref.Name))
		return
	}
	b.each(ctx, func(c *corev1.PersistentVolumeClaim) {
		if c.Spec.VolumeName == v.Name ||
			(c.Spec.VolumeName == "" && volume.GetPersistentVolumeClaimClass(c) == volume.GetPersistentVolumeClass(v)) {
			q.Add(loop.Key(c.Namespace, c.Name))
		}
	})
}

// wakeUnbound queues the claims that a class may help.
func (b *binder) wakeUnbound(ctx context.Context, q loop.Queue, class *storagev1.StorageClass) {
	b.each(ctx, func(c *corev1.PersistentVolumeClaim) {
		name := volume.GetPersistentVolumeClaimClass(c)
		if c.Spec.VolumeName == "" && (name == class.Name || name == "") {
			q.Add(loop.Key(c.Namespace, c.Name))
		}
	})
}

// each shows every claim, shared with the cache.
func (b *binder) each(ctx context.Context, show func(*corev1.PersistentVolumeClaim)) {
	var all corev1.PersistentVolumeClaimList
	if err := b.env.Cluster.Client().List(ctx, &all, client.UnsafeDisableDeepCopy); err != nil {
		b.env.Logger.Warn("list claims", "err", err) // those that wait are looked at again anyway
		return
	}
	for i := range all.Items {
		show(&all.Items[i])
	}
}

// wakeVolumes queues the volumes that a change of a claim matters to.
func (b *binder) wakeVolumes(ctx context.Context, q loop.Queue, c *corev1.PersistentVolumeClaim) {
	if c.Spec.VolumeName != "" {
		q.Add(loop.Key("", c.Spec.VolumeName))
	}
	volumes, err := b.volumes(ctx, c.Namespace+"/"+c.Name)
	if err != nil {
		b.env.Logger.Warn("list volumes", "err", err)
		return
	}
	for _, v := range volumes {
		q.Add(loop.Key("", v.Name))
	}
}

// volumes lists the volumes that are for any of some claims, index.Orphan for
// none, shared with the cache.
func (b *binder) volumes(ctx context.Context, claims ...string) ([]*corev1.PersistentVolume, error) {
	var out []*corev1.PersistentVolume
	for _, claim := range claims {
		var some corev1.PersistentVolumeList
		if err := b.env.Cluster.Client().List(ctx, &some, index.By("", index.VolumeClaim, claim)...); err != nil {
			return nil, err
		}
		for i := range some.Items {
			out = append(out, &some.Items[i])
		}
	}
	return out, nil
}
