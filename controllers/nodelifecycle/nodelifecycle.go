// Package nodelifecycle watches over the nodes: one whose kubelet falls silent
// becomes Unknown, its pods not ready, and it is tainted so that nothing is
// placed there and, in time, its pods go elsewhere.
//
// A kubelet shows that it lives by renewing its Lease, or by posting status.
// When that was seen is told by our own clock: the node's may be wrong.
package nodelifecycle

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	"k8s.io/component-helpers/node/topology"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proa-dev/proa/controllers/internal/index"
	"github.com/proa-dev/proa/controllers/internal/loop"
	"github.com/proa-dev/proa/controllers/internal/pods"
)

// Name is the controller's name in logs; events come from "node-controller".
const Name = "node-lifecycle-controller"

const workers = 8

// Config are the controller's times. A zero value is replaced by the default.
type Config struct {
	// GracePeriod is how long a node may be silent: 50 s.
	GracePeriod time.Duration
	// StartupGracePeriod is the same for one that never said anything: 60 s.
	StartupGracePeriod time.Duration
	// Period is how often a node that is not ready is looked at: 5 s.
	Period time.Duration
	// EvictionInterval is the time between two nodes of a zone being tainted
	// NoExecute: 10 s; in a zone with most nodes down, if it is large, ten
	// times that.
	EvictionInterval time.Duration
}

func (c *Config) complete() {
	for v, d := range map[*time.Duration]time.Duration{
		&c.GracePeriod: 50 * time.Second, &c.StartupGracePeriod: 60 * time.Second,
		&c.Period: 5 * time.Second, &c.EvictionInterval: 10 * time.Second,
	} {
		if *v == 0 {
			*v = d
		}
	}
}

type controller struct {
	env    loop.Env
	cfg    Config
	events record.EventRecorder
	health *health
	zones  *zones
	// evictions counts nodes whose pods were told to leave, by zone.
	evictions *prometheus.CounterVec
}

// New makes the controller.
func New(env loop.Env, cfg Config) (loop.Loop, error) {
	env = env.Named(Name)
	cfg.complete()
	c := &controller{
		env: env, cfg: cfg, events: env.Cluster.Recorder("node-controller"),
		health: newHealth(env.Clock), zones: newZones(env.Clock, cfg.EvictionInterval, cfg.Period),
		evictions: prometheus.NewCounterVec(prometheus.CounterOpts{Subsystem: "node_collector", Name: "evictions_total",
			Help: "Number of Node evictions that happened since current instance of NodeController started."}, []string{"zone"}),
	}
	if err := env.Register(c.evictions); err != nil {
		return loop.Loop{}, err
	}
	// Who is asked before a node is written may be on the node that is down.
	retries := loop.Retries{First: 5 * time.Millisecond, Longest: cfg.Period}
	return loop.NewRetrying(env, Name, workers, retries, c.reconcile,
		loop.Watch(env.Cluster, &corev1.Node{}, loop.On[*corev1.Node]{
			Created: c.nodeCreated,
			Updated: func(_ context.Context, q loop.Queue, _, n *corev1.Node) { c.nodeChanged(q, n) },
			Deleted: c.nodeDeleted,
		}),
		loop.Watch(env.Cluster, &coordinationv1.Lease{}, loop.On[*coordinationv1.Lease]{
			Created: c.leaseChanged,
			Updated: func(ctx context.Context, q loop.Queue, _, l *coordinationv1.Lease) { c.leaseChanged(ctx, q, l) },
		}),
		loop.Watch(env.Cluster, &corev1.Pod{}, loop.On[*corev1.Pod]{
			Created: func(_ context.Context, q loop.Queue, p *corev1.Pod) { c.podPlaced(q, "", p) },
			Updated: func(_ context.Context, q loop.Queue, old, p *corev1.Pod) { c.podPlaced(q, old.Spec.NodeName, p) },
		}),
	)
}

func (c *controller) nodeCreated(_ context.Context, q loop.Queue, n *corev1.Node) {
	c.event(n, "RegisteredNode", fmt.Sprintf("Node %s event: Registered Node %s in Controller", n.Name, n.Name))
	c.nodeChanged(q, n)
}

func (c *controller) nodeChanged(q loop.Queue, n *corev1.Node) {
	c.health.status(n)
	c.evictions.WithLabelValues(topology.GetZoneKey(n)) // a zone is there from its first node on
	if c.zones.observe(n) {
		// Every node seemed down, so it was us who could not hear them: their
		// silence until now proves nothing.
		c.health.reset()
	}
	q.Add(loop.Key("", n.Name))
}

func (c *controller) nodeDeleted(_ context.Context, _ loop.Queue, n *corev1.Node) {
	c.event(n, "RemovingNode", fmt.Sprintf("Node %s event: Removing Node %s from Controller", n.Name, n.Name))
	c.health.forget(n.Name)
	c.zones.forget(n.Name)
}

// leaseChanged notes the sign of life. Looking at the node can wait until its
// time runs out.
func (c *controller) leaseChanged(_ context.Context, _ loop.Queue, l *coordinationv1.Lease) {
	if l.Namespace == corev1.NamespaceNodeLease {
		c.health.lease(l)
	}
}

// podPlaced looks at a node again that got a pod while it may be down.
func (c *controller) podPlaced(q loop.Queue, before string, p *corev1.Pod) {
	if node := p.Spec.NodeName; node != "" && node != before && pods.Ready(p) {
		q.Add(loop.Key("", node))
	}
}

// event is about a node. Node events name the node by UID, as its kubelet's do.
func (c *controller) event(n *corev1.Node, reason, msg string) {
	ref := &corev1.ObjectReference{APIVersion: "v1", Kind: "Node", Name: n.Name, UID: n.UID}
	c.events.Event(ref, corev1.EventTypeNormal, reason, msg)
}

func (c *controller) reconcile(ctx context.Context, key types.NamespacedName) (time.Duration, error) {
	n := &corev1.Node{}
	if err := c.env.Cluster.Client().Get(ctx, key, n); err != nil {
		return 0, client.IgnoreNotFound(err)
	}
	grace, wasReady := c.cfg.StartupGracePeriod, false
	if r := ready(n); r != nil {
		grace, wasReady = c.cfg.GracePeriod, r.Status == corev1.ConditionTrue
	}
	now := c.env.Clock.Now()
	left := c.health.seen(n).Add(grace).Sub(now)
	if r := ready(n); left < 0 && (r == nil || r.Status != corev1.ConditionUnknown) {
		// The watch may be what is silent: the Lease itself has the last word.
		if err := c.ask(ctx, n.Name); err != nil {
			return 0, err
		}
		left = c.health.seen(n).Add(grace).Sub(now)
	}
	if left < 0 {
		if giveUp(n, metav1.NewTime(now)) {
			if err := c.env.Cluster.Client().Status().Update(ctx, n); err != nil {
				return 0, client.IgnoreNotFound(err)
			}
			if wasReady {
				c.event(n, "NodeNotReady", fmt.Sprintf("Node %s status is now: NodeNotReady", n.Name))
			}
		}
		left = c.cfg.Period
	}
	after, err := c.taint(ctx, n)
	if err != nil {
		return 0, client.IgnoreNotFound(err)
	}
	if r := ready(n); r != nil && r.Status == corev1.ConditionUnknown {
		if err := c.markPods(ctx, n); err != nil {
			return 0, err
		}
	}
	if after > 0 {
		left = min(left, after)
	}
	// A moment past the limit, not right on it.
	return left + time.Millisecond, nil
}

// ask takes in a node's Lease as the API server has it.
func (c *controller) ask(ctx context.Context, node string) error {
	l := &coordinationv1.Lease{}
	err := c.env.Cluster.Reader().Get(ctx, types.NamespacedName{Namespace: corev1.NamespaceNodeLease, Name: node}, l)
	if err == nil {
		c.health.lease(l)
	}
	return client.IgnoreNotFound(err)
}

// markPods takes the pods of a silent node out of service.
func (c *controller) markPods(ctx context.Context, n *corev1.Node) error {
	var list corev1.PodList
	if err := c.env.Cluster.Client().List(ctx, &list, index.By("", index.PodNode, n.Name)...); err != nil {
		return fmt.Errorf("list pods of node %s: %w", n.Name, err)
	}
	var errs []error
	for i := range list.Items {
		if !pods.Ready(&list.Items[i]) {
			continue
		}
		p := list.Items[i].DeepCopy()
		cond := pods.Condition(&p.Status, corev1.PodReady)
		cond.Status = corev1.ConditionFalse
		cond.LastTransitionTime = metav1.NewTime(c.env.Clock.Now())
		switch err := c.env.Cluster.Client().Status().Update(ctx, p); {
		case err == nil:
			c.events.Event(p, corev1.EventTypeWarning, "NodeNotReady", "Node is not ready")
		case !apierrors.IsNotFound(err):
			errs = append(errs, fmt.Errorf("mark pod %s/%s not ready: %w", p.Namespace, p.Name, err))
		}
	}
	return errors.Join(errs...)
}
