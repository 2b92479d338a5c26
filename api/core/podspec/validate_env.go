package podspec

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/proa-dev/proa/api/validate"
)

func (c *checker) validateEnv(path *field.Path, vars []corev1.EnvVar) field.ErrorList {
	var errs field.ErrorList
	for i, v := range vars {
		at := path.Index(i)
		if v.Name == "" {
			errs = append(errs, field.Required(at.Child("name"), ""))
		} else {
			errs = append(errs, validate.Messages(at.Child("name"), v.Name, validation.IsRelaxedEnvVarName(v.Name))...)
		}
		if v.ValueFrom != nil {
			errs = append(errs, c.validateValueFrom(at.Child("valueFrom"), v)...)
		}
	}
	return errs
}

func (c *checker) validateValueFrom(path *field.Path, v corev1.EnvVar) field.ErrorList {
	var errs field.ErrorList
	n := 0
	from := v.ValueFrom
	if r := from.FieldRef; r != nil {
		n++
		errs = append(errs, validateFieldRef(path.Child("fieldRef"), r, envFields)...)
	}
	if r := from.ResourceFieldRef; r != nil {
		n++
		errs = append(errs, validateResourceFieldRef(path.Child("resourceFieldRef"), r, false)...)
	}
	if r := from.ConfigMapKeyRef; r != nil {
		n++
		errs = append(errs, validateKeyRef(path.Child("configMapKeyRef"), r.Name, r.Key)...)
	}
	if r := from.SecretKeyRef; r != nil {
		n++
		errs = append(errs, validateKeyRef(path.Child("secretKeyRef"), r.Name, r.Key)...)
	}
	if r := from.FileKeyRef; r != nil {
		n++
		errs = append(errs, c.validateFileKeyRef(path.Child("fileKeyRef"), r)...)
	}
	switch {
	case n == 0:
		errs = append(errs, field.Invalid(path, "", "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`"))
	case v.Value != "":
		errs = append(errs, field.Invalid(path, "", "may not be specified when `value` is not empty"))
	case n > 1:
		errs = append(errs, field.Invalid(path, "", "may not have more than one field specified at a time"))
	}
	return errs
}

func validateKeyRef(path *field.Path, name, key string) field.ErrorList {
	errs := validate.Subdomain(path.Child("name"), name)
	if key == "" {
		return append(errs, field.Required(path.Child("key"), ""))
	}
	return append(errs, validate.Messages(path.Child("key"), key, validation.IsConfigMapKey(key))...)
}

// validateFileKeyRef wants an emptyDir: a file in another kind of volume might
// be read before it is there.
func (c *checker) validateFileKeyRef(path *field.Path, r *corev1.FileKeySelector) field.ErrorList {
	var errs field.ErrorList
	if r.Key == "" {
		errs = append(errs, field.Required(path.Child("key"), ""))
	} else {
		errs = append(errs, validate.Messages(path.Child("key"), r.Key, validation.IsRelaxedEnvVarName(r.Key))...)
	}
	if r.VolumeName == "" {
		errs = append(errs, field.Required(path.Child("volumeName"), ""))
	} else if v, ok := c.volumes[r.VolumeName]; !ok {
		errs = append(errs, field.NotFound(path.Child("volumeName"), r.VolumeName))
	} else if v.EmptyDir == nil {
		errs = append(errs, field.Invalid(path.Child("volumeName"), r.VolumeName, "referenced volume must be of type emptyDir"))
	}
	if r.Path == "" {
		return append(errs, field.Required(path.Child("path"), ""))
	}
	return append(errs, validate.FilePath(path.Child("path"), r.Path)...)
}

func validateEnvFrom(path *field.Path, sources []corev1.EnvFromSource) field.ErrorList {
	var errs field.ErrorList
	for i, s := range sources {
		at := path.Index(i)
		if s.Prefix != "" {
			errs = append(errs, validate.Messages(at.Child("prefix"), s.Prefix, validation.IsRelaxedEnvVarName(s.Prefix))...)
		}
		named := func(path *field.Path, name string) field.ErrorList {
			if name == "" {
				return field.ErrorList{field.Required(path.Child("name"), "")}
			}
			return validate.Subdomain(path.Child("name"), name)
		}
		n := 0
		if r := s.ConfigMapRef; r != nil {
			n++
			errs = append(errs, named(at.Child("configMapRef"), r.Name)...)
		}
		if r := s.SecretRef; r != nil {
			n++
			errs = append(errs, named(at.Child("secretRef"), r.Name)...)
		}
		if n == 0 {
			errs = append(errs, field.Invalid(path, "", "must specify one of: `configMapRef` or `secretRef`"))
		} else if n > 1 {
			errs = append(errs, field.Invalid(path, "", "may not have more than one field specified at a time"))
		}
	}
	return errs
}

// fieldPlace is where a field reference stands: the places allow different
// fields.
type fieldPlace int

const (
	envFields fieldPlace = iota
	volumeFields
)

// allowed lists the fields that may be referred to, in order.
func (p fieldPlace) allowed() []string {
	if p == volumeFields {
		return []string{"metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"}
	}
	return []string{
		"metadata.name", "metadata.namespace", "metadata.uid", "spec.nodeName", "spec.serviceAccountName",
		"status.hostIP", "status.hostIPs", "status.podIP", "status.podIPs",
	}
}

// knownField says that a pod has a field that references may name somewhere.
func knownField(path string) bool {
	switch path {
	case "metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid",
		"spec.nodeName", "spec.restartPolicy", "spec.serviceAccountName", "spec.schedulerName",
		"status.phase", "status.hostIP", "status.hostIPs", "status.podIP", "status.podIPs", "spec.host":
		return true
	}
	return false
}

// splitSubscript takes metadata.labels['key'] apart.
func splitSubscript(path string) (base, key string, ok bool) {
	rest, found := strings.CutSuffix(path, "']")
	if !found {
		return path, "", false
	}
	base, key, ok = strings.Cut(rest, "['")
	if !ok || base == "" {
		return path, "", false
	}
	return base, key, true
}

func validateFieldRef(path *field.Path, r *corev1.ObjectFieldSelector, place fieldPlace) field.ErrorList {
	if r.APIVersion == "" {
		return field.ErrorList{field.Required(path.Child("apiVersion"), "")}
	}
	if r.FieldPath == "" {
		return field.ErrorList{field.Required(path.Child("fieldPath"), "")}
	}
	base, key, subscripted := splitSubscript(r.FieldPath)
	var why string
	switch {
	case r.APIVersion != "v1":
		why = fmt.Sprintf("unsupported pod version: %s", r.APIVersion)
	case subscripted && base != "metadata.annotations" && base != "metadata.labels":
		why = fmt.Sprintf("field label does not support subscript: %s", r.FieldPath)
	case !knownField(base):
		why = fmt.Sprintf("field label not supported: %s", r.FieldPath)
	}
	if why != "" {
		return field.ErrorList{field.Invalid(path.Child("fieldPath"), r.FieldPath, "error converting fieldPath: "+why)}
	}
	if subscripted {
		if base == "metadata.annotations" {
			key = strings.ToLower(key)
		}
		return validate.QualifiedName(path, key)
	}
	if !slices.Contains(place.allowed(), base) {
		return field.ErrorList{field.NotSupported(path.Child("fieldPath"), base, place.allowed())}
	}
	return nil
}

func validateResourceFieldRef(path *field.Path, r *corev1.ResourceFieldSelector, inVolume bool) field.ErrorList {
	allowed := []string{
		"limits.cpu", "limits.ephemeral-storage", "limits.memory",
		"requests.cpu", "requests.ephemeral-storage", "requests.memory",
	}
	hugePages := strings.HasPrefix(r.Resource, "limits.hugepages-") || strings.HasPrefix(r.Resource, "requests.hugepages-")
	var errs field.ErrorList
	switch {
	case inVolume && r.ContainerName == "":
		errs = append(errs, field.Required(path.Child("containerName"), ""))
	case r.Resource == "":
		errs = append(errs, field.Required(path.Child("resource"), ""))
	case !slices.Contains(allowed, r.Resource) && !hugePages:
		errs = append(errs, field.NotSupported(path.Child("resource"), r.Resource, allowed))
	}
	return append(errs, validateDivisor(path.Child("divisor"), r)...)
}

func validateDivisor(path *field.Path, r *corev1.ResourceFieldSelector) field.ErrorList {
	if r.Divisor.IsZero() {
		return nil
	}
	_, what, _ := strings.Cut(r.Resource, ".")
	if what == "cpu" {
		if d := r.Divisor.String(); d != "1m" && d != "1" {
			return field.ErrorList{field.Invalid(path, r.Resource, "only divisor's values 1m and 1 are supported with the cpu resource")}
		}
		return nil
	}
	sizes := []string{"1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"}
	if slices.Contains(sizes, r.Divisor.String()) {
		return nil
	}
	switch {
	case what == "ephemeral-storage":
		what = "local ephemeral storage"
	case strings.HasPrefix(what, "hugepages-"):
		what = "hugepages"
	case what != "memory":
		return nil
	}
	return field.ErrorList{field.Invalid(path, r.Resource, fmt.Sprintf(
		"only divisor's values %s are supported with the %s resource", strings.Join(sizes, ", "), what))}
}
