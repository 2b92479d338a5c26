package resource

import (
	"fmt"

	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func validateCapacity(path *field.Path, c resourcev1.DeviceCapacity, shared bool) field.ErrorList {
	p, at := c.RequestPolicy, path.Child("requestPolicy")
	switch {
	case p == nil:
		return nil
	case !shared:
		return field.ErrorList{field.Forbidden(at, "allowMultipleAllocations must be true")}
	case len(p.ValidValues) > 0 && p.ValidRange != nil:
		return field.ErrorList{field.Forbidden(at, `exactly one policy can be specified, cannot specify "validValues" and "validRange" at the same time`)}
	case len(p.ValidValues) > 0 && p.Default == nil:
		return field.ErrorList{field.Required(at.Child("default"), "required when validValues is defined")}
	case len(p.ValidValues) > 0:
		return validateValues(at.Child("validValues"), *p.Default, c.Value, p.ValidValues)
	case p.ValidRange != nil && p.Default == nil:
		return field.ErrorList{field.Required(at.Child("default"), "required when validRange is defined")}
	case p.ValidRange != nil:
		return validateRange(at.Child("validRange"), *p.Default, c.Value, p.ValidRange)
	}
	return nil
}

// validateValues wants values in order, each once, within the capacity, and
// the default among them.
func validateValues(path *field.Path, standard, capacity resource.Quantity, values []resource.Quantity) field.ErrorList {
	const most = 10
	var errs field.ErrorList
	found := false
	for i := 1; i < len(values); i++ {
		if values[i-1].Cmp(values[i]) > 0 {
			errs = append(errs, field.Invalid(path.Index(i), values[i].String(), "values must be sorted in ascending order"))
		}
	}
	errs = append(errs, once(path, values, most, func(q *resource.Quantity) string { return q.AsDec().String() },
		func(at *field.Path, q *resource.Quantity) field.ErrorList {
			found = found || q.Cmp(standard) == 0
			if q.Cmp(capacity) > 0 {
				return field.ErrorList{field.Invalid(at, q.String(), "option is larger than capacity value: "+capacity.String())}
			}
			return nil
		})...)
	if !found {
		errs = append(errs, field.Invalid(path, standard.String(), "default value is not valid according to the requestPolicy"))
	}
	return errs
}

// validateRange wants a range within the capacity, in steps that lead from its
// least to its most and to the default.
func validateRange(path *field.Path, standard, capacity resource.Quantity, r *resourcev1.CapacityRequestPolicyRange) field.ErrorList {
	if r.Min == nil {
		return field.ErrorList{field.Required(path.Child("min"), "required when validRange is defined")}
	}
	var errs field.ErrorList
	order := func(name string, less, more resource.Quantity, shown, why string, limit resource.Quantity) {
		if less.Cmp(more) > 0 {
			errs = append(errs, field.Invalid(path.Child(name), shown, why+": "+limit.String()))
		}
	}
	order("min", *r.Min, capacity, r.Min.String(), "min is larger than capacity value", capacity)
	order("default", *r.Min, standard, standard.String(), "default is less than min", *r.Min)
	if r.Max != nil {
		order("max", *r.Min, *r.Max, r.Min.String(), "min is larger than max", *r.Max)
		order("max", *r.Max, capacity, r.Max.String(), "max is larger than capacity value", capacity)
		order("default", standard, *r.Max, standard.String(), "default is more than max", *r.Max)
	}
	if r.Step == nil {
		return errs
	}
	step := path.Child("step")
	if r.Step.Sign() <= 0 {
		return append(errs, field.Invalid(step, r.Step.String(), "must be greater than zero"))
	}
	first := r.Min.DeepCopy()
	first.Add(*r.Step)
	order("step", first, capacity, r.Step.String(), fmt.Sprintf("one step %s is larger than capacity value", first.String()), capacity)
	return append(errs, validateSteps(path, standard, r)...)
}

// validateSteps counts in thousandths. What has no exact number of them, or
// more than an integer holds, is refused before anything is divided.
func validateSteps(path *field.Path, standard resource.Quantity, r *resourcev1.CapacityRequestPolicyRange) field.ErrorList {
	var errs field.ErrorList
	for _, v := range []struct {
		name string
		q    *resource.Quantity
	}{{"default", &standard}, {"min", r.Min}, {"max", r.Max}, {"step", r.Step}} {
		if v.q != nil && v.q.Cmp(*resource.NewMilliQuantity(v.q.MilliValue(), v.q.Format)) != 0 {
			errs = append(errs, field.Invalid(path.Child(v.name), v.q.String(), "value cannot be represented as a milli value"))
		}
	}
	if len(errs) > 0 {
		return errs
	}
	for _, q := range []*resource.Quantity{&standard, r.Max} {
		if q != nil && (q.MilliValue()-r.Min.MilliValue())%r.Step.MilliValue() != 0 {
			errs = append(errs, field.Invalid(path.Child("step"), q.String(),
				fmt.Sprintf("value is not a multiple of a given step (%s) from (%s)", r.Step.String(), r.Min.String())))
		}
	}
	return errs
}
