package resource

import (
	"slices"

	resourcev1 "k8s.io/api/resource/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/proa-dev/proa/api/core/podspec"
	"github.com/proa-dev/proa/api/validate"
)

func validateClaimStatus(c, old *resourcev1.ResourceClaim) field.ErrorList {
	s, before, path := &c.Status, &old.Status, field.NewPath("status")
	reserved := path.Child("reservedFor")
	errs := once(reserved, s.ReservedFor, resourcev1.ResourceClaimReservedForMaxSize,
		func(r *resourcev1.ResourceClaimConsumerReference) types.UID { return r.UID },
		func(at *field.Path, r *resourcev1.ResourceClaimConsumerReference) field.ErrorList {
			errs := validate.Required(at.Child("resource"), r.Resource)
			errs = append(errs, validate.Required(at.Child("name"), r.Name)...)
			return append(errs, validate.Required(at.Child("uid"), string(r.UID))...)
		})
	ids := allocated(s.Allocation)
	errs = append(errs, once(path.Child("devices"), s.Devices, -1, statusID,
		func(at *field.Path, d *resourcev1.AllocatedDeviceStatus) field.ErrorList {
			return validateDeviceStatus(at, d, ids)
		})...)
	switch {
	case len(s.ReservedFor) == 0:
	case s.Allocation == nil:
		errs = append(errs, field.Forbidden(reserved, "may not be specified when `allocated` is not set"))
	case c.DeletionTimestamp != nil && slices.ContainsFunc(s.ReservedFor, func(r resourcev1.ResourceClaimConsumerReference) bool {
		return !slices.Contains(before.ReservedFor, r)
	}):
		errs = append(errs, field.Forbidden(reserved, "new entries may not be added while `deallocationRequested` or `deletionTimestamp` are set"))
	}
	switch at := path.Child("allocation"); {
	case s.Allocation == nil:
	case before.Allocation != nil:
		errs = append(errs, validate.Unchanged(at, s.Allocation, before.Allocation)...)
	default:
		errs = append(errs, validateAllocation(at, s.Allocation, namesOf(&c.Spec.Devices))...)
	}
	return errs
}

func validateAllocation(path *field.Path, a *resourcev1.AllocationResult, names requestNames) field.ErrorList {
	devices := path.Child("devices")
	errs := each(devices.Child("results"), a.Devices.Results, resourcev1.AllocationResultsMaxSize,
		func(at *field.Path, r *resourcev1.DeviceRequestAllocationResult) field.ErrorList {
			errs := names.ref(at.Child("request"), &r.Request)
			errs = append(errs, driverName(at.Child("driver"), r.Driver)...)
			errs = append(errs, poolName(at.Child("pool"), r.Pool)...)
			errs = append(errs, label(at.Child("device"), r.Device)...)
			errs = append(errs, validateBindingConditions(at, r.BindingConditions, r.BindingFailureConditions)...)
			errs = append(errs, each(at.Child("tolerations"), r.Tolerations, resourcev1.DeviceTolerationsMaxLength, validateToleration)...)
			if r.ShareID != nil {
				errs = append(errs, shareID(at.Child("shareID"), string(*r.ShareID))...)
			}
			return errs
		})
	// Those of the class and those of the claim.
	errs = append(errs, each(devices.Child("config"), a.Devices.Config, 2*resourcev1.DeviceConfigMaxSize,
		func(at *field.Path, c *resourcev1.DeviceAllocationConfiguration) field.ErrorList {
			errs := validate.RequiredOneOf(at.Child("source"), c.Source, resourcev1.AllocationConfigSourceClaim, resourcev1.AllocationConfigSourceClass)
			errs = append(errs, once(at.Child("requests"), c.Requests, resourcev1.DeviceRequestsMaxSize, itself, names.ref)...)
			return append(errs, validateConfig(at, &c.DeviceConfiguration, false)...)
		})...)
	if a.NodeSelector != nil {
		errs = append(errs, podspec.ValidateNodeSelector(path.Child("nodeSelector"), a.NodeSelector, false)...)
	}
	return errs
}

func validateDeviceStatus(path *field.Path, d *resourcev1.AllocatedDeviceStatus, ids map[deviceID]bool) field.ErrorList {
	errs := driverName(path.Child("driver"), d.Driver)
	errs = append(errs, poolName(path.Child("pool"), d.Pool)...)
	errs = append(errs, label(path.Child("device"), d.Device)...)
	if d.ShareID != nil {
		errs = append(errs, shareID(path.Child("shareID"), *d.ShareID)...)
	}
	if id := statusID(d); !ids[id] {
		errs = append(errs, field.Invalid(path, id.String(), "must be an allocated device in the claim"))
	}
	conditions := path.Child("conditions")
	if n := len(d.Conditions); n > resourcev1.AllocatedDeviceStatusMaxConditions {
		errs = append(errs, field.TooMany(conditions, n, resourcev1.AllocatedDeviceStatusMaxConditions))
	}
	errs = append(errs, metavalidation.ValidateConditions(d.Conditions, conditions)...)
	if d.Data != nil && len(d.Data.Raw) > 0 {
		errs = append(errs, jsonObject(path.Child("data"), d.Data, resourcev1.AllocatedDeviceStatusDataMaxLength)...)
	}
	n, at := d.NetworkData, path.Child("networkData")
	if n == nil {
		return errs
	}
	if most := resourcev1.NetworkDeviceDataInterfaceNameMaxLength; len(n.InterfaceName) > most {
		errs = append(errs, field.TooLong(at.Child("interfaceName"), "", most))
	}
	if most := resourcev1.NetworkDeviceDataHardwareAddressMaxLength; len(n.HardwareAddress) > most {
		errs = append(errs, field.TooLong(at.Child("hardwareAddress"), "", most))
	}
	return append(errs, once(at.Child("ips"), n.IPs, resourcev1.NetworkDeviceDataMaxIPs, itself,
		func(at *field.Path, ip *string) field.ErrorList { return validation.IsValidInterfaceAddress(at, *ip) })...)
}

// validateBindingConditions wants both lists or none, and no condition twice.
func validateBindingConditions(path *field.Path, ok, failed []string) field.ErrorList {
	oks, faileds := path.Child("bindingConditions"), path.Child("bindingFailureConditions")
	name := func(at *field.Path, s *string) field.ErrorList { return metavalidation.ValidateLabelName(*s, at) }
	errs := once(oks, ok, resourcev1.BindingConditionsMaxSize, itself, name)
	errs = append(errs, once(faileds, failed, resourcev1.BindingFailureConditionsMaxSize, itself, name)...)
	all := sets.New(ok...)
	for i, f := range failed {
		if all.Has(f) {
			errs = append(errs, field.Invalid(faileds.Index(i), f, "bindingFailureConditions must not overlap with bindingConditions"))
		}
	}
	switch {
	case len(ok) == 0 && len(failed) > 0:
		errs = append(errs, field.Invalid(oks, ok, "bindingConditions are required to use bindingFailureConditions"))
	case len(ok) > 0 && len(failed) == 0:
		errs = append(errs, field.Invalid(faileds, failed, "bindingFailureConditions are required to use bindingConditions"))
	}
	return errs
}
