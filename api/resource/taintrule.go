package resource

import (
	"time"

	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/api/validate"
)

// DeviceTaintRule is the kind of rules that taint devices.
func DeviceTaintRule() *api.Kind {
	type R = *resourcev1.DeviceTaintRule
	return &api.Kind{
		GVK:         gvk("DeviceTaintRule"),
		Resource:    "devicetaintrules",
		New:         api.Maker[resourcev1.DeviceTaintRule](),
		NewList:     api.ListMaker[resourcev1.DeviceTaintRuleList](),
		StoragePath: "devicetaintrules",
		Columns: []api.Column{
			api.Col("Key", "string", "Key of the taint.", func(r R) any { return r.Spec.Taint.Key }),
			api.Col("Value", "string", "Value of the taint.", func(r R) any { return r.Spec.Taint.Value }),
			api.Col("Effect", "string", "Effect of the taint.", func(r R) any { return string(r.Spec.Taint.Effect) }),
			api.Col("TimeAdded", "string", "Since when the effect holds.", func(r R) any {
				if r.Spec.Taint.TimeAdded == nil {
					return ""
				}
				return api.HumanAge(*r.Spec.Taint.TimeAdded)
			}),
			api.AgeColumn(),
		},
		Default: api.On(func(r R) { defaultTaint(&r.Spec.Taint) }),
		PrepareCreate: api.On(func(r R) {
			r.Status = resourcev1.DeviceTaintRuleStatus{}
			r.Generation = 1
		}),
		PrepareUpdate: api.OnUpdate(func(r, old R) {
			r.Status = old.Status
			// A new effect begins now, unless the client says otherwise.
			if t, before := &r.Spec.Taint, &old.Spec.Taint; t.Effect != before.Effect && t.TimeAdded.Equal(before.TimeAdded) {
				t.TimeAdded = nil
				defaultTaint(t)
			}
			api.BumpGeneration(r, old, &r.Spec, &old.Spec)
		}),
		Validate:       api.Check(func(r R) field.ErrorList { return validateTaintRule(r, nil) }),
		ValidateUpdate: api.CheckUpdate(validateTaintRule),
		Status: &api.Status{
			PrepareUpdate: api.OnUpdate(func(r, old R) {
				r.Spec = old.Spec
				metav1.ResetObjectMetaForStatus(&r.ObjectMeta, &old.ObjectMeta)
			}),
			ValidateUpdate: api.CheckUpdate(func(r, _ R) field.ErrorList {
				path := field.NewPath("status", "conditions")
				errs := metavalidation.ValidateConditions(r.Status.Conditions, path)
				if n := len(r.Status.Conditions); n > resourcev1.DeviceTaintRuleStatusMaxConditions {
					errs = append(errs, field.TooMany(path, n, resourcev1.DeviceTaintRuleStatusMaxConditions))
				}
				return errs
			}),
		},
		RequireVersionOnUpdate: true,
		ResetFields:            map[string][]string{"": {"status"}, "status": {"metadata", "spec"}},
	}
}

// defaultTaint notes when a taint began, in whole seconds as it is written.
func defaultTaint(t *resourcev1.DeviceTaint) {
	if t.TimeAdded == nil {
		t.TimeAdded = &metav1.Time{Time: api.Now().Truncate(time.Second)}
	}
}

func validateTaintRule(r, old *resourcev1.DeviceTaintRule) field.ErrorList {
	path := field.NewPath("spec")
	var errs field.ErrorList
	if s, at := r.Spec.DeviceSelector, path.Child("deviceSelector"); s != nil {
		if s.Driver != nil {
			errs = append(errs, driverName(at.Child("driver"), *s.Driver)...)
		}
		if s.Pool != nil {
			errs = append(errs, poolName(at.Child("pool"), *s.Pool)...)
		}
		if s.Device != nil {
			errs = append(errs, label(at.Child("device"), *s.Device)...)
		}
	}
	known := old != nil && old.Spec.Taint.Effect == r.Spec.Taint.Effect
	return append(errs, validateTaint(path.Child("taint"), &r.Spec.Taint, known)...)
}

// validateTaint checks a taint; an effect that is known stays as it is.
func validateTaint(path *field.Path, t *resourcev1.DeviceTaint, known bool) field.ErrorList {
	errs := metavalidation.ValidateLabelName(t.Key, path.Child("key"))
	if t.Value != "" {
		errs = append(errs, validate.Messages(path.Child("value"), t.Value, validation.IsValidLabelValue(t.Value))...)
	}
	if !known {
		errs = append(errs, taintEffect(path.Child("effect"), t.Effect)...)
	}
	return errs
}
