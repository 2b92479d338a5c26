package admission

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// NamespaceLifecycle lets nothing be written in a namespace that does not
// exist, nothing new be made in one that is ending, and the namespaces of the
// system not be deleted.
type NamespaceLifecycle struct{ lookup Lookup }

var _ Mutator = (*NamespaceLifecycle)(nil)

// NewNamespaceLifecycle reads namespaces from l.
func NewNamespaceLifecycle(l Lookup) *NamespaceLifecycle { return &NamespaceLifecycle{l} }

// Name implements Plugin.
func (*NamespaceLifecycle) Name() string { return "NamespaceLifecycle" }

// Admit implements Mutator; it is one so as to run before all others.
func (p *NamespaceLifecycle) Admit(ctx context.Context, a *Attributes) error {
	if a.GVR.GroupResource() == corev1.Resource("namespaces") {
		if a.Operation == Delete && isSystemNamespace(a.Name) {
			return apierrors.NewForbidden(a.GVR.GroupResource(), a.Name, errors.New("this namespace may not be deleted"))
		}
		return nil
	}
	if a.Namespace == "" || a.Operation == Delete || isAccessReview(a.GVR.GroupResource()) {
		return nil
	}
	obj, ok := p.lookup.Get(ctx, corev1.Resource("namespaces"), "", a.Namespace)
	if !ok {
		return apierrors.NewNotFound(corev1.Resource("namespaces"), a.Namespace)
	}
	ns, ok := obj.(*corev1.Namespace)
	if !ok || a.Operation != Create || ns.Status.Phase != corev1.NamespaceTerminating && ns.DeletionTimestamp == nil {
		return nil
	}
	err := Forbidden(a, fmt.Errorf("unable to create new content in namespace %s because it is being terminated", a.Namespace))
	err.ErrStatus.Details.Causes = append(err.ErrStatus.Details.Causes, metav1.StatusCause{
		Type:    corev1.NamespaceTerminatingCause,
		Message: fmt.Sprintf("namespace %s is being terminated", a.Namespace),
		Field:   "metadata.namespace",
	})
	return err
}

func isSystemNamespace(name string) bool {
	return name == metav1.NamespaceDefault || name == metav1.NamespaceSystem || name == metav1.NamespacePublic
}

// isAccessReview exempts questions: they are asked of namespaces to come.
func isAccessReview(gr schema.GroupResource) bool {
	return gr == schema.GroupResource{Group: "authorization.k8s.io", Resource: "localsubjectaccessreviews"}
}
