package volumeprotection

import (
	"context"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proa-dev/proa/controllers/internal/loop"
)

// newAttributes makes the controller of VolumeAttributesClasses.
func (c *controller) newAttributes() (loop.Loop, error) {
	cluster := c.env.Cluster
	return loop.New(c.env, "volumeattributesclass-protection-controller", 1, c.attributes,
		loop.Self(cluster, &storagev1.VolumeAttributesClass{}),
		loop.Watch(cluster, &corev1.PersistentVolumeClaim{}, loop.On[*corev1.PersistentVolumeClaim]{
			Updated: func(_ context.Context, q loop.Queue, old, p *corev1.PersistentVolumeClaim) {
				freed(q, claimClasses(old), claimClasses(p))
			},
			Deleted: func(_ context.Context, q loop.Queue, p *corev1.PersistentVolumeClaim) { freed(q, claimClasses(p), nil) },
		}),
		loop.Watch(cluster, &corev1.PersistentVolume{}, loop.On[*corev1.PersistentVolume]{
			Updated: func(_ context.Context, q loop.Queue, old, v *corev1.PersistentVolume) {
				freed(q, volumeClasses(old), volumeClasses(v))
			},
			Deleted: func(_ context.Context, q loop.Queue, v *corev1.PersistentVolume) { freed(q, volumeClasses(v), nil) },
		}),
	)
}

// freed queues the classes that are named no longer.
func freed(q loop.Queue, before, now []string) {
	for _, name := range before {
		if !slices.Contains(now, name) {
			q.Add(loop.Key("", name))
		}
	}
}

// claimClasses are the classes that a claim wants, has, or is changing to.
func claimClasses(p *corev1.PersistentVolumeClaim) []string {
	names := []string{ptr.Deref(p.Spec.VolumeAttributesClassName, ""), ptr.Deref(p.Status.CurrentVolumeAttributesClassName, "")}
	if p.Status.ModifyVolumeStatus != nil {
		names = append(names, p.Status.ModifyVolumeStatus.TargetVolumeAttributesClassName)
	}
	return slices.DeleteFunc(names, func(n string) bool { return n == "" })
}

func volumeClasses(v *corev1.PersistentVolume) []string {
	if name := ptr.Deref(v.Spec.VolumeAttributesClassName, ""); name != "" {
		return []string{name}
	}
	return nil
}

func (c *controller) attributes(ctx context.Context, key types.NamespacedName) (time.Duration, error) {
	class := &storagev1.VolumeAttributesClass{}
	if err := c.env.Cluster.Client().Get(ctx, key, class); err != nil {
		return 0, client.IgnoreNotFound(err)
	}
	return 0, c.protect(ctx, class, attributesFinalizer, func() (bool, error) {
		named, err := classNamed(ctx, c.env.Cluster.Client(), class.Name, client.UnsafeDisableDeepCopy)
		if named || err != nil {
			return named, err
		}
		// The cache may lack a claim that was made a moment ago.
		return classNamed(ctx, c.env.Cluster.Reader(), class.Name)
	})
}

// classNamed says whether a claim or a volume names a class.
func classNamed(ctx context.Context, r client.Reader, class string, opts ...client.ListOption) (bool, error) {
	var claims corev1.PersistentVolumeClaimList
	if err := r.List(ctx, &claims, opts...); err != nil {
		return false, err
	}
	for i := range claims.Items {
		if slices.Contains(claimClasses(&claims.Items[i]), class) {
			return true, nil
		}
	}
	var volumes corev1.PersistentVolumeList
	if err := r.List(ctx, &volumes, opts...); err != nil {
		return false, err
	}
	for i := range volumes.Items {
		if slices.Contains(volumeClasses(&volumes.Items[i]), class) {
			return true, nil
		}
	}
	return false, nil
}
