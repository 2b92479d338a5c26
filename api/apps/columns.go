package apps

import (
	"fmt"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/utils/ptr"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/api/core/podspec"
)

// wide adds the columns of the template and, where there is one, the selector.
func wide[P api.Object](cols []api.Column, template func(P) *corev1.PodTemplateSpec, selector func(P) *metav1.LabelSelector) []api.Column {
	cols = append(cols, podspec.Columns(template)...)
	if selector == nil {
		return cols
	}
	return append(cols, api.WideCol("Selector", "string", "Labels of the pods.", func(o P) any {
		return metav1.FormatLabelSelector(selector(o))
	}))
}

func deploymentColumns() []api.Column {
	type D = *appsv1.Deployment
	return wide([]api.Column{
		api.Col("Ready", "string", "Pods that are ready, of those wanted.", func(d D) any {
			return fmt.Sprintf("%d/%d", d.Status.ReadyReplicas, ptr.Deref(d.Spec.Replicas, 0))
		}),
		api.Col("Up-to-date", "string", "Pods that are of the latest template.", func(d D) any { return int64(d.Status.UpdatedReplicas) }),
		api.Col("Available", "string", "Pods that have been ready for long enough.", func(d D) any { return int64(d.Status.AvailableReplicas) }),
		api.AgeColumn(),
	}, func(d D) *corev1.PodTemplateSpec { return &d.Spec.Template }, func(d D) *metav1.LabelSelector { return d.Spec.Selector })
}

func replicaSetColumns() []api.Column {
	type R = *appsv1.ReplicaSet
	return wide([]api.Column{
		api.Col("Desired", "integer", "Pods that are wanted.", func(r R) any { return int64(ptr.Deref(r.Spec.Replicas, 0)) }),
		api.Col("Current", "integer", "Pods that are there.", func(r R) any { return int64(r.Status.Replicas) }),
		api.Col("Ready", "integer", "Pods that are ready.", func(r R) any { return int64(r.Status.ReadyReplicas) }),
		api.AgeColumn(),
	}, func(r R) *corev1.PodTemplateSpec { return &r.Spec.Template }, func(r R) *metav1.LabelSelector { return r.Spec.Selector })
}

func daemonSetColumns() []api.Column {
	type D = *appsv1.DaemonSet
	return wide([]api.Column{
		api.Col("Desired", "integer", "Nodes that should run a pod.", func(d D) any { return int64(d.Status.DesiredNumberScheduled) }),
		api.Col("Current", "integer", "Nodes that run a pod and should.", func(d D) any { return int64(d.Status.CurrentNumberScheduled) }),
		api.Col("Ready", "integer", "Pods that are ready.", func(d D) any { return int64(d.Status.NumberReady) }),
		api.Col("Up-to-date", "integer", "Pods that are of the latest template.", func(d D) any { return int64(d.Status.UpdatedNumberScheduled) }),
		api.Col("Available", "integer", "Pods that have been ready for long enough.", func(d D) any { return int64(d.Status.NumberAvailable) }),
		api.Col("Node Selector", "string", "Labels of the nodes.", func(d D) any { return labels.FormatLabels(d.Spec.Template.Spec.NodeSelector) }),
		api.AgeColumn(),
	}, func(d D) *corev1.PodTemplateSpec { return &d.Spec.Template }, func(d D) *metav1.LabelSelector { return d.Spec.Selector })
}

func statefulSetColumns() []api.Column {
	type S = *appsv1.StatefulSet
	return wide([]api.Column{
		api.Col("Ready", "string", "Pods that are ready, of those wanted.", func(s S) any {
			return fmt.Sprintf("%d/%d", s.Status.ReadyReplicas, ptr.Deref(s.Spec.Replicas, 0))
		}),
		api.AgeColumn(),
	}, func(s S) *corev1.PodTemplateSpec { return &s.Spec.Template }, nil)
}

func revisionColumns() []api.Column {
	type R = *appsv1.ControllerRevision
	return []api.Column{
		api.Col("Controller", "string", "Whose template it is.", func(r R) any {
			owner := metav1.GetControllerOf(r)
			if owner == nil {
				return "<none>"
			}
			kind := schema.FromAPIVersionAndKind(owner.APIVersion, owner.Kind).GroupKind()
			return strings.ToLower(kind.String()) + "/" + owner.Name
		}),
		api.Col("Revision", "string", "Number of the revision.", func(r R) any { return r.Revision }),
		api.AgeColumn(),
	}
}
