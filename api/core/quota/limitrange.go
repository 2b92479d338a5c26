package quota

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/api/validate"
)

// LimitRange is the kind of limit ranges.
func LimitRange() *api.Kind {
	return &api.Kind{
		GVK:            corev1.SchemeGroupVersion.WithKind("LimitRange"),
		Resource:       "limitranges",
		ShortNames:     []string{"limits"},
		Namespaced:     true,
		New:            api.Maker[corev1.LimitRange](),
		NewList:        api.ListMaker[corev1.LimitRangeList](),
		StoragePath:    "limitranges",
		Columns:        []api.Column{api.CreatedColumn()},
		CreateOnUpdate: true,

		Validate:       api.Check(validateLimitRange),
		ValidateUpdate: api.CheckUpdate(func(l, _ *corev1.LimitRange) field.ErrorList { return validateLimitRange(l) }),
		Default: api.On(func(l *corev1.LimitRange) {
			for i := range l.Spec.Limits {
				if l.Spec.Limits[i].Type == corev1.LimitTypeContainer {
					defaultLimits(&l.Spec.Limits[i])
				}
			}
		}),
	}
}

// defaultLimits derives what a container gets by default: its limit from max,
// its request from that limit, else from min.
func defaultLimits(l *corev1.LimitRangeItem) {
	fill := func(to *corev1.ResourceList, from corev1.ResourceList) {
		if *to == nil {
			*to = corev1.ResourceList{}
		}
		for name, q := range from {
			if _, ok := (*to)[name]; !ok {
				(*to)[name] = q.DeepCopy()
			}
		}
	}
	fill(&l.Default, l.Max)
	fill(&l.DefaultRequest, l.Default)
	fill(&l.DefaultRequest, l.Min)
}

func validateLimitRange(l *corev1.LimitRange) field.ErrorList {
	var errs field.ErrorList
	seen := sets.New[corev1.LimitType]()
	for i := range l.Spec.Limits {
		item, at := &l.Spec.Limits[i], field.NewPath("spec", "limits").Index(i)
		errs = append(errs, validateLimitType(at.Child("type"), item.Type)...)
		if seen.Has(item.Type) {
			errs = append(errs, field.Duplicate(at.Child("type"), item.Type))
		}
		seen.Insert(item.Type)
		errs = append(errs, validateLimit(at, item)...)
	}
	return errs
}

func validateLimitType(path *field.Path, t corev1.LimitType) field.ErrorList {
	if errs := validate.Messages(path, t, validation.IsQualifiedName(string(t))); len(errs) != 0 {
		return errs
	}
	switch t {
	case corev1.LimitTypePod, corev1.LimitTypeContainer, corev1.LimitTypePersistentVolumeClaim:
		return nil
	}
	if !strings.Contains(string(t), "/") {
		return field.ErrorList{field.Invalid(path, t, "must be a standard limit type or fully qualified")}
	}
	return nil
}

func validateLimit(path *field.Path, l *corev1.LimitRangeItem) field.ErrorList {
	var errs field.ErrorList
	names := validate.ResourceName
	if l.Type == corev1.LimitTypePod || l.Type == corev1.LimitTypeContainer {
		names = validate.ContainerResourceName
	}
	keys := sets.New[corev1.ResourceName]()
	list := func(name string, resources corev1.ResourceList) {
		for _, k := range validate.SortedResources(resources) {
			errs = append(errs, names(path.Child(name).Key(string(k)), k)...)
			keys.Insert(k)
		}
	}
	list("max", l.Max)
	list("min", l.Min)
	item := *l
	if l.Type == corev1.LimitTypePod {
		for _, f := range []struct {
			name string
			list corev1.ResourceList
		}{{"default", l.Default}, {"defaultRequest", l.DefaultRequest}} {
			if len(f.list) > 0 {
				errs = append(errs, field.Forbidden(path.Child(f.name), "may not be specified when `type` is 'Pod'"))
			}
		}
		item.Default, item.DefaultRequest = nil, nil
	} else {
		list("default", l.Default)
		list("defaultRequest", l.DefaultRequest)
	}
	if l.Type == corev1.LimitTypePersistentVolumeClaim {
		_, low := l.Min[corev1.ResourceStorage]
		_, high := l.Max[corev1.ResourceStorage]
		if !low && !high {
			errs = append(errs, field.Required(path.Child("limits"), "either minimum or maximum storage value is required, but neither was provided"))
		}
	}
	list("maxLimitRequestRatio", l.MaxLimitRequestRatio)
	for _, k := range slices.Sorted(slices.Values(keys.UnsortedList())) {
		errs = append(errs, validateLimitOrder(path, &item, k)...)
	}
	return errs
}

// validateLimitOrder wants min ≤ default request ≤ default ≤ max of one
// resource, and a ratio that those allow.
func validateLimitOrder(path *field.Path, l *corev1.LimitRangeItem, k corev1.ResourceName) field.ErrorList {
	var errs field.ErrorList
	key := string(k)
	low, hasLow := l.Min[k]
	high, hasHigh := l.Max[k]
	limit, hasLimit := l.Default[k]
	request, hasRequest := l.DefaultRequest[k]
	ratio, hasRatio := l.MaxLimitRequestRatio[k]
	wrong := func(name string, value resource.Quantity, format string, args ...any) {
		errs = append(errs, field.Invalid(path.Child(name).Key(key), value, fmt.Sprintf(format, args...)))
	}
	if hasLow && hasHigh && low.Cmp(high) > 0 {
		wrong("min", low, "min value %s is greater than max value %s", low.String(), high.String())
	}
	if hasRequest && hasLow && low.Cmp(request) > 0 {
		wrong("defaultRequest", request, "min value %s is greater than default request value %s", low.String(), request.String())
	}
	if hasRequest && hasHigh && request.Cmp(high) > 0 {
		wrong("defaultRequest", request, "default request value %s is greater than max value %s", request.String(), high.String())
	}
	if hasRequest && hasLimit && request.Cmp(limit) > 0 {
		wrong("defaultRequest", request, "default request value %s is greater than default limit value %s", request.String(), limit.String())
	}
	if hasLimit && hasLow && low.Cmp(limit) > 0 {
		wrong("default", low, "min value %s is greater than default value %s", low.String(), limit.String())
	}
	if hasLimit && hasHigh && limit.Cmp(high) > 0 {
		wrong("default", high, "default value %s is greater than max value %s", limit.String(), high.String())
	}
	if hasRatio && ratio.Cmp(resource.MustParse("1")) < 0 {
		wrong("maxLimitRequestRatio", ratio, "ratio %s is less than 1", ratio.String())
	}
	if hasRatio && hasLow && hasHigh {
		if most := high.AsApproximateFloat64() / low.AsApproximateFloat64(); ratio.AsApproximateFloat64() > most {
			wrong("maxLimitRequestRatio", ratio, "ratio %s is greater than max/min = %f", ratio.String(), most)
		}
	}
	if !validate.Overcommit(k) && hasLimit && hasRequest && limit.Cmp(request) != 0 {
		wrong("defaultRequest", request, "default value %s must equal to defaultRequest value %s in %s", limit.String(), request.String(), key)
	}
	return errs
}
