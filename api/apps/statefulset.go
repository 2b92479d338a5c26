package apps

import (
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/api/core/podspec"
)

// StatefulSet is the kind of stateful sets.
func StatefulSet() *api.Kind {
	return &api.Kind{
		GVK:         gvk("StatefulSet"),
		Resource:    "statefulsets",
		ShortNames:  []string{"sts"},
		Categories:  []string{"all"},
		Namespaced:  true,
		New:         api.Maker[appsv1.StatefulSet](),
		NewList:     api.ListMaker[appsv1.StatefulSetList](),
		StoragePath: "statefulsets",
		Columns:     statefulSetColumns(),

		Default: api.On(defaultStatefulSet),
		PrepareCreate: api.On(func(s *appsv1.StatefulSet) {
			podspec.DropGatedTemplate(&s.Spec.Template, nil)
			s.Status = appsv1.StatefulSetStatus{}
			s.Generation = 1
		}),
		PrepareUpdate: api.OnUpdate(func(s, old *appsv1.StatefulSet) {
			podspec.DropGatedTemplate(&s.Spec.Template, &old.Spec.Template)
			s.Status = old.Status
			api.BumpGeneration(s, old, &s.Spec, &old.Spec)
		}),
		ValidateName:   validation.NameIsDNSLabel, // the host names of its pods begin with it
		Validate:       api.Check(func(o *appsv1.StatefulSet) field.ErrorList { return validateStatefulSet(o, nil) }),
		ValidateUpdate: api.CheckUpdate(validateStatefulSetUpdate),
		Warnings:       statefulSetWarnings,
		Status: &api.Status{
			ValidateUpdate: api.CheckUpdate(validateStatefulSetStatus),
			PrepareUpdate:  api.OnUpdate(func(s, old *appsv1.StatefulSet) { s.Spec = old.Spec }),
		},
		Scale: &api.Scale{
			Get: func(o api.Object) *autoscalingv1.Scale {
				s := o.(*appsv1.StatefulSet)
				return api.NewScale(s, s.Spec.Replicas, s.Status.Replicas, api.SelectorText(s.Spec.Selector))
			},
			Set:          func(o api.Object, n int32) { o.(*appsv1.StatefulSet).Spec.Replicas = &n },
			ReplicasPath: []string{"spec", "replicas"},
		},
		ResetFields: map[string][]string{
			"": {"status"}, "status": {"spec"},
		},
	}
}

// statefulSetWarnings are also of the claims, at the paths that upstream gives.
func statefulSetWarnings(obj, old api.Object) []string {
	s := obj.(*appsv1.StatefulSet)
	warnings := podspec.WorkloadWarnings(false, func(o *appsv1.StatefulSet) *corev1.PodTemplateSpec { return &o.Spec.Template })(obj, old)
	for i := range s.Spec.VolumeClaimTemplates {
		at := field.NewPath("spec", "volumeClaimTemplates").Index(i)
		if old != nil {
			at = at.Child("Spec")
		}
		warnings = append(warnings, podspec.ClaimWarnings(at, &s.Spec.VolumeClaimTemplates[i].Spec)...)
	}
	if n := s.Spec.RevisionHistoryLimit; n != nil && *n < 0 {
		warnings = append(warnings, "spec.revisionHistoryLimit: a negative value retains all historical revisions; a value >= 0 is recommended")
	}
	return warnings
}

func defaultStatefulSet(s *appsv1.StatefulSet) {
	podspec.Default(&s.Spec.Template.Spec)
	if s.Spec.PodManagementPolicy == "" {
		s.Spec.PodManagementPolicy = appsv1.OrderedReadyPodManagement
	}
	u := &s.Spec.UpdateStrategy
	if u.Type == "" {
		u.Type = appsv1.RollingUpdateStatefulSetStrategyType
		setDefault(&u.RollingUpdate, appsv1.RollingUpdateStatefulSetStrategy{})
	}
	if u.Type == appsv1.RollingUpdateStatefulSetStrategyType && u.RollingUpdate != nil {
		setDefault(&u.RollingUpdate.Partition, 0)
	}
	setDefault(&s.Spec.PersistentVolumeClaimRetentionPolicy, appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy{})
	p := s.Spec.PersistentVolumeClaimRetentionPolicy
	if p.WhenDeleted == "" {
		p.WhenDeleted = appsv1.RetainPersistentVolumeClaimRetentionPolicyType
	}
	if p.WhenScaled == "" {
		p.WhenScaled = appsv1.RetainPersistentVolumeClaimRetentionPolicyType
	}
	setDefault(&s.Spec.Replicas, 1)
	setDefault(&s.Spec.RevisionHistoryLimit, 10)
	for i := range s.Spec.VolumeClaimTemplates {
		c := &s.Spec.VolumeClaimTemplates[i]
		podspec.DefaultClaim(&c.Spec)
		if c.Status.Phase == "" {
			c.Status.Phase = corev1.ClaimPending
		}
		// The claims that are made of the template are of this kind.
		c.APIVersion, c.Kind = "v1", "PersistentVolumeClaim"
	}
}
