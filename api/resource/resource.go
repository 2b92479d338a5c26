// Package resource describes the kinds of resource.k8s.io: devices, and the
// claims that pods have on them.
package resource

import (
	"fmt"
	"strings"

	"github.com/google/uuid"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/validate/content"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/api/core/podspec"
	"github.com/proa-dev/proa/api/validate"
)

// Kinds lists the kinds of the group.
func Kinds() []*api.Kind {
	return []*api.Kind{DeviceClass(), DeviceTaintRule(), ResourceClaim(), ResourceClaimTemplate(), ResourceSlice()}
}

func gvk(kind string) schema.GroupVersionKind { return resourcev1.SchemeGroupVersion.WithKind(kind) }

// each checks a list of a limited size; the items of a longer one are not
// looked at.
func each[T any](path *field.Path, list []T, most int, check func(*field.Path, *T) field.ErrorList) field.ErrorList {
	if most >= 0 && len(list) > most {
		return field.ErrorList{field.TooMany(path, len(list), most)}
	}
	var errs field.ErrorList
	for i := range list {
		errs = append(errs, check(path.Index(i), &list[i])...)
	}
	return errs
}

// once is each, and wants no two items with the same key.
func once[T any, K comparable](path *field.Path, list []T, most int, key func(*T) K, check func(*field.Path, *T) field.ErrorList) field.ErrorList {
	errs := each(path, list, most, check)
	if most >= 0 && len(list) > most {
		return errs
	}
	seen := sets.New[K]()
	for i := range list {
		k := key(&list[i])
		if seen.Has(k) {
			errs = append(errs, field.Duplicate(path.Index(i), k))
		}
		seen.Insert(k)
	}
	return errs
}

func itself(s *string) string { return *s }

func label(path *field.Path, name string) field.ErrorList {
	if name == "" {
		return field.ErrorList{field.Required(path, "")}
	}
	return validate.Label(path, name)
}

func subdomain(path *field.Path, name string) field.ErrorList {
	if name == "" {
		return field.ErrorList{field.Required(path, "")}
	}
	return validate.Subdomain(path, name)
}

func driverName(path *field.Path, name string) field.ErrorList {
	return podspec.ValidateCSIDriverName(path, name)
}

func poolName(path *field.Path, name string) field.ErrorList {
	if name == "" {
		return field.ErrorList{field.Required(path, "")}
	}
	var errs field.ErrorList
	if len(name) > resourcev1.PoolNameMaxLength {
		errs = append(errs, field.TooLong(path, "", resourcev1.PoolNameMaxLength))
	}
	for part := range strings.SplitSeq(name, "/") {
		errs = append(errs, validate.Subdomain(path, part)...)
	}
	return errs
}

func shareID(path *field.Path, id string) field.ErrorList {
	if err := uuid.Validate(id); err != nil {
		return field.ErrorList{field.Invalid(path, id, fmt.Sprintf("error validating uid: %v", err))}
	}
	if len(id) != 36 || id != strings.ToLower(id) {
		return field.ErrorList{field.Invalid(path, id, "uid must be in RFC 4122 normalized form, `xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx` with lowercase hexadecimal characters")}
	}
	return nil
}

// qualified wants an identifier, perhaps with a domain before it.
func qualified(path *field.Path, name string) field.ErrorList {
	domain, id, ok := strings.Cut(name, "/")
	if !ok {
		return identifier(path, name)
	}
	if strings.Contains(id, "/") { // as upstream, which looks at one slash alone
		return nil
	}
	var errs field.ErrorList
	if domain == "" {
		errs = append(errs, field.Invalid(path, "", "the domain must not be empty"))
	} else {
		errs = append(errs, driverName(path, domain)...)
	}
	if id == "" {
		return append(errs, field.Invalid(path, "", "the name must not be empty"))
	}
	return append(errs, identifier(path, id)...)
}

func fullyQualified(path *field.Path, name resourcev1.FullyQualifiedName) field.ErrorList {
	errs := qualified(path, string(name))
	if !strings.Contains(string(name), "/") {
		errs = append(errs, field.Invalid(path, name, "a fully qualified name must be a domain and a name separated by a slash"))
	}
	return errs
}

func identifier(path *field.Path, id string) field.ErrorList {
	var errs field.ErrorList
	if len(id) > resourcev1.DeviceMaxIDLength {
		errs = append(errs, field.TooLong(path, "", resourcev1.DeviceMaxIDLength))
	}
	return append(errs, validate.Messages(path, id, content.IsCIdentifier(id))...)
}
