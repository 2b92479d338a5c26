package storage

import (
	"math"

	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/api/core"
	"github.com/proa-dev/proa/api/core/podspec"
	"github.com/proa-dev/proa/api/validate"
)

const maxErrorMessage = 1024

// VolumeAttachment is the kind of requests to attach a volume to a node.
func VolumeAttachment() *api.Kind {
	attacher := api.Col("Attacher", "string", "The driver that attaches.", func(a *storagev1.VolumeAttachment) any { return a.Spec.Attacher })
	return &api.Kind{
		GVK:           gvk("VolumeAttachment"),
		ReturnDeleted: true,
		Resource:      "volumeattachments",
		New:           api.Maker[storagev1.VolumeAttachment](),
		NewList:       api.ListMaker[storagev1.VolumeAttachmentList](),
		StoragePath:   "volumeattachments",
		Columns: []api.Column{
			attacher,
			api.Col("PV", "string", "The volume to attach.", func(a *storagev1.VolumeAttachment) any {
				return ptr.Deref(a.Spec.Source.PersistentVolumeName, "")
			}),
			api.Col("Node", "string", "The node to attach it to.", func(a *storagev1.VolumeAttachment) any { return a.Spec.NodeName }),
			api.Col("Attached", "boolean", "Whether it is attached.", func(a *storagev1.VolumeAttachment) any { return a.Status.Attached }),
			api.AgeColumn(),
		},

		PrepareCreate:  api.On(func(a *storagev1.VolumeAttachment) { a.Status = storagev1.VolumeAttachmentStatus{} }),
		PrepareUpdate:  api.OnUpdate(func(a, old *storagev1.VolumeAttachment) { a.Status = old.Status }),
		Validate:       api.Check(validateAttachment),
		ValidateUpdate: api.CheckUpdate(validateAttachmentUpdate),
		Status: &api.Status{
			PrepareUpdate: api.OnUpdate(func(a, old *storagev1.VolumeAttachment) {
				a.Spec = old.Spec
				metav1.ResetObjectMetaForStatus(&a.ObjectMeta, &old.ObjectMeta)
			}),
			ValidateUpdate: api.CheckUpdate(validateAttachmentUpdate),
		},
		ResetFields:            map[string][]string{"": {"status"}, "status": {"metadata", "spec"}},
		RequireVersionOnUpdate: true,
	}
}

func validateAttachment(a *storagev1.VolumeAttachment) field.ErrorList {
	spec := field.NewPath("spec")
	errs := podspec.ValidateCSIDriverName(spec.Child("attacher"), a.Spec.Attacher)
	source, s := spec.Child("source"), &a.Spec.Source
	const one = "must specify exactly one of inlineVolumeSpec and persistentVolumeName"
	switch inline, named := s.InlineVolumeSpec != nil, s.PersistentVolumeName != nil; {
	case !inline && !named:
		errs = append(errs, field.Required(source, one))
	case inline && named:
		errs = append(errs, field.Forbidden(source, one))
	case named && *s.PersistentVolumeName == "":
		errs = append(errs, field.Required(source.Child("persistentVolumeName"), "must specify non empty persistentVolumeName"))
	case inline:
		errs = append(errs, core.ValidateInlineVolume(source.Child("inlineVolumeSpec"), s.InlineVolumeSpec)...)
	}
	errs = append(errs, validate.Messages(spec.Child("nodeName"), a.Spec.NodeName, validation.IsDNS1123Subdomain(a.Spec.NodeName))...)
	status := field.NewPath("status")
	if bytesOf(a.Status.AttachmentMetadata) > maxParameterBytes {
		errs = append(errs, field.TooLong(status.Child("attachmentMetadata"), "", maxParameterBytes))
	}
	errs = append(errs, validateVolumeError(status.Child("attachError"), a.Status.AttachError)...)
	errs = append(errs, validateVolumeError(status.Child("detachError"), a.Status.DetachError)...)
	if s.PersistentVolumeName != nil {
		errs = append(errs, validate.Subdomain(field.NewPath("spec.source.persistentVolumeName"), *s.PersistentVolumeName)...)
	}
	return errs
}

func validateVolumeError(path *field.Path, e *storagev1.VolumeError) field.ErrorList {
	if e == nil {
		return nil
	}
	var errs field.ErrorList
	if len(e.Message) > maxErrorMessage {
		errs = append(errs, field.TooLong(path.Child("message"), "", maxErrorMessage))
	}
	if c := e.ErrorCode; c != nil && *c < 0 {
		errs = append(errs, field.Invalid(path.Child("errorCode"), *c, validation.InclusiveRangeError(0, math.MaxInt32)))
	}
	return errs
}

func validateAttachmentUpdate(a, old *storagev1.VolumeAttachment) field.ErrorList {
	return append(validateAttachment(a), validate.Unchanged(field.NewPath("spec"), a.Spec, old.Spec)...)
}
