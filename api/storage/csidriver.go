package storage

import (
	"strings"

	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/api/validate"
)

const (
	shortestToken = 600
	longestToken  = 1 << 32
	shortestPoll  = 10
)

const tokenWarning = "spec.serviceAccountTokenInSecrets is unset; if supported by this CSI driver, set to true to prevent possible logging of tokens in volume attributes"

// CSIDriver is the kind in which a CSI driver tells what it can and wants.
func CSIDriver() *api.Kind {
	flag := func(name, about string, unset bool, pick func(*storagev1.CSIDriverSpec) *bool) api.Column {
		return api.Col(name, "boolean", about, func(d *storagev1.CSIDriver) any { return ptr.Deref(pick(&d.Spec), unset) })
	}
	return &api.Kind{
		GVK:                    gvk("CSIDriver"),
		ReturnDeleted:          true,
		Resource:               "csidrivers",
		New:                    api.Maker[storagev1.CSIDriver](),
		NewList:                api.ListMaker[storagev1.CSIDriverList](),
		StoragePath:            "csidrivers",
		RequireVersionOnUpdate: true,
		Columns: []api.Column{
			flag("AttachRequired", "Whether volumes are attached before they are mounted.", true, func(s *storagev1.CSIDriverSpec) *bool { return s.AttachRequired }),
			flag("PodInfoOnMount", "Whether the driver is told of the pod.", false, func(s *storagev1.CSIDriverSpec) *bool { return s.PodInfoOnMount }),
			flag("StorageCapacity", "Whether the driver publishes its capacity.", false, func(s *storagev1.CSIDriverSpec) *bool { return s.StorageCapacity }),
			api.Col("TokenRequests", "string", "Audiences of the tokens that the driver gets.", tokenAudiences),
			flag("RequiresRepublish", "Whether volumes are published again and again.", false, func(s *storagev1.CSIDriverSpec) *bool { return s.RequiresRepublish }),
			api.Col("Modes", "string", "The life cycles that the driver's volumes may have.", func(d *storagev1.CSIDriver) any {
				var modes []string
				for _, m := range d.Spec.VolumeLifecycleModes {
					modes = append(modes, string(m))
				}
				if len(modes) == 0 {
					return "<none>"
				}
				return strings.Join(modes, ",")
			}),
			api.AgeColumn(),
		},

		Default: api.On(func(d *storagev1.CSIDriver) { defaultDriver(&d.Spec) }),
		PrepareUpdate: api.OnUpdate(func(d, old *storagev1.CSIDriver) {
			api.BumpGeneration(d, old, &d.Spec, &old.Spec)
		}),
		Validate: api.Check(func(d *storagev1.CSIDriver) field.ErrorList { return validateDriver(&d.Spec) }),
		ValidateUpdate: api.CheckUpdate(func(d, old *storagev1.CSIDriver) field.ErrorList {
			errs := validateDriver(&d.Spec)
			errs = append(errs, validate.Unchanged(field.NewPath("spec", "attachedRequired"), d.Spec.AttachRequired, old.Spec.AttachRequired)...)
			return append(errs, validate.Unchanged(field.NewPath("spec", "volumeLifecycleModes"), d.Spec.VolumeLifecycleModes, old.Spec.VolumeLifecycleModes)...)
		}),
		Warnings: api.Warn(func(d, old *storagev1.CSIDriver) []string {
			if len(d.Spec.TokenRequests) == 0 || d.Spec.ServiceAccountTokenInSecrets != nil ||
				(old != nil && api.Equal(&d.Spec.TokenRequests, &old.Spec.TokenRequests)) {
				return nil
			}
			return []string{tokenWarning}
		}),
	}
}

func tokenAudiences(d *storagev1.CSIDriver) any {
	if d.Spec.TokenRequests == nil {
		return "<unset>"
	}
	var audiences []string
	for _, t := range d.Spec.TokenRequests {
		audiences = append(audiences, t.Audience)
	}
	return strings.Join(audiences, ",")
}

func defaultDriver(s *storagev1.CSIDriverSpec) {
	for field, value := range map[**bool]bool{
		&s.AttachRequired: true, &s.PodInfoOnMount: false, &s.StorageCapacity: false,
		&s.RequiresRepublish: false, &s.SELinuxMount: false, &s.PreventPodSchedulingIfMissing: false,
	} {
		if *field == nil {
			*field = ptr.To(value)
		}
	}
	if s.FSGroupPolicy == nil {
		s.FSGroupPolicy = ptr.To(storagev1.ReadWriteOnceWithFSTypeFSGroupPolicy)
	}
	if len(s.VolumeLifecycleModes) == 0 {
		s.VolumeLifecycleModes = []storagev1.VolumeLifecycleMode{storagev1.VolumeLifecyclePersistent}
	}
}

func validateDriver(s *storagev1.CSIDriverSpec) field.ErrorList {
	var errs field.ErrorList
	spec := field.NewPath("spec")
	required := func(name string, value *bool) {
		if value == nil {
			errs = append(errs, field.Required(spec.Child(name), ""))
		}
	}
	required("attachedRequired", s.AttachRequired)
	required("podInfoOnMount", s.PodInfoOnMount)
	required("storageCapacity", s.StorageCapacity)
	if p := s.FSGroupPolicy; p != nil {
		errs = append(errs, validate.OneOf(spec.Child("fsGroupPolicy"), *p, storagev1.ReadWriteOnceWithFSTypeFSGroupPolicy,
			storagev1.FileFSGroupPolicy, storagev1.NoneFSGroupPolicy)...)
	}
	errs = append(errs, validateTokens(spec.Child("tokenRequests"), s.TokenRequests)...)
	for _, m := range s.VolumeLifecycleModes {
		errs = append(errs, validate.OneOf(spec.Child("volumeLifecycleModes"), m, storagev1.VolumeLifecyclePersistent, storagev1.VolumeLifecycleEphemeral)...)
	}
	required("seLinuxMount", s.SELinuxMount)
	if p := s.NodeAllocatableUpdatePeriodSeconds; p != nil && *p < shortestPoll {
		errs = append(errs, field.Invalid(spec.Child("nodeAllocatableUpdatePeriodSeconds"), *p, "must be greater than or equal to 10 seconds"))
	}
	if t := s.ServiceAccountTokenInSecrets; t != nil && len(s.TokenRequests) == 0 {
		errs = append(errs, field.Invalid(spec.Child("serviceAccountTokenInSecrets"), *t, "serviceAccountTokenInSecrets is set but no tokenRequests are specified"))
	}
	required("preventPodSchedulingIfMissing", s.PreventPodSchedulingIfMissing)
	return errs
}

func validateTokens(path *field.Path, tokens []storagev1.TokenRequest) field.ErrorList {
	var errs field.ErrorList
	seen := map[string]bool{}
	for i, t := range tokens {
		at := path.Index(i)
		if seen[t.Audience] {
			errs = append(errs, field.Duplicate(at.Child("audience"), t.Audience))
			continue
		}
		seen[t.Audience] = true
		seconds := at.Child("expirationSeconds")
		switch e := t.ExpirationSeconds; {
		case e == nil:
		case *e < shortestToken:
			errs = append(errs, field.Invalid(seconds, *e, "may not specify a duration less than 10 minutes"))
		case *e > longestToken:
			errs = append(errs, field.Invalid(seconds, *e, "may not specify a duration larger than 2^32 seconds"))
		}
	}
	return errs
}
