package autoscaling

import (
	"fmt"
	"strings"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/proa-dev/proa/api"
)

// columns are those of both versions; of gives the stored one.
func columns[P api.Object](of func(P) *hpa) []api.Column {
	col := func(name, description string, value func(*hpa) any) api.Column {
		return api.Col(name, "string", description, func(o P) any { return value(of(o)) })
	}
	return []api.Column{
		col("Reference", "What is scaled.", func(h *hpa) any { return h.Spec.ScaleTargetRef.Kind + "/" + h.Spec.ScaleTargetRef.Name }),
		col("Targets", "The metrics, and what they should be.", func(h *hpa) any { return metricsText(h) }),
		col("MinPods", "The fewest replicas.", func(h *hpa) any {
			if h.Spec.MinReplicas == nil {
				return "<unset>"
			}
			return fmt.Sprint(*h.Spec.MinReplicas)
		}),
		col("MaxPods", "The most replicas.", func(h *hpa) any { return int64(h.Spec.MaxReplicas) }),
		col("Replicas", "Replicas as last seen.", func(h *hpa) any { return int64(h.Status.CurrentReplicas) }),
		api.AgeColumn(),
	}
}

// shownMetrics is how many metrics a row names.
const shownMetrics = 2

func metricsText(h *hpa) string {
	if len(h.Spec.Metrics) == 0 {
		return "<none>"
	}
	var list []string
	for i := range h.Spec.Metrics {
		var status autoscalingv2.MetricStatus
		if i < len(h.Status.CurrentMetrics) {
			status = h.Status.CurrentMetrics[i]
		}
		list = append(list, metricText(&h.Spec.Metrics[i], &status))
	}
	if more := len(list) - shownMetrics; more > 0 {
		return fmt.Sprintf("%s + %d more...", strings.Join(list[:shownMetrics], ", "), more)
	}
	return strings.Join(list, ", ")
}

// metricText is "cpu: 12%/80%". Old objects may lack what validation demands.
func metricText(m *autoscalingv2.MetricSpec, s *autoscalingv2.MetricStatus) string {
	var now *autoscalingv2.MetricValueStatus
	switch {
	case m.Type == autoscalingv2.ExternalMetricSourceType && m.External != nil:
		if s.External != nil {
			now = &s.External.Current
		}
		return valueText(&m.External.Target, now)
	case m.Type == autoscalingv2.ObjectMetricSourceType && m.Object != nil:
		if s.Object != nil {
			now = &s.Object.Current
		}
		return valueText(&m.Object.Target, now)
	case m.Type == autoscalingv2.PodsMetricSourceType && m.Pods != nil:
		if s.Pods != nil {
			now = &s.Pods.Current
		}
		return averageOf(now) + "/" + quantity(m.Pods.Target.AverageValue)
	case m.Type == autoscalingv2.ResourceMetricSourceType && m.Resource != nil:
		if s.Resource != nil {
			now = &s.Resource.Current
		}
		return string(m.Resource.Name) + ": " + resourceText(&m.Resource.Target, now)
	case m.Type == autoscalingv2.ContainerResourceMetricSourceType && m.ContainerResource != nil:
		if s.ContainerResource != nil {
			now = &s.ContainerResource.Current
		}
		return string(m.ContainerResource.Name) + ": " + resourceText(&m.ContainerResource.Target, now)
	}
	return "<unknown type>"
}

const unknown = "<unknown>"

func quantity(q *resource.Quantity) string {
	if q == nil {
		return unknown
	}
	return q.String()
}

func averageOf(now *autoscalingv2.MetricValueStatus) string {
	if now == nil {
		return unknown
	}
	return quantity(now.AverageValue)
}

func valueText(t *autoscalingv2.MetricTarget, now *autoscalingv2.MetricValueStatus) string {
	if t.AverageValue != nil {
		return averageOf(now) + "/" + t.AverageValue.String() + " (avg)"
	}
	current := unknown
	if now != nil {
		current = quantity(now.Value)
	}
	return current + "/" + quantity(t.Value)
}

func resourceText(t *autoscalingv2.MetricTarget, now *autoscalingv2.MetricValueStatus) string {
	if t.AverageValue != nil {
		return averageOf(now) + "/" + t.AverageValue.String()
	}
	current, target := unknown, "<auto>"
	if now != nil && now.AverageUtilization != nil {
		current = fmt.Sprintf("%d%%", *now.AverageUtilization)
	}
	if t.AverageUtilization != nil {
		target = fmt.Sprintf("%d%%", *t.AverageUtilization)
	}
	return current + "/" + target
}
