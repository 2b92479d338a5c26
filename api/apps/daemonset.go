package apps

import (
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
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
			podspec.DropGatedTemplate(&d.Spec.Template, nil)
			d.Status = appsv1.DaemonSetStatus{}
			d.Generation = 1
			setTemplateGeneration(d, max(templateGeneration(d), 1))
		}),
		PrepareUpdate: api.OnUpdate(func(d, old *appsv1.DaemonSet) {
			podspec.DropGatedTemplate(&d.Spec.Template, &old.Spec.Template)
			d.Status = old.Status
			n := templateGeneration(old)
			if !equality.Semantic.DeepEqual(d.Spec.Template, old.Spec.Template) {
				n++
			}
			setTemplateGeneration(d, n)
			api.BumpGeneration(d, old, &d.Spec, &old.Spec)
		}),
		Validate:       api.Check(func(o *appsv1.DaemonSet) field.ErrorList { return validateDaemonSet(o, nil) }),
		ValidateUpdate: api.CheckUpdate(validateDaemonSetUpdate),
		Warnings:       podspec.WorkloadWarnings(false, func(o *appsv1.DaemonSet) *corev1.PodTemplateSpec { return &o.Spec.Template }),
		Status: &api.Status{
			ValidateUpdate: api.CheckUpdate(validateDaemonSetStatus),
			PrepareUpdate:  api.OnUpdate(func(d, old *appsv1.DaemonSet) { d.Spec = old.Spec }),
		},
		ResetFields: map[string][]string{
			"": {"status"}, "status": {"spec"},
		},
	}
}

// templateGeneration counts the templates that a daemon set has had. Clients
// see it as an annotation, and cannot change it.
func templateGeneration(d *appsv1.DaemonSet) int64 {
	n, err := strconv.ParseInt(d.Annotations[appsv1.DeprecatedTemplateGeneration], 10, 64)
	if err != nil {
		return 0
	}
	return n
}

func setTemplateGeneration(d *appsv1.DaemonSet, n int64) {
	if d.Annotations == nil {
		d.Annotations = map[string]string{}
	}
	d.Annotations[appsv1.DeprecatedTemplateGeneration] = strconv.FormatInt(n, 10)
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
