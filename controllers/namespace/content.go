package namespace

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/controllers/internal/loop"
)

// content is what one pass found left in a namespace.
type content struct {
	remaining  map[schema.GroupVersionResource]int
	finalizers map[string]int
	errs       []error
	// undiscovered says which groups of other servers could not be asked for
	// what they have.
	undiscovered error
	// wait is the longest grace period of what remains.
	wait time.Duration
}

func (f *content) err() error { return errors.Join(append(slices.Clone(f.errs), f.undiscovered)...) }

var podResource = corev1.SchemeGroupVersion.WithResource("pods")

// empty deletes all content of a namespace: the pods first, and the rest only
// when they are gone, so that nothing a pod needs to stop in order, such as
// its network policy or its secrets, goes before it.
func (c *controller) empty(ctx context.Context, ns string) *content {
	found := &content{remaining: map[schema.GroupVersionResource]int{}, finalizers: map[string]int{}}
	kinds := slices.DeleteFunc(loop.Stored(c.kinds()), func(k *api.Kind) bool {
		return !k.Namespaced || !loop.Serves(k, "delete") || !loop.Serves(k, "list")
	})
	for _, podsOnly := range []bool{true, false} {
		for _, k := range kinds {
			if (k.GVR() == podResource) != podsOnly {
				continue
			}
			if err := c.emptyKind(ctx, ns, k, found); err != nil {
				found.errs = append(found.errs, fmt.Errorf("delete %s: %w", k.GR(), err))
			}
		}
		if !podsOnly {
			c.elsewhere.empty(ctx, ns, found)
		}
		if len(found.remaining) > 0 || len(found.errs) > 0 {
			break
		}
	}
	return found
}

// emptyKind deletes the objects of a kind, and counts those that stay for now.
func (c *controller) emptyKind(ctx context.Context, ns string, k *api.Kind, found *content) error {
	items, err := c.list(ctx, ns, k)
	if err != nil || len(items) == 0 {
		return err
	}
	if err := c.deleteAll(ctx, ns, k, items); err != nil {
		return err
	}
	if items, err = c.list(ctx, ns, k); err != nil || len(items) == 0 {
		return err
	}
	found.count(k.GVR(), items)
	return nil
}

// count takes down what stays for now.
func (f *content) count(gvr schema.GroupVersionResource, items []metav1.Object) {
	f.remaining[gvr] = len(items)
	for _, o := range items {
		for _, name := range o.GetFinalizers() {
			f.finalizers[name]++
		}
		if g := o.GetDeletionGracePeriodSeconds(); g != nil {
			f.wait = max(f.wait, time.Duration(*g)*time.Second)
		}
	}
}

// list reads the API server, not the cache: a namespace may end only when it
// is empty for certain.
func (c *controller) list(ctx context.Context, ns string, k *api.Kind) ([]metav1.Object, error) {
	list, ok := k.NewList().(client.ObjectList)
	if !ok {
		return nil, fmt.Errorf("%T is not a list", k.NewList())
	}
	list.GetObjectKind().SetGroupVersionKind(k.GVK.GroupVersion().WithKind(k.GVK.Kind + "List"))
	if err := c.env.Cluster.Reader().List(ctx, list, client.InNamespace(ns)); err != nil {
		if apierrors.IsNotFound(err) || meta.IsNoMatchError(err) {
			return nil, nil // a custom kind that is gone itself
		}
		return nil, err
	}
	var items []metav1.Object
	err := meta.EachListItem(list, func(o runtime.Object) error {
		m, err := meta.Accessor(o)
		items = append(items, m)
		return err
	})
	return items, err
}

func (c *controller) deleteAll(ctx context.Context, ns string, k *api.Kind, items []metav1.Object) error {
	api := c.env.Cluster.Client()
	background := client.PropagationPolicy(metav1.DeletePropagationBackground)
	if loop.Serves(k, "deletecollection") {
		o := k.New()
		o.GetObjectKind().SetGroupVersionKind(k.GVK)
		return api.DeleteAllOf(ctx, o, client.InNamespace(ns), background)
	}
	for _, item := range items {
		o := k.New()
		o.GetObjectKind().SetGroupVersionKind(k.GVK)
		o.SetNamespace(ns)
		o.SetName(item.GetName())
		if err := api.Delete(ctx, o, background); err != nil && !apierrors.IsNotFound(err) {
			return err
		}
	}
	return nil
}

// discoveryFailure is the text for groups that could not be asked.
func (f *content) discoveryFailure() string {
	var groups *discovery.ErrGroupDiscoveryFailed
	switch {
	case errors.As(f.undiscovered, &groups):
		return fmt.Sprintf("Discovery failed for some groups, %d failing: %v", len(groups.Groups), f.undiscovered)
	case f.undiscovered != nil:
		return f.undiscovered.Error()
	}
	return ""
}

// conditions says how the deletion stands.
func (f *content) conditions() []corev1.NamespaceCondition {
	pick := func(t corev1.NamespaceConditionType, bad bool, badReason, badMsg, reason, msg string) corev1.NamespaceCondition {
		if bad {
			return corev1.NamespaceCondition{Type: t, Status: corev1.ConditionTrue, Reason: badReason, Message: badMsg}
		}
		return corev1.NamespaceCondition{Type: t, Status: corev1.ConditionFalse, Reason: reason, Message: msg}
	}
	var remaining, finalizers, failures []string
	for gvr, n := range f.remaining {
		remaining = append(remaining, fmt.Sprintf("%s.%s has %d resource instances", gvr.Resource, gvr.Group, n))
	}
	slices.Sort(remaining)
	for _, name := range slices.Sorted(maps.Keys(f.finalizers)) {
		finalizers = append(finalizers, fmt.Sprintf("%s in %d resource instances", name, f.finalizers[name]))
	}
	for _, err := range f.errs {
		failures = append(failures, err.Error())
	}
	slices.Sort(failures)
	return []corev1.NamespaceCondition{
		pick(corev1.NamespaceDeletionDiscoveryFailure, f.undiscovered != nil, "DiscoveryFailed", f.discoveryFailure(),
			"ResourcesDiscovered", "All resources successfully discovered"),
		pick(corev1.NamespaceDeletionGVParsingFailure, false, "", "",
			"ParsedGroupVersions", "All legacy kube types successfully parsed"),
		pick(corev1.NamespaceDeletionContentFailure, len(failures) > 0,
			"ContentDeletionFailed", fmt.Sprintf("Failed to delete all resource types, %d remaining: %s", len(failures), strings.Join(failures, ", ")),
			"ContentDeleted", "All content successfully deleted, may be waiting on finalization"),
		pick(corev1.NamespaceContentRemaining, len(remaining) > 0,
			"SomeResourcesRemain", "Some resources are remaining: "+strings.Join(remaining, ", "),
			"ContentRemoved", "All content successfully removed"),
		pick(corev1.NamespaceFinalizersRemaining, len(finalizers) > 0,
			"SomeFinalizersRemain", "Some content in the namespace has finalizers remaining: "+strings.Join(finalizers, ", "),
			"ContentHasNoFinalizers", "All content-preserving finalizers finished"),
	}
}
