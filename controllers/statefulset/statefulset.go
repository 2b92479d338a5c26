// Package statefulset is the StatefulSet controller: it keeps pods with names,
// volumes and an order of their own.
//
// # Terms
//
// An ordinal is the number at the end of a pod's name. The replicas of a set
// are the pods whose ordinals lie in its range, from spec.ordinals.start on;
// pods of the set outside of it are condemned. A set is ordered unless its
// management is Parallel: it then never creates a pod while one before it is
// not available, and never deletes one while one after it is there.
//
// The update revision is that of the set's template now; the current revision
// is that of the last rollout that was complete.
//
// # Order over crashes
//
// Every decision is taken from the objects. What this process alone knows is
// which of its own writes the cache does not show yet: until it does, nothing
// is decided. A process that takes over from another looks once past the cache
// whether that shows what the other did last.
package statefulset

import (
	"context"
	"fmt"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/util/flowcontrol"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/api/apps"
	"github.com/proa-dev/proa/controllers/internal/expect"
	"github.com/proa-dev/proa/controllers/internal/fresh"
	"github.com/proa-dev/proa/controllers/internal/index"
	"github.com/proa-dev/proa/controllers/internal/loop"
	"github.com/proa-dev/proa/controllers/internal/matching"
	"github.com/proa-dev/proa/controllers/internal/owned"
	"github.com/proa-dev/proa/controllers/internal/owner"
)

// Name is the controller's name in logs and events.
const Name = "statefulset-controller"

const workers = 5

// Failed pods are replaced at longer and longer intervals: a kubelet that
// refuses a pod does so at once, again and again.
const firstDelay, longestDelay, forgetPeriod = 100 * time.Millisecond, 10 * time.Second, time.Minute

var kind = appsv1.SchemeGroupVersion.WithKind("StatefulSet")

type controller struct {
	env    loop.Env
	events record.EventRecorder
	expect *expect.Tracker
	owners *matching.Index[*appsv1.StatefulSet]
	// defaults fills in a set as the API server does.
	defaults func(api.Object)
	fresh    fresh.Pods
	failed   *flowcontrol.Backoff
}

// New makes the controller.
func New(env loop.Env) (loop.Loop, error) {
	c := &controller{
		env: env.Named(Name), events: env.Cluster.Recorder(Name), expect: expect.NewTracker(env.Clock),
		owners:   matching.New(func(s *appsv1.StatefulSet) labels.Selector { return matching.Adopting(s.Spec.Selector) }),
		defaults: apps.StatefulSet().Default, failed: flowcontrol.NewBackOff(firstDelay, longestDelay),
	}
	c.failed.Clock = env.Clock
	watch := &owned.Pods{Cluster: env.Cluster, Logger: c.env.Logger, Kind: kind, Expect: c.expect, Adopters: c.owners.Names}
	l, err := loop.New(c.env, Name, workers, c.reconcile, c.watchSets(), watch.Watch(),
		loop.Watch(env.Cluster, &corev1.PersistentVolumeClaim{}, loop.On[*corev1.PersistentVolumeClaim]{Deleted: c.claimDeleted}),
	)
	if err != nil {
		return loop.Loop{}, err
	}
	return loop.Join(Name, l, loop.Every(env.Clock, Name+" back-off", forgetPeriod, c.failed.GC)), nil
}

func (c *controller) watchSets() source.Source {
	add := func(_ context.Context, q loop.Queue, s *appsv1.StatefulSet) { q.Add(loop.Key(s.Namespace, s.Name)) }
	return loop.Watch(c.env.Cluster, &appsv1.StatefulSet{}, c.owners.Fed(loop.On[*appsv1.StatefulSet]{
		Created: add,
		Updated: func(ctx context.Context, q loop.Queue, _, s *appsv1.StatefulSet) { add(ctx, q, s) },
		Deleted: func(_ context.Context, _ loop.Queue, s *appsv1.StatefulSet) {
			c.expect.Forget(s.UID)
			c.fresh.Forget(s.UID)
		},
	}))
}

func (c *controller) inNamespace(ctx context.Context, namespace string) ([]appsv1.StatefulSet, error) {
	var list appsv1.StatefulSetList
	err := c.env.Cluster.Client().List(ctx, &list, client.InNamespace(namespace), client.UnsafeDisableDeepCopy)
	return list.Items, err
}

// claimDeleted queues the sets that may wait for a claim to go, since it is in
// the way of a new one.
func (c *controller) claimDeleted(ctx context.Context, q loop.Queue, claim *corev1.PersistentVolumeClaim) {
	sets, err := c.inNamespace(ctx, claim.Namespace)
	if err != nil {
		c.env.Logger.Error("finding the set of a claim", "claim", claim.Namespace+"/"+claim.Name, "err", err)
		return
	}
	for i := range sets {
		for _, t := range sets[i].Spec.VolumeClaimTemplates {
			if strings.HasPrefix(claim.Name, t.Name+"-"+sets[i].Name+"-") {
				q.Add(loop.Key(sets[i].Namespace, sets[i].Name))
			}
		}
	}
}

func (c *controller) reconcile(ctx context.Context, key types.NamespacedName) (time.Duration, error) {
	set := &appsv1.StatefulSet{}
	if err := c.env.Cluster.Client().Get(ctx, key, set); err != nil {
		return 0, client.IgnoreNotFound(err)
	}
	complete(set)
	selector, err := metav1.LabelSelectorAsSelector(set.Spec.Selector)
	if err != nil {
		c.env.Logger.Error("StatefulSet without a valid selector", "set", key, "err", err)
		return 0, nil
	}
	if selector.Empty() {
		return 0, nil // validation forbids it; it would adopt every pod there is
	}
	// Asked before the pods are read: what is seen later cannot be missing.
	if !c.expect.Satisfied(set.UID) {
		return expect.Recheck, nil
	}
	claim := &owner.Claim{Cluster: c.env.Cluster, Owner: set, Kind: kind, Selector: selector, Fresh: &appsv1.StatefulSet{}}
	mine, err := c.podsOf(ctx, set, claim)
	if err != nil {
		return 0, err
	}
	shown, err := c.fresh.Shown(ctx, c.env.Cluster.Reader(), set, selector, mine, func(p *corev1.Pod) bool {
		ref := metav1.GetControllerOfNoCopy(p)
		return ref != nil && ref.UID == set.UID && ordinalOf(set.Name, p.Name) >= 0
	})
	if !shown || err != nil {
		return loop.StaleDelay, err
	}
	p := &pass{controller: c, set: set, claim: claim, now: c.env.Clock.Now()}
	p.divide(mine)
	err = p.run(ctx)
	return p.nextCheck(), err
}

// complete fills in what the API server's defaults guarantee, so that an
// object stored by something else cannot break the arithmetic.
func complete(s *appsv1.StatefulSet) {
	if s.Spec.Replicas == nil {
		one := int32(1)
		s.Spec.Replicas = &one
	}
	if s.Spec.RevisionHistoryLimit == nil {
		ten := int32(10)
		s.Spec.RevisionHistoryLimit = &ten
	}
}

// podsOf returns the pods of the set, finished and terminating ones included.
// They are shared with the cache.
func (c *controller) podsOf(ctx context.Context, set *appsv1.StatefulSet, claim *owner.Claim) ([]*corev1.Pod, error) {
	var candidates []*corev1.Pod
	for _, who := range []string{string(set.UID), index.Orphan} {
		var list corev1.PodList
		if err := c.env.Cluster.Client().List(ctx, &list, index.By(set.Namespace, index.Controller, who)...); err != nil {
			return nil, fmt.Errorf("list pods: %w", err)
		}
		for i := range list.Items {
			candidates = append(candidates, &list.Items[i])
		}
	}
	return owner.Of(ctx, claim, candidates, func(p *corev1.Pod) bool {
		return ordinalOf(set.Name, p.Name) >= 0
	})
}
