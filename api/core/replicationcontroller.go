package core

import (
	"strconv"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/utils/ptr"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/api/core/podspec"
)

// ReplicationController is the kind that ReplicaSets replaced.
func ReplicationController() *api.Kind {
	return &api.Kind{
		GVK:         gvk("ReplicationController"),
		Resource:    "replicationcontrollers",
		ShortNames:  []string{"rc"},
		Categories:  []string{"all"},
		Namespaced:  true,
		New:         api.Maker[corev1.ReplicationController](),
		NewList:     api.ListMaker[corev1.ReplicationControllerList](),
		StoragePath: "controllers",

		Default: api.On(defaultReplicationController),
		PrepareCreate: api.On(func(r *corev1.ReplicationController) {
			r.Status = corev1.ReplicationControllerStatus{}
			r.Generation = 1
		}),
		PrepareUpdate: api.OnUpdate(func(r, old *corev1.ReplicationController) {
			r.Status = old.Status
			api.BumpGeneration(r, old, r.Spec, old.Spec)
		}),
		Status: &api.Status{
			PrepareUpdate: api.OnUpdate(func(r, old *corev1.ReplicationController) { r.Spec = old.Spec }),
		},
		Scale: &api.Scale{
			Get: func(o api.Object) *autoscalingv1.Scale {
				r := o.(*corev1.ReplicationController)
				return api.NewScale(r, r.Spec.Replicas, r.Status.Replicas, labels.SelectorFromSet(r.Spec.Selector).String())
			},
			Set:          func(o api.Object, n int32) { o.(*corev1.ReplicationController).Spec.Replicas = &n },
			ReplicasPath: []string{"spec", "replicas"},
		},
		Fields: api.FieldsOf(func(r *corev1.ReplicationController) fields.Set {
			return fields.Set{"status.replicas": strconv.Itoa(int(r.Status.Replicas))}
		}),
		FieldNames:      []string{"status.replicas"},
		OrphanByDefault: true,
		ResetFields: map[string][]string{
			"": {"status"}, "status": {"spec"},
		},
	}
}

func defaultReplicationController(r *corev1.ReplicationController) {
	if t := r.Spec.Template; t != nil {
		if len(t.Labels) > 0 {
			if len(r.Spec.Selector) == 0 {
				r.Spec.Selector = t.Labels
			}
			if len(r.Labels) == 0 {
				r.Labels = t.Labels
			}
		}
		podspec.Default(&t.Spec)
	}
	if r.Spec.Replicas == nil {
		r.Spec.Replicas = ptr.To[int32](1)
	}
}
