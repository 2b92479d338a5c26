package resource

import (
	"fmt"
	"strings"

	resourcev1 "k8s.io/api/resource/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/proa-dev/proa/api/validate"
)

// requestNames are the requests of a claim, and the alternatives of each.
type requestNames map[string]sets.Set[string]

func namesOf(d *resourcev1.DeviceClaim) requestNames {
	names := requestNames{}
	for _, r := range d.Requests {
		names[r.Name] = sets.New[string]()
		for _, sub := range r.FirstAvailable {
			names[r.Name].Insert(sub.Name)
		}
	}
	return names
}

// ref wants the name of a request, or of an alternative.
func (n requestNames) ref(path *field.Path, name *string) field.ErrorList {
	const why = "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'"
	parts := strings.Split(*name, "/")
	if len(parts) > 2 {
		return field.ErrorList{field.Invalid(path, *name, why)}
	}
	var errs field.ErrorList
	for _, p := range parts {
		errs = append(errs, label(path, p)...)
	}
	subs, ok := n[parts[0]]
	if !ok || len(parts) == 2 && !subs.Has(parts[1]) {
		errs = append(errs, field.Invalid(path, *name, why))
	}
	return errs
}

func validateClaim(path *field.Path, s *resourcev1.ResourceClaimSpec) field.ErrorList {
	d, names := &s.Devices, namesOf(&s.Devices)
	path = path.Child("devices")
	errs := once(path.Child("requests"), d.Requests, resourcev1.DeviceRequestsMaxSize,
		func(r *resourcev1.DeviceRequest) string { return r.Name }, validateRequest)
	errs = append(errs, each(path.Child("constraints"), d.Constraints, resourcev1.DeviceConstraintsMaxSize,
		func(at *field.Path, c *resourcev1.DeviceConstraint) field.ErrorList {
			errs := once(at.Child("requests"), c.Requests, resourcev1.DeviceRequestsMaxSize, itself, names.ref)
			switch {
			case c.MatchAttribute != nil:
				errs = append(errs, fullyQualified(at.Child("matchAttribute"), *c.MatchAttribute)...)
			case c.DistinctAttribute != nil:
				errs = append(errs, fullyQualified(at.Child("distinctAttribute"), *c.DistinctAttribute)...)
			default:
				errs = append(errs, field.Required(at, `exactly one of "matchAttribute" or "distinctAttribute" is required, but multiple fields are set`))
			}
			return errs
		})...)
	return append(errs, each(path.Child("config"), d.Config, resourcev1.DeviceConfigMaxSize,
		func(at *field.Path, c *resourcev1.DeviceClaimConfiguration) field.ErrorList {
			errs := once(at.Child("requests"), c.Requests, resourcev1.DeviceRequestsMaxSize, itself, names.ref)
			return append(errs, validateConfig(at, &c.DeviceConfiguration, false)...)
		})...)
}

func validateRequest(path *field.Path, r *resourcev1.DeviceRequest) field.ErrorList {
	errs := label(path.Child("name"), r.Name)
	switch first := len(r.FirstAvailable) > 0; {
	case first && r.Exactly != nil:
		errs = append(errs, field.Invalid(path, nil, "exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set"))
	case first:
		errs = append(errs, once(path.Child("firstAvailable"), r.FirstAvailable, resourcev1.FirstAvailableDeviceRequestMaxSize,
			func(s *resourcev1.DeviceSubRequest) string { return s.Name },
			func(at *field.Path, s *resourcev1.DeviceSubRequest) field.ErrorList {
				return append(label(at.Child("name"), s.Name), validateExactly(at, &resourcev1.ExactDeviceRequest{
					DeviceClassName: s.DeviceClassName, Selectors: s.Selectors, AllocationMode: s.AllocationMode, Count: s.Count, Tolerations: s.Tolerations,
				})...)
			})...)
	case r.Exactly != nil:
		errs = append(errs, validateExactly(path.Child("exactly"), r.Exactly)...)
	default:
		errs = append(errs, field.Required(path, "exactly one of `exactly` or `firstAvailable` is required"))
	}
	return errs
}

func validateExactly(path *field.Path, r *resourcev1.ExactDeviceRequest) field.ErrorList {
	errs := subdomain(path.Child("deviceClassName"), r.DeviceClassName)
	errs = append(errs, validateSelectors(path.Child("selectors"), r.Selectors, false)...)
	switch r.AllocationMode {
	case resourcev1.DeviceAllocationModeAll:
		if r.Count != 0 {
			errs = append(errs, field.Invalid(path.Child("count"), r.Count, fmt.Sprintf("must not be specified when allocationMode is '%s'", r.AllocationMode)))
		}
	case resourcev1.DeviceAllocationModeExactCount:
		errs = append(errs, validate.Positive(path.Child("count"), r.Count)...)
	default:
		errs = append(errs, validate.OneOf(path.Child("allocationMode"), r.AllocationMode, resourcev1.DeviceAllocationModeAll, resourcev1.DeviceAllocationModeExactCount)...)
	}
	return append(errs, each(path.Child("tolerations"), r.Tolerations, resourcev1.DeviceTolerationsMaxLength, validateToleration)...)
}

func validateToleration(path *field.Path, t *resourcev1.DeviceToleration) field.ErrorList {
	var errs field.ErrorList
	if t.Key != "" {
		errs = append(errs, metavalidation.ValidateLabelName(t.Key, path.Child("key"))...)
	}
	switch t.Operator {
	case resourcev1.DeviceTolerationOpExists:
		if t.Value != "" {
			errs = append(errs, field.Invalid(path.Child("value"), t.Value, "must be empty for operator `Exists`"))
		}
	case resourcev1.DeviceTolerationOpEqual:
		errs = append(errs, validate.Messages(path.Child("value"), t.Value, validation.IsValidLabelValue(t.Value))...)
	default:
		errs = append(errs, validate.RequiredOneOf(path.Child("operator"), t.Operator, resourcev1.DeviceTolerationOpEqual, resourcev1.DeviceTolerationOpExists)...)
	}
	if t.Effect != "" {
		errs = append(errs, taintEffect(path.Child("effect"), t.Effect)...)
	}
	return errs
}

func taintEffect(path *field.Path, e resourcev1.DeviceTaintEffect) field.ErrorList {
	return validate.RequiredOneOf(path, e, resourcev1.DeviceTaintEffectNoExecute, resourcev1.DeviceTaintEffectNoSchedule, resourcev1.DeviceTaintEffectNone)
}
