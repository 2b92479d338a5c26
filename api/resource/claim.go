package resource

import (
	"strings"

	resourcev1 "k8s.io/api/resource/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/api/validate"
)

// ResourceClaim is the kind of claims.
func ResourceClaim() *api.Kind {
	type C = *resourcev1.ResourceClaim
	return &api.Kind{
		GVK:           gvk("ResourceClaim"),
		ReturnDeleted: true,
		Resource:      "resourceclaims",
		Namespaced:    true,
		New:           api.Maker[resourcev1.ResourceClaim](),
		NewList:       api.ListMaker[resourcev1.ResourceClaimList](),
		StoragePath:   "resourceclaims",
		Columns: []api.Column{
			api.Col("State", "string", "How far the claim is.", func(c C) any { return claimState(c) }),
			api.AgeColumn(),
		},
		Default: api.On(func(c C) {
			defaultClaim(&c.Spec)
			if a := c.Status.Allocation; a != nil {
				for i := range a.Devices.Results {
					defaultTolerations(a.Devices.Results[i].Tolerations)
				}
			}
		}),
		PrepareCreate: api.On(func(c C) {
			c.Status = resourcev1.ResourceClaimStatus{}
			dropGated(&c.Spec)
		}),
		PrepareUpdate: api.OnUpdate(func(c, old C) {
			c.Status = old.Status
			dropGated(&c.Spec)
		}),
		Validate: api.Check(func(c C) field.ErrorList { return validateClaim(field.NewPath("spec"), &c.Spec) }),
		ValidateUpdate: api.CheckUpdate(func(c, old C) field.ErrorList {
			return validate.Unchanged(field.NewPath("spec"), c.Spec, old.Spec)
		}),
		Status: &api.Status{
			PrepareUpdate: api.OnUpdate(func(c, old C) {
				c.Spec = old.Spec
				metav1.ResetObjectMetaForStatus(&c.ObjectMeta, &old.ObjectMeta)
				dropGatedStatus(&c.Status)
				dropFreed(c, old)
			}),
			ValidateUpdate: api.CheckUpdate(validateClaimStatus),
		},
		ResetFields: map[string][]string{"": {"status"}, "status": {"metadata", "spec"}},
	}
}

// ResourceClaimTemplate is the kind of templates of claims.
func ResourceClaimTemplate() *api.Kind {
	type T = *resourcev1.ResourceClaimTemplate
	check := func(t T) field.ErrorList {
		path := field.NewPath("spec")
		errs := metavalidation.ValidateLabels(t.Spec.Labels, path.Child("metadata", "labels"))
		errs = append(errs, apivalidation.ValidateAnnotations(t.Spec.Annotations, path.Child("metadata", "annotations"))...)
		return append(errs, validateClaim(path.Child("spec"), &t.Spec.Spec)...)
	}
	return &api.Kind{
		GVK:           gvk("ResourceClaimTemplate"),
		ReturnDeleted: true,
		Resource:      "resourceclaimtemplates",
		Namespaced:    true,
		New:           api.Maker[resourcev1.ResourceClaimTemplate](),
		NewList:       api.ListMaker[resourcev1.ResourceClaimTemplateList](),
		StoragePath:   "resourceclaimtemplates",
		Default:       api.On(func(t T) { defaultClaim(&t.Spec.Spec) }),
		PrepareCreate: api.On(func(t T) { dropGated(&t.Spec.Spec) }),
		PrepareUpdate: api.OnUpdate(func(t, _ T) { dropGated(&t.Spec.Spec) }),
		Validate:      api.Check(check),
		ValidateUpdate: api.CheckUpdate(func(t, old T) field.ErrorList {
			return append(check(t), validate.Unchanged(field.NewPath("spec"), t.Spec, old.Spec)...)
		}),
	}
}

func claimState(c *resourcev1.ResourceClaim) string {
	var states []string
	if c.DeletionTimestamp != nil {
		states = append(states, "deleted")
	}
	switch {
	case c.Status.Allocation != nil && len(c.Status.ReservedFor) > 0:
		states = append(states, "allocated", "reserved")
	case c.Status.Allocation != nil:
		states = append(states, "allocated")
	case c.DeletionTimestamp == nil:
		states = append(states, "pending")
	}
	return strings.Join(states, ",")
}

func defaultClaim(s *resourcev1.ResourceClaimSpec) {
	mode := func(m *resourcev1.DeviceAllocationMode, count *int64) {
		if *m == "" {
			*m = resourcev1.DeviceAllocationModeExactCount
		}
		if *m == resourcev1.DeviceAllocationModeExactCount && *count == 0 {
			*count = 1
		}
	}
	for i := range s.Devices.Requests {
		r := &s.Devices.Requests[i]
		if r.Exactly != nil {
			mode(&r.Exactly.AllocationMode, &r.Exactly.Count)
			defaultTolerations(r.Exactly.Tolerations)
		}
		for j := range r.FirstAvailable {
			mode(&r.FirstAvailable[j].AllocationMode, &r.FirstAvailable[j].Count)
			defaultTolerations(r.FirstAvailable[j].Tolerations)
		}
	}
}

func defaultTolerations(list []resourcev1.DeviceToleration) {
	for i := range list {
		if list[i].Operator == "" {
			list[i].Operator = resourcev1.DeviceTolerationOpEqual
		}
	}
}

// dropGated clears what is an alpha of 1.37: derived attributes.
func dropGated(s *resourcev1.ResourceClaimSpec) {
	for i := range s.Devices.Requests {
		r := &s.Devices.Requests[i]
		if r.Exactly != nil {
			r.Exactly.DerivedAttributes = nil
		}
		for j := range r.FirstAvailable {
			r.FirstAvailable[j].DerivedAttributes = nil
		}
	}
}

// dropGatedStatus does so in a status: devices without a node's part.
func dropGatedStatus(s *resourcev1.ResourceClaimStatus) {
	if s.Allocation == nil {
		return
	}
	for i := range s.Allocation.Devices.Results {
		s.Allocation.Devices.Results[i].SkipNodeOperations = nil
	}
}

// deviceID names an allocated device, or a share of it.
type deviceID struct{ driver, pool, device, share string }

func (d deviceID) String() string {
	id := d.driver + "/" + d.pool + "/" + d.device
	if d.share != "" {
		id += "/" + d.share
	}
	return id
}

func allocated(a *resourcev1.AllocationResult) map[deviceID]bool {
	ids := map[deviceID]bool{}
	if a == nil {
		return ids
	}
	for _, r := range a.Devices.Results {
		id := deviceID{r.Driver, r.Pool, r.Device, ""}
		if r.ShareID != nil {
			id.share = string(*r.ShareID)
		}
		ids[id] = true
	}
	return ids
}

func statusID(d *resourcev1.AllocatedDeviceStatus) deviceID {
	id := deviceID{d.Driver, d.Pool, d.Device, ""}
	if d.ShareID != nil {
		id.share = *d.ShareID
	}
	return id
}

// dropFreed forgets the status of devices that are no longer the claim's.
func dropFreed(c, old *resourcev1.ResourceClaim) {
	before, now := allocated(old.Status.Allocation), allocated(c.Status.Allocation)
	var kept []resourcev1.AllocatedDeviceStatus
	for _, d := range c.Status.Devices {
		if id := statusID(&d); !before[id] || now[id] {
			kept = append(kept, d)
		}
	}
	c.Status.Devices = kept
}
