// Package storage describes the kinds of storage.k8s.io: classes of volumes, and
// what CSI drivers tell of themselves.
package storage

import (
	"strings"

	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/api/validate"
)

// Kinds lists the kinds of the group.
func Kinds() []*api.Kind {
	return []*api.Kind{
		StorageClass(), VolumeAttributesClass(), VolumeAttachment(), CSIDriver(), CSINode(), CSIStorageCapacity(),
	}
}

func gvk(kind string) schema.GroupVersionKind { return storagev1.SchemeGroupVersion.WithKind(kind) }

const (
	maxParameters     = 512
	maxParameterBytes = 256 << 10
)

// validateProvisioner checks the name of who makes or changes volumes.
func validateProvisioner(path *field.Path, name string) field.ErrorList {
	if name == "" {
		return field.ErrorList{field.Required(path, "")}
	}
	return validate.QualifiedName(path, strings.ToLower(name))
}

func validateParameters(path *field.Path, p map[string]string, required bool) field.ErrorList {
	if len(p) > maxParameters {
		return field.ErrorList{field.TooLong(path, "", maxParameters)}
	}
	var errs field.ErrorList
	if _, unnamed := p[""]; unnamed {
		errs = append(errs, field.Invalid(path, "", "field can not be empty."))
	}
	if bytesOf(p) > maxParameterBytes {
		errs = append(errs, field.TooLong(path, "", maxParameterBytes))
	}
	if required && len(p) == 0 {
		errs = append(errs, field.Required(path, "must contain at least one key/value pair"))
	}
	return errs
}

func bytesOf(m map[string]string) int {
	n := 0
	for k, v := range m {
		n += len(k) + len(v)
	}
	return n
}
