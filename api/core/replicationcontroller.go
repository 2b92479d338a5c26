package core

import (
	"strconv"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/api/core/podspec"
	"github.com/proa-dev/proa/api/validate"
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
		Columns:     replicationControllerColumns(),

		Default: api.On(defaultReplicationController),
		PrepareCreate: api.On(func(r *corev1.ReplicationController) {
			podspec.DropGatedTemplate(r.Spec.Template, nil)
			r.Status = corev1.ReplicationControllerStatus{}
			r.Generation = 1
		}),
		PrepareUpdate: api.OnUpdate(func(r, old *corev1.ReplicationController) {
			podspec.DropGatedTemplate(r.Spec.Template, old.Spec.Template)
			r.Status = old.Status
			api.BumpGeneration(r, old, &r.Spec, &old.Spec)
		}),
		Validate: api.Check(func(r *corev1.ReplicationController) field.ErrorList {
			return validateReplicationController(r, nil)
		}),
		ValidateUpdate: api.CheckUpdate(validateReplicationController),
		Warnings:       podspec.WorkloadWarnings(true, func(r *corev1.ReplicationController) *corev1.PodTemplateSpec { return r.Spec.Template }),
		Status: &api.Status{
			PrepareUpdate: api.OnUpdate(func(r, old *corev1.ReplicationController) { r.Spec = old.Spec }),
			ValidateUpdate: api.CheckUpdate(func(r, _ *corev1.ReplicationController) field.ErrorList {
				s := r.Status
				return validate.ReplicaCounts(s.Replicas, s.FullyLabeledReplicas, s.ReadyReplicas, s.AvailableReplicas, s.ObservedGeneration)
			}),
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

func validateReplicationController(r, old *corev1.ReplicationController) field.ErrorList {
	path := field.NewPath("spec")
	var opts podspec.Options
	if old != nil && old.Spec.Template != nil {
		opts = podspec.After(&old.Spec.Template.Spec, old.Spec.Template.Annotations)
	}
	errs := validate.NonNegative(path.Child("minReadySeconds"), int64(r.Spec.MinReadySeconds))
	if len(r.Spec.Selector) == 0 {
		errs = append(errs, field.Required(path.Child("selector"), ""))
	}
	if r.Spec.Replicas == nil {
		errs = append(errs, field.Required(path.Child("replicas"), ""))
	} else {
		errs = append(errs, validate.NonNegative(path.Child("replicas"), int64(*r.Spec.Replicas))...)
	}
	if r.Spec.Template == nil {
		return append(errs, field.Required(path.Child("template"), ""))
	}
	return append(errs, podspec.ValidateWorkloadTemplate(path.Child("template"), r.Spec.Template,
		labels.SelectorFromSet(r.Spec.Selector), "ReplicationController", opts)...)
}
