package apiserver

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/apiserver/health"
	"github.com/proa-dev/proa/apiserver/registry"
)

// computed are the kinds that are made when they are read: the status of each
// component is its check.
func computed(components []health.Check) map[schema.GroupVersionKind]registry.ComputedFunc {
	statuses := func(ctx context.Context) []api.Object {
		var out []api.Object
		for _, c := range components {
			condition := corev1.ComponentCondition{Type: corev1.ComponentHealthy, Status: corev1.ConditionTrue, Message: "ok"}
			if err := c.Ask(ctx); err != nil {
				condition.Status, condition.Message, condition.Error = corev1.ConditionFalse, "", err.Error()
			}
			s := &corev1.ComponentStatus{Conditions: []corev1.ComponentCondition{condition}}
			s.Name = c.Name
			out = append(out, s)
		}
		return out
	}
	return map[schema.GroupVersionKind]registry.ComputedFunc{corev1.SchemeGroupVersion.WithKind("ComponentStatus"): statuses}
}
