package registry

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/apiserver/admission"
	"github.com/proa-dev/proa/store"
)

// Delete implements Registry.
//
// An object goes through up to three states: alive; terminating (it has a
// deletionTimestamp and waits for its grace period, its finalizers, or both);
// gone. Objects with neither go at once.
func (c *Core) Delete(ctx context.Context, t Target, opts *metav1.DeleteOptions) (runtime.Object, bool, error) {
	if err := c.authorize(ctx, "delete", t); err != nil {
		return nil, false, err
	}
	if t.Subresource != "" {
		return nil, false, apierrors.NewMethodNotSupported(t.Kind.GR(), "delete")
	}
	if opts == nil {
		opts = &metav1.DeleteOptions{}
	}
	if err := optionsError("DeleteOptions", metavalidation.ValidateDeleteOptions(opts)); err != nil {
		return nil, false, err
	}
	if ptr.Deref(opts.IgnoreStoreReadErrorWithClusterBreakingPotential, false) {
		return c.removeUnreadable(ctx, t, opts)
	}
	return c.remove(ctx, t, opts)
}

func (c *Core) remove(ctx context.Context, t Target, opts *metav1.DeleteOptions) (runtime.Object, bool, error) {
	r, err := c.resource(t.Kind)
	if err != nil {
		return nil, false, err
	}
	for range maxAttempts {
		e, err := r.store.Latest(ctx, t.key())
		if err != nil {
			return nil, false, storeError(err, t.Kind.GR(), "delete")
		}
		if e == nil {
			return nil, false, apierrors.NewNotFound(t.Kind.GR(), t.Name)
		}
		obj, gone, err := c.removeOnce(ctx, r, t, e, opts.DeepCopy())
		if errors.Is(err, store.ErrChanged) {
			continue
		}
		if err != nil {
			return nil, false, storeError(err, t.Kind.GR(), "delete")
		}
		return obj, gone, nil
	}
	return nil, false, conflict(t, errors.New(modifiedText))
}

func (c *Core) removeOnce(ctx context.Context, r *resource, t Target, e *store.Entry, opts *metav1.DeleteOptions) (runtime.Object, bool, error) {
	live, err := r.served(e)
	if err != nil {
		return nil, false, err
	}
	if err := checkPreconditions(t, live, opts.Preconditions); err != nil {
		return nil, false, err
	}
	dry := dryRun(opts.DryRun)
	next, done := c.nextState(t.Kind, live, opts)
	if next == nil && !done {
		return live, false, nil // it is ending already, and nothing changes
	}
	if err := c.admitDelete(ctx, t, live, opts); err != nil {
		return nil, false, err
	}
	if next == nil {
		gone, err := c.finishDelete(ctx, r, t, e, live, dry)
		if err != nil {
			return nil, false, err
		}
		return deletedAnswer(t.Kind, gone), true, nil
	}
	if dry {
		return next, false, nil
	}
	stored, err := r.toStored(next)
	if err != nil {
		return nil, false, err
	}
	ne, err := r.store.Update(ctx, e, stored)
	if err != nil {
		return nil, false, err
	}
	obj, err := r.served(ne)
	return obj, false, err
}

func (c *Core) admitDelete(ctx context.Context, t Target, live api.Object, opts *metav1.DeleteOptions) error {
	if done, _ := ctx.Value(admittedKey{}).(bool); done {
		return nil
	}
	a := c.attributes(ctx, t, admission.Delete, nil, live, opts, dryRun(opts.DryRun))
	if err := c.admit(ctx, a); err != nil {
		return err
	}
	return c.validate(ctx, a)
}

func checkPreconditions(t Target, live api.Object, p *metav1.Preconditions) error {
	if p == nil {
		return nil
	}
	if p.UID != nil && *p.UID != live.GetUID() {
		return conflict(t, fmt.Errorf("the UID in the precondition (%s) does not match the UID in record (%s). The object might have been deleted and then recreated", *p.UID, live.GetUID()))
	}
	if p.ResourceVersion != nil && *p.ResourceVersion != live.GetResourceVersion() {
		return conflict(t, fmt.Errorf("the ResourceVersion in the precondition (%s) does not match the ResourceVersion in record (%s). The object might have been modified", *p.ResourceVersion, live.GetResourceVersion()))
	}
	return nil
}

// nextState says what a delete request makes of live: a changed object to
// store, or (nil, true) to remove it now, or (nil, false) to leave it.
func (c *Core) nextState(k *api.Kind, live api.Object, opts *metav1.DeleteOptions) (next api.Object, remove bool) {
	if isNamespace(k) {
		return c.nextNamespace(live, opts)
	}
	graceful, pending, grace := gracePeriod(k, live, opts)
	if pending {
		return nil, false
	}
	if k.BeginDelete != nil && live.GetDeletionTimestamp() == nil {
		live = live.DeepCopyObject().(api.Object)
		k.BeginDelete(live)
	}
	finalizers, changed := collectorFinalizers(k, live, opts)
	if !graceful && len(finalizers) == 0 {
		return nil, true
	}
	if graceful && grace == 0 && len(finalizers) == 0 {
		return nil, true
	}
	now := c.cfg.Now().UTC().Truncate(time.Second)
	obj := live.DeepCopyObject().(api.Object)
	if changed {
		obj.SetFinalizers(finalizers)
	}
	if !graceful {
		markDeleting(obj, now)
		return obj, false
	}
	if old := live.GetDeletionTimestamp(); old != nil { // a shorter grace period
		began := old.Add(-time.Duration(ptr.Deref(live.GetDeletionGracePeriodSeconds(), 0)) * time.Second)
		obj.SetDeletionTimestamp(&metav1.Time{Time: began.Add(time.Duration(grace) * time.Second)})
	} else {
		obj.SetDeletionTimestamp(&metav1.Time{Time: now.Add(time.Duration(grace) * time.Second)})
		bumpGeneration(obj)
	}
	obj.SetDeletionGracePeriodSeconds(&grace)
	return obj, false
}

// gracePeriod says whether live ends gracefully, whether that is under way
// and this request changes nothing, and the seconds it gets.
func gracePeriod(k *api.Kind, live api.Object, opts *metav1.DeleteOptions) (graceful, pending bool, seconds int64) {
	if opts.GracePeriodSeconds != nil && *opts.GracePeriodSeconds < 0 {
		opts.GracePeriodSeconds = ptr.To[int64](1)
	}
	if k.GracePeriod == nil {
		return false, false, 0
	}
	if live.GetDeletionTimestamp() != nil {
		had := live.GetDeletionGracePeriodSeconds()
		switch {
		case had == nil:
			return false, false, 0
		case opts.GracePeriodSeconds == nil || *opts.GracePeriodSeconds >= *had:
			// A period of zero has run out: what is left are finalizers, or
			// an owner of the last step that was late.
			if *had == 0 && len(live.GetFinalizers()) == 0 {
				return true, false, 0
			}
			return false, true, *had
		}
		return true, false, *opts.GracePeriodSeconds
	}
	return true, false, max(k.GracePeriod(live, opts.GracePeriodSeconds), 0)
}

// markDeleting sets the deletion time of an object that waits for finalizers.
func markDeleting(obj api.Object, now time.Time) {
	if old := obj.GetDeletionTimestamp(); old == nil || old.After(now) {
		if old == nil {
			bumpGeneration(obj)
		}
		obj.SetDeletionTimestamp(&metav1.Time{Time: now})
	}
	obj.SetDeletionGracePeriodSeconds(ptr.To[int64](0))
}

func bumpGeneration(obj api.Object) {
	if g := obj.GetGeneration(); g > 0 {
		obj.SetGeneration(g + 1)
	}
}

// collectorFinalizers adds or removes the finalizers by which the garbage
// collector learns of the propagation policy.
func collectorFinalizers(k *api.Kind, live api.Object, opts *metav1.DeleteOptions) (out []string, changed bool) {
	old := live.GetFinalizers()
	for _, f := range old {
		if f != metav1.FinalizerOrphanDependents && f != metav1.FinalizerDeleteDependents {
			out = append(out, f)
		}
	}
	if orphans(k, old, opts) {
		out = append(out, metav1.FinalizerOrphanDependents)
	}
	if foreground(old, opts) {
		out = append(out, metav1.FinalizerDeleteDependents)
	}
	a, b := slices.Clone(old), slices.Clone(out)
	slices.Sort(a)
	slices.Sort(b)
	if slices.Equal(a, b) {
		return old, false
	}
	return out, true
}

func orphans(k *api.Kind, finalizers []string, opts *metav1.DeleteOptions) bool {
	switch {
	case opts.OrphanDependents != nil: //nolint:staticcheck // clients still send it
		return *opts.OrphanDependents
	case opts.PropagationPolicy != nil:
		return *opts.PropagationPolicy == metav1.DeletePropagationOrphan
	case slices.Contains(finalizers, metav1.FinalizerOrphanDependents):
		return true
	case slices.Contains(finalizers, metav1.FinalizerDeleteDependents):
		return false
	}
	return k.OrphanByDefault
}

func foreground(finalizers []string, opts *metav1.DeleteOptions) bool {
	switch {
	case opts.OrphanDependents != nil:
		return false
	case opts.PropagationPolicy != nil:
		return *opts.PropagationPolicy == metav1.DeletePropagationForeground
	}
	return slices.Contains(finalizers, metav1.FinalizerDeleteDependents)
}

// deletedByUpdate says that an update took away what a terminating object
// waited for.
func deletedByUpdate(obj, live api.Object) bool {
	if live.GetDeletionTimestamp() == nil || len(obj.GetFinalizers()) > 0 {
		return false
	}
	if hasNamespaceFinalizers(obj) {
		return false
	}
	return ptr.Deref(live.GetDeletionGracePeriodSeconds(), 0) == 0
}

// finishDelete removes the entry and returns obj as it was last.
func (c *Core) finishDelete(ctx context.Context, r *resource, t Target, e *store.Entry, obj api.Object, dry bool) (api.Object, error) {
	if dry {
		return obj, nil
	}
	gone, err := r.store.Delete(ctx, e)
	if err != nil {
		return nil, err
	}
	r.heed(ctx, gone)
	c.released(ctx, t, obj)
	if obj == e.Object {
		return r.served(gone)
	}
	out := obj.DeepCopyObject().(api.Object)
	out.SetResourceVersion(formatVersion(gone.Revision))
	return out, nil
}

// deletedAnswer is the body of a delete that removed obj: the object for kinds
// that end gracefully, else a Status.
func deletedAnswer(k *api.Kind, obj api.Object) runtime.Object {
	if k.GracePeriod != nil {
		return obj
	}
	return &metav1.Status{
		TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"},
		Status:   metav1.StatusSuccess,
		Details: &metav1.StatusDetails{
			Name: obj.GetName(), Group: k.GVK.Group, Kind: k.Resource, UID: obj.GetUID(),
		},
	}
}

// collectionWorkers is how many objects of a collection are deleted at a time.
const collectionWorkers = 8

// DeleteCollection implements Registry.
func (c *Core) DeleteCollection(ctx context.Context, t Target, opts *metav1.DeleteOptions, list *metav1.ListOptions) (runtime.Object, error) {
	if err := c.authorizeMany(ctx, "deletecollection", t, list); err != nil {
		return nil, err
	}
	if opts == nil {
		opts = &metav1.DeleteOptions{}
	}
	if err := optionsError("DeleteOptions", metavalidation.ValidateDeleteOptions(opts)); err != nil {
		return nil, err
	}
	if ptr.Deref(opts.IgnoreStoreReadErrorWithClusterBreakingPotential, false) {
		return nil, optionsError("DeleteOptions", field.ErrorList{field.Invalid(field.NewPath("ignoreStoreReadErrorWithClusterBreakingPotential"), true,
			"is not allowed with DELETECOLLECTION, try again after removing the option")})
	}
	l, err := c.list(ctx, t, list)
	if err != nil {
		return nil, err
	}
	objs, err := l.Objects()
	if err != nil {
		return nil, err
	}
	if err := c.deleteAll(ctx, t, objs, opts); err != nil {
		return nil, err
	}
	out := t.Kind.NewList()
	listMeta, err := meta.ListAccessor(out)
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	listMeta.SetResourceVersion(l.Meta.ResourceVersion)
	listMeta.SetContinue(l.Meta.Continue)
	listMeta.SetRemainingItemCount(l.Meta.RemainingItemCount)
	items := make([]runtime.Object, len(objs))
	for i, o := range objs {
		items[i] = o
	}
	if err := meta.SetList(out, items); err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	out.GetObjectKind().SetGroupVersionKind(t.Kind.ListGVK())
	return out, nil
}

func (c *Core) deleteAll(ctx context.Context, t Target, objs []api.Object, opts *metav1.DeleteOptions) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	work := make(chan api.Object)
	errs := make(chan error, collectionWorkers)
	for range collectionWorkers {
		go func() {
			var failed error
			for obj := range work {
				if failed != nil {
					continue
				}
				one := Target{Kind: t.Kind, Namespace: obj.GetNamespace(), Name: obj.GetName()}
				o := opts.DeepCopy()
				uid := obj.GetUID()
				if o.Preconditions == nil {
					o.Preconditions = &metav1.Preconditions{}
				}
				if o.Preconditions.UID == nil {
					o.Preconditions.UID = ptr.To[types.UID](uid)
				}
				if _, _, err := c.remove(ctx, one, o); err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
					failed = err
					cancel()
				}
			}
			errs <- failed
		}()
	}
	for _, obj := range objs {
		if ctx.Err() != nil {
			break
		}
		work <- obj
	}
	close(work)
	var first error
	for range collectionWorkers {
		if err := <-errs; err != nil && (first == nil || apierrors.IsTimeout(first)) {
			first = err
		}
	}
	return first
}
