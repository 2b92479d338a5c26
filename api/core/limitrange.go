package core

import (
	corev1 "k8s.io/api/core/v1"

	"github.com/proa-dev/proa/api"
)

// LimitRange is the kind of limit ranges.
func LimitRange() *api.Kind {
	return &api.Kind{
		GVK:            gvk("LimitRange"),
		Resource:       "limitranges",
		ShortNames:     []string{"limits"},
		Namespaced:     true,
		New:            api.Maker[corev1.LimitRange](),
		NewList:        api.ListMaker[corev1.LimitRangeList](),
		StoragePath:    "limitranges",
		CreateOnUpdate: true,

		Default: api.On(func(l *corev1.LimitRange) {
			for i := range l.Spec.Limits {
				if l.Spec.Limits[i].Type == corev1.LimitTypeContainer {
					defaultLimits(&l.Spec.Limits[i])
				}
			}
		}),
	}
}

// defaultLimits derives what a container gets by default: its limit from max,
// its request from that limit, else from min.
func defaultLimits(l *corev1.LimitRangeItem) {
	fill := func(to *corev1.ResourceList, from corev1.ResourceList) {
		if *to == nil {
			*to = corev1.ResourceList{}
		}
		for name, q := range from {
			if _, ok := (*to)[name]; !ok {
				(*to)[name] = q.DeepCopy()
			}
		}
	}
	fill(&l.Default, l.Max)
	fill(&l.DefaultRequest, l.Default)
	fill(&l.DefaultRequest, l.Min)
}
