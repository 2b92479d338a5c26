package registry

import (
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/proa-dev/proa/api"
)

func isNamespace(k *api.Kind) bool { return k.GVK == corev1.SchemeGroupVersion.WithKind("Namespace") }

// nextNamespace is nextState for namespaces: the first request only begins
// the end, which the namespace controller brings about by emptying the
// namespace and then its spec.finalizers.
func (c *Core) nextNamespace(live api.Object, opts *metav1.DeleteOptions) (api.Object, bool) {
	if live.GetDeletionTimestamp() != nil {
		return nil, !hasNamespaceFinalizers(live) && len(live.GetFinalizers()) == 0
	}
	ns, ok := live.DeepCopyObject().(*corev1.Namespace)
	if !ok {
		return nil, true
	}
	now := metav1.Time{Time: c.cfg.Now().UTC().Truncate(time.Second)}
	ns.DeletionTimestamp = &now
	ns.Status.Phase = corev1.NamespaceTerminating
	orphan := opts.OrphanDependents != nil && *opts.OrphanDependents ||
		opts.PropagationPolicy != nil && *opts.PropagationPolicy == metav1.DeletePropagationOrphan
	has := slices.Contains(ns.Finalizers, metav1.FinalizerOrphanDependents)
	named := opts.OrphanDependents != nil || opts.PropagationPolicy != nil
	switch {
	case orphan && !has:
		ns.Finalizers = append(ns.Finalizers, metav1.FinalizerOrphanDependents)
	case named && !orphan && has:
		ns.Finalizers = slices.DeleteFunc(ns.Finalizers, func(f string) bool { return f == metav1.FinalizerOrphanDependents })
	}
	return ns, false
}

func hasNamespaceFinalizers(obj api.Object) bool {
	ns, ok := obj.(*corev1.Namespace)
	return ok && len(ns.Spec.Finalizers) > 0
}
