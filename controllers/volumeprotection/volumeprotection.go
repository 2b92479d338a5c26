// Package volumeprotection keeps claims that pods use, volumes that are bound, and
// classes of attributes that claims and volumes name: a deletion of any waits, by
// a finalizer, until nobody needs it.
package volumeprotection

import (
	"context"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/component-helpers/storage/ephemeral"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proa-dev/proa/controllers/internal/index"
	"github.com/proa-dev/proa/controllers/internal/loop"
	"github.com/proa-dev/proa/internal/podrefs"
)

// Name is the controllers' name in logs.
const Name = "volume-protection-controller"

const (
	claimFinalizer      = "kubernetes.io/pvc-protection"
	volumeFinalizer     = "kubernetes.io/pv-protection"
	attributesFinalizer = "kubernetes.io/vac-protection"
)

type controller struct{ env loop.Env }

// New makes the controllers of claims, of volumes and of classes of attributes.
func New(env loop.Env) (loop.Loop, error) {
	env = env.Named(Name)
	c := &controller{env}
	touched := func(_ context.Context, q loop.Queue, p *corev1.Pod) {
		for name := range podrefs.Claims(p) {
			q.Add(loop.Key(p.Namespace, name))
		}
	}
	claims, err := loop.New(env, "persistentvolumeclaim-protection-controller", 4, c.claim,
		loop.Self(env.Cluster, &corev1.PersistentVolumeClaim{}),
		loop.Watch(env.Cluster, &corev1.Pod{}, loop.On[*corev1.Pod]{
			Created: touched,
			Updated: func(ctx context.Context, q loop.Queue, old, p *corev1.Pod) {
				if old.UID != p.UID || ended(p) != ended(old) || shutDown(p) != shutDown(old) {
					touched(ctx, q, old)
				}
			},
			Deleted: touched,
		}),
	)
	if err != nil {
		return loop.Loop{}, err
	}
	volumes, err := loop.New(env, "persistentvolume-protection-controller", 1, c.volume,
		loop.Self(env.Cluster, &corev1.PersistentVolume{}))
	if err != nil {
		return loop.Loop{}, err
	}
	classes, err := c.newAttributes()
	if err != nil {
		return loop.Loop{}, err
	}
	return loop.Join(Name, claims, volumes, classes), nil
}

func (c *controller) claim(ctx context.Context, key types.NamespacedName) (time.Duration, error) {
	claim := &corev1.PersistentVolumeClaim{}
	if err := c.env.Cluster.Client().Get(ctx, key, claim); err != nil {
		return 0, client.IgnoreNotFound(err)
	}
	if claim.DeletionTimestamp == nil && claim.Status.Phase == corev1.ClaimBound {
		if err := c.noteUse(ctx, claim); err != nil {
			return 0, client.IgnoreNotFound(err)
		}
	}
	return 0, c.protect(ctx, claim, claimFinalizer, func() (bool, error) { return c.used(ctx, claim) })
}

func (c *controller) volume(ctx context.Context, key types.NamespacedName) (time.Duration, error) {
	v := &corev1.PersistentVolume{}
	if err := c.env.Cluster.Client().Get(ctx, key, v); err != nil {
		return 0, client.IgnoreNotFound(err)
	}
	return 0, c.protect(ctx, v, volumeFinalizer, func() (bool, error) { return v.Status.Phase == corev1.VolumeBound, nil })
}

// protect adds the finalizer to an object that lives, and takes it from one
// that is to go and that nobody uses.
func (c *controller) protect(ctx context.Context, obj client.Object, finalizer string, used func() (bool, error)) error {
	has := slices.Contains(obj.GetFinalizers(), finalizer)
	switch going := obj.GetDeletionTimestamp() != nil; {
	case !going && !has:
		obj.SetFinalizers(append(obj.GetFinalizers(), finalizer))
	case going && has:
		if inUse, err := used(); inUse || err != nil {
			return err
		}
		obj.SetFinalizers(slices.DeleteFunc(obj.GetFinalizers(), func(f string) bool { return f == finalizer }))
	default:
		return nil
	}
	return client.IgnoreNotFound(c.env.Cluster.Client().Update(ctx, obj))
}

// used says whether a pod needs the claim. The cache's no is not enough, for a
// pod may be newer: the API server has the last word.
func (c *controller) used(ctx context.Context, claim *corev1.PersistentVolumeClaim) (bool, error) {
	var cached corev1.PodList
	if err := c.env.Cluster.Client().List(ctx, &cached, index.By(claim.Namespace, index.PodClaim, claim.Name)...); err != nil {
		return false, err
	}
	if anyUses(cached.Items, claim) {
		return true, nil
	}
	var live corev1.PodList
	if err := c.env.Cluster.Reader().List(ctx, &live, client.InNamespace(claim.Namespace)); err != nil {
		return false, err
	}
	return anyUses(live.Items, claim), nil
}

func anyUses(pods []corev1.Pod, claim *corev1.PersistentVolumeClaim) bool {
	return slices.ContainsFunc(pods, func(p corev1.Pod) bool { return uses(&p, claim) })
}

// uses says whether a pod with a node names the claim. A pod without one cannot
// have it: the scheduler gives no node to a pod whose claim is being deleted.
func uses(p *corev1.Pod, claim *corev1.PersistentVolumeClaim) bool {
	if p.Spec.NodeName == "" {
		return false
	}
	return names(p, claim)
}

// names says whether a volume of the pod is the claim.
func names(p *corev1.Pod, claim *corev1.PersistentVolumeClaim) bool {
	for i := range p.Spec.Volumes {
		v := &p.Spec.Volumes[i]
		if v.PersistentVolumeClaim != nil && v.PersistentVolumeClaim.ClaimName == claim.Name {
			return true
		}
		if v.Ephemeral != nil && !shutDown(p) && ephemeral.VolumeClaimName(p, v) == claim.Name && ephemeral.VolumeIsForPod(p, claim) == nil {
			return true
		}
	}
	return false
}

// shutDown says that a pod's node has let go of it, or was told to: what still
// keeps it may itself wait for the claim to go.
func shutDown(p *corev1.Pod) bool {
	return p.DeletionTimestamp != nil && p.DeletionGracePeriodSeconds != nil && *p.DeletionGracePeriodSeconds == 0
}

func ended(p *corev1.Pod) bool {
	return p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
}
