package registry

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/component-helpers/apps/poddisruptionbudget"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/apiserver/admission"
	"github.com/proa-dev/proa/store"
)

// maxDisruptedPods bounds the pods that a budget waits to see gone.
const maxDisruptedPods = 2000

// evict deletes a pod if the disruption budgets over it allow that.
func (c *Core) evict(ctx context.Context, t Target, ev *policyv1.Eviction, opts *metav1.CreateOptions) (runtime.Object, error) {
	if err := matchNamespace(t, ev); err != nil {
		return nil, err
	}
	a := c.attributes(ctx, t, admission.Create, ev, nil, opts, dryRun(opts.DryRun))
	a.GVK = policyv1.SchemeGroupVersion.WithKind("Eviction")
	if err := c.admit(ctx, a); err != nil {
		return nil, err
	}
	if ev.Name != "" && ev.Name != t.Name {
		return nil, apierrors.NewBadRequest("name in URL does not match name in Eviction object")
	}
	del, err := evictionOptions(t, ev, opts)
	if err != nil {
		return nil, err
	}
	if err := c.validate(ctx, a); err != nil {
		return nil, err
	}
	pods := Target{Kind: t.Kind, Namespace: t.Namespace, Name: t.Name}
	// A pod that changes while its budget is asked is looked at again: it may
	// have become one that the budget guards.
	for range maxAttempts {
		if err = c.evictOnce(ctx, pods, del); !errors.Is(err, errMoved) {
			break
		}
	}
	if errors.Is(err, errMoved) {
		err = conflict(pods, errors.New(modifiedText))
	}
	if err != nil {
		return nil, err
	}
	return success(http.StatusCreated), nil
}

// evictionOptions are how the pod is to be deleted.
func evictionOptions(t Target, ev *policyv1.Eviction, opts *metav1.CreateOptions) (*metav1.DeleteOptions, error) {
	del := &metav1.DeleteOptions{}
	if ev.DeleteOptions != nil {
		del = ev.DeleteOptions.DeepCopy()
	}
	if v := del.IgnoreStoreReadErrorWithClusterBreakingPotential; v != nil && *v {
		return nil, apierrors.NewInvalid(policyv1.SchemeGroupVersion.WithKind("Eviction").GroupKind(), t.Name, field.ErrorList{
			field.Invalid(field.NewPath("deleteOptions", "ignoreStoreReadErrorWithClusterBreakingPotential"), true,
				"can not be set for pod eviction, try after removing the option"),
		})
	}
	switch {
	case len(del.DryRun) == 0:
		del.DryRun = opts.DryRun
	case len(opts.DryRun) > 0 && !slices.Equal(del.DryRun, opts.DryRun):
		return nil, apierrors.NewBadRequest(fmt.Sprintf("Non-matching dry-run options in request and content: %v and %v", opts.DryRun, del.DryRun))
	}
	return del, nil
}

// errMoved says that the pod changed in between.
var errMoved = errors.New("the pod changed")

// evictOnce evicts the pod as it is now.
func (c *Core) evictOnce(ctx context.Context, t Target, del *metav1.DeleteOptions) error {
	r, e, err := c.entry(ctx, t, nil)
	if err != nil {
		return err
	}
	pod, ok := e.Object.(*corev1.Pod)
	if !ok {
		return apierrors.NewInternalError(fmt.Errorf("unexpected object: %T", e.Object))
	}
	if err := checkPreconditions(t, pod, del.Preconditions); err != nil {
		return err
	}
	dry := dryRun(del.DryRun)
	// still says that the pod must be gone as it is here: ready, it would be
	// the budget's.
	still := pod.Status.Phase == corev1.PodPending && pod.DeletionTimestamp == nil
	budget := ""
	if !outsideBudgets(pod) {
		if budget, still, err = c.spendBudget(ctx, pod, dry); err != nil {
			return err
		}
	}
	gone := del.DeepCopy()
	if gone.Preconditions == nil {
		gone.Preconditions = &metav1.Preconditions{}
	}
	gone.Preconditions.UID = &pod.UID
	asked := gone.Preconditions.ResourceVersion != nil
	if !dry {
		marked, err := c.markEvicted(ctx, r, e, pod, still || asked)
		switch {
		case errors.Is(err, errMoved) && budget != "" && !asked:
			return tooSoon(budget, 10, stillProcessed(budget))
		case err != nil:
			return err
		}
		if still || asked {
			gone.Preconditions.ResourceVersion = &marked
		}
	}
	_, _, err = c.remove(WithAdmitted(ctx), t, gone)
	switch {
	case !still || asked || !apierrors.IsConflict(err):
		return err
	case budget != "":
		return tooSoon(budget, 10, stillProcessed(budget))
	}
	return errMoved
}

// markEvicted notes on a pod why it goes, and returns its new version. exact
// says that only the pod as read may be marked; otherwise the latest is.
func (c *Core) markEvicted(ctx context.Context, r *resource, e *store.Entry, pod *corev1.Pod, exact bool) (string, error) {
	for range maxAttempts {
		next := pod.DeepCopy()
		setPodCondition(&next.Status, corev1.PodCondition{
			Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue,
			Reason: "EvictionByEvictionAPI", Message: "Eviction API: evicting",
			LastTransitionTime: c.now(),
		})
		ne, err := r.store.Update(ctx, e, next)
		switch {
		case err == nil:
			return ne.Object.GetResourceVersion(), nil
		case !errors.Is(err, store.ErrChanged):
			return "", storeError(err, r.kind.GR(), "update")
		case exact:
			return "", errMoved
		}
		t := Target{Kind: r.kind, Namespace: pod.Namespace, Name: pod.Name}
		var obj api.Object
		if _, e, err = c.entry(ctx, t, nil); err != nil {
			return "", err
		}
		obj = e.Object
		latest, ok := obj.(*corev1.Pod)
		if !ok || latest.UID != pod.UID {
			return "", checkPreconditions(t, obj, podUID(pod))
		}
		pod = latest
	}
	return "", errMoved
}

// now is the time as objects hold it.
func (c *Core) now() metav1.Time { return metav1.Time{Time: c.cfg.Now().UTC().Truncate(time.Second)} }

func setPodCondition(s *corev1.PodStatus, cond corev1.PodCondition) {
	for i := range s.Conditions {
		if have := &s.Conditions[i]; have.Type == cond.Type {
			if have.Status == cond.Status {
				cond.LastTransitionTime = have.LastTransitionTime
			}
			*have = cond
			return
		}
	}
	s.Conditions = append(s.Conditions, cond)
}

// outsideBudgets says that no budget counts the pod: it has ended, has not
// begun, or is going already.
func outsideBudgets(pod *corev1.Pod) bool {
	switch pod.Status.Phase {
	case corev1.PodSucceeded, corev1.PodFailed, corev1.PodPending:
		return true
	}
	return pod.DeletionTimestamp != nil
}

func ready(pod *corev1.Pod) bool {
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// spendBudget takes one disruption from the budget over pod, and returns the
// budget's name, empty for none. unspent says that the pod may go without, as
// long as it is not ready.
func (c *Core) spendBudget(ctx context.Context, pod *corev1.Pod, dry bool) (name string, unspent bool, err error) {
	k := c.cfg.Kinds.Set().ByKind(policyv1.SchemeGroupVersion.WithKind("PodDisruptionBudget"))
	if k == nil {
		return "", false, nil
	}
	r, err := c.resource(k)
	if err != nil {
		return "", false, err
	}
	for range maxAttempts {
		snap, err := r.store.Snapshot(ctx, store.MatchLatest, 0)
		if err != nil {
			return "", false, storeError(err, k.GR(), "list")
		}
		var found []*store.Entry
		snap.Ascend(pod.Namespace+"/", "", func(e *store.Entry) bool {
			if covers(e, pod) {
				found = append(found, e)
			}
			return true
		})
		switch len(found) {
		case 0:
			return "", false, nil
		case 1:
		default:
			return "", false, &apierrors.StatusError{ErrStatus: metav1.Status{
				Status: metav1.StatusFailure, Code: http.StatusInternalServerError,
				Message: "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.",
			}}
		}
		b := found[0].Object.(*policyv1.PodDisruptionBudget)
		name = b.Name
		if !ready(pod) && mayGoUnhealthy(b) {
			return name, true, nil
		}
		next, err := c.spent(b, pod)
		if err != nil || dry {
			return name, false, err
		}
		if _, err = r.store.Update(ctx, found[0], next); err == nil {
			return name, false, nil
		}
		if !errors.Is(err, store.ErrChanged) {
			return name, false, storeError(err, k.GR(), "update")
		}
	}
	return name, false, apierrors.NewTimeoutError(fmt.Sprintf("couldn't update PodDisruptionBudget %q due to conflicts", name), 10)
}

func covers(e *store.Entry, pod *corev1.Pod) bool {
	b, ok := e.Object.(*policyv1.PodDisruptionBudget)
	if !ok {
		return false
	}
	sel, err := metav1.LabelSelectorAsSelector(b.Spec.Selector)
	return err == nil && sel.Matches(labels.Set(pod.Labels))
}

// mayGoUnhealthy reports whether a budget lets pods go that are not ready.
func mayGoUnhealthy(b *policyv1.PodDisruptionBudget) bool {
	always := b.Spec.UnhealthyPodEvictionPolicy != nil && *b.Spec.UnhealthyPodEvictionPolicy == policyv1.AlwaysAllow
	return always || (b.Status.CurrentHealthy >= b.Status.DesiredHealthy && b.Status.DesiredHealthy > 0)
}

// spent returns the budget with one disruption less.
func (c *Core) spent(b *policyv1.PodDisruptionBudget, pod *corev1.Pod) (*policyv1.PodDisruptionBudget, error) {
	switch {
	case b.Status.ObservedGeneration < b.Generation:
		return nil, tooSoon(b.Name, 10, stillProcessed(b.Name))
	case b.Status.DisruptionsAllowed < 0:
		return nil, closed(b, "pdb disruptions allowed is negative", "pdb disruptions allowed is negative")
	case len(b.Status.DisruptedPods) > maxDisruptedPods:
		return nil, closed(b, "DisruptedPods map too big - too many evictions not confirmed by PDB controller",
			"too many pending evictions not confirmed by PDB controller")
	case b.Status.DisruptionsAllowed == 0:
		return nil, tooSoon(b.Name, 0, exhausted(b))
	}
	next := b.DeepCopy()
	next.Status.DisruptionsAllowed--
	if next.Status.DisruptionsAllowed == 0 {
		poddisruptionbudget.UpdateDisruptionAllowedCondition(next)
	}
	if next.Status.DisruptedPods == nil {
		next.Status.DisruptedPods = map[string]metav1.Time{}
	}
	next.Status.DisruptedPods[pod.Name] = c.now()
	return next, nil
}

// exhausted says why a budget allows nothing.
func exhausted(b *policyv1.PodDisruptionBudget) string {
	cond := cmp.Or(meta.FindStatusCondition(b.Status.Conditions, policyv1.DisruptionAllowedCondition), &metav1.Condition{})
	told := cond.Status == metav1.ConditionFalse && cond.Message != ""
	switch {
	case told && cond.Reason == policyv1.SyncFailedReason:
		// The counts cannot be trusted then.
		return fmt.Sprintf("The disruption budget %s does not allow evicting pods currently because it failed sync: %s", b.Name, cond.Message)
	case b.Status.CurrentHealthy <= b.Status.DesiredHealthy:
		return fmt.Sprintf("The disruption budget %s needs %d healthy pods and has %d currently", b.Name, b.Status.DesiredHealthy, b.Status.CurrentHealthy)
	case told:
		return fmt.Sprintf("The disruption budget %s does not allow evicting pods currently (%s): %s", b.Name, cond.Reason, cond.Message)
	}
	return fmt.Sprintf("The disruption budget %s does not allow evicting pods currently", b.Name)
}

func stillProcessed(budget string) string {
	return fmt.Sprintf("The disruption budget %s is still being processed by the server.", budget)
}

func tooSoon(budget string, after int, cause string) error {
	err := apierrors.NewTooManyRequests("Cannot evict pod as it would violate the pod's disruption budget.", after)
	return because(err, cause)
}

func closed(b *policyv1.PodDisruptionBudget, why, cause string) error {
	err := apierrors.NewForbidden(policyv1.Resource("poddisruptionbudget"), b.Name, errors.New(why))
	return because(err, fmt.Sprintf("The disruption budget %s does not allow evicting pods currently: %s", b.Name, cause))
}

func because(err *apierrors.StatusError, cause string) error {
	err.ErrStatus.Details.Causes = append(err.ErrStatus.Details.Causes, metav1.StatusCause{
		Type: policyv1.DisruptionBudgetCause, Message: cause,
	})
	return err
}
