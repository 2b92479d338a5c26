package storage

import (
	"fmt"
	"reflect"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/api/core/podspec"
	"github.com/proa-dev/proa/api/validate"
)

// StorageClass is the kind of storage classes.
func StorageClass() *api.Kind {
	return &api.Kind{
		GVK:           gvk("StorageClass"),
		ReturnDeleted: true,
		Resource:      "storageclasses",
		ShortNames:    []string{"sc"},
		New:           api.Maker[storagev1.StorageClass](),
		NewList:       api.ListMaker[storagev1.StorageClassList](),
		StoragePath:   "storageclasses",
		Columns:       classColumns(),
		ListColumns: func(objs []api.Object) []api.Column {
			name, best := api.NameColumn(), DefaultClass(objs)
			name.Value = func(o api.Object) any {
				if o == best {
					return o.GetName() + " (default)"
				}
				return o.GetName()
			}
			return append([]api.Column{name}, classColumns()...)
		},

		Default: api.On(func(c *storagev1.StorageClass) {
			if c.ReclaimPolicy == nil {
				c.ReclaimPolicy = ptr.To(corev1.PersistentVolumeReclaimDelete)
			}
			if c.VolumeBindingMode == nil {
				c.VolumeBindingMode = ptr.To(storagev1.VolumeBindingImmediate)
			}
		}),
		Validate: api.Check(validateClass),
		ValidateUpdate: api.CheckUpdate(func(c, old *storagev1.StorageClass) field.ErrorList {
			errs := validateClass(c)
			errs = append(errs, validate.Unchanged(field.NewPath("parameters"), c.Parameters, old.Parameters)...)
			errs = append(errs, validate.Unchanged(field.NewPath("provisioner"), c.Provisioner, old.Provisioner)...)
			errs = append(errs, validate.Unchanged(field.NewPath("reclaimPolicy"), c.ReclaimPolicy, old.ReclaimPolicy)...)
			return append(errs, validate.Unchanged(field.NewPath("volumeBindingMode"), c.VolumeBindingMode, old.VolumeBindingMode)...)
		}),
		Warnings: api.Warn(func(c, _ *storagev1.StorageClass) []string {
			var warnings []string
			for i, t := range c.AllowedTopologies {
				for j, e := range t.MatchLabelExpressions {
					if text := podspec.RenamedLabel(e.Key); text != "" {
						path := field.NewPath("allowedTopologies").Index(i).Child("matchLabelExpressions").Index(j).Child("key")
						warnings = append(warnings, fmt.Sprintf("%s: %s", path, text))
					}
				}
			}
			return warnings
		}),
	}
}

func classColumns() []api.Column {
	return []api.Column{
		api.Col("Provisioner", "string", "Who makes the class's volumes.", func(c *storagev1.StorageClass) any { return c.Provisioner }),
		api.Col("ReclaimPolicy", "string", "What becomes of a volume whose claim is gone.", func(c *storagev1.StorageClass) any {
			return string(ptr.Deref(c.ReclaimPolicy, corev1.PersistentVolumeReclaimDelete))
		}),
		api.Col("VolumeBindingMode", "string", "When claims are bound.", func(c *storagev1.StorageClass) any {
			return string(ptr.Deref(c.VolumeBindingMode, storagev1.VolumeBindingImmediate))
		}),
		api.Col("AllowVolumeExpansion", "string", "Whether volumes may grow.", func(c *storagev1.StorageClass) any {
			return ptr.Deref(c.AllowVolumeExpansion, false)
		}),
		api.AgeColumn(),
	}
}

// DefaultClass is the class that claims without one get, nil for none.
func DefaultClass(classes []api.Object) api.Object {
	return api.DefaultClass(classes, "storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class")
}

func validateClass(c *storagev1.StorageClass) field.ErrorList {
	errs := validateProvisioner(field.NewPath("provisioner"), c.Provisioner)
	errs = append(errs, validateParameters(field.NewPath("parameters"), c.Parameters, false)...)
	if p := c.ReclaimPolicy; p != nil && *p != "" {
		errs = append(errs, validate.OneOf(field.NewPath("reclaimPolicy"), *p, corev1.PersistentVolumeReclaimDelete, corev1.PersistentVolumeReclaimRetain)...)
	}
	mode := field.NewPath("volumeBindingMode")
	if c.VolumeBindingMode == nil {
		errs = append(errs, field.Required(mode, ""))
	} else {
		errs = append(errs, validate.OneOf(mode, *c.VolumeBindingMode, storagev1.VolumeBindingImmediate, storagev1.VolumeBindingWaitForFirstConsumer)...)
	}
	return append(errs, validateTopologies(field.NewPath("allowedTopologies"), c.AllowedTopologies)...)
}

func validateTopologies(path *field.Path, terms []corev1.TopologySelectorTerm) field.ErrorList {
	var errs field.ErrorList
	var before []map[string]sets.Set[string]
	for i, t := range terms {
		at := path.Index(i).Child("matchLabelExpressions")
		term := map[string]sets.Set[string]{}
		for j, e := range t.MatchLabelExpressions {
			values := sets.New[string]()
			valuesPath := at.Index(j).Child("values")
			if len(e.Values) == 0 {
				errs = append(errs, field.Required(valuesPath, ""))
			}
			for k, v := range e.Values {
				if values.Has(v) {
					errs = append(errs, field.Duplicate(valuesPath.Index(k), v))
				}
				values.Insert(v)
			}
			errs = append(errs, metavalidation.ValidateLabelName(e.Key, at.Index(j).Child("key"))...)
			if _, twice := term[e.Key]; twice {
				errs = append(errs, field.Duplicate(at.Index(j).Child("key"), e.Key))
			}
			term[e.Key] = values
		}
		for _, b := range before {
			if reflect.DeepEqual(b, term) {
				errs = append(errs, field.Duplicate(at, ""))
			}
		}
		before = append(before, term)
	}
	return errs
}

// VolumeAttributesClass is the kind of classes of attributes that change while
// a volume lives.
func VolumeAttributesClass() *api.Kind {
	return &api.Kind{
		GVK:           gvk("VolumeAttributesClass"),
		ReturnDeleted: true,
		Resource:      "volumeattributesclasses",
		ShortNames:    []string{"vac"},
		New:           api.Maker[storagev1.VolumeAttributesClass](),
		NewList:       api.ListMaker[storagev1.VolumeAttributesClassList](),
		StoragePath:   "volumeattributesclasses",
		Columns: []api.Column{
			api.Col("DriverName", "string", "The driver that knows the attributes.", func(c *storagev1.VolumeAttributesClass) any { return c.DriverName }),
			api.AgeColumn(),
		},
		Validate: api.Check(validateAttributesClass),
		ValidateUpdate: api.CheckUpdate(func(c, old *storagev1.VolumeAttributesClass) field.ErrorList {
			var errs field.ErrorList
			if c.DriverName != old.DriverName {
				errs = append(errs, field.Forbidden(field.NewPath("driverName"), "updates to driverName are forbidden."))
			}
			if !reflect.DeepEqual(c.Parameters, old.Parameters) {
				errs = append(errs, field.Forbidden(field.NewPath("parameters"), "updates to parameters are forbidden."))
			}
			return append(errs, validateAttributesClass(c)...)
		}),
	}
}

func validateAttributesClass(c *storagev1.VolumeAttributesClass) field.ErrorList {
	errs := validateProvisioner(field.NewPath("driverName"), c.DriverName)
	return append(errs, validateParameters(field.NewPath("parameters"), c.Parameters, true)...)
}
