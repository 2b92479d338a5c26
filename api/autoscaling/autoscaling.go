// Package autoscaling holds the kind of the group autoscaling: the
// HorizontalPodAutoscaler, as v2 and, over the same storage, as v1.
package autoscaling

import (
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/proa-dev/proa/api"
)

// Kinds lists the kinds of the group.
func Kinds() []*api.Kind {
	return []*api.Kind{
		HorizontalPodAutoscaler(),
		HorizontalPodAutoscalerV1(),
	}
}

type hpa = autoscalingv2.HorizontalPodAutoscaler

// defaultUtilization is the target without one, in percent of the CPU request.
const defaultUtilization = 80

// HorizontalPodAutoscaler is the kind of autoscalers as they are stored.
func HorizontalPodAutoscaler() *api.Kind {
	return &api.Kind{
		GVK:         autoscalingv2.SchemeGroupVersion.WithKind("HorizontalPodAutoscaler"),
		Resource:    "horizontalpodautoscalers",
		ShortNames:  []string{"hpa"},
		Categories:  []string{"all"},
		Namespaced:  true,
		New:         api.Maker[hpa](),
		NewList:     api.ListMaker[autoscalingv2.HorizontalPodAutoscalerList](),
		StoragePath: "horizontalpodautoscalers",
		Columns:     columns(func(h *hpa) *hpa { return h }),

		Default:        api.On(setDefaults),
		PrepareCreate:  api.On(prepareCreate),
		PrepareUpdate:  api.OnUpdate(prepareUpdate),
		Validate:       api.Check(func(h *hpa) field.ErrorList { return validateSpec(h, nil) }),
		ValidateUpdate: api.CheckUpdate(validateSpec),
		Status: &api.Status{
			PrepareUpdate:  api.OnUpdate(prepareStatus),
			ValidateUpdate: api.CheckUpdate(func(h, _ *hpa) field.ErrorList { return validateStatus(h) }),
		},
		ResetFields: map[string][]string{"": {"status"}, "status": {"spec"}},
	}
}

func prepareCreate(h *hpa) {
	h.Status = autoscalingv2.HorizontalPodAutoscalerStatus{}
	h.Generation = 1
}

func prepareUpdate(h, old *hpa) {
	h.Status = old.Status
	api.BumpGeneration(h, old, h.Spec, old.Spec)
}

func prepareStatus(h, old *hpa) { h.Spec = old.Spec }

func setDefault[T any](p **T, v T) {
	if *p == nil {
		*p = &v
	}
}

func setDefaults(h *hpa) {
	setDefault(&h.Spec.MinReplicas, 1)
	if len(h.Spec.Metrics) == 0 {
		h.Spec.Metrics = []autoscalingv2.MetricSpec{cpuUtilization(defaultUtilization)}
	}
	b := h.Spec.Behavior
	if b == nil {
		return
	}
	up := autoscalingv2.HPAScalingPolicy{Type: autoscalingv2.PodsScalingPolicy, Value: 4, PeriodSeconds: 15}
	double := autoscalingv2.HPAScalingPolicy{Type: autoscalingv2.PercentScalingPolicy, Value: 100, PeriodSeconds: 15}
	defaultRules(&b.ScaleUp, up, double)
	setDefault(&b.ScaleUp.StabilizationWindowSeconds, 0)
	// The window downwards is the controller's, if it is not set.
	defaultRules(&b.ScaleDown, double)
}

func defaultRules(rules **autoscalingv2.HPAScalingRules, policies ...autoscalingv2.HPAScalingPolicy) {
	setDefault(rules, autoscalingv2.HPAScalingRules{})
	setDefault(&(*rules).SelectPolicy, autoscalingv2.MaxChangePolicySelect)
	if (*rules).Policies == nil {
		(*rules).Policies = policies
	}
}

func cpuUtilization(percent int32) autoscalingv2.MetricSpec {
	return autoscalingv2.MetricSpec{
		Type: autoscalingv2.ResourceMetricSourceType,
		Resource: &autoscalingv2.ResourceMetricSource{
			Name:   corev1.ResourceCPU,
			Target: autoscalingv2.MetricTarget{Type: autoscalingv2.UtilizationMetricType, AverageUtilization: &percent},
		},
	}
}
