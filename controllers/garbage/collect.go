package garbage

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proa-dev/proa/api"
)

// reconcile decides about one object.
func (c *controller) reconcile(ctx context.Context, key types.NamespacedName) (time.Duration, error) {
	n, ok := c.graph.get(types.UID(key.Name))
	if !ok || (n.deleting && !n.foreground && !n.orphan) {
		return 0, nil // gone, or on its way
	}
	kind := c.now(n.kind)
	if kind == nil {
		return 0, nil // gone with its kind
	}
	live, err := c.live(ctx, kind, n.namespace, n.name)
	if err != nil || live == nil || live.GetUID() != n.uid {
		return 0, err // gone; the watch will tell
	}
	now := nodeOf(kind, live)
	switch {
	case now.orphan:
		return 0, c.orphan(ctx, now, live)
	case now.foreground:
		return 0, c.endForeground(ctx, now, live)
	case now.deleting:
		return 0, nil
	}
	return c.judge(ctx, now, live)
}

// owners are the owners of an object, sorted by what is to become of them.
type owners struct {
	solid, dangling, waiting []metav1.OwnerReference
	// unseen: a solid owner is not in the graph. unknown: an owner cannot be
	// looked up. Both are worth another look later.
	unseen, unknown bool
}

// judge deletes an object without a solid owner.
func (c *controller) judge(ctx context.Context, n *node, live api.Object) (time.Duration, error) {
	if len(n.owners) == 0 {
		return 0, nil
	}
	o, err := c.sort(ctx, n)
	if err != nil {
		return 0, err
	}
	again := time.Duration(0)
	if o.unseen || o.unknown {
		again = recheck
	}
	switch {
	case o.unknown:
		return again, nil
	case len(o.solid) > 0:
		if len(o.dangling)+len(o.waiting) == 0 {
			return again, nil
		}
		return again, c.patch(ctx, n.kind, live, "ownerReferences", o.solid)
	case len(o.waiting) > 0:
		dependents := c.graph.dependentsOf(n.uid)
		if len(dependents) == 0 {
			break
		}
		// In a circle of owners each would wait for the next: let go of ours.
		if slices.ContainsFunc(dependents, func(d node) bool { return d.foreground }) {
			if err := c.unblock(ctx, n, live); err != nil {
				return 0, err
			}
		}
		return 0, c.delete(ctx, n, live, metav1.DeletePropagationForeground)
	}
	return 0, c.delete(ctx, n, live, policyOf(live))
}

// policyOf keeps to what an earlier deletion of the object asked for.
func policyOf(live api.Object) metav1.DeletionPropagation {
	switch {
	case slices.Contains(live.GetFinalizers(), metav1.FinalizerOrphanDependents):
		return metav1.DeletePropagationOrphan
	case slices.Contains(live.GetFinalizers(), metav1.FinalizerDeleteDependents):
		return metav1.DeletePropagationForeground
	}
	return metav1.DeletePropagationBackground
}

func (c *controller) sort(ctx context.Context, n *node) (*owners, error) {
	o := &owners{}
	for _, ref := range n.owners {
		gv, err := schema.ParseGroupVersion(ref.APIVersion)
		kind := c.kind(gv.WithKind(ref.Kind))
		owner, seen := c.graph.get(ref.UID)
		if seen && !owner.reachable(n) {
			c.reportMisplaced(n, ref)
		}
		if err != nil || kind == nil || (kind.Namespaced && n.namespace == "") {
			// Never delete on what cannot be looked up. A kind may come yet; a
			// reference out of the cluster's scope never leads anywhere.
			o.unknown = o.unknown || kind == nil
			o.solid = append(o.solid, ref)
			continue
		}
		key := ownerKey{uid: ref.UID, name: ref.Name, kind: kind.GVK}
		if kind.Namespaced {
			key.namespace = n.namespace
		}
		if _, gone := c.absent.Get(key); gone {
			o.dangling = append(o.dangling, ref)
			continue
		}
		found, err := c.live(ctx, kind, key.namespace, ref.Name)
		switch {
		case err != nil:
			return nil, err
		case found == nil || found.GetUID() != ref.UID:
			c.absent.Add(key, nil)
			o.dangling = append(o.dangling, ref)
		case found.GetDeletionTimestamp() != nil && slices.Contains(found.GetFinalizers(), metav1.FinalizerDeleteDependents):
			o.waiting = append(o.waiting, ref)
		default:
			o.solid = append(o.solid, ref)
			o.unseen = o.unseen || !seen
		}
	}
	return o, nil
}

// endForeground lets an owner go when nothing blocks it any more.
func (c *controller) endForeground(ctx context.Context, n *node, live api.Object) error {
	blocking := c.graph.blocking(n.uid)
	if len(blocking) == 0 {
		return c.dropFinalizer(ctx, n.kind, live, metav1.FinalizerDeleteDependents)
	}
	for _, d := range blocking {
		if !d.foreground {
			c.graph.queue(d.uid)
		}
	}
	return nil
}

// orphan sets an owner's dependents free, then lets the owner go.
func (c *controller) orphan(ctx context.Context, n *node, live api.Object) error {
	for _, d := range c.graph.dependentsOf(n.uid) {
		kind := c.now(d.kind)
		if kind == nil {
			continue
		}
		dependent, err := c.live(ctx, kind, d.namespace, d.name)
		if err != nil {
			return err
		}
		if dependent == nil || dependent.GetUID() != d.uid {
			continue
		}
		rest := slices.DeleteFunc(slices.Clone(dependent.GetOwnerReferences()), func(ref metav1.OwnerReference) bool {
			return ref.UID == n.uid
		})
		if len(rest) == len(dependent.GetOwnerReferences()) {
			continue
		}
		if err := c.patch(ctx, kind, dependent, "ownerReferences", rest); err != nil {
			return fmt.Errorf("orphan %s %s/%s: %w", kind.GR(), d.namespace, d.name, err)
		}
	}
	return c.dropFinalizer(ctx, n.kind, live, metav1.FinalizerOrphanDependents)
}

// unblock makes none of the object's owners wait for it.
func (c *controller) unblock(ctx context.Context, n *node, live api.Object) error {
	refs := slices.Clone(live.GetOwnerReferences())
	no, changed := false, false
	for i := range refs {
		if blocks(refs[i]) {
			refs[i].BlockOwnerDeletion = &no
			changed = true
		}
	}
	if !changed {
		return nil
	}
	return c.patch(ctx, n.kind, live, "ownerReferences", refs)
}

// live reads an object from the API server; nil when there is none.
func (c *controller) live(ctx context.Context, k *api.Kind, namespace, name string) (api.Object, error) {
	o := empty(k)
	err := c.env.Cluster.Reader().Get(ctx, types.NamespacedName{Namespace: namespace, Name: name}, o)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read %s %s/%s: %w", k.GR(), namespace, name, err)
	}
	return o, nil
}

// delete deletes the object exactly as it was judged: whoever gives it another
// owner meanwhile keeps it.
func (c *controller) delete(ctx context.Context, n *node, live api.Object, policy metav1.DeletionPropagation) error {
	uid, version := live.GetUID(), live.GetResourceVersion()
	err := c.env.Cluster.Client().Delete(ctx, named(n.kind, live), client.PropagationPolicy(policy),
		client.Preconditions{UID: &uid, ResourceVersion: &version})
	return client.IgnoreNotFound(err)
}

func (c *controller) dropFinalizer(ctx context.Context, k *api.Kind, live api.Object, name string) error {
	rest := slices.DeleteFunc(slices.Clone(live.GetFinalizers()), func(f string) bool { return f == name })
	return c.patch(ctx, k, live, "finalizers", rest)
}

// patch replaces one list of the metadata, if the object is still the one that
// was read.
func (c *controller) patch(ctx context.Context, k *api.Kind, live api.Object, field string, list any) error {
	data, err := json.Marshal(map[string]any{"metadata": map[string]any{
		"uid": live.GetUID(), "resourceVersion": live.GetResourceVersion(), field: list,
	}})
	if err != nil {
		return fmt.Errorf("encode %s: %w", field, err)
	}
	err = c.env.Cluster.Client().Patch(ctx, named(k, live), client.RawPatch(types.MergePatchType, data))
	return client.IgnoreNotFound(err)
}

// named makes an object that says no more than which one is meant.
func named(k *api.Kind, live api.Object) api.Object {
	o := empty(k)
	o.SetNamespace(live.GetNamespace())
	o.SetName(live.GetName())
	return o
}
