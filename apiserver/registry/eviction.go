package registry

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"

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
	if ev.Name != "" && ev.Name != t.Name {
		return nil, apierrors.NewBadRequest("name in URL does not match name in Eviction object")
	}
	a := c.attributes(ctx, t, admission.Create, ev, nil, opts, dryRun(opts.DryRun))
	a.GVK = policyv1.SchemeGroupVersion.WithKind("Eviction")
	if err := c.admit(ctx, a); err != nil {
		return nil, err
	}
	if err := c.validate(ctx, a); err != nil {
		return nil, err
	}
	del := &metav1.DeleteOptions{}
	if ev.DeleteOptions != nil {
		del = ev.DeleteOptions.DeepCopy()
	}
	if dryRun(opts.DryRun) {
		del.DryRun = opts.DryRun
	}
	pods := Target{Kind: t.Kind, Namespace: t.Namespace, Name: t.Name}
	_, e, err := c.entry(ctx, pods, nil)
	if err != nil {
		return nil, err
	}
	pod, ok := e.Object.(*corev1.Pod)
	if !ok {
		return nil, apierrors.NewInternalError(fmt.Errorf("unexpected object: %T", e.Object))
	}
	if err := checkPreconditions(pods, pod, del.Preconditions); err != nil {
		return nil, err
	}
	if !outsideBudgets(pod) {
		if err := c.spendBudget(ctx, pod, dryRun(del.DryRun)); err != nil {
			return nil, err
		}
	}
	if del.Preconditions == nil {
		del.Preconditions = podUID(pod)
	}
	if _, _, err := c.remove(ctx, pods, del); err != nil {
		return nil, err
	}
	return success(http.StatusCreated), nil
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

// spendBudget takes one disruption from the budget over pod.
func (c *Core) spendBudget(ctx context.Context, pod *corev1.Pod, dry bool) error {
	k := c.cfg.Kinds.Set().ByKind(policyv1.SchemeGroupVersion.WithKind("PodDisruptionBudget"))
	if k == nil {
		return nil
	}
	r, err := c.resource(k)
	if err != nil {
		return err
	}
	for range maxAttempts {
		snap, err := r.store.Snapshot(ctx, store.MatchLatest, 0)
		if err != nil {
			return storeError(err, k.GR(), "list")
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
			return nil
		case 1:
		default:
			return apierrors.NewInternalError(errors.New("This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.")) //nolint:staticcheck // upstream's text
		}
		next, err := c.spent(found[0].Object.(*policyv1.PodDisruptionBudget), pod)
		if err != nil || next == nil || dry {
			return err
		}
		if _, err = r.store.Update(ctx, found[0], next); err == nil {
			return nil
		}
		if !errors.Is(err, store.ErrChanged) {
			return storeError(err, k.GR(), "update")
		}
	}
	return apierrors.NewTooManyRequests("couldn't update PodDisruptionBudget due to conflicts", 10)
}

func covers(e *store.Entry, pod *corev1.Pod) bool {
	b, ok := e.Object.(*policyv1.PodDisruptionBudget)
	if !ok {
		return false
	}
	sel, err := metav1.LabelSelectorAsSelector(b.Spec.Selector)
	return err == nil && sel.Matches(labels.Set(pod.Labels))
}

// spent returns the budget with one disruption less, nil when the pod may go
// without.
func (c *Core) spent(b *policyv1.PodDisruptionBudget, pod *corev1.Pod) (*policyv1.PodDisruptionBudget, error) {
	if !ready(pod) {
		healthy := b.Status.CurrentHealthy >= b.Status.DesiredHealthy && b.Status.DesiredHealthy > 0
		always := b.Spec.UnhealthyPodEvictionPolicy != nil && *b.Spec.UnhealthyPodEvictionPolicy == policyv1.AlwaysAllow
		if always || healthy {
			return nil, nil
		}
	}
	if b.Status.ObservedGeneration < b.Generation {
		return nil, tooSoon(b, 10, fmt.Sprintf("The disruption budget %s is still being processed by the server.", b.Name))
	}
	gr := policyv1.Resource("poddisruptionbudget")
	switch {
	case b.Status.DisruptionsAllowed < 0:
		return nil, apierrors.NewForbidden(gr, b.Name, errors.New("pdb disruptions allowed is negative"))
	case len(b.Status.DisruptedPods) > maxDisruptedPods:
		return nil, apierrors.NewForbidden(gr, b.Name, errors.New("DisruptedPods map too big - too many evictions not confirmed by PDB controller"))
	case b.Status.DisruptionsAllowed == 0:
		return nil, tooSoon(b, 0, fmt.Sprintf("The disruption budget %s needs %d healthy pods and has %d currently", b.Name, b.Status.DesiredHealthy, b.Status.CurrentHealthy))
	}
	next := b.DeepCopy()
	next.Status.DisruptionsAllowed--
	if next.Status.DisruptedPods == nil {
		next.Status.DisruptedPods = map[string]metav1.Time{}
	}
	next.Status.DisruptedPods[pod.Name] = metav1.Time{Time: c.cfg.Now().UTC().Truncate(time.Second)}
	return next, nil
}

func tooSoon(b *policyv1.PodDisruptionBudget, after int, cause string) error {
	err := apierrors.NewTooManyRequests("Cannot evict pod as it would violate the pod's disruption budget.", after)
	err.ErrStatus.Details.Causes = append(err.ErrStatus.Details.Causes, metav1.StatusCause{
		Type: policyv1.DisruptionBudgetCause, Message: cause,
	})
	return err
}
