package apps

import (
	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/api/core/podspec"
)

// DaemonSet is the kind of daemon sets.
func DaemonSet() *api.Kind {
	return &api.Kind{
		GVK:         gvk("DaemonSet"),
		Resource:    "daemonsets",
		ShortNames:  []string{"ds"},
		Categories:  []string{"all"},
		Namespaced:  true,
		New:         api.Maker[appsv1.DaemonSet](),
		NewList:     api.ListMaker[appsv1.DaemonSetList](),
		StoragePath: "daemonsets",
		Columns:     daemonSetColumns(),

		Default: api.On(defaultDaemonSet),
		PrepareCreate: api.On(func(d *appsv1.DaemonSet) {
			d.Status = appsv1.DaemonSetStatus{}
			d.Generation = 1
		}),
		PrepareUpdate: api.OnUpdate(func(d, old *appsv1.DaemonSet) {
			d.Status = old.Status
			api.BumpGeneration(d, old, d.Spec, old.Spec)
		}),
		Validate:       api.Check(func(o *appsv1.DaemonSet) field.ErrorList { return validateDaemonSet(o, nil) }),
		ValidateUpdate: api.CheckUpdate(validateDaemonSetUpdate),
		Warnings: api.Warn(func(o, _ *appsv1.DaemonSet) []string {
			return podspec.TemplateWarnings(field.NewPath("spec", "template"), &o.Spec.Template)
		}),
		Status: &api.Status{
			ValidateUpdate: api.CheckUpdate(validateDaemonSetStatus),
			PrepareUpdate:  api.OnUpdate(func(d, old *appsv1.DaemonSet) { d.Spec = old.Spec }),
		},
		ResetFields: map[string][]string{
			"": {"status"}, "status": {"spec"},
		},
	}
}

func defaultDaemonSet(d *appsv1.DaemonSet) {
	podspec.Default(&d.Spec.Template.Spec)
	u := &d.Spec.UpdateStrategy
	if u.Type == "" {
		u.Type = appsv1.RollingUpdateDaemonSetStrategyType
	}
	if u.Type == appsv1.RollingUpdateDaemonSetStrategyType {
		setDefault(&u.RollingUpdate, appsv1.RollingUpdateDaemonSet{})
		setDefault(&u.RollingUpdate.MaxUnavailable, intstr.FromInt32(1))
		setDefault(&u.RollingUpdate.MaxSurge, intstr.FromInt32(0))
	}
	setDefault(&d.Spec.RevisionHistoryLimit, 10)
}
