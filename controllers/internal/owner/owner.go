// Package owner decides which objects belong to a controller object such as a
// ReplicaSet: those that name it as their controller and match its selector.
// Matching orphans are adopted; owned objects that match no more are released.
package owner

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	proa "github.com/proa-dev/proa/client"
)

// Claim is one controller object's claim on others.
type Claim struct {
	Cluster  proa.Cluster
	Owner    client.Object
	Kind     schema.GroupVersionKind
	Selector labels.Selector
	// Fresh is an empty object of the owner's type.
	Fresh client.Object
	// Finalizer is what adopted objects get and released ones lose, if anything.
	Finalizer string

	checked  bool
	checkErr error
}

// Of returns those of objs that belong to the claim's owner, after adopting
// and releasing. Objects that could not be adopted or released are left out;
// their errors are joined.
func Of[T client.Object](ctx context.Context, c *Claim, objs []T, filter func(T) bool) ([]T, error) {
	var mine []T
	var errs []error
	for _, obj := range objs {
		match := c.Selector.Matches(labels.Set(obj.GetLabels())) && (filter == nil || filter(obj))
		ok, err := c.one(ctx, obj, match)
		if err != nil {
			errs = append(errs, err)
		} else if ok {
			mine = append(mine, obj)
		}
	}
	return mine, errors.Join(errs...)
}

func (c *Claim) one(ctx context.Context, obj client.Object, match bool) (bool, error) {
	if ref := metav1.GetControllerOfNoCopy(obj); ref != nil {
		switch {
		case ref.UID != c.Owner.GetUID():
			return false, nil
		case match:
			return true, nil
		case c.Owner.GetDeletionTimestamp() != nil:
			return false, nil
		}
		return false, c.release(ctx, obj)
	}
	if !match || c.Owner.GetDeletionTimestamp() != nil || obj.GetDeletionTimestamp() != nil {
		return false, nil
	}
	return c.adopt(ctx, obj)
}

// Ref returns the owner reference that makes owner the controller of an object.
func Ref(owner client.Object, kind schema.GroupVersionKind) metav1.OwnerReference {
	return *metav1.NewControllerRef(owner, kind)
}

// adopt makes obj the owner's. The owner is read fresh first: a cached one may
// be deleted already, and the garbage collector would take obj with it.
func (c *Claim) adopt(ctx context.Context, obj client.Object) (bool, error) {
	if err := c.mayAdopt(ctx); err != nil {
		return false, fmt.Errorf("can't adopt %T %v/%v (%v): %w", obj, obj.GetNamespace(), obj.GetName(), obj.GetUID(), err)
	}
	err := c.patch(ctx, obj, Ref(c.Owner, c.Kind), "finalizers")
	if apierrors.IsNotFound(err) {
		return false, nil
	}
	return err == nil, err
}

func (c *Claim) mayAdopt(ctx context.Context) error {
	if c.checked {
		return c.checkErr
	}
	c.checked = true
	err := c.Cluster.Reader().Get(ctx, client.ObjectKeyFromObject(c.Owner), c.Fresh)
	switch {
	case err != nil:
		c.checkErr = err
	case c.Fresh.GetUID() != c.Owner.GetUID():
		c.checkErr = fmt.Errorf("original %v %v/%v is gone: got uid %v, wanted %v",
			c.Kind.Kind, c.Owner.GetNamespace(), c.Owner.GetName(), c.Fresh.GetUID(), c.Owner.GetUID())
	case c.Fresh.GetDeletionTimestamp() != nil:
		c.checkErr = fmt.Errorf("%v/%v has just been deleted at %v",
			c.Owner.GetNamespace(), c.Owner.GetName(), c.Fresh.GetDeletionTimestamp())
	}
	return c.checkErr
}

// release takes the owner's reference off obj. One that is gone, or has lost
// the reference meanwhile (the patch is then invalid), is released already.
func (c *Claim) release(ctx context.Context, obj client.Object) error {
	err := c.patch(ctx, obj, map[string]any{"$patch": "delete", "uid": c.Owner.GetUID()}, "$deleteFromPrimitiveList/finalizers")
	if apierrors.IsNotFound(err) || apierrors.IsInvalid(err) {
		return nil
	}
	return err
}

// patch changes one owner reference, and the finalizer as a directive says. The
// UID in the patch is a precondition: another object of the same name is never
// touched.
func (c *Claim) patch(ctx context.Context, obj client.Object, ref any, finalizer string) error {
	meta := map[string]any{"uid": obj.GetUID(), "ownerReferences": []any{ref}}
	if c.Finalizer != "" {
		meta[finalizer] = []string{c.Finalizer}
	}
	data, err := json.Marshal(map[string]any{"metadata": meta})
	if err != nil {
		return fmt.Errorf("encode owner reference: %w", err)
	}
	target := obj.DeepCopyObject().(client.Object) // Patch writes the answer into it
	return c.Cluster.Client().Patch(ctx, target, client.RawPatch(types.StrategicMergePatchType, data))
}
