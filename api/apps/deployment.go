package apps

import (
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/api/core/podspec"
)

// Deployment is the kind of deployments.
func Deployment() *api.Kind {
	return &api.Kind{
		GVK:         gvk("Deployment"),
		Resource:    "deployments",
		ShortNames:  []string{"deploy"},
		Categories:  []string{"all"},
		Namespaced:  true,
		New:         api.Maker[appsv1.Deployment](),
		NewList:     api.ListMaker[appsv1.DeploymentList](),
		StoragePath: "deployments",
		Columns:     deploymentColumns(),

		Default: api.On(defaultDeployment),
		PrepareCreate: api.On(func(d *appsv1.Deployment) {
			podspec.DropGatedTemplate(&d.Spec.Template, nil)
			d.Status = appsv1.DeploymentStatus{}
			d.Generation = 1
		}),
		PrepareUpdate: api.OnUpdate(func(d, old *appsv1.Deployment) {
			podspec.DropGatedTemplate(&d.Spec.Template, &old.Spec.Template)
			d.Status = old.Status
			d.Generation = old.Generation
			// Annotations count too: the controller copies them to ReplicaSets.
			if !api.Equal(&d.Spec, &old.Spec) ||
				!api.Equal(d.Annotations, old.Annotations) {
				d.Generation++
			}
		}),
		Validate:       api.Check(func(o *appsv1.Deployment) field.ErrorList { return validateDeployment(o, nil) }),
		ValidateUpdate: api.CheckUpdate(validateDeploymentUpdate),
		Warnings:       podspec.WorkloadWarnings(true, func(o *appsv1.Deployment) *corev1.PodTemplateSpec { return &o.Spec.Template }),
		Status: &api.Status{
			ValidateUpdate: api.CheckUpdate(validateDeploymentStatus),
			PrepareUpdate: api.OnUpdate(func(d, old *appsv1.Deployment) {
				d.Spec = old.Spec
				d.Labels = old.Labels
			}),
		},
		Scale: &api.Scale{
			Get: func(o api.Object) *autoscalingv1.Scale {
				d := o.(*appsv1.Deployment)
				return api.NewScale(d, d.Spec.Replicas, d.Status.Replicas, api.SelectorText(d.Spec.Selector))
			},
			Set:          func(o api.Object, n int32) { o.(*appsv1.Deployment).Spec.Replicas = &n },
			ReplicasPath: []string{"spec", "replicas"},
		},
		ResetFields: map[string][]string{
			"": {"status"}, "status": {"spec", "metadata.labels"},
		},
	}
}

func defaultDeployment(d *appsv1.Deployment) {
	podspec.Default(&d.Spec.Template.Spec)
	setDefault(&d.Spec.Replicas, 1)
	s := &d.Spec.Strategy
	if s.Type == "" {
		s.Type = appsv1.RollingUpdateDeploymentStrategyType
	}
	if s.Type == appsv1.RollingUpdateDeploymentStrategyType {
		setDefault(&s.RollingUpdate, appsv1.RollingUpdateDeployment{})
		setDefault(&s.RollingUpdate.MaxUnavailable, intstr.FromString("25%"))
		setDefault(&s.RollingUpdate.MaxSurge, intstr.FromString("25%"))
	}
	setDefault(&d.Spec.RevisionHistoryLimit, 10)
	setDefault(&d.Spec.ProgressDeadlineSeconds, 600)
}
