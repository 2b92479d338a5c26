package devicetainteviction

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	applymeta "k8s.io/client-go/applyconfigurations/meta/v1"
	applyresource "k8s.io/client-go/applyconfigurations/resource/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proa-dev/proa/internal/devicetaint"
)

// statusPeriod is how often the status of a rule is written while it evicts.
const statusPeriod = 10 * time.Second

// tally is what a rule does, or would do.
type tally struct {
	pending, namespaces  int // pods that have to go, and where they are
	published, allocated int // devices
	evicted              int // pods, since the controller started
}

// reconcileRule writes how far a rule's evictions are: at once when the rule is
// new or changed, and from time to time while pods go.
func (c *controller) reconcileRule(ctx context.Context, name string) (time.Duration, error) {
	rule := &resourcev1.DeviceTaintRule{}
	if err := c.env.Cluster.Client().Get(ctx, types.NamespacedName{Name: name}, rule, client.UnsafeDisableDeepCopy); err != nil {
		return 0, client.IgnoreNotFound(err)
	}
	now := c.env.Clock.Now()
	old := meta.FindStatusCondition(rule.Status.Conditions, resourcev1.DeviceTaintConditionEvictionInProgress)
	if old != nil && old.ObservedGeneration == rule.Generation {
		if left := old.LastTransitionTime.Add(statusPeriod).Sub(now); left > 0 {
			return left, nil
		}
	}
	n, err := c.count(ctx, rule)
	if err != nil {
		return 0, err
	}
	cond := condition(rule, n)
	if old != nil {
		cond.LastTransitionTime = old.LastTransitionTime
		if cond == *old {
			return 0, nil
		}
	}
	status := applyresource.DeviceTaintRule(name).WithUID(rule.UID).WithStatus(applyresource.DeviceTaintRuleStatus().WithConditions(
		applymeta.Condition().WithType(cond.Type).WithStatus(cond.Status).WithReason(cond.Reason).WithMessage(cond.Message).
			WithObservedGeneration(cond.ObservedGeneration).WithLastTransitionTime(metav1.NewTime(now))))
	err = c.env.Cluster.Client().Status().Apply(ctx, status, client.FieldOwner(Name), client.ForceOwnership)
	if client.IgnoreNotFound(err) != nil {
		return 0, fmt.Errorf("tell how far the evictions of a rule are: %w", err)
	}
	return 0, nil
}

// count finds out what a rule does. One without an effect is taken to evict:
// who makes it wants to see what it would do.
func (c *controller) count(ctx context.Context, rule *resourcev1.DeviceTaintRule) (n tally, err error) {
	c.mu.Lock()
	n.evicted = c.evicted[rule.UID]
	c.mu.Unlock()
	effective := c.inventory.evicting()
	none := rule.Spec.Taint.Effect == resourcev1.DeviceTaintEffectNone
	switch {
	case none:
		effective = rules{rule}
	case !evicts(rule):
		return n, nil
	}
	claims, err := c.allocated(ctx)
	if err != nil {
		return n, err
	}
	if none {
		n.published = c.inventory.selected(rule)
	}
	byName := make(map[types.NamespacedName]*resourcev1.ResourceClaim, len(claims))
	for _, claim := range claims {
		byName[client.ObjectKeyFromObject(claim)] = claim
		for _, r := range claim.Status.Allocation.Devices.Results {
			if devicetaint.Selects(rule, r.Driver, r.Pool, r.Device) {
				n.allocated++
			}
		}
	}
	var list corev1.PodList
	if err := c.env.Cluster.Client().List(ctx, &list, client.UnsafeDisableDeepCopy); err != nil {
		return n, err
	}
	namespaces := map[string]bool{}
	for i := range list.Items {
		pod := &list.Items[i]
		if pod.DeletionTimestamp != nil || !usesClaims(pod) {
			continue
		}
		find := func(name string) *resourcev1.ResourceClaim {
			return byName[types.NamespacedName{Namespace: pod.Namespace, Name: name}]
		}
		e := c.inventory.evictionOf(pod, find, effective)
		if e != nil && slices.ContainsFunc(e.rules, func(r *resourcev1.DeviceTaintRule) bool { return r.UID == rule.UID }) {
			n.pending++
			namespaces[pod.Namespace] = true
		}
	}
	n.namespaces = len(namespaces)
	return n, nil
}

// condition puts in upstream's words what a rule does.
func condition(rule *resourcev1.DeviceTaintRule, n tally) metav1.Condition {
	c := metav1.Condition{Type: resourcev1.DeviceTaintConditionEvictionInProgress, Status: metav1.ConditionFalse, ObservedGeneration: rule.Generation}
	namespaces := plural(n.namespaces, "namespace", "different namespaces")
	var words []string
	switch effect := rule.Spec.Taint.Effect; {
	case effect == resourcev1.DeviceTaintEffectNone:
		c.Reason = "NoEffect"
		words = append(words,
			plural(n.published, "published device", "published devices")+" selected.",
			plural(n.allocated, "allocated device", "allocated devices")+" selected.",
			plural(n.pending, "pod", "pods")+" would be evicted in "+namespaces+" if the effect was NoExecute.",
			"This information will not be updated again. Recreate the DeviceTaintRule to trigger an update.")
	case effect != resourcev1.DeviceTaintEffectNoExecute:
		c.Reason = "OtherEffect"
		words = append(words, "Eviction only happens for the NoExecute effect.")
	case n.pending > 0:
		c.Reason, c.Status = "PodsPendingEviction", metav1.ConditionTrue
		words = append(words, plural(n.pending, "pod needs", "pods need")+" to be evicted in "+namespaces+".")
	case n.evicted > 0:
		c.Reason = "Completed"
	default:
		c.Reason = "NotStarted"
	}
	if n.evicted > 0 {
		words = append(words, plural(n.evicted, "pod", "pods")+" evicted since starting the controller.")
	}
	c.Message = strings.Join(words, " ")
	return c
}

func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}
