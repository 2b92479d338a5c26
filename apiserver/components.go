package apiserver

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/apiserver/health"
	"github.com/proa-dev/proa/apiserver/live"
	"github.com/proa-dev/proa/apiserver/metricsapi"
	"github.com/proa-dev/proa/apiserver/registry"
)

// computed are the kinds that are made when they are read: the status of each
// component is its check, metrics are asked of the nodes.
func (s *Server) computed() (map[schema.GroupVersionKind]*registry.Computed, error) {
	out := map[schema.GroupVersionKind]*registry.Computed{}
	if s.cfg.Kubelet != nil {
		metrics, err := metricsapi.New(metricsapi.Config{
			Source: live.New(s.cfg.Store, s.cfg.Kinds), Transport: s.cfg.Kubelet, Logger: s.cfg.Logger,
		})
		if err != nil {
			return nil, err
		}
		out = metrics.Functions()
	}
	out[corev1.SchemeGroupVersion.WithKind("ComponentStatus")] = statuses(s.cfg.Components)
	return out, nil
}

func statuses(components []health.Check) *registry.Computed {
	return &registry.Computed{Make: func(ctx context.Context, _ string) []api.Object {
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
	}}
}
