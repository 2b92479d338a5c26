// Package deployment is the Deployment controller: it rolls a pod template out
// by moving replicas from old ReplicaSets to the one of the current template.
//
// # Terms
//
// The new ReplicaSet is the one whose template equals the Deployment's; all
// others of the Deployment are old. A revision numbers the templates in the
// order they were last current.
package deployment

import (
	"context"
	"fmt"
	"math"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proa-dev/proa/controllers/internal/index"
	"github.com/proa-dev/proa/controllers/internal/loop"
	"github.com/proa-dev/proa/controllers/internal/owner"
	"github.com/proa-dev/proa/controllers/internal/pods"
)

// Name is the controller's name in logs and events.
const Name = "deployment-controller"

const workers = 5

var kind = appsv1.SchemeGroupVersion.WithKind("Deployment")

type controller struct {
	env    loop.Env
	events record.EventRecorder
}

// New makes the controller.
func New(env loop.Env) (loop.Loop, error) {
	c := &controller{env: env.Named(Name), events: env.Cluster.Recorder(Name)}
	return loop.New(c.env, Name, workers, c.reconcile,
		loop.Self(env.Cluster, &appsv1.Deployment{}),
		loop.Watch(env.Cluster, &appsv1.ReplicaSet{}, loop.On[*appsv1.ReplicaSet]{
			Created: c.setChanged,
			Updated: func(ctx context.Context, q loop.Queue, old, rs *appsv1.ReplicaSet) {
				if name := deploymentOf(old); name != "" && name != deploymentOf(rs) {
					q.Add(loop.Key(old.Namespace, name))
				}
				if metav1.GetControllerOfNoCopy(rs) != nil || metav1.GetControllerOfNoCopy(old) != nil ||
					!labels.Equals(old.Labels, rs.Labels) {
					c.setChanged(ctx, q, rs)
				}
			},
			Deleted: func(_ context.Context, q loop.Queue, rs *appsv1.ReplicaSet) {
				if name := deploymentOf(rs); name != "" {
					q.Add(loop.Key(rs.Namespace, name))
				}
			},
		}),
		// The Recreate strategy waits for the last old pod to be gone.
		loop.Watch(env.Cluster, &corev1.Pod{}, loop.On[*corev1.Pod]{Deleted: c.podDeleted}),
	)
}

// deploymentOf returns the name of the Deployment that controls rs.
func deploymentOf(rs *appsv1.ReplicaSet) string {
	if ref := metav1.GetControllerOfNoCopy(rs); ref != nil && ref.Kind == kind.Kind {
		return ref.Name
	}
	return ""
}

// setChanged queues the Deployment of rs, or those that could adopt it.
func (c *controller) setChanged(ctx context.Context, q loop.Queue, rs *appsv1.ReplicaSet) {
	if name := deploymentOf(rs); name != "" {
		q.Add(loop.Key(rs.Namespace, name))
		return
	}
	if metav1.GetControllerOfNoCopy(rs) != nil || len(rs.Labels) == 0 {
		return
	}
	var list appsv1.DeploymentList
	if err := c.env.Cluster.Client().List(ctx, &list, client.InNamespace(rs.Namespace), client.UnsafeDisableDeepCopy); err != nil {
		c.env.Logger.Error("finding owners of an orphan", "replicaset", rs.Namespace+"/"+rs.Name, "err", err)
		return
	}
	for i := range list.Items {
		d := &list.Items[i]
		if s, err := metav1.LabelSelectorAsSelector(d.Spec.Selector); err == nil && !s.Empty() && s.Matches(labels.Set(rs.Labels)) {
			q.Add(loop.Key(d.Namespace, d.Name))
		}
	}
}

func (c *controller) podDeleted(ctx context.Context, q loop.Queue, pod *corev1.Pod) {
	ref := metav1.GetControllerOfNoCopy(pod)
	if ref == nil || ref.Kind != "ReplicaSet" {
		return
	}
	rs, d := &appsv1.ReplicaSet{}, &appsv1.Deployment{}
	read := c.env.Cluster.Client()
	if read.Get(ctx, types.NamespacedName{Namespace: pod.Namespace, Name: ref.Name}, rs) != nil || rs.UID != ref.UID {
		return
	}
	key := types.NamespacedName{Namespace: pod.Namespace, Name: deploymentOf(rs)}
	if key.Name != "" && read.Get(ctx, key, d) == nil && d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType {
		q.Add(loop.Request{NamespacedName: key})
	}
}

// rollout is one pass over one Deployment.
type rollout struct {
	*controller
	// d is our own copy. Writes put the server's answer into it.
	d    *appsv1.Deployment
	sets []*appsv1.ReplicaSet
	now  time.Time
	// again is when to look for a passed deadline; zero is never.
	again time.Duration
}

func (c *controller) reconcile(ctx context.Context, key types.NamespacedName) (time.Duration, error) {
	d := &appsv1.Deployment{}
	if err := c.env.Cluster.Client().Get(ctx, key, d); err != nil {
		return 0, client.IgnoreNotFound(err)
	}
	complete(d)
	selector, err := metav1.LabelSelectorAsSelector(d.Spec.Selector)
	if err != nil {
		return 0, fmt.Errorf("selector of Deployment %s: %w", key, err)
	}
	if selector.Empty() {
		c.events.Event(d, corev1.EventTypeWarning, "SelectingAll",
			"This deployment is selecting all pods. A non-empty selector is required.")
		if d.Status.ObservedGeneration < d.Generation {
			d.Status.ObservedGeneration = d.Generation
			return 0, c.env.Cluster.Client().Status().Update(ctx, d)
		}
		return 0, nil
	}
	sets, err := c.claim(ctx, d, selector)
	if err != nil {
		return 0, err
	}
	r := &rollout{controller: c, d: d, sets: sets, now: c.env.Clock.Now()}
	err = r.run(ctx, selector)
	return r.again, err
}

// complete fills in what the API server's defaults guarantee, so that an
// object stored by something else cannot break the arithmetic.
func complete(d *appsv1.Deployment) {
	if d.Spec.Replicas == nil {
		one := int32(1)
		d.Spec.Replicas = &one
	}
}

func (c *controller) claim(ctx context.Context, d *appsv1.Deployment, selector labels.Selector) ([]*appsv1.ReplicaSet, error) {
	var candidates []*appsv1.ReplicaSet
	for _, who := range []string{string(d.UID), index.Orphan} {
		var list appsv1.ReplicaSetList
		if err := c.env.Cluster.Client().List(ctx, &list, index.By(d.Namespace, index.Controller, who)...); err != nil {
			return nil, fmt.Errorf("list ReplicaSets: %w", err)
		}
		for i := range list.Items {
			candidates = append(candidates, &list.Items[i])
		}
	}
	return owner.Of(ctx, &owner.Claim{
		Cluster: c.env.Cluster, Owner: d, Kind: kind, Selector: selector, Fresh: &appsv1.Deployment{},
	}, candidates, nil)
}

func (r *rollout) run(ctx context.Context, selector labels.Selector) error {
	if r.d.DeletionTimestamp != nil {
		newSet, old, err := r.split(ctx, false)
		if err != nil {
			return err
		}
		return r.syncStatus(ctx, newSet, old)
	}
	if err := r.notePause(ctx); err != nil {
		return err
	}
	if r.d.Spec.Paused {
		return r.scaleOnly(ctx)
	}
	if revision, asked := rollbackTo(r.d); asked {
		return r.rollBack(ctx, revision)
	}
	resized, err := r.resized(ctx)
	if err != nil {
		return err
	}
	if resized {
		return r.scaleOnly(ctx)
	}
	if r.d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType {
		return r.recreate(ctx, selector)
	}
	return r.roll(ctx)
}

// scaleOnly changes sizes but creates no ReplicaSet: for Deployments that are
// paused or were resized.
func (r *rollout) scaleOnly(ctx context.Context) error {
	newSet, old, err := r.split(ctx, false)
	if err != nil {
		return err
	}
	if err := r.scale(ctx, newSet, old); err != nil {
		return err
	}
	if _, back := rollbackTo(r.d); r.d.Spec.Paused && !back { // what it goes back to must not go
		if err := r.cleanUp(ctx, old); err != nil {
			return err
		}
	}
	return r.syncStatus(ctx, newSet, old)
}

// cleanUp deletes the oldest ReplicaSets beyond spec.revisionHistoryLimit.
func (r *rollout) cleanUp(ctx context.Context, old []*appsv1.ReplicaSet) error {
	limit := r.d.Spec.RevisionHistoryLimit
	if limit == nil || *limit == math.MaxInt32 {
		return nil
	}
	alive := slices.DeleteFunc(slices.Clone(old), func(rs *appsv1.ReplicaSet) bool { return rs.DeletionTimestamp != nil })
	surplus := len(alive) - int(*limit)
	if surplus <= 0 {
		return nil
	}
	slices.SortFunc(alive, compareRevisions)
	for _, rs := range alive[:surplus] {
		if rs.Status.Replicas != 0 || replicas(rs) != 0 || rs.Generation > rs.Status.ObservedGeneration {
			continue
		}
		uid := rs.UID
		target := &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Namespace: rs.Namespace, Name: rs.Name}}
		err := r.env.Cluster.Client().Delete(ctx, target, client.Preconditions{UID: &uid},
			client.PropagationPolicy(metav1.DeletePropagationBackground))
		if err != nil && !apierrors.IsNotFound(err) {
			return err
		}
	}
	return nil
}

// recreate ends all old pods before it starts new ones.
func (r *rollout) recreate(ctx context.Context, selector labels.Selector) error {
	newSet, old, err := r.split(ctx, false)
	if err != nil {
		return err
	}
	scaled := false
	for _, rs := range active(old) {
		changed, err := r.resize(ctx, rs, 0)
		if err != nil {
			return err
		}
		scaled = scaled || changed
	}
	if scaled {
		return r.syncProgress(ctx, newSet, old)
	}
	running, err := r.oldPodsRunning(ctx, newSet, old, selector)
	if err != nil {
		return err
	}
	if running {
		return r.syncProgress(ctx, newSet, old)
	}
	if newSet == nil {
		if newSet, old, err = r.split(ctx, true); err != nil {
			return err
		}
	}
	if _, err := r.resize(ctx, newSet, *r.d.Spec.Replicas); err != nil {
		return err
	}
	if finished(r.d, &r.d.Status) {
		if err := r.cleanUp(ctx, old); err != nil {
			return err
		}
	}
	return r.syncProgress(ctx, newSet, old)
}

// oldPodsRunning reports whether a pod of an old ReplicaSet may still run,
// those being deleted included.
func (r *rollout) oldPodsRunning(ctx context.Context, newSet *appsv1.ReplicaSet, old []*appsv1.ReplicaSet, selector labels.Selector) (bool, error) {
	for _, rs := range old {
		if rs.Status.Replicas > 0 {
			return true, nil
		}
	}
	for _, rs := range r.sets {
		if newSet != nil && rs.UID == newSet.UID {
			continue
		}
		var list corev1.PodList
		if err := r.env.Cluster.Client().List(ctx, &list, index.By(rs.Namespace, index.Controller, string(rs.UID))...); err != nil {
			return false, fmt.Errorf("list pods: %w", err)
		}
		for i := range list.Items {
			if p := &list.Items[i]; !pods.Finished(p) && selector.Matches(labels.Set(p.Labels)) {
				return true, nil
			}
		}
	}
	return false, nil
}
