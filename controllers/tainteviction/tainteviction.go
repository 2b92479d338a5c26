// Package tainteviction deletes pods from nodes with NoExecute taints that
// they do not tolerate, or not for so long.
package tainteviction

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proa-dev/proa/controllers/internal/index"
	"github.com/proa-dev/proa/controllers/internal/loop"
	"github.com/proa-dev/proa/controllers/internal/pods"
)

// Name is the controller's name in logs and events.
const Name = "taint-eviction-controller"

const (
	workers = 8
	reason  = "TaintManagerEviction" // of every event
)

type controller struct {
	env    loop.Env
	events record.EventRecorder

	mu sync.Mutex
	// pending are the pods whose time runs, and since when.
	pending map[types.NamespacedName]pending
	// tainted are the nodes whose taints evict.
	tainted map[string]bool
}

type pending struct {
	uid   types.UID
	since time.Time
}

// New makes the controller.
func New(env loop.Env) (loop.Loop, error) {
	env = env.Named(Name)
	c := &controller{env: env, events: env.Cluster.Recorder(Name), pending: map[types.NamespacedName]pending{}, tainted: map[string]bool{}}
	return loop.New(env, Name, workers, c.reconcile,
		loop.Watch(env.Cluster, &corev1.Pod{}, loop.On[*corev1.Pod]{
			Created: func(_ context.Context, q loop.Queue, p *corev1.Pod) {
				if c.concerns(p) {
					q.Add(loop.Key(p.Namespace, p.Name))
				}
			},
			Updated: func(_ context.Context, q loop.Queue, old, p *corev1.Pod) {
				if p.Spec.NodeName == old.Spec.NodeName && apiequality.Semantic.DeepEqual(p.Spec.Tolerations, old.Spec.Tolerations) {
					return
				}
				if c.concerns(p) {
					q.Add(loop.Key(p.Namespace, p.Name))
				}
			},
			Deleted: func(_ context.Context, _ loop.Queue, p *corev1.Pod) {
				c.settle(types.NamespacedName{Namespace: p.Namespace, Name: p.Name})
			},
		}),
		loop.Watch(env.Cluster, &corev1.Node{}, loop.On[*corev1.Node]{
			Created: func(ctx context.Context, q loop.Queue, n *corev1.Node) {
				if c.note(n.Name, len(evicting(n)) > 0) {
					c.addPods(ctx, q, n.Name)
				}
			},
			Updated: func(ctx context.Context, q loop.Queue, old, n *corev1.Node) {
				c.note(n.Name, len(evicting(n)) > 0)
				if !slices.EqualFunc(evicting(old), evicting(n), sameTaint) {
					c.addPods(ctx, q, n.Name)
				}
			},
			Deleted: func(ctx context.Context, q loop.Queue, n *corev1.Node) {
				c.note(n.Name, false)
				if len(evicting(n)) > 0 {
					c.addPods(ctx, q, n.Name)
				}
			},
		}),
	)
}

// concerns says whether a pod that has come, or changed, may have to go: its
// node has taints, or its time runs. Taints that come later bring all pods of
// their node.
func (c *controller) concerns(p *corev1.Pod) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, runs := c.pending[types.NamespacedName{Namespace: p.Namespace, Name: p.Name}]
	return runs || c.tainted[p.Spec.NodeName]
}

// note keeps whether a node's taints evict, and returns it.
func (c *controller) note(node string, evicts bool) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if evicts {
		c.tainted[node] = true
	} else {
		delete(c.tainted, node)
	}
	return evicts
}

func (c *controller) addPods(ctx context.Context, q loop.Queue, node string) {
	var list corev1.PodList
	if err := c.env.Cluster.Client().List(ctx, &list, index.By("", index.PodNode, node)...); err != nil {
		c.env.Logger.Error("finding the pods of a node", "node", node, "err", err)
		return
	}
	for i := range list.Items {
		q.Add(loop.Key(list.Items[i].Namespace, list.Items[i].Name))
	}
}

func evicting(n *corev1.Node) []corev1.Taint {
	var out []corev1.Taint
	for _, t := range n.Spec.Taints {
		if t.Effect == corev1.TaintEffectNoExecute {
			out = append(out, t)
		}
	}
	return out
}

func sameTaint(a, b corev1.Taint) bool { return a.Key == b.Key && a.Value == b.Value }

func (c *controller) reconcile(ctx context.Context, key types.NamespacedName) (time.Duration, error) {
	pod, node := &corev1.Pod{}, &corev1.Node{}
	if err := c.env.Cluster.Client().Get(ctx, key, pod); err != nil {
		c.settle(key)
		return 0, client.IgnoreNotFound(err)
	}
	if pod.DeletionTimestamp != nil || pod.Spec.NodeName == "" {
		c.settle(key)
		return 0, nil
	}
	err := c.env.Cluster.Client().Get(ctx, types.NamespacedName{Name: pod.Spec.NodeName}, node)
	if err != nil && !apierrors.IsNotFound(err) {
		return 0, err
	}
	taints := evicting(node) // none, of a node that is gone
	stay, limit := tolerates(taints, pod.Spec.Tolerations)
	if stay && limit < 0 {
		if c.settle(key) {
			c.events.Eventf(pods.Reference(pod), corev1.EventTypeNormal, reason, "Cancelling deletion of Pod %s", key)
		}
		return 0, nil
	}
	if stay {
		now := c.env.Clock.Now()
		if left := c.since(pod, taints, now).Add(limit).Sub(now); left > 0 {
			return left, nil
		}
	}
	return 0, c.evict(ctx, key, pod)
}

// tolerates reports whether all taints are tolerated at all, and for how long;
// negative is for ever.
func tolerates(taints []corev1.Taint, tolerations []corev1.Toleration) (stay bool, limit time.Duration) {
	limit = -1
	for i := range taints {
		j := slices.IndexFunc(tolerations, func(t corev1.Toleration) bool { return tolerated(&taints[i], &t) })
		if j < 0 {
			return false, 0
		}
		if s := tolerations[j].TolerationSeconds; s != nil {
			if d := time.Duration(max(0, *s)) * time.Second; limit < 0 || d < limit {
				limit = d
			}
		}
	}
	return true, limit
}

func tolerated(taint *corev1.Taint, t *corev1.Toleration) bool {
	if (t.Effect != "" && t.Effect != taint.Effect) || (t.Key != "" && t.Key != taint.Key) {
		return false
	}
	switch t.Operator {
	case "", corev1.TolerationOpEqual:
		return t.Value == taint.Value
	case corev1.TolerationOpExists:
		return true
	}
	return false
}

// since is from when the pod's toleration is counted: from when the last taint
// was set, where that is known, so that a restart gives no new time; else from
// when it was first seen.
func (c *controller) since(pod *corev1.Pod, taints []corev1.Taint, now time.Time) time.Time {
	start := time.Time{}
	for _, t := range taints {
		if t.TimeAdded == nil {
			start = now
			break
		}
		if t.TimeAdded.After(start) {
			start = t.TimeAdded.Time
		}
	}
	if placed := placed(pod); placed.After(start) {
		start = placed // on a node that was tainted already
	}
	key := types.NamespacedName{Namespace: pod.Namespace, Name: pod.Name}
	c.mu.Lock()
	defer c.mu.Unlock()
	if p, ok := c.pending[key]; ok && p.uid == pod.UID {
		return p.since
	}
	c.pending[key] = pending{uid: pod.UID, since: start}
	return start
}

// placed is from when at the earliest a pod was on its node, whose kubelet may
// not have said so yet.
func placed(pod *corev1.Pod) time.Time {
	at := pod.CreationTimestamp.Time
	if c := pods.Condition(&pod.Status, corev1.PodScheduled); c != nil && c.Status == corev1.ConditionTrue && c.LastTransitionTime.After(at) {
		at = c.LastTransitionTime.Time
	}
	if s := pod.Status.StartTime; s != nil && s.After(at) {
		at = s.Time
	}
	return at
}

// settle stops a pod's time and reports whether it ran.
func (c *controller) settle(key types.NamespacedName) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, ran := c.pending[key]
	delete(c.pending, key)
	return ran
}

func (c *controller) evict(ctx context.Context, key types.NamespacedName, pod *corev1.Pod) error {
	c.events.Eventf(pods.Reference(pod), corev1.EventTypeNormal, reason, "Marking for deletion Pod %s", key)
	err := pods.Evict(ctx, c.env.Cluster.Client(), pod, "DeletionByTaintManager", "Taint manager: deleting due to NoExecute taint", c.env.Clock.Now())
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("evict pod %s: %w", key, err)
	}
	c.settle(key)
	return nil
}
