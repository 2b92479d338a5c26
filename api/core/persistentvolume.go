package core

import (
	"path"
	"slices"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/api/core/podspec"
	"github.com/proa-dev/proa/api/validate"
)

// PersistentVolume is the kind of persistent volumes.
func PersistentVolume() *api.Kind {
	return &api.Kind{
		GVK:           gvk("PersistentVolume"),
		ReturnDeleted: true,
		Resource:      "persistentvolumes",
		ShortNames:    []string{"pv"},
		New:           api.Maker[corev1.PersistentVolume](),
		NewList:       api.ListMaker[corev1.PersistentVolumeList](),
		StoragePath:   "persistentvolumes",
		Columns:       volumeColumns(),

		Default: api.On(func(v *corev1.PersistentVolume) {
			if v.Status.Phase == "" {
				v.Status.Phase = corev1.VolumePending
			}
			if v.Spec.PersistentVolumeReclaimPolicy == "" {
				v.Spec.PersistentVolumeReclaimPolicy = corev1.PersistentVolumeReclaimRetain
			}
			if v.Spec.VolumeMode == nil {
				v.Spec.VolumeMode = ptr.To(corev1.PersistentVolumeFilesystem)
			}
			if h := v.Spec.HostPath; h != nil && h.Type == nil {
				h.Type = ptr.To(corev1.HostPathUnset)
			}
		}),
		PrepareCreate: api.On(func(v *corev1.PersistentVolume) {
			v.Status = corev1.PersistentVolumeStatus{Phase: corev1.VolumePending, LastPhaseTransitionTime: ptr.To(api.Now())}
		}),
		PrepareUpdate: api.OnUpdate(func(v, old *corev1.PersistentVolume) { v.Status = old.Status }),
		Warnings:      api.Warn(func(v, _ *corev1.PersistentVolume) []string { return podspec.VolumeWarnings(v) }),
		Validate: api.Check(func(v *corev1.PersistentVolume) field.ErrorList {
			return validateVolume(v, nil)
		}),
		ValidateUpdate: api.CheckUpdate(validateVolumeUpdate),
		Status: &api.Status{
			PrepareUpdate: api.OnUpdate(func(v, old *corev1.PersistentVolume) {
				v.Spec = old.Spec
				switch was, is := old.Status.LastPhaseTransitionTime, v.Status.LastPhaseTransitionTime; {
				case v.Status.Phase == old.Status.Phase && is == nil:
					v.Status.LastPhaseTransitionTime = was
				case v.Status.Phase != old.Status.Phase && (is == nil || is.Equal(was)):
					v.Status.LastPhaseTransitionTime = ptr.To(api.Now())
				}
			}),
		},
		Fields: api.FieldsOf(func(v *corev1.PersistentVolume) fields.Set {
			return fields.Set{"name": v.Name}
		}),
		FieldNames: []string{"name"},
		ResetFields: map[string][]string{
			"": {"status"}, "status": {"spec"},
		},
	}
}

// PersistentVolumeClaim is the kind of claims to persistent volumes.
func PersistentVolumeClaim() *api.Kind {
	return &api.Kind{
		GVK:           gvk("PersistentVolumeClaim"),
		ReturnDeleted: true,
		Resource:      "persistentvolumeclaims",
		ShortNames:    []string{"pvc"},
		Namespaced:    true,
		New:           api.Maker[corev1.PersistentVolumeClaim](),
		NewList:       api.ListMaker[corev1.PersistentVolumeClaimList](),
		StoragePath:   "persistentvolumeclaims",
		Columns:       claimColumns(),

		Default: api.On(func(c *corev1.PersistentVolumeClaim) {
			if c.Status.Phase == "" {
				c.Status.Phase = corev1.ClaimPending
			}
			podspec.DefaultClaim(&c.Spec)
		}),
		PrepareCreate: api.On(func(c *corev1.PersistentVolumeClaim) {
			c.Status = corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimPending}
		}),
		PrepareUpdate: api.OnUpdate(func(c, old *corev1.PersistentVolumeClaim) { c.Status = old.Status }),
		Warnings: api.Warn(func(c, _ *corev1.PersistentVolumeClaim) []string {
			return podspec.StoredClaimWarnings(c)
		}),
		Validate: api.Check(func(c *corev1.PersistentVolumeClaim) field.ErrorList {
			return podspec.ValidateClaim(field.NewPath("spec"), &c.Spec, nil)
		}),
		ValidateUpdate: api.CheckUpdate(validateClaimUpdate),
		Status: &api.Status{
			PrepareUpdate:  api.OnUpdate(func(c, old *corev1.PersistentVolumeClaim) { c.Spec = old.Spec }),
			ValidateUpdate: api.CheckUpdate(validateClaimStatus),
		},
		Fields: api.FieldsOf(func(c *corev1.PersistentVolumeClaim) fields.Set {
			return fields.Set{"name": c.Name}
		}),
		FieldNames: []string{"name"},
		ResetFields: map[string][]string{
			"": {"status"}, "status": {"spec"},
		},
	}
}

// ValidateInlineVolume checks the volume that an attachment spells out: a CSI
// one that no claim can have.
func ValidateInlineVolume(at *field.Path, s *corev1.PersistentVolumeSpec) field.ErrorList {
	const never = "may not be specified in the context of inline volumes"
	var errs field.ErrorList
	forbid := func(name string, set bool) {
		if set {
			errs = append(errs, field.Forbidden(at.Child(name), never))
		}
	}
	forbid("claimRef", s.ClaimRef != nil)
	forbid("capacity", len(s.Capacity) != 0)
	if s.CSI == nil {
		errs = append(errs, field.Required(at.Child("csi"), "has to be specified in the context of inline volumes"))
	}
	errs = append(errs, validateModes(at.Child("accessModes"), s.AccessModes)...)
	if p := s.PersistentVolumeReclaimPolicy; p != "" && p != corev1.PersistentVolumeReclaimRetain {
		errs = append(errs, field.Forbidden(at.Child("persistentVolumeReclaimPolicy"), "may only be Retain in the context of inline volumes"))
	}
	forbid("nodeAffinity", s.NodeAffinity != nil)
	errs = append(errs, podspec.ValidateVolumeSource(at, s)...)
	forbid("storageClassName", s.StorageClassName != "")
	forbid("volumeMode", s.VolumeMode != nil && *s.VolumeMode != corev1.PersistentVolumeFilesystem)
	return errs
}

func validateModes(path *field.Path, modes []corev1.PersistentVolumeAccessMode) field.ErrorList {
	var errs field.ErrorList
	if len(modes) == 0 {
		errs = append(errs, field.Required(path, ""))
	}
	return append(errs, podspec.ValidateAccessModes(path, modes)...)
}

func validateVolume(v, old *corev1.PersistentVolume) field.ErrorList {
	s, at := &v.Spec, field.NewPath("spec")
	errs := validateModes(at.Child("accessModes"), s.AccessModes)
	capacity := at.Child("capacity")
	if len(s.Capacity) == 0 {
		errs = append(errs, field.Required(capacity, ""))
	}
	if _, ok := s.Capacity[corev1.ResourceStorage]; !ok || len(s.Capacity) > 1 {
		errs = append(errs, field.Invalid(capacity, s.Capacity, `supported values: "storage"`))
	}
	for _, name := range validate.SortedResources(s.Capacity) {
		errs = append(errs, validate.PositiveQuantity(capacity.Key(string(name)), s.Capacity[name])...)
	}
	reclaim := at.Child("persistentVolumeReclaimPolicy")
	if s.PersistentVolumeReclaimPolicy != "" {
		errs = append(errs, validate.OneOf(reclaim, s.PersistentVolumeReclaimPolicy, corev1.PersistentVolumeReclaimDelete,
			corev1.PersistentVolumeReclaimRecycle, corev1.PersistentVolumeReclaimRetain)...)
	}
	if a := s.NodeAffinity; a != nil {
		if a.Required == nil {
			errs = append(errs, field.Required(at.Child("nodeAffinity", "required"), "must specify required node constraints"))
		} else {
			lenient := old != nil && equality.Semantic.DeepEqual(old.Spec.NodeAffinity, a)
			errs = append(errs, podspec.ValidateNodeSelector(at.Child("nodeAffinity", "required"), a.Required, lenient)...)
		}
	}
	errs = append(errs, podspec.ValidateVolumeSource(at, s)...)
	if s.HostPath != nil && path.Clean(s.HostPath.Path) == "/" && s.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimRecycle {
		errs = append(errs, field.Forbidden(reclaim, "may not be 'recycle' for a hostPath mount of '/'"))
	}
	if s.StorageClassName != "" {
		errs = append(errs, validate.Subdomain(at.Child("storageClassName"), s.StorageClassName)...)
	}
	if s.VolumeMode != nil {
		errs = append(errs, validate.OneOf(at.Child("volumeMode"), *s.VolumeMode, corev1.PersistentVolumeBlock, corev1.PersistentVolumeFilesystem)...)
	}
	if c := s.VolumeAttributesClassName; c != nil {
		if *c == "" {
			errs = append(errs, field.Required(at.Child("volumeAttributesClassName"), "an empty string is disallowed"))
		} else {
			errs = append(errs, validate.Subdomain(at.Child("volumeAttributesClassName"), *c)...)
		}
		if s.CSI == nil {
			errs = append(errs, field.Required(at.Child("csi"), "has to be specified when using volumeAttributesClassName"))
		}
	}
	return errs
}

func validateVolumeUpdate(v, old *corev1.PersistentVolume) field.ErrorList {
	errs := validateVolume(v, old)
	is, was := v.Spec.PersistentVolumeSource, old.Spec.PersistentVolumeSource
	if was.CSI != nil && was.CSI.ControllerExpandSecretRef == nil && is.CSI != nil {
		// The secret for growing it may come later.
		c := *is.CSI
		c.ControllerExpandSecretRef = nil
		is.CSI = &c
	}
	if !equality.Semantic.DeepEqual(is, was) {
		errs = append(errs, field.Forbidden(field.NewPath("spec", "persistentvolumesource"),
			"spec.persistentvolumesource is immutable after creation\n"+cmp.Diff(was, is)))
	}
	errs = append(errs, validate.Unchanged(field.NewPath("volumeMode"), v.Spec.VolumeMode, old.Spec.VolumeMode)...)
	if old.Spec.NodeAffinity != nil && !equality.Semantic.DeepEqual(stableLabels(v.Spec.NodeAffinity), stableLabels(old.Spec.NodeAffinity)) {
		errs = append(errs, field.Invalid(field.NewPath("nodeAffinity"), v.Spec.NodeAffinity,
			validate.Immutable+", except for updating from beta label to GA"))
	}
	if old.Spec.VolumeAttributesClassName != nil && v.Spec.VolumeAttributesClassName == nil {
		errs = append(errs, field.Forbidden(field.NewPath("spec", "volumeAttributesClassName"), "update from non-nil value to nil is forbidden"))
	}
	return errs
}

// stableLabels is a with the beta names of node labels replaced.
func stableLabels(a *corev1.VolumeNodeAffinity) *corev1.VolumeNodeAffinity {
	if a == nil || a.Required == nil {
		return a
	}
	a = a.DeepCopy()
	for i := range a.Required.NodeSelectorTerms {
		for j := range a.Required.NodeSelectorTerms[i].MatchExpressions {
			e := &a.Required.NodeSelectorTerms[i].MatchExpressions[j]
			switch e.Key {
			case corev1.LabelFailureDomainBetaZone:
				e.Key = corev1.LabelTopologyZone
			case corev1.LabelFailureDomainBetaRegion:
				e.Key = corev1.LabelTopologyRegion
			case "beta.kubernetes.io/os":
				e.Key = corev1.LabelOSStable
			case "beta.kubernetes.io/arch":
				e.Key = corev1.LabelArchStable
			case corev1.LabelInstanceType:
				e.Key = corev1.LabelInstanceTypeStable
			}
		}
	}
	return a
}

// validateClaimUpdate lets a claim be bound once, and a bound one ask for more.
func validateClaimUpdate(c, old *corev1.PersistentVolumeClaim) field.ErrorList {
	at := field.NewPath("spec")
	errs := podspec.ValidateClaim(at, &c.Spec, &old.Spec)
	is, was := c.Spec.DeepCopy(), old.Spec.DeepCopy()
	if was.VolumeName == "" {
		was.VolumeName = is.VolumeName
	}
	annotation, annotated := old.Annotations[corev1.BetaStorageClassAnnotation]
	if was.StorageClassName == nil && is.StorageClassName != nil && (!annotated || annotation == *is.StorageClassName) {
		was.StorageClassName = is.StorageClassName
	}
	if now, ok := c.Annotations[corev1.BetaStorageClassAnnotation]; now != annotation && (ok || old.Spec.StorageClassName != nil) {
		errs = append(errs, field.Invalid(field.NewPath("metadata", "annotations", corev1.BetaStorageClassAnnotation), now, validate.Immutable))
	}
	if c.Status.Phase == corev1.ClaimBound {
		if is.Resources.Requests != nil {
			is.Resources.Requests[corev1.ResourceStorage] = was.Resources.Requests[corev1.ResourceStorage]
		}
		if is.VolumeAttributesClassName != nil {
			is.VolumeAttributesClassName = was.VolumeAttributesClassName
		}
	}
	if !equality.Semantic.DeepEqual(is, was) {
		errs = append(errs, field.Forbidden(at, "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims\n"+
			cmp.Diff(*was, *is)))
	}
	size, oldSize := c.Spec.Resources.Requests[corev1.ResourceStorage], old.Spec.Resources.Requests[corev1.ResourceStorage]
	if real := old.Status.Capacity[corev1.ResourceStorage]; size.Cmp(oldSize) < 0 && size.Cmp(real) <= 0 {
		errs = append(errs, field.Forbidden(at.Child("resources", "requests", "storage"), "field can not be less than status.capacity"))
	}
	errs = append(errs, validate.Unchanged(field.NewPath("volumeMode"), c.Spec.VolumeMode, old.Spec.VolumeMode)...)
	if old.Spec.VolumeAttributesClassName != nil {
		class := at.Child("volumeAttributesClassName")
		if n := c.Spec.VolumeAttributesClassName; n == nil {
			errs = append(errs, field.Forbidden(class, "update from non-nil value to nil is forbidden"))
		} else if *n == "" && *old.Spec.VolumeAttributesClassName != "" {
			errs = append(errs, field.Forbidden(class, "update from non-nil value to an empty string is forbidden"))
		}
	}
	return errs
}

func validateClaimStatus(c, _ *corev1.PersistentVolumeClaim) field.ErrorList {
	var errs field.ErrorList
	at := field.NewPath("status")
	if len(c.Spec.AccessModes) == 0 {
		errs = append(errs, field.Required(field.NewPath("Spec", "accessModes"), ""))
	}
	positive := func(list string, l corev1.ResourceList) {
		for _, name := range validate.SortedResources(l) {
			if q := l[name]; q.Sign() < 0 {
				errs = append(errs, field.Invalid(at.Child(list).Key(string(name)), q.Value(), "must be a valid resource quantity"))
			}
		}
	}
	positive("capacity", c.Status.Capacity)
	positive("allocatedResources", c.Status.AllocatedResources)
	known := []corev1.ClaimResourceStatus{
		corev1.PersistentVolumeClaimControllerResizeInProgress, corev1.PersistentVolumeClaimControllerResizeInfeasible,
		corev1.PersistentVolumeClaimNodeResizePending, corev1.PersistentVolumeClaimNodeResizeInProgress,
		corev1.PersistentVolumeClaimNodeResizeInfeasible,
	}
	for name, status := range c.Status.AllocatedResourceStatuses {
		if !slices.Contains(known, status) {
			slices.Sort(known)
			errs = append(errs, field.NotSupported(at.Child("allocatedResourceStatus"), corev1.ClaimResourceStatus(name), known))
		}
	}
	return errs
}
