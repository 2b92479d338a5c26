package apps

import (
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/api/core/podspec"
)

// ReplicaSet is the kind of replica sets.
func ReplicaSet() *api.Kind {
	return &api.Kind{
		GVK:         gvk("ReplicaSet"),
		Resource:    "replicasets",
		ShortNames:  []string{"rs"},
		Categories:  []string{"all"},
		Namespaced:  true,
		New:         api.Maker[appsv1.ReplicaSet](),
		NewList:     api.ListMaker[appsv1.ReplicaSetList](),
		StoragePath: "replicasets",
		Columns:     replicaSetColumns(),

		Default: api.On(func(r *appsv1.ReplicaSet) {
			podspec.Default(&r.Spec.Template.Spec)
			setDefault(&r.Spec.Replicas, 1)
		}),
		PrepareCreate: api.On(func(r *appsv1.ReplicaSet) {
			podspec.DropGatedTemplate(&r.Spec.Template, nil)
			r.Status = appsv1.ReplicaSetStatus{}
			r.Generation = 1
		}),
		PrepareUpdate: api.OnUpdate(func(r, old *appsv1.ReplicaSet) {
			podspec.DropGatedTemplate(&r.Spec.Template, &old.Spec.Template)
			r.Status = old.Status
			api.BumpGeneration(r, old, &r.Spec, &old.Spec)
		}),
		Validate:       api.Check(func(o *appsv1.ReplicaSet) field.ErrorList { return validateReplicaSet(o, nil) }),
		ValidateUpdate: api.CheckUpdate(validateReplicaSetUpdate),
		Warnings:       podspec.WorkloadWarnings(true, func(o *appsv1.ReplicaSet) *corev1.PodTemplateSpec { return &o.Spec.Template }),
		Status: &api.Status{
			ValidateUpdate: api.CheckUpdate(validateReplicaSetStatus),
			PrepareUpdate:  api.OnUpdate(func(r, old *appsv1.ReplicaSet) { r.Spec = old.Spec }),
		},
		Scale: &api.Scale{
			Get: func(o api.Object) *autoscalingv1.Scale {
				r := o.(*appsv1.ReplicaSet)
				return api.NewScale(r, r.Spec.Replicas, r.Status.Replicas, api.SelectorText(r.Spec.Selector))
			},
			Set:          func(o api.Object, n int32) { o.(*appsv1.ReplicaSet).Spec.Replicas = &n },
			ReplicasPath: []string{"spec", "replicas"},
		},
		Fields: api.FieldsOf(func(r *appsv1.ReplicaSet) fields.Set {
			return fields.Set{"status.replicas": strconv.Itoa(int(r.Status.Replicas))}
		}),
		FieldNames: []string{"status.replicas"},
		ResetFields: map[string][]string{
			"": {"status"}, "status": {"spec"},
		},
	}
}
