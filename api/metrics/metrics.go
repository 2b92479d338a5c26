// Package metrics is the group metrics.k8s.io: what nodes and pods use. Its
// objects are made when they are read and never stored.
package metrics

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"

	"github.com/proa-dev/proa/api"
)

// Kinds are those of the group.
func Kinds() []*api.Kind { return []*api.Kind{NodeMetrics(), PodMetrics()} }

// NodeMetrics is the kind of what a node uses.
// Its singular, and that of PodMetrics, is the lower-case kind: what "kubectl get nodemetrics" goes by.
func NodeMetrics() *api.Kind {
	return &api.Kind{
		GVK:      metricsv1beta1.SchemeGroupVersion.WithKind("NodeMetrics"),
		Resource: "nodes",
		Singular: "node",
		Verbs:    []string{"get", "list"},
		Virtual:  true,
		New:      api.Maker[metricsv1beta1.NodeMetrics](),
		NewList:  api.ListMaker[metricsv1beta1.NodeMetricsList](),
		Columns: columns(func(m *metricsv1beta1.NodeMetrics) (corev1.ResourceList, metav1.Duration) {
			return m.Usage, m.Window
		}),
	}
}

// PodMetrics is the kind of what the containers of a pod use.
func PodMetrics() *api.Kind {
	return &api.Kind{
		GVK:        metricsv1beta1.SchemeGroupVersion.WithKind("PodMetrics"),
		Resource:   "pods",
		Namespaced: true,
		Verbs:      []string{"get", "list"},
		Virtual:    true,
		New:        api.Maker[metricsv1beta1.PodMetrics](),
		NewList:    api.ListMaker[metricsv1beta1.PodMetricsList](),
		Columns: columns(func(m *metricsv1beta1.PodMetrics) (corev1.ResourceList, metav1.Duration) {
			sum := corev1.ResourceList{}
			for _, c := range m.Containers {
				for name, q := range c.Usage {
					total := sum[name]
					total.Add(q)
					sum[name] = total
				}
			}
			return sum, m.Window
		}),
	}
}

func columns[P api.Object](of func(P) (corev1.ResourceList, metav1.Duration)) []api.Column {
	quantity := func(title, format, description string, name corev1.ResourceName) api.Column {
		c := api.Col(title, "string", description, func(m P) any {
			usage, _ := of(m)
			q, ok := usage[name]
			if !ok {
				q = resource.Quantity{}
			}
			return q.String()
		})
		c.Format = format
		return c
	}
	window := api.Col("Window", "string", "The time that the figures are an average of.", func(m P) any {
		_, w := of(m)
		return w.Duration.String()
	})
	window.Format = "duration"
	return []api.Column{
		quantity("CPU", "quantity", "The cores in use.", corev1.ResourceCPU),
		quantity("Memory", "quantity", "The memory that cannot be dropped at once.", corev1.ResourceMemory),
		window,
	}
}
