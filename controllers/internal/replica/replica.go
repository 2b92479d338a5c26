// Package replica keeps a number of equal pods alive. It is the core of the
// ReplicaSet and ReplicationController controllers, which differ in the kind
// they read and write: an Adapter hides that.
package replica

import (
	"context"
	"fmt"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/proa-dev/proa/controllers/internal/expect"
	"github.com/proa-dev/proa/controllers/internal/index"
	"github.com/proa-dev/proa/controllers/internal/loop"
	"github.com/proa-dev/proa/controllers/internal/owned"
	"github.com/proa-dev/proa/controllers/internal/owner"
	"github.com/proa-dev/proa/controllers/internal/pods"
)

// Set is a ReplicaSet or ReplicationController as the core sees it. Its parts
// may be shared with the cache and are never mutated.
type Set struct {
	Object   client.Object
	Selector labels.Selector
	Replicas int32
	MinReady int32
	Template *corev1.PodTemplateSpec
	Status   appsv1.ReplicaSetStatus
	// NoTerminating says that the kind's status does not count terminating pods.
	NoTerminating bool
}

// Adapter reads and writes one kind of set.
type Adapter interface {
	Kind() schema.GroupVersionKind
	// New makes an empty object of the kind.
	New() client.Object
	// Get returns the set of a name from the cache.
	Get(ctx context.Context, key types.NamespacedName) (*Set, error)
	// Adopters names the sets of a namespace that could adopt a pod with these
	// labels, of those that Watch has told of.
	Adopters(namespace string, l labels.Set) []string
	// Siblings returns the sets of the same controller, s included.
	Siblings(ctx context.Context, s *Set) ([]*Set, error)
	// WriteStatus writes a new status of s.
	WriteStatus(ctx context.Context, s *Set, status appsv1.ReplicaSetStatus) error
	// Watch feeds a loop with the kind's changes; gone is called for each
	// object that is deleted.
	Watch(gone func(types.UID)) source.Source
}

// burst bounds how many pods one pass creates or deletes.
const burst = 500

// Controller is the loop over one kind.
type Controller struct {
	env     loop.Env
	adapter Adapter
	events  record.EventRecorder
	expect  *expect.Tracker
	pods    pods.Control
	// proven are the sets, by UID, whose last pass made all pods that it
	// should and left more to make: the next pass need not start slowly.
	proven sync.Map
}

// New makes the loop of one kind. component names it in events.
func New(env loop.Env, component string, adapter Adapter, workers int) (loop.Loop, error) {
	events := env.Cluster.Recorder(component)
	c := &Controller{
		env: env, adapter: adapter, events: events,
		expect: expect.NewTracker(env.Clock),
		pods:   pods.Control{Client: env.Cluster.Client(), Recorder: events},
	}
	watch := &owned.Pods{
		Cluster: env.Cluster, Logger: env.Logger, Kind: adapter.Kind(), Expect: c.expect,
		Adopters: adapter.Adopters,
	}
	return loop.New(env, component, workers, c.reconcile, adapter.Watch(c.forget), watch.Watch())
}

func (c *Controller) forget(uid types.UID) {
	c.expect.Forget(uid)
	c.proven.Delete(uid)
}

// reconcile brings one set's pods to their number, then tells its status.
func (c *Controller) reconcile(ctx context.Context, key types.NamespacedName) (time.Duration, error) {
	set, err := c.adapter.Get(ctx, key)
	if apierrors.IsNotFound(err) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	if set.Selector.Empty() {
		return 0, nil // validation forbids it; it would adopt every pod there is
	}
	// Asked before the pods are read: what is seen later cannot be missing.
	maySync := c.expect.Satisfied(set.Object.GetUID())
	active, terminating, err := c.podsOf(ctx, set)
	if err != nil {
		return 0, err
	}
	var syncErr error
	if maySync && set.Object.GetDeletionTimestamp() == nil {
		syncErr = c.manage(ctx, set, active)
	}
	now := c.env.Clock.Now()
	status := newStatus(set, active, terminating, syncErr, now)
	if !maySync {
		// The counts lack what was done for a former size: who shares out pods
		// among several sets must not take them for this one's.
		status.ObservedGeneration = set.Status.ObservedGeneration
	}
	if err := c.writeStatus(ctx, set, status); err != nil {
		return 0, err
	}
	if syncErr != nil {
		return 0, syncErr
	}
	after := nextCheck(set, active, now)
	if !maySync && (after == 0 || after > expect.Recheck) {
		after = expect.Recheck
	}
	return after, nil
}

// podsOf returns the set's pods: those that count and those on their way out.
func (c *Controller) podsOf(ctx context.Context, set *Set) (active, terminating []*corev1.Pod, err error) {
	ns, uid := set.Object.GetNamespace(), string(set.Object.GetUID())
	var owned, orphans corev1.PodList
	if err := c.env.Cluster.Client().List(ctx, &owned, index.By(ns, index.Controller, uid)...); err != nil {
		return nil, nil, fmt.Errorf("list pods: %w", err)
	}
	if err := c.env.Cluster.Client().List(ctx, &orphans, index.By(ns, index.Controller, index.Orphan)...); err != nil {
		return nil, nil, fmt.Errorf("list pods: %w", err)
	}
	candidates := make([]*corev1.Pod, 0, len(owned.Items))
	for i := range owned.Items {
		p := &owned.Items[i]
		switch {
		case pods.Active(p):
			candidates = append(candidates, p)
		case pods.Terminating(p) && set.Selector.Matches(labels.Set(p.Labels)):
			terminating = append(terminating, p)
		}
	}
	for i := range orphans.Items {
		if p := &orphans.Items[i]; pods.Active(p) && set.Selector.Matches(labels.Set(p.Labels)) {
			candidates = append(candidates, p)
		}
	}
	claim := &owner.Claim{
		Cluster: c.env.Cluster, Owner: set.Object, Kind: c.adapter.Kind(),
		Selector: set.Selector, Fresh: c.adapter.New(),
	}
	active, err = owner.Of(ctx, claim, candidates, nil)
	return active, terminating, err
}

// nextCheck is when the next ready pod becomes available without any event.
func nextCheck(set *Set, active []*corev1.Pod, now time.Time) time.Duration {
	if set.MinReady == 0 {
		return 0
	}
	var next time.Duration
	for _, p := range active {
		if _, wait := pods.Available(p, set.MinReady, now); wait > 0 && (next == 0 || wait < next) {
			next = wait
		}
	}
	return next
}
