// Package podgc deletes pods that nobody else will: of nodes that are gone or
// declared out of service, terminating ones that never got a node, and
// finished ones beyond a number.
package podgc

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
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
const Name = "pod-garbage-collector-controller"

// What the pods of a node that is gone are told.
const (
	reason   = "DeletionByPodGC"
	orphaned = "PodGC: node no longer exists"
)

// Config are the controller's limits. A zero value is replaced by the default.
type Config struct {
	// TerminatedThreshold is how many finished pods may stay: 12500. A
	// negative number is no limit.
	TerminatedThreshold int
	// Period is how often all pods are looked at: 20 s.
	Period time.Duration
	// Quarantine is how long a node must be gone before its pods go: 40 s.
	Quarantine time.Duration
}

func (c *Config) complete() {
	c.TerminatedThreshold = cmp.Or(c.TerminatedThreshold, 12500)
	c.Period = cmp.Or(c.Period, 20*time.Second)
	c.Quarantine = cmp.Or(c.Quarantine, 40*time.Second)
}

type controller struct {
	env loop.Env
	cfg Config

	ticking atomic.Bool // a pod has started the clock

	mu   sync.Mutex
	gone map[string]time.Time // nodes that pods name but the cache has not, since when
}

// New makes the controller.
func New(env loop.Env, cfg Config) (loop.Loop, error) {
	env = env.Named(Name)
	cfg.complete()
	c := &controller{env: env, cfg: cfg, gone: map[string]time.Time{}}
	all := loop.Key("", "pods")
	// One pod that cannot be removed must not put off all others.
	retries := loop.Retries{First: 5 * time.Millisecond, Longest: cfg.Period}
	return loop.NewRetrying(env, Name, 1, retries, c.reconcile,
		loop.Watch(env.Cluster, &corev1.Node{}, loop.On[*corev1.Node]{
			Created: func(_ context.Context, q loop.Queue, _ *corev1.Node) { q.Add(all) },
			Updated: func(_ context.Context, q loop.Queue, old, n *corev1.Node) {
				if outOfService(n) && !outOfService(old) {
					q.Add(all)
				}
			},
			Deleted: func(_ context.Context, q loop.Queue, _ *corev1.Node) { q.Add(all) },
		}),
		loop.Watch(env.Cluster, &corev1.Pod{}, loop.On[*corev1.Pod]{
			// The first pod starts the clock in a cluster without nodes; then it
			// runs for ever.
			Created: func(_ context.Context, q loop.Queue, _ *corev1.Pod) {
				if !c.ticking.Swap(true) {
					q.AddAfter(all, cfg.Period)
				}
			},
		}),
	)
}

func (c *controller) reconcile(ctx context.Context, _ types.NamespacedName) (time.Duration, error) {
	var list corev1.PodList
	if err := c.env.Cluster.Client().List(ctx, &list, client.UnsafeDisableDeepCopy); err != nil {
		return 0, fmt.Errorf("list pods: %w", err)
	}
	var nodeList corev1.NodeList
	if err := c.env.Cluster.Client().List(ctx, &nodeList, client.UnsafeDisableDeepCopy); err != nil {
		return 0, fmt.Errorf("list nodes: %w", err)
	}
	nodes := make(map[string]*corev1.Node, len(nodeList.Items))
	for i := range nodeList.Items {
		nodes[nodeList.Items[i].Name] = &nodeList.Items[i]
	}
	missing, next, err := c.missing(ctx, list.Items, nodes)
	errs := []error{err}
	var finished []*corev1.Pod
	for i := range list.Items {
		p := &list.Items[i]
		node := p.Spec.NodeName
		switch {
		case p.DeletionTimestamp != nil && node == "":
			errs = append(errs, c.end(ctx, p, ""))
		case missing[node]:
			errs = append(errs, c.end(ctx, p, orphaned))
		case p.DeletionTimestamp != nil && nodes[node] != nil && outOfService(nodes[node]) && !ready(nodes[node]):
			errs = append(errs, c.end(ctx, p, ""))
		case pods.Finished(p):
			finished = append(finished, p)
		}
	}
	for _, p := range c.surplus(finished) {
		errs = append(errs, c.end(ctx, p, ""))
	}
	return min(next, c.cfg.Period), errors.Join(errs...)
}

// missing returns the nodes that pods name and that are gone for certain, and
// when the next one may be: a cache can lag, and a node may come back.
func (c *controller) missing(ctx context.Context, all []corev1.Pod, nodes map[string]*corev1.Node) (map[string]bool, time.Duration, error) {
	now, next := c.env.Clock.Now(), c.cfg.Period
	suspects := map[string]bool{}
	for i := range all {
		if n := all[i].Spec.NodeName; n != "" && nodes[n] == nil {
			suspects[n] = true
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for n := range c.gone {
		if !suspects[n] {
			delete(c.gone, n)
		}
	}
	out := map[string]bool{}
	for n := range suspects {
		since, known := c.gone[n]
		if !known {
			c.gone[n], since = now, now
		}
		if left := since.Add(c.cfg.Quarantine).Sub(now); left > 0 {
			next = min(next, left)
			continue
		}
		err := c.env.Cluster.Reader().Get(ctx, types.NamespacedName{Name: n}, &corev1.Node{})
		if apierrors.IsNotFound(err) {
			out[n] = true
		} else if err != nil {
			return out, next, fmt.Errorf("read node %s: %w", n, err)
		}
	}
	return out, next, nil
}

// surplus are the finished pods beyond the threshold: evicted ones first, then
// the oldest.
func (c *controller) surplus(finished []*corev1.Pod) []*corev1.Pod {
	n := len(finished) - c.cfg.TerminatedThreshold
	if c.cfg.TerminatedThreshold < 0 || n <= 0 {
		return nil
	}
	evicted := func(p *corev1.Pod) int {
		if p.Status.Phase == corev1.PodFailed && p.Status.Reason == "Evicted" {
			return 0
		}
		return 1
	}
	slices.SortFunc(finished, func(a, b *corev1.Pod) int {
		return cmp.Or(cmp.Compare(evicted(a), evicted(b)),
			a.CreationTimestamp.Compare(b.CreationTimestamp.Time), strings.Compare(a.Name, b.Name))
	})
	return finished[:n]
}

// end fails a pod that has not finished, as one that was disrupted if msg says
// by what, and removes it at once: no kubelet will ever confirm it.
func (c *controller) end(ctx context.Context, shared *corev1.Pod, msg string) error {
	p := shared.DeepCopy()
	api := c.env.Cluster.Client()
	var err error
	if !pods.Finished(p) {
		p.Status.Phase, p.Status.ObservedGeneration = corev1.PodFailed, p.Generation
		if msg != "" {
			pods.Disrupt(p, reason, msg, c.env.Clock.Now())
		}
		err = api.Status().Update(ctx, p)
	}
	if err == nil {
		uid := p.UID
		err = api.Delete(ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: p.Namespace, Name: p.Name}},
			client.GracePeriodSeconds(0), client.Preconditions{UID: &uid})
	}
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("remove pod %s/%s: %w", p.Namespace, p.Name, err)
	}
	return nil
}

func outOfService(n *corev1.Node) bool {
	return slices.ContainsFunc(n.Spec.Taints, func(t corev1.Taint) bool { return t.Key == corev1.TaintNodeOutOfService })
}

func ready(n *corev1.Node) bool {
	return slices.ContainsFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	})
}
