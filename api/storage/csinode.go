package storage

import (
	"fmt"

	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/api/core/podspec"
	"github.com/proa-dev/proa/api/validate"
)

const maxNodeID = 256

// CSINode is the kind that lists the CSI drivers of a node.
func CSINode() *api.Kind {
	return &api.Kind{
		GVK:                    gvk("CSINode"),
		ReturnDeleted:          true,
		Resource:               "csinodes",
		New:                    api.Maker[storagev1.CSINode](),
		NewList:                api.ListMaker[storagev1.CSINodeList](),
		StoragePath:            "csinodes",
		RequireVersionOnUpdate: true,
		Columns: []api.Column{
			api.Col("Drivers", "integer", "How many CSI drivers the node has.", func(n *storagev1.CSINode) any { return int64(len(n.Spec.Drivers)) }),
			api.AgeColumn(),
		},

		PrepareCreate: api.On(func(n *storagev1.CSINode) { n.Status = storagev1.CSINodeStatus{} }),
		PrepareUpdate: api.OnUpdate(func(n, old *storagev1.CSINode) { n.Status = old.Status }),
		Validate:      api.Check(validateCSINode),
		ValidateUpdate: api.CheckUpdate(func(n, old *storagev1.CSINode) field.ErrorList {
			errs := validateCSINode(n)
			for _, was := range old.Spec.Drivers {
				for _, is := range n.Spec.Drivers {
					if was.Name != is.Name {
						continue
					}
					was, is := was.DeepCopy(), is.DeepCopy()
					was.Allocatable, is.Allocatable = nil, nil // which a driver may learn anew
					errs = append(errs, validate.Unchanged(field.NewPath("spec", "drivers"), is, was)...)
				}
			}
			return errs
		}),
		Status: &api.Status{
			PrepareUpdate: api.OnUpdate(func(n, old *storagev1.CSINode) {
				n.Spec = old.Spec
				metav1.ResetObjectMetaForStatus(&n.ObjectMeta, &old.ObjectMeta)
				if len(old.Status.StorageHealth) == 0 { // an alpha feature, which is off
					n.Status.StorageHealth = nil
				}
			}),
		},
		ResetFields: map[string][]string{"": {"status"}, "status": {"metadata", "spec"}},
	}
}

func validateCSINode(n *storagev1.CSINode) field.ErrorList {
	var errs field.ErrorList
	seen := sets.New[string]()
	for i, d := range n.Spec.Drivers {
		at := field.NewPath("spec", "drivers").Index(i)
		errs = append(errs, podspec.ValidateCSIDriverName(at.Child("name"), d.Name)...)
		if d.NodeID == "" {
			errs = append(errs, field.Required(at.Child("nodeID"), ""))
		} else if len(d.NodeID) > maxNodeID {
			errs = append(errs, field.Invalid(at.Child("nodeID"), d.NodeID, fmt.Sprintf("must be %d characters or less", maxNodeID)))
		}
		if a := d.Allocatable; a != nil && a.Count != nil {
			errs = append(errs, validate.NonNegative(at.Child("allocatable", "count"), int64(*a.Count))...)
		}
		if seen.Has(d.Name) {
			errs = append(errs, field.Duplicate(at.Child("name"), d.Name))
		}
		seen.Insert(d.Name)
		keys := sets.New[string]()
		for _, key := range d.TopologyKeys {
			if key == "" {
				errs = append(errs, field.Required(at, ""))
			}
			if keys.Has(key) {
				errs = append(errs, field.Duplicate(at, key))
			}
			keys.Insert(key)
			errs = append(errs, validate.QualifiedName(at, key)...)
		}
	}
	return errs
}

// CSIStorageCapacity is the kind in which drivers publish the storage that a
// class has left somewhere.
func CSIStorageCapacity() *api.Kind {
	return &api.Kind{
		GVK:                    gvk("CSIStorageCapacity"),
		Resource:               "csistoragecapacities",
		Namespaced:             true,
		New:                    api.Maker[storagev1.CSIStorageCapacity](),
		NewList:                api.ListMaker[storagev1.CSIStorageCapacityList](),
		StoragePath:            "csistoragecapacities",
		RequireVersionOnUpdate: true,
		Columns: []api.Column{
			api.Col("StorageClassName", "string", "The class that has the storage.", func(c *storagev1.CSIStorageCapacity) any { return c.StorageClassName }),
			api.Col("Capacity", "string", "The storage that is left.", func(c *storagev1.CSIStorageCapacity) any {
				if c.Capacity == nil {
					return "<unset>"
				}
				return c.Capacity.String()
			}),
		},
		Validate: api.Check(func(c *storagev1.CSIStorageCapacity) field.ErrorList { return validateCapacity(c, false) }),
		ValidateUpdate: api.CheckUpdate(func(c, old *storagev1.CSIStorageCapacity) field.ErrorList {
			lenient := len(metavalidation.ValidateLabelSelector(old.NodeTopology, metavalidation.LabelSelectorValidationOptions{}, nil)) > 0
			errs := validateCapacity(c, lenient)
			errs = append(errs, validate.Unchanged(field.NewPath("nodeTopology"), c.NodeTopology, old.NodeTopology)...)
			return append(errs, validate.Unchanged(field.NewPath("storageClassName"), c.StorageClassName, old.StorageClassName)...)
		}),
		Warnings: api.Warn(func(c, _ *storagev1.CSIStorageCapacity) []string { return topologyWarnings(c.NodeTopology) }),
	}
}

func topologyWarnings(s *metav1.LabelSelector) []string {
	if s == nil {
		return nil
	}
	var warnings []string
	at := field.NewPath("nodeTopology")
	for i, e := range s.MatchExpressions {
		if text := podspec.RenamedLabel(e.Key); text != "" {
			warnings = append(warnings, fmt.Sprintf("%s: %s is %s", at.Child("matchExpressions").Index(i).Child("key"), e.Key, text))
		}
	}
	for _, key := range sets.List(sets.KeySet(s.MatchLabels)) {
		if text := podspec.RenamedLabel(key); text != "" {
			warnings = append(warnings, fmt.Sprintf("%s: %s", at.Child("matchLabels").Child(key), text))
		}
	}
	return warnings
}

func validateCapacity(c *storagev1.CSIStorageCapacity, lenient bool) field.ErrorList {
	errs := validate.Selector(field.NewPath("nodeTopology"), c.NodeTopology, lenient)
	errs = append(errs, validate.Subdomain(field.NewPath("storageClassName"), c.StorageClassName)...)
	if q := c.Capacity; q != nil && q.Sign() < 0 {
		errs = append(errs, field.Invalid(field.NewPath("capacity"), q.String(), "must be greater than or equal to 0").WithOrigin("minimum"))
	}
	return errs
}
