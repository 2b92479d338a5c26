// Package disruption is the disruption controller: it keeps in the status of
// each PodDisruptionBudget how many of its pods may be evicted.
//
// The API server spends that number: an eviction lowers it in one transaction
// and notes the pod as disrupted. From there on this controller does not count
// the pod, whether its deletion shows yet or not. Every write of ours is
// against the version of the budget that we read, so an eviction in between
// makes it fail. Without both, two evictions could be granted for one pod.
package disruption

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/tools/record"
	"k8s.io/component-helpers/apps/poddisruptionbudget"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/controllers/internal/fresh"
	"github.com/proa-dev/proa/controllers/internal/loop"
	"github.com/proa-dev/proa/controllers/internal/matching"
	"github.com/proa-dev/proa/controllers/internal/pods"
)

// Name is the controller's name in logs. Its events come from "controllermanager",
// as upstream's do.
const Name = "disruption-controller"

const (
	workers = 2
	// deletionTimeout is how long a pod whose eviction was granted does not
	// count. If it is not being deleted by then, it will not be.
	deletionTimeout = 2 * time.Minute
	// retry is when a budget whose status could not be found out is looked at
	// again, should nothing else call for it.
	retry = 30 * time.Second
)

type controller struct {
	env    loop.Env
	events record.EventRecorder
	kinds  func() []*api.Kind
	fresh  fresh.Pods
	// budgets by what they select; an empty selector selects all pods.
	budgets *matching.Index[*policyv1.PodDisruptionBudget]
}

// New makes the controller. kinds are all kinds that are served.
func New(env loop.Env, kinds func() []*api.Kind) (loop.Loop, error) {
	c := &controller{
		env: env.Named(Name), events: env.Cluster.Recorder("controllermanager"), kinds: kinds,
		budgets: matching.New(func(b *policyv1.PodDisruptionBudget) labels.Selector {
			s, err := metav1.LabelSelectorAsSelector(b.Spec.Selector)
			if err != nil {
				return labels.Nothing()
			}
			return s
		}),
	}
	budgets, err := loop.New(c.env, Name, workers, c.reconcile, c.watchBudgets(), c.watchPods())
	if err != nil {
		return loop.Loop{}, err
	}
	stale, err := c.newStale()
	if err != nil {
		return loop.Loop{}, err
	}
	return loop.Join(Name, budgets, stale), nil
}

func (c *controller) watchBudgets() source.Source {
	add := func(_ context.Context, q loop.Queue, b *policyv1.PodDisruptionBudget) {
		q.Add(loop.Key(b.Namespace, b.Name))
	}
	return loop.Watch(c.env.Cluster, &policyv1.PodDisruptionBudget{}, c.budgets.Fed(loop.On[*policyv1.PodDisruptionBudget]{
		Created: add,
		Updated: func(ctx context.Context, q loop.Queue, _, b *policyv1.PodDisruptionBudget) { add(ctx, q, b) },
		Deleted: func(_ context.Context, _ loop.Queue, b *policyv1.PodDisruptionBudget) { c.fresh.Forget(b.UID) },
	}))
}

// watchPods queues the budgets over pods that change in a way that counts.
func (c *controller) watchPods() source.Source {
	return loop.Watch(c.env.Cluster, &corev1.Pod{}, loop.On[*corev1.Pod]{
		Created: func(_ context.Context, q loop.Queue, p *corev1.Pod) { c.addOver(q, p) },
		Deleted: func(_ context.Context, q loop.Queue, p *corev1.Pod) { c.addOver(q, p) },
		Updated: func(_ context.Context, q loop.Queue, old, p *corev1.Pod) {
			relabelled := !labels.Equals(old.Labels, p.Labels)
			if relabelled {
				c.addOver(q, old)
			}
			if relabelled || pods.Ready(old) != pods.Ready(p) || (old.DeletionTimestamp == nil) != (p.DeletionTimestamp == nil) ||
				!apiequality.Semantic.DeepEqual(old.OwnerReferences, p.OwnerReferences) {
				c.addOver(q, p)
			}
		},
	})
}

func (c *controller) addOver(q loop.Queue, pod *corev1.Pod) {
	names := c.budgets.Names(pod.Namespace, pod.Labels)
	for _, name := range names {
		q.Add(loop.Key(pod.Namespace, name))
	}
	if len(names) > 1 {
		c.events.Eventf(pod, corev1.EventTypeWarning, "MultiplePodDisruptionBudgets",
			"Pod %q/%q matches multiple PodDisruptionBudgets.  Chose %q arbitrarily.", pod.Namespace, pod.Name, names[0])
	}
}

func (c *controller) reconcile(ctx context.Context, key types.NamespacedName) (time.Duration, error) {
	b := &policyv1.PodDisruptionBudget{}
	if err := c.env.Cluster.Client().Get(ctx, key, b); err != nil {
		return 0, client.IgnoreNotFound(err)
	}
	again, err := c.sync(ctx, b)
	if err == nil || apierrors.IsConflict(err) || ctx.Err() != nil {
		return again, err
	}
	c.env.Logger.Error("finding out what a budget allows", "budget", key, "err", err)
	if failErr := c.close(ctx, b, err); failErr != nil {
		return 0, failErr
	}
	if errors.As(err, new(*unscalableError)) {
		return 0, nil // until something changes
	}
	return retry, nil
}

// sync writes what a budget allows. again is when a granted eviction runs out.
func (c *controller) sync(ctx context.Context, b *policyv1.PodDisruptionBudget) (again time.Duration, err error) {
	selector, err := metav1.LabelSelectorAsSelector(b.Spec.Selector)
	if err != nil {
		c.events.Eventf(b, corev1.EventTypeWarning, "NoPods", "Failed to get pods: %v", err)
		return 0, err
	}
	covered, err := c.covered(ctx, b, selector)
	if err != nil {
		c.events.Eventf(b, corev1.EventTypeWarning, "NoPods", "Failed to get pods: %v", err)
		return 0, err
	}
	shown, err := c.fresh.Shown(ctx, c.env.Cluster.Reader(), b, selector, covered, func(*corev1.Pod) bool { return true })
	if !shown || err != nil {
		return loop.StaleDelay, err
	}
	if len(covered) == 0 {
		c.events.Event(b, corev1.EventTypeNormal, "NoPods", "No matching pods found")
	}
	expected, desired, err := c.demand(ctx, b, covered)
	if err != nil {
		c.events.Eventf(b, corev1.EventTypeWarning, "CalculateExpectedPodCountFailed", "Failed to calculate the number of expected pods: %v", err)
		return 0, err
	}
	now := c.env.Clock.Now()
	disrupted, again := c.disrupted(b, covered, now)
	healthy := int32(0)
	for _, p := range covered {
		if _, going := disrupted[p.Name]; !going && p.DeletionTimestamp == nil && pods.Ready(p) {
			healthy++
		}
	}
	return again, c.write(ctx, b, policyv1.PodDisruptionBudgetStatus{
		ObservedGeneration: b.Generation, DisruptedPods: disrupted,
		CurrentHealthy: healthy, DesiredHealthy: desired, ExpectedPods: expected,
	})
}

// covered returns the pods that a budget selects, shared with the cache.
func (c *controller) covered(ctx context.Context, b *policyv1.PodDisruptionBudget, selector labels.Selector) ([]*corev1.Pod, error) {
	var list corev1.PodList
	err := c.env.Cluster.Client().List(ctx, &list, client.InNamespace(b.Namespace),
		client.MatchingLabelsSelector{Selector: selector}, client.UnsafeDisableDeepCopy)
	out := make([]*corev1.Pod, len(list.Items))
	for i := range list.Items {
		out[i] = &list.Items[i]
	}
	return out, err
}

// demand returns how many pods there should be, and how many of them healthy.
func (c *controller) demand(ctx context.Context, b *policyv1.PodDisruptionBudget, covered []*corev1.Pod) (expected, desired int32, err error) {
	least, most := b.Spec.MinAvailable, b.Spec.MaxUnavailable
	switch {
	case most != nil:
		if expected, err = c.expected(ctx, b, covered); err != nil {
			return 0, 0, err
		}
		n, err := intstr.GetScaledValueFromIntOrPercent(most, int(expected), true)
		return expected, int32(max(0, int(expected)-n)), err
	case least == nil:
		return 0, 0, nil
	case least.Type == intstr.Int:
		return int32(len(covered)), least.IntVal, nil
	}
	if expected, err = c.expected(ctx, b, covered); err != nil {
		return 0, 0, err
	}
	n, err := intstr.GetScaledValueFromIntOrPercent(least, int(expected), true)
	return expected, int32(n), err
}

// disrupted returns the pods whose granted eviction does not show yet, and when
// to look for the first that runs out.
func (c *controller) disrupted(b *policyv1.PodDisruptionBudget, covered []*corev1.Pod, now time.Time) (map[string]metav1.Time, time.Duration) {
	out := map[string]metav1.Time{}
	var again time.Duration
	for _, p := range covered {
		since, ok := b.Status.DisruptedPods[p.Name]
		if !ok || p.DeletionTimestamp != nil {
			continue
		}
		left := since.Add(deletionTimeout).Sub(now)
		if left < 0 {
			c.events.Eventf(p, corev1.EventTypeWarning, "NotDeleted", "Pod was expected by PDB %s/%s to be deleted but it wasn't", b.Namespace, b.Name)
			continue
		}
		out[p.Name] = since
		// One more, or it would be too early by the fraction of a second that
		// times lose in the status.
		if left += time.Second; again == 0 || left < again {
			again = left
		}
	}
	return out, again
}

// write completes and writes a status. A budget over nothing allows nothing:
// its first pods must not be evicted before they were counted.
func (c *controller) write(ctx context.Context, b *policyv1.PodDisruptionBudget, s policyv1.PodDisruptionBudgetStatus) error {
	if s.ExpectedPods > 0 {
		s.DisruptionsAllowed = max(0, s.CurrentHealthy-s.DesiredHealthy)
	}
	s.Conditions = b.Status.Conditions
	if apiequality.Semantic.DeepEqual(b.Status, s) && poddisruptionbudget.ConditionsAreUpToDate(b) {
		return nil
	}
	out := b.DeepCopy()
	s.DeepCopyInto(&out.Status)
	poddisruptionbudget.UpdateDisruptionAllowedCondition(out)
	return c.env.Cluster.Client().Status().Update(ctx, out)
}

// close makes a budget allow nothing when it cannot be told what it does.
func (c *controller) close(ctx context.Context, b *policyv1.PodDisruptionBudget, why error) error {
	out := b.DeepCopy()
	out.Status.DisruptionsAllowed = 0
	apimeta.SetStatusCondition(&out.Status.Conditions, metav1.Condition{
		Type: policyv1.DisruptionAllowedCondition, Status: metav1.ConditionFalse,
		Reason: policyv1.SyncFailedReason, Message: why.Error(), ObservedGeneration: out.Status.ObservedGeneration,
	})
	if apiequality.Semantic.DeepEqual(b.Status, out.Status) {
		return nil
	}
	if err := c.env.Cluster.Client().Status().Update(ctx, out); err != nil {
		return fmt.Errorf("close budget: %w", err)
	}
	return nil
}
