// Package scheduling holds the kinds of the group scheduling.k8s.io, v1.
package scheduling

import (
	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	"k8s.io/utils/ptr"

	"github.com/proa-dev/proa/api"
)

// Kinds lists the kinds of the group.
func Kinds() []*api.Kind { return []*api.Kind{PriorityClass()} }

// PriorityClass is the kind of priority classes.
func PriorityClass() *api.Kind {
	return &api.Kind{
		GVK:         schedulingv1.SchemeGroupVersion.WithKind("PriorityClass"),
		Resource:    "priorityclasses",
		ShortNames:  []string{"pc"},
		New:         api.Maker[schedulingv1.PriorityClass](),
		NewList:     api.ListMaker[schedulingv1.PriorityClassList](),
		StoragePath: "priorityclasses",

		Default: api.On(func(c *schedulingv1.PriorityClass) {
			if c.PreemptionPolicy == nil {
				c.PreemptionPolicy = ptr.To(corev1.PreemptLowerPriority)
			}
		}),
		PrepareCreate: api.On(func(c *schedulingv1.PriorityClass) { c.Generation = 1 }),
	}
}
