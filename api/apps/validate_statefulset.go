package apps

import (
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/proa-dev/proa/api/core/podspec"
	"github.com/proa-dev/proa/api/validate"
)

func validateStatefulSet(d, old *appsv1.StatefulSet) field.ErrorList {
	s, path := &d.Spec, field.NewPath("spec")
	var errs field.ErrorList
	switch s.PodManagementPolicy {
	case "":
		errs = append(errs, field.Required(path.Child("podManagementPolicy"), ""))
	case appsv1.OrderedReadyPodManagement, appsv1.ParallelPodManagement:
	default:
		errs = append(errs, field.Invalid(path.Child("podManagementPolicy"), s.PodManagementPolicy,
			fmt.Sprintf("must be '%s' or '%s'", appsv1.OrderedReadyPodManagement, appsv1.ParallelPodManagement)))
	}
	errs = append(errs, validateStatefulSetStrategy(path.Child("updateStrategy"), &s.UpdateStrategy)...)
	errs = append(errs, validateRetention(path.Child("persistentVolumeClaimRetentionPolicy"), s.PersistentVolumeClaimRetentionPolicy)...)
	if old == nil {
		// Neither can change later, so what is stored must be let live.
		for i := range s.VolumeClaimTemplates {
			errs = append(errs, podspec.ValidateClaim(path.Child("volumeClaimTemplates").Index(i).Child("spec"), &s.VolumeClaimTemplates[i].Spec, nil)...)
		}
		if s.ServiceName != "" {
			for _, msg := range validation.IsDNS1123Label(s.ServiceName) {
				errs = append(errs, field.Invalid(path.Child("serviceName"), s.ServiceName, msg))
			}
		}
	}
	errs = append(errs, validateReplicas(path.Child("replicas"), s.Replicas)...)
	errs = append(errs, validate.NonNegative(path.Child("minReadySeconds"), int64(s.MinReadySeconds))...)
	if s.Ordinals != nil {
		errs = append(errs, validate.NonNegative(path.Child("ordinals", "start"), int64(s.Ordinals.Start))...)
	}
	selector, bad := validateSelector(path.Child("selector"), s.Selector, ofStatefulSet, nil)
	errs = append(errs, bad...)
	if selector == nil {
		return errs
	}
	return append(errs, validateStatefulSetTemplate(path.Child("template"), d, old, selector)...)
}

// validateStatefulSetTemplate checks the template as pods will have it. The
// pod's own spec is not checked again on an update of a set that was not valid
// before.
func validateStatefulSetTemplate(path *field.Path, d, old *appsv1.StatefulSet, selector labels.Selector) field.ErrorList {
	opts := podspec.Options{}
	if old != nil {
		opts = after(&old.Spec.Template)
		if len(validateStatefulSet(old, nil)) > 0 {
			return podspec.ValidateWorkload(path, &d.Spec.Template, selector, "StatefulSet")
		}
	}
	t := d.Spec.Template.DeepCopy()
	// Each pod gets its own.
	t.Spec.Hostname, t.Spec.Subdomain = "", ""
	// Pods get a volume of each claim template: mounts may name them.
	for _, c := range d.Spec.VolumeClaimTemplates {
		t.Spec.Volumes = append(dropVolume(t.Spec.Volumes, c.Name), corev1.Volume{
			Name: c.Name,
			VolumeSource: corev1.VolumeSource{
				PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: c.Name},
			},
		})
	}
	return podspec.ValidateWorkloadTemplate(path, t, selector, "StatefulSet", opts)
}

func dropVolume(volumes []corev1.Volume, name string) []corev1.Volume {
	for i, v := range volumes {
		if v.Name == name {
			return append(volumes[:i:i], volumes[i+1:]...)
		}
	}
	return volumes
}

func validateStatefulSetStrategy(path *field.Path, s *appsv1.StatefulSetUpdateStrategy) field.ErrorList {
	r := s.RollingUpdate
	at := path.Child("rollingUpdate")
	switch s.Type {
	case "":
		return field.ErrorList{field.Required(path, "")}
	case appsv1.OnDeleteStatefulSetStrategyType:
		if r != nil {
			return field.ErrorList{field.Invalid(at, r, fmt.Sprintf("only allowed for updateStrategy '%s'", appsv1.RollingUpdateStatefulSetStrategyType))}
		}
	case appsv1.RollingUpdateStatefulSetStrategyType:
		var errs field.ErrorList
		if r != nil && r.Partition != nil {
			errs = append(errs, validate.NonNegative(at.Child("partition"), int64(*r.Partition))...)
		}
		if r != nil && r.MaxUnavailable != nil {
			errs = append(errs, validate.IntOrPercent(at.Child("maxUnavailable"), *r.MaxUnavailable)...)
			if validate.IntOrPercentValue(*r.MaxUnavailable) == 0 {
				errs = append(errs, field.Invalid(at.Child("maxUnavailable"), *r.MaxUnavailable, "cannot be 0"))
			}
			errs = append(errs, validate.AtMostHundredPercent(at.Child("maxUnavailable"), *r.MaxUnavailable)...)
		}
		return errs
	default:
		return field.ErrorList{field.Invalid(path, s, fmt.Sprintf("must be '%s' or '%s'",
			appsv1.RollingUpdateStatefulSetStrategyType, appsv1.OnDeleteStatefulSetStrategyType))}
	}
	return nil
}

func validateRetention(path *field.Path, p *appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy) field.ErrorList {
	if p == nil {
		return nil
	}
	keep, drop := appsv1.RetainPersistentVolumeClaimRetentionPolicyType, appsv1.DeletePersistentVolumeClaimRetentionPolicyType
	errs := validate.OneOf(path.Child("whenDeleted"), p.WhenDeleted, keep, drop)
	return append(errs, validate.OneOf(path.Child("whenScaled"), p.WhenScaled, keep, drop)...)
}

func validateStatefulSetUpdate(d, old *appsv1.StatefulSet) field.ErrorList {
	errs := validateStatefulSet(d, old)
	path, s, was := field.NewPath("spec"), &d.Spec, &old.Spec
	errs = append(errs, validate.Unchanged(path.Child("selector"), s.Selector, was.Selector)...)
	errs = append(errs, validate.Unchanged(path.Child("volumeClaimTemplates"), s.VolumeClaimTemplates, was.VolumeClaimTemplates)...)
	errs = append(errs, validate.Unchanged(path.Child("serviceName"), s.ServiceName, was.ServiceName)...)
	return append(errs, validate.Unchanged(path.Child("podManagementPolicy"), s.PodManagementPolicy, was.PodManagementPolicy)...)
}

func validateStatefulSetStatus(d, old *appsv1.StatefulSet) field.ErrorList {
	s, path := &d.Status, field.NewPath("status")
	counts := []struct {
		name  string
		value int32
	}{
		{"replicas", s.Replicas}, {"readyReplicas", s.ReadyReplicas}, {"currentReplicas", s.CurrentReplicas},
		{"updatedReplicas", s.UpdatedReplicas}, {"availableReplicas", s.AvailableReplicas},
	}
	var errs field.ErrorList
	for _, c := range counts {
		errs = append(errs, validate.NonNegative(path.Child(c.name), int64(c.value))...)
	}
	errs = append(errs, validate.NonNegative(path.Child("observedGeneration"), s.ObservedGeneration)...)
	for _, c := range counts[1:] {
		if c.value > s.Replicas {
			errs = append(errs, field.Invalid(path.Child(c.name), c.value, "cannot be greater than status.replicas"))
		}
	}
	if s.AvailableReplicas > s.ReadyReplicas {
		errs = append(errs, field.Invalid(path.Child("availableReplicas"), s.AvailableReplicas, "cannot be greater than status.readyReplicas"))
	}
	return append(errs, validateCollisionCount(path, s.CollisionCount, old.Status.CollisionCount)...)
}
