package resource

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/api/core/podspec"
	"github.com/proa-dev/proa/api/validate"
)

func validateSlice(s, old *resourcev1.ResourceSlice) field.ErrorList {
	spec, path := &s.Spec, field.NewPath("spec")
	errs := driverName(path.Child("driver"), spec.Driver)
	pool := path.Child("pool")
	errs = append(errs, poolName(pool.Child("name"), spec.Pool.Name)...)
	errs = append(errs, validate.Positive(pool.Child("resourceSliceCount"), spec.Pool.ResourceSliceCount)...)
	if spec.Pool.Generation < 0 {
		errs = append(errs, field.Invalid(pool.Child("generation"), spec.Pool.Generation, "must be greater than or equal to zero"))
	}
	before := map[string]*resourcev1.Device{}
	if old != nil {
		errs = append(errs, validate.Unchanged(pool.Child("name"), spec.Pool.Name, old.Spec.Pool.Name)...)
		errs = append(errs, validate.Unchanged(path.Child("driver"), spec.Driver, old.Spec.Driver)...)
		errs = append(errs, validate.Unchanged(path.Child("nodeName"), spec.NodeName, old.Spec.NodeName)...)
		for i := range old.Spec.Devices {
			before[old.Spec.Devices[i].Name] = &old.Spec.Devices[i]
		}
	}
	w := where{spec.NodeName, spec.NodeSelector, spec.AllNodes}
	set, wrong := w.check(path)
	errs = append(errs, wrong...)
	if spec.NodeSelector != nil && len(spec.NodeSelector.NodeSelectorTerms) != 1 {
		errs = append(errs, field.Invalid(path.Child("nodeSelector", "nodeSelectorTerms"), spec.NodeSelector.NodeSelectorTerms, "must have exactly one node selector term"))
	}
	perDevice := ptr.Deref(spec.PerDeviceNodeSelection, false)
	if perDevice {
		set = append(set, "`perDeviceNodeSelection`")
	} else if spec.PerDeviceNodeSelection != nil {
		errs = append(errs, field.Invalid(path.Child("perDeviceNodeSelection"), false, "must be either unset or set to true"))
	}
	const one = "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required"
	switch {
	case len(set) == 0:
		errs = append(errs, field.Required(path, one))
	case len(set) > 1:
		errs = append(errs, field.Invalid(path, "{"+strings.Join(set, ", ")+"}", one+", but multiple fields are set"))
	}
	if spec.SharedCounters != nil && spec.Devices != nil {
		errs = append(errs, field.Invalid(path, "", "only one of `sharedCounters` or `devices` is allowed"))
	}
	most := resourcev1.ResourceSliceMaxDevices
	if slices.ContainsFunc(spec.Devices, func(d resourcev1.Device) bool { return len(d.Taints)+len(d.ConsumesCounters) > 0 }) {
		most = resourcev1.ResourceSliceMaxDevicesWithAdvancedFeatures
	}
	errs = append(errs, once(path.Child("devices"), spec.Devices, most, func(d *resourcev1.Device) string { return d.Name },
		func(at *field.Path, d *resourcev1.Device) field.ErrorList {
			return validateDevice(at, d, before[d.Name], perDevice)
		})...)
	return append(errs, once(path.Child("sharedCounters"), spec.SharedCounters, resourcev1.ResourceSliceMaxCounterSets,
		func(c *resourcev1.CounterSet) string { return c.Name },
		func(at *field.Path, c *resourcev1.CounterSet) field.ErrorList {
			return append(label(at.Child("name"), c.Name), counters(at.Child("counters"), c.Counters, resourcev1.ResourceSliceMaxCountersPerCounterSet)...)
		})...)
}

// where says on which nodes devices are.
type where struct {
	name     *string
	selector *corev1.NodeSelector
	all      *bool
}

// check returns which of the fields are set, and what is wrong with them.
func (w where) check(path *field.Path) (set []string, errs field.ErrorList) {
	switch at := path.Child("nodeName"); {
	case w.name == nil:
	case *w.name == "":
		errs = append(errs, field.Invalid(at, "", "must be either unset or set to a non-empty string"))
	default:
		set = append(set, "`nodeName`")
		errs = append(errs, validate.Messages(at, *w.name, apivalidation.NameIsDNSSubdomain(*w.name, false))...)
	}
	if w.selector != nil {
		set = append(set, "`nodeSelector`")
		errs = append(errs, podspec.ValidateNodeSelector(path.Child("nodeSelector"), w.selector, false)...)
	}
	if w.all != nil && *w.all {
		set = append(set, "`allNodes`")
	} else if w.all != nil {
		errs = append(errs, field.Invalid(path.Child("allNodes"), false, "must be either unset or set to true"))
	}
	return set, errs
}

func counters(path *field.Path, m map[string]resourcev1.Counter, most int) field.ErrorList {
	switch {
	case len(m) == 0:
		return field.ErrorList{field.Required(path, "")}
	case len(m) > most:
		return field.ErrorList{field.TooMany(path, len(m), most)}
	}
	var errs field.ErrorList
	for _, name := range slices.Sorted(maps.Keys(m)) {
		errs = append(errs, validate.Label(path, name)...)
	}
	return errs
}

func validateDevice(path *field.Path, d, old *resourcev1.Device, perDevice bool) field.ErrorList {
	errs := label(path.Child("name"), d.Name)
	if n, most := len(d.Attributes)+len(d.Capacity), resourcev1.ResourceSliceMaxAttributesAndCapacitiesPerDevice; n > most {
		errs = append(errs, field.Invalid(path, n, fmt.Sprintf("the total number of attributes and capacities must not exceed %d", most)))
	}
	if n, most := len(d.Attributes), resourcev1.ResourceSliceMaxAttributeValuesPerDevice; n > most {
		errs = append(errs, field.Invalid(path, n, fmt.Sprintf("the total number of attribute values must not exceed %d", most)))
	}
	at := path.Child("attributes")
	for _, name := range slices.Sorted(maps.Keys(d.Attributes)) {
		errs = append(errs, qualified(at, string(name))...)
		errs = append(errs, validateAttribute(at.Key(string(name)), d.Attributes[name])...)
	}
	at = path.Child("capacity")
	if old == nil || !api.Equal(old.Capacity, d.Capacity) {
		for _, name := range slices.Sorted(maps.Keys(d.Capacity)) {
			errs = append(errs, qualified(at, string(name))...)
			errs = append(errs, validateCapacity(at.Key(string(name)), d.Capacity[name], ptr.Deref(d.AllowMultipleAllocations, false))...)
		}
	}
	if old == nil || !api.Equal(&old.Taints, &d.Taints) {
		errs = append(errs, each(path.Child("taints"), d.Taints, resourcev1.DeviceTaintsMaxLength,
			func(at *field.Path, t *resourcev1.DeviceTaint) field.ErrorList { return validateTaint(at, t, false) })...)
	}
	errs = append(errs, once(path.Child("consumesCounters"), d.ConsumesCounters, resourcev1.ResourceSliceMaxDeviceCounterConsumptionsPerDevice,
		func(c *resourcev1.DeviceCounterConsumption) string { return c.CounterSet },
		func(at *field.Path, c *resourcev1.DeviceCounterConsumption) field.ErrorList {
			return append(label(at.Child("counterSet"), c.CounterSet),
				counters(at.Child("counters"), c.Counters, resourcev1.ResourceSliceMaxCountersPerDeviceCounterConsumption)...)
		})...)
	errs = append(errs, validateWhere(path, where{d.NodeName, d.NodeSelector, d.AllNodes}, perDevice)...)
	return append(errs, validateBindingConditions(path, d.BindingConditions, d.BindingFailureConditions)...)
}

// validateWhere wants a device to say where it is if the slice lets it.
func validateWhere(path *field.Path, w where, perDevice bool) field.ErrorList {
	if !perDevice {
		if w != (where{}) {
			return field.ErrorList{field.Invalid(path, nil, "`nodeName`, `nodeSelector` and `allNodes` can only be set if `perDeviceNodeSelection` is set to true in the ResourceSlice spec")}
		}
		return nil
	}
	set, errs := w.check(path)
	const one = "exactly one of `nodeName`, `nodeSelector`, or `allNodes` is required when `perDeviceNodeSelection` is set to true in the ResourceSlice spec"
	switch {
	case len(set) == 0:
		errs = append(errs, field.Required(path, one))
	case len(set) > 1:
		errs = append(errs, field.Invalid(path, "{"+strings.Join(set, ", ")+"}", one))
	}
	return errs
}

// semver is a version as semver.org has it.
var semver = regexp.MustCompile(`^(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)` +
	`(-(0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*)(\.(0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*))*)?` +
	`(\+[0-9a-zA-Z-]+(\.[0-9a-zA-Z-]+)*)?$`)

func validateAttribute(path *field.Path, a resourcev1.DeviceAttribute) field.ErrorList {
	const longest = resourcev1.DeviceAttributeMaxValueLength
	var errs field.ErrorList
	values := 0
	for _, set := range []bool{a.BoolValue != nil, a.IntValue != nil, a.StringValue != nil, a.VersionValue != nil} {
		if set {
			values++
		}
	}
	if s := a.StringValue; s != nil && len(*s) > longest {
		errs = append(errs, field.TooLong(path.Child("string"), "", longest))
	}
	if v := a.VersionValue; v != nil {
		if !semver.MatchString(*v) {
			errs = append(errs, field.Invalid(path.Child("version"), *v, "must be a string compatible with semver.org spec 2.0.0"))
		}
		if len(*v) > longest {
			errs = append(errs, field.TooLong(path.Child("version"), "", longest))
		}
	}
	if values != 1 {
		errs = append(errs, field.Invalid(path, a, "exactly one value must be specified"))
	}
	return errs
}
