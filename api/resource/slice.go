package resource

import (
	"fmt"
	"strings"

	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"github.com/proa-dev/proa/api"
)

// ResourceSlice is the kind of slices: the devices of a driver's pool.
func ResourceSlice() *api.Kind {
	type S = *resourcev1.ResourceSlice
	return &api.Kind{
		GVK:           gvk("ResourceSlice"),
		ReturnDeleted: true,
		Resource:      "resourceslices",
		New:           api.Maker[resourcev1.ResourceSlice](),
		NewList:       api.ListMaker[resourcev1.ResourceSliceList](),
		StoragePath:   "resourceslices",
		Columns: []api.Column{
			api.Col("Node", "string", "The node that has the devices.", func(s S) any { return ptr.Deref(s.Spec.NodeName, "") }),
			api.Col("Driver", "string", "The driver of the devices.", func(s S) any { return s.Spec.Driver }),
			api.Col("Pool", "string", "The pool that the slice is a part of.", func(s S) any { return s.Spec.Pool.Name }),
			api.AgeColumn(),
		},
		Default: api.On(func(s S) {
			for i := range s.Spec.Devices {
				for j := range s.Spec.Devices[i].Taints {
					defaultTaint(&s.Spec.Devices[i].Taints[j])
				}
			}
		}),
		PrepareCreate: api.On(func(s S) {
			s.Generation = 1
			dropGatedSlice(s)
		}),
		PrepareUpdate: api.OnUpdate(func(s, old S) {
			dropGatedSlice(s)
			api.BumpGeneration(s, old, &s.Spec, &old.Spec)
		}),
		Validate:       api.Check(func(s S) field.ErrorList { return validateSlice(s, nil) }),
		ValidateUpdate: api.CheckUpdate(validateSlice),
		Warnings: api.Warn(func(s, _ S) []string {
			if s.Spec.Driver == strings.ToLower(s.Spec.Driver) {
				return nil
			}
			return []string{fmt.Sprintf("spec.driver: driver names should be lowercase; %q contains uppercase characters", s.Spec.Driver)}
		}),
		Fields: api.FieldsOf(func(s S) fields.Set {
			return fields.Set{
				resourcev1.ResourceSliceSelectorNodeName: ptr.Deref(s.Spec.NodeName, ""),
				resourcev1.ResourceSliceSelectorDriver:   s.Spec.Driver,
				resourcev1.ResourceSliceSelectorPoolName: s.Spec.Pool.Name,
			}
		}),
		FieldNames: []string{resourcev1.ResourceSliceSelectorNodeName, resourcev1.ResourceSliceSelectorDriver, resourcev1.ResourceSliceSelectorPoolName},
	}
}

// dropGatedSlice clears what is an alpha of 1.37.
func dropGatedSlice(s *resourcev1.ResourceSlice) {
	s.Spec.PartitionTypeAttribute, s.Spec.SkipNodeOperations = nil, nil
	for i := range s.Spec.Devices {
		d := &s.Spec.Devices[i]
		d.NodeAllocatableResources = nil
		for j := range d.ConsumesCounters {
			d.ConsumesCounters[j].CompatibilityGroups = nil
		}
		for name, a := range d.Attributes {
			a.BoolValues, a.IntValues, a.StringValues, a.VersionValues = nil, nil, nil, nil
			d.Attributes[name] = a
		}
	}
}
