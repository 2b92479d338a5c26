package core

import (
	corev1 "k8s.io/api/core/v1"

	"github.com/proa-dev/proa/api"
)

// ComponentStatus is the kind of the health of the parts of the control plane,
// which is asked for at each read.
func ComponentStatus() *api.Kind {
	healthy := func(s *corev1.ComponentStatus) corev1.ComponentCondition {
		for _, c := range s.Conditions {
			if c.Type == corev1.ComponentHealthy {
				return c
			}
		}
		return corev1.ComponentCondition{}
	}
	return &api.Kind{
		GVK:        gvk("ComponentStatus"),
		Resource:   "componentstatuses",
		Singular:   "componentstatus",
		ShortNames: []string{"cs"},
		Verbs:      []string{"get", "list"},
		Virtual:    true,
		Deprecated: "v1 ComponentStatus is deprecated in v1.19+",
		New:        api.Maker[corev1.ComponentStatus](),
		NewList:    api.ListMaker[corev1.ComponentStatusList](),
		Columns: []api.Column{
			api.Col("Status", "string", "What the component says of its health.", func(s *corev1.ComponentStatus) any {
				switch healthy(s).Status {
				case corev1.ConditionTrue:
					return "Healthy"
				case "":
					return "Unknown"
				}
				return "Unhealthy"
			}),
			api.Col("Message", "string", "What it answered.", func(s *corev1.ComponentStatus) any { return healthy(s).Message }),
			api.Col("Error", "string", "Why it did not answer.", func(s *corev1.ComponentStatus) any { return healthy(s).Error }),
		},
	}
}
