// Package devicetainteviction deletes pods that use devices with NoExecute
// taints which their claims do not tolerate, or not for so long. Taints are
// published by drivers, or come from DeviceTaintRules, whose status tells how
// far evictions are. The claims of deleted pods are freed elsewhere.
package devicetainteviction

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/proa-dev/proa/controllers/internal/loop"
	"github.com/proa-dev/proa/controllers/internal/pods"
	"github.com/proa-dev/proa/internal/devicetaint"
)

// Name is the controller's name in logs and events, and of its loops.
const Name = "device-taint-eviction-controller"

const (
	workers = 8
	reason  = "DeviceTaintManagerEviction" // of every event
)

type controller struct {
	env       loop.Env
	events    record.EventRecorder
	inventory *inventory

	deletions prometheus.Counter
	latency   prometheus.Histogram

	mu sync.Mutex
	// pending are the pods whose time runs.
	pending map[types.NamespacedName]bool
	// evicted counts pods by the UID of the rule.
	evicted map[types.UID]int
	// queue takes rules whose status will be old after a while. There is one as
	// long as anything is reconciled.
	queue loop.Queue
}

// New makes the controller.
func New(env loop.Env) (loop.Loop, error) {
	env = env.Named(Name)
	c := &controller{
		env: env, events: env.Cluster.Recorder(Name), inventory: newInventory(),
		pending: map[types.NamespacedName]bool{}, evicted: map[types.UID]int{},
		deletions: prometheus.NewCounter(prometheus.CounterOpts{Subsystem: "device_taint_eviction_controller", Name: "pod_deletions_total",
			Help: "Total number of Pods deleted by DeviceTaintEvictionController since its start."}),
		latency: prometheus.NewHistogram(prometheus.HistogramOpts{Subsystem: "device_taint_eviction_controller", Name: "pod_deletion_duration_seconds",
			Help:    "Latency, in seconds, between the time when a device taint effect has been activated and a Pod's deletion via DeviceTaintEvictionController.",
			Buckets: []float64{0.005, 0.025, 0.1, 0.5, 1, 2.5, 10, 30, 60, 120, 180, 240}}),
	}
	if err := env.Register(c.deletions, c.latency); err != nil {
		return loop.Loop{}, err
	}
	own := source.Func(func(_ context.Context, q loop.Queue) error {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.queue = q
		return nil
	})
	return loop.New(env, Name, workers, c.reconcile, own, c.watchPods(), c.watchClaims(), c.watchSlices(), c.watchRules())
}

func (c *controller) watchPods() source.Source {
	return loop.Watch(c.env.Cluster, &corev1.Pod{}, loop.On[*corev1.Pod]{
		Created: func(_ context.Context, q loop.Queue, p *corev1.Pod) {
			if usesClaims(p) {
				q.Add(loop.Key(p.Namespace, p.Name))
			}
		},
		Updated: func(_ context.Context, q loop.Queue, old, p *corev1.Pod) {
			if !usesClaims(p) || p.UID == old.UID && p.Spec.NodeName == old.Spec.NodeName &&
				equality.Semantic.DeepEqual(p.Status.ResourceClaimStatuses, old.Status.ResourceClaimStatuses) &&
				equality.Semantic.DeepEqual(p.Status.ExtendedResourceClaimStatus, old.Status.ExtendedResourceClaimStatus) {
				return
			}
			q.Add(loop.Key(p.Namespace, p.Name))
		},
		Deleted: func(_ context.Context, _ loop.Queue, p *corev1.Pod) {
			c.settle(types.NamespacedName{Namespace: p.Namespace, Name: p.Name})
		},
	})
}

func usesClaims(p *corev1.Pod) bool {
	return len(p.Spec.ResourceClaims) > 0 || p.Status.ExtendedResourceClaimStatus != nil
}

func (c *controller) watchClaims() source.Source {
	return loop.Watch(c.env.Cluster, &resourcev1.ResourceClaim{}, loop.On[*resourcev1.ResourceClaim]{
		Created: func(_ context.Context, q loop.Queue, claim *resourcev1.ResourceClaim) { addUsers(q, claim) },
		Updated: func(_ context.Context, q loop.Queue, old, claim *resourcev1.ResourceClaim) {
			if old.UID == claim.UID && equality.Semantic.DeepEqual(old.Status.ReservedFor, claim.Status.ReservedFor) &&
				(old.Status.Allocation == nil) == (claim.Status.Allocation == nil) {
				return // an allocation never changes into another one
			}
			addUsers(q, old)
			addUsers(q, claim)
		},
		Deleted: func(_ context.Context, q loop.Queue, claim *resourcev1.ResourceClaim) { addUsers(q, claim) },
	})
}

// addUsers queues the pods that a claim is reserved for.
func addUsers(q loop.Queue, claim *resourcev1.ResourceClaim) {
	for _, user := range claim.Status.ReservedFor {
		if user.APIGroup == "" && user.Resource == "pods" {
			q.Add(loop.Key(claim.Namespace, user.Name))
		}
	}
}

func (c *controller) watchSlices() source.Source {
	changed := func(ctx context.Context, q loop.Queue, old, s *resourcev1.ResourceSlice) {
		devices := c.inventory.setSlice(old, s)
		if len(devices) == 0 {
			return
		}
		c.addUsersOf(ctx, q, func(r *resourcev1.DeviceRequestAllocationResult) bool {
			return slices.Contains(devices[poolID{r.Driver, r.Pool}], r.Device)
		})
	}
	return loop.Watch(c.env.Cluster, &resourcev1.ResourceSlice{}, loop.On[*resourcev1.ResourceSlice]{
		Created: func(ctx context.Context, q loop.Queue, s *resourcev1.ResourceSlice) { changed(ctx, q, nil, s) },
		Updated: changed,
		Deleted: func(ctx context.Context, q loop.Queue, s *resourcev1.ResourceSlice) { changed(ctx, q, s, nil) },
	})
}

func (c *controller) watchRules() source.Source {
	changed := func(ctx context.Context, q loop.Queue, old, r *resourcev1.DeviceTaintRule) {
		if old != nil && r != nil && old.UID == r.UID && equality.Semantic.DeepEqual(old.Spec, r.Spec) {
			return
		}
		if r != nil {
			q.Add(loop.Key("", r.Name))
		}
		concerned := c.inventory.setRule(old, r)
		if old != nil && (r == nil || old.UID != r.UID) {
			c.forget(old.UID)
		}
		if len(concerned) == 0 {
			return
		}
		c.addUsersOf(ctx, q, func(r *resourcev1.DeviceRequestAllocationResult) bool {
			return slices.ContainsFunc(concerned, func(rule *resourcev1.DeviceTaintRule) bool {
				return devicetaint.Selects(rule, r.Driver, r.Pool, r.Device)
			})
		})
	}
	return loop.Watch(c.env.Cluster, &resourcev1.DeviceTaintRule{}, loop.On[*resourcev1.DeviceTaintRule]{
		Created: func(ctx context.Context, q loop.Queue, r *resourcev1.DeviceTaintRule) { changed(ctx, q, nil, r) },
		Updated: changed,
		Deleted: func(ctx context.Context, q loop.Queue, r *resourcev1.DeviceTaintRule) { changed(ctx, q, r, nil) },
	})
}

// addUsersOf queues the pods whose claims have one of some devices. A claim
// that the cache lacks yet brings its pods when it comes.
func (c *controller) addUsersOf(ctx context.Context, q loop.Queue, wanted func(*resourcev1.DeviceRequestAllocationResult) bool) {
	list, err := c.allocated(ctx)
	if err != nil {
		c.env.Logger.Error("finding the claims of devices", "err", err)
		return
	}
	for _, claim := range list {
		results := claim.Status.Allocation.Devices.Results
		for i := range results {
			if wanted(&results[i]) {
				addUsers(q, claim)
				break
			}
		}
	}
}

// allocated lists the claims that have devices, shared with the cache.
func (c *controller) allocated(ctx context.Context) ([]*resourcev1.ResourceClaim, error) {
	var list resourcev1.ResourceClaimList
	if err := c.env.Cluster.Client().List(ctx, &list, client.UnsafeDisableDeepCopy); err != nil {
		return nil, err
	}
	var found []*resourcev1.ResourceClaim
	for i := range list.Items {
		if list.Items[i].Status.Allocation != nil {
			found = append(found, &list.Items[i])
		}
	}
	return found, nil
}

// reconcile looks at a pod, or at a rule, which has no namespace.
func (c *controller) reconcile(ctx context.Context, key types.NamespacedName) (time.Duration, error) {
	if key.Namespace == "" {
		return c.reconcileRule(ctx, key.Name)
	}
	return c.reconcilePod(ctx, key)
}

// reconcilePod evicts a pod when its time has come.
func (c *controller) reconcilePod(ctx context.Context, key types.NamespacedName) (time.Duration, error) {
	pod := &corev1.Pod{}
	if err := c.env.Cluster.Client().Get(ctx, key, pod, client.UnsafeDisableDeepCopy); err != nil {
		c.settle(key)
		return 0, client.IgnoreNotFound(err)
	}
	if pod.DeletionTimestamp != nil {
		c.settle(key)
		return 0, nil
	}
	e, err := c.evictionOf(ctx, pod)
	if err != nil {
		return 0, err
	}
	if e == nil {
		if c.settle(key) {
			c.events.Event(pods.Reference(pod), corev1.EventTypeNormal, reason, "Cancelling deletion")
		}
		return 0, nil
	}
	c.start(key, e)
	if left := e.at.Sub(c.env.Clock.Now()); left > 0 {
		return left, nil
	}
	if err := c.evict(ctx, key, pod.UID, e); err != nil && !apierrors.IsNotFound(err) {
		return 0, fmt.Errorf("evict pod %s: %w", key, err)
	}
	c.settle(key)
	return 0, nil
}

// evictionOf says when a pod must go.
func (c *controller) evictionOf(ctx context.Context, pod *corev1.Pod) (*eviction, error) {
	var failed error
	find := func(name string) *resourcev1.ResourceClaim {
		claim := &resourcev1.ResourceClaim{}
		err := c.env.Cluster.Client().Get(ctx, types.NamespacedName{Namespace: pod.Namespace, Name: name}, claim, client.UnsafeDisableDeepCopy)
		switch {
		case apierrors.IsNotFound(err):
			return nil
		case err != nil:
			failed = err
			return nil
		}
		return claim
	}
	return c.inventory.evictionOf(pod, find, c.inventory.evicting()), failed
}

// evict deletes a pod, which is read anew: the cache may not know yet that it
// goes already.
func (c *controller) evict(ctx context.Context, key types.NamespacedName, uid types.UID, e *eviction) error {
	pod := &corev1.Pod{}
	if err := c.env.Cluster.Reader().Get(ctx, key, pod); err != nil {
		return err
	}
	if pod.UID != uid || pod.DeletionTimestamp != nil {
		return nil
	}
	c.events.Event(pods.Reference(pod), corev1.EventTypeNormal, reason, "Marking for deletion")
	err := pods.Evict(ctx, c.env.Cluster.Client(), pod, "DeletionByDeviceTaintManager", "Device Taint manager: deleting due to NoExecute taint", c.env.Clock.Now())
	if err != nil {
		return err
	}
	c.deletions.Inc()
	c.latency.Observe(c.env.Clock.Since(e.at).Seconds())
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range e.rules {
		c.evicted[r.UID]++
	}
	c.tellSoon(e.rules)
	return nil
}

// start notes that a pod's time runs.
func (c *controller) start(key types.NamespacedName, e *eviction) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pending[key] = true
	c.tellSoon(e.rules)
}

// tellSoon lets the status of rules be written, but not for every pod.
func (c *controller) tellSoon(rules rules) {
	for _, r := range rules {
		c.queue.AddAfter(loop.Key("", r.Name), statusPeriod)
	}
}

// settle stops a pod's time and reports whether it ran.
func (c *controller) settle(key types.NamespacedName) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	ran := c.pending[key]
	delete(c.pending, key)
	return ran
}

// forget drops what was counted for a rule that is gone.
func (c *controller) forget(rule types.UID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.evicted, rule)
}
