// Package daemonset is the DaemonSet controller: it keeps one pod on each node
// that should run one.
//
// # Terms
//
// A node should run a pod of a set if such a pod could be placed on it. It may
// go on running one that is there even if not: taints that only forbid
// scheduling do not end pods. The scheduler binds the pods; which node a pod is
// meant for stands in its affinity.
//
// A pod is updated if it is of the set's template now; others are old.
package daemonset

import (
	"context"
	"fmt"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/util/flowcontrol"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/proa-dev/proa/controllers/internal/expect"
	"github.com/proa-dev/proa/controllers/internal/fresh"
	"github.com/proa-dev/proa/controllers/internal/history"
	"github.com/proa-dev/proa/controllers/internal/index"
	"github.com/proa-dev/proa/controllers/internal/loop"
	"github.com/proa-dev/proa/controllers/internal/matching"
	"github.com/proa-dev/proa/controllers/internal/owned"
	"github.com/proa-dev/proa/controllers/internal/owner"
	"github.com/proa-dev/proa/controllers/internal/pods"
)

// Name is the controller's name in logs and events.
const Name = "daemonset-controller"

const (
	workers = 2
	// Failed pods of a node are replaced at longer and longer intervals: a
	// kubelet that refuses a pod does so at once, again and again.
	firstDelay, longestDelay = time.Second, 15 * time.Minute
	forgetPeriod             = time.Minute
)

var kind = appsv1.SchemeGroupVersion.WithKind("DaemonSet")

type controller struct {
	env    loop.Env
	events record.EventRecorder
	expect *expect.Tracker
	owners *matching.Index[*appsv1.DaemonSet]
	pods   pods.Control
	failed *flowcontrol.Backoff
	fresh  fresh.Pods
}

// New makes the controller.
func New(env loop.Env) (loop.Loop, error) {
	events := env.Cluster.Recorder(Name)
	c := &controller{
		env: env.Named(Name), events: events, expect: expect.NewTracker(env.Clock),
		owners: matching.New(func(d *appsv1.DaemonSet) labels.Selector { return matching.Adopting(d.Spec.Selector) }),
		pods:   pods.Control{Client: env.Cluster.Client(), Recorder: events},
		failed: flowcontrol.NewBackOff(firstDelay, longestDelay),
	}
	c.failed.Clock = env.Clock
	watch := &owned.Pods{Cluster: env.Cluster, Logger: c.env.Logger, Kind: kind, Expect: c.expect, Adopters: c.owners.Names}
	l, err := loop.New(c.env, Name, workers, c.reconcile, c.watchSets(), watch.Watch(), c.watchNodes(), c.watchRevisions())
	if err != nil {
		return loop.Loop{}, err
	}
	return loop.Join(Name, l, loop.Every(env.Clock, Name+" back-off", forgetPeriod, c.failed.GC)), nil
}

func (c *controller) watchSets() source.Source {
	add := func(_ context.Context, q loop.Queue, d *appsv1.DaemonSet) { q.Add(loop.Key(d.Namespace, d.Name)) }
	return loop.Watch(c.env.Cluster, &appsv1.DaemonSet{}, c.owners.Fed(loop.On[*appsv1.DaemonSet]{
		Created: add,
		Updated: func(ctx context.Context, q loop.Queue, _, d *appsv1.DaemonSet) { add(ctx, q, d) },
		Deleted: func(_ context.Context, _ loop.Queue, d *appsv1.DaemonSet) {
			c.expect.Forget(d.UID)
			c.fresh.Forget(d.UID)
		},
	}))
}

func (c *controller) list(ctx context.Context) ([]appsv1.DaemonSet, error) {
	var list appsv1.DaemonSetList
	err := c.env.Cluster.Client().List(ctx, &list, client.UnsafeDisableDeepCopy)
	return list.Items, err
}

// watchRevisions queues the set of a revision that was changed or deleted, or
// that could adopt an orphan.
func (c *controller) watchRevisions() source.Source {
	changed := func(_ context.Context, q loop.Queue, r *history.Revision) {
		if ref := metav1.GetControllerOfNoCopy(r); ref != nil {
			if ref.Kind == kind.Kind {
				q.Add(loop.Key(r.Namespace, ref.Name))
			}
			return
		}
		for _, name := range c.owners.Names(r.Namespace, r.Labels) {
			q.Add(loop.Key(r.Namespace, name))
		}
	}
	return loop.Watch(c.env.Cluster, &history.Revision{}, loop.On[*history.Revision]{
		Created: func(ctx context.Context, q loop.Queue, r *history.Revision) {
			if metav1.GetControllerOfNoCopy(r) == nil {
				changed(ctx, q, r)
			}
		},
		Updated: func(ctx context.Context, q loop.Queue, old, r *history.Revision) {
			if old.ResourceVersion == r.ResourceVersion {
				return // a resync
			}
			if ref := metav1.GetControllerOfNoCopy(old); ref != nil && ref.Kind == kind.Kind {
				q.Add(loop.Key(old.Namespace, ref.Name))
			}
			changed(ctx, q, r)
		},
		Deleted: func(ctx context.Context, q loop.Queue, r *history.Revision) {
			if metav1.GetControllerOfNoCopy(r) != nil {
				changed(ctx, q, r)
			}
		},
	})
}

// watchNodes queues the sets for which a change of a node makes a difference.
func (c *controller) watchNodes() source.Source {
	each := func(ctx context.Context, node *corev1.Node, f func(*appsv1.DaemonSet, *placement)) {
		sets, err := c.list(ctx)
		if err != nil {
			c.env.Logger.Error("finding the DaemonSets of a node", "node", node.Name, "err", err)
		}
		for i := range sets {
			f(&sets[i], newPlacement(&sets[i]))
		}
	}
	return loop.Watch(c.env.Cluster, &corev1.Node{}, loop.On[*corev1.Node]{
		Created: func(ctx context.Context, q loop.Queue, node *corev1.Node) {
			each(ctx, node, func(d *appsv1.DaemonSet, p *placement) {
				if run, _ := p.on(node); run {
					q.Add(loop.Key(d.Namespace, d.Name))
				}
			})
		},
		Updated: func(ctx context.Context, q loop.Queue, old, node *corev1.Node) {
			if apiequality.Semantic.DeepEqual(old.Labels, node.Labels) && apiequality.Semantic.DeepEqual(old.Spec.Taints, node.Spec.Taints) {
				return
			}
			each(ctx, node, func(d *appsv1.DaemonSet, p *placement) {
				run, goOn := p.on(node)
				ran, wentOn := p.on(old)
				if run != ran || goOn != wentOn {
					q.Add(loop.Key(d.Namespace, d.Name))
				}
			})
		},
		Deleted: func(ctx context.Context, q loop.Queue, node *corev1.Node) {
			each(ctx, node, func(d *appsv1.DaemonSet, p *placement) {
				if _, goOn := p.on(node); goOn {
					q.Add(loop.Key(d.Namespace, d.Name))
				}
			})
		},
	})
}

func (c *controller) reconcile(ctx context.Context, key types.NamespacedName) (time.Duration, error) {
	d := &appsv1.DaemonSet{}
	if err := c.env.Cluster.Client().Get(ctx, key, d); err != nil {
		return 0, client.IgnoreNotFound(err)
	}
	selector, err := metav1.LabelSelectorAsSelector(d.Spec.Selector)
	if err != nil {
		c.env.Logger.Error("DaemonSet without a valid selector", "set", key, "err", err)
		return 0, nil
	}
	if selector.Empty() {
		c.events.Event(d, corev1.EventTypeWarning, "SelectingAll",
			"This daemon set is selecting all pods. A non-empty selector is required.")
		return 0, nil
	}
	if d.DeletionTimestamp != nil {
		return 0, nil // its revisions may be gone: nothing can be told of it
	}
	// Asked before the pods are read: what is seen later cannot be missing.
	satisfied := c.expect.Satisfied(d.UID)
	p := &pass{controller: c, set: d, now: c.env.Clock.Now(), placement: newPlacement(d)}
	p.claim = &owner.Claim{Cluster: c.env.Cluster, Owner: d, Kind: kind, Selector: selector, Fresh: &appsv1.DaemonSet{}}
	if err := p.read(ctx); err != nil {
		return 0, err
	}
	shown, err := c.fresh.Shown(ctx, c.env.Cluster.Reader(), d, selector, p.all, func(pod *corev1.Pod) bool {
		ref := metav1.GetControllerOfNoCopy(pod)
		return ref != nil && ref.UID == d.UID
	})
	if !shown || err != nil {
		return loop.StaleDelay, err
	}
	old, err := p.findRevisions(ctx)
	if err != nil {
		return 0, fmt.Errorf("failed to construct revisions of DaemonSet: %w", err)
	}
	if satisfied {
		err = p.run(ctx, old)
	} else {
		p.lookAgain(expect.Recheck)
	}
	if statusErr := p.writeStatus(ctx, satisfied); err == nil {
		err = statusErr
	}
	return p.again, err
}

// pass is one pass over one set. What it reads is shared with the cache.
type pass struct {
	*controller
	set       *appsv1.DaemonSet
	claim     *owner.Claim
	now       time.Time
	placement *placement
	// hash names the template.
	hash string
	// nodes are all nodes, by name.
	nodes []*corev1.Node
	// pods are those of the set, by the node that they are meant for.
	pods map[string][]*corev1.Pod
	// all are the pods of the set, those that nothing can be done with any
	// more included.
	all []*corev1.Pod
	// again is when to look again without any event; zero is never.
	again time.Duration
}

func (p *pass) read(ctx context.Context) error {
	var nodes corev1.NodeList
	if err := p.env.Cluster.Client().List(ctx, &nodes, client.UnsafeDisableDeepCopy); err != nil {
		return fmt.Errorf("list nodes: %w", err)
	}
	for i := range nodes.Items {
		p.nodes = append(p.nodes, &nodes.Items[i])
	}
	slices.SortFunc(p.nodes, func(a, b *corev1.Node) int { return compareNames(a.Name, b.Name) })
	var candidates []*corev1.Pod
	for _, who := range []string{string(p.set.UID), index.Orphan} {
		var list corev1.PodList
		if err := p.env.Cluster.Client().List(ctx, &list, index.By(p.set.Namespace, index.Controller, who)...); err != nil {
			return fmt.Errorf("list pods: %w", err)
		}
		for i := range list.Items {
			candidates = append(candidates, &list.Items[i])
		}
	}
	var err error
	if p.all, err = owner.Of(ctx, p.claim, candidates, nil); err != nil {
		return err
	}
	p.pods = map[string][]*corev1.Pod{}
	for _, pod := range p.all {
		if pods.Finished(pod) && pod.DeletionTimestamp != nil {
			continue // the kubelet or the pod collector has it
		}
		if node := meantFor(pod); node != "" {
			p.pods[node] = append(p.pods[node], pod)
		}
	}
	return nil
}

// run creates and deletes pods as the nodes want it; when that is done, it goes
// on with the rollout.
func (p *pass) run(ctx context.Context, old []*history.Revision) error {
	if err := p.apply(ctx, p.perNode()); err != nil {
		return err
	}
	if p.expect.Satisfied(p.set.UID) && p.set.Spec.UpdateStrategy.Type == appsv1.RollingUpdateDaemonSetStrategyType {
		next, err := p.rollout()
		if err != nil {
			return err
		}
		if err := p.apply(ctx, next); err != nil {
			return err
		}
	}
	if err := p.truncate(ctx, old); err != nil {
		return fmt.Errorf("failed to clean up revisions of DaemonSet: %w", err)
	}
	return nil
}

// lookAgain notes when to look again at the latest; zero is nothing to wait for.
func (p *pass) lookAgain(after time.Duration) {
	if after > 0 && (p.again == 0 || after < p.again) {
		p.again = after
	}
}
