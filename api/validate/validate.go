// Package validate holds the checks that many kinds share. Each returns the
// causes with their field path, none when all is well.
package validate

import (
	"fmt"
	"slices"
	"strings"

	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/net"
)

// Immutable is what an update of an immutable field is told.
const Immutable = apivalidation.FieldImmutableErrorMsg

// Messages makes one cause of each message about a value.
func Messages(path *field.Path, value any, messages []string) field.ErrorList {
	var errs field.ErrorList
	for _, m := range messages {
		errs = append(errs, field.Invalid(path, value, m))
	}
	return errs
}

// Label wants a DNS-1123 label.
func Label(path *field.Path, value string) field.ErrorList {
	if plain(value) {
		return nil
	}
	return Messages(path, value, validation.IsDNS1123Label(value))
}

// Subdomain wants a DNS-1123 subdomain, as most names are.
func Subdomain(path *field.Path, value string) field.ErrorList {
	if PlainSubdomain(value) {
		return nil
	}
	return Messages(path, value, validation.IsDNS1123Subdomain(value))
}

// QualifiedName wants "name" or "prefix/name".
func QualifiedName(path *field.Path, value string) field.ErrorList {
	if plainKey(value) {
		return nil
	}
	return Messages(path, value, validation.IsQualifiedName(value))
}

// LabelKey wants a key as labels have them.
func LabelKey(path *field.Path, value string) field.ErrorList {
	if plainKey(value) {
		return nil
	}
	return metavalidation.ValidateLabelName(value, path)
}

// ServiceAccountName wants a name that a service account may have.
func ServiceAccountName(path *field.Path, value string) field.ErrorList {
	if PlainSubdomain(value) {
		return nil
	}
	return Messages(path, value, apivalidation.ValidateServiceAccountName(value, false))
}

// NamespaceName wants a name that a namespace may have.
func NamespaceName(path *field.Path, value string) field.ErrorList {
	return Messages(path, value, apivalidation.ValidateNamespaceName(value, false))
}

// Required wants a value that is not empty.
func Required(path *field.Path, value string) field.ErrorList {
	if value == "" {
		return field.ErrorList{field.Required(path, "")}
	}
	return nil
}

// OneOf wants one of the allowed values.
func OneOf[T ~string](path *field.Path, value T, allowed ...T) field.ErrorList {
	if slices.Contains(allowed, value) {
		return nil
	}
	slices.Sort(allowed)
	return field.ErrorList{field.NotSupported(path, value, allowed)}
}

// RequiredOneOf wants one of the allowed values and says so when it is empty.
func RequiredOneOf[T ~string](path *field.Path, value T, allowed ...T) field.ErrorList {
	if value == "" {
		return field.ErrorList{field.Required(path, "")}
	}
	return OneOf(path, value, allowed...)
}

// NonNegative wants zero or more.
func NonNegative(path *field.Path, value int64) field.ErrorList {
	return apivalidation.ValidateNonnegativeField(value, path)
}

// Positive wants more than zero.
func Positive(path *field.Path, value int64) field.ErrorList {
	if value <= 0 {
		return field.ErrorList{field.Invalid(path, value, "must be greater than zero")}
	}
	return nil
}

// PortNumber wants 1 to 65535.
func PortNumber(path *field.Path, port int32) field.ErrorList {
	return Messages(path, port, validation.IsValidPortNum(int(port)))
}

// PortNumberOrName wants a port number or the name of one.
func PortNumberOrName(path *field.Path, port intstr.IntOrString) field.ErrorList {
	switch port.Type {
	case intstr.Int:
		return Messages(path, port.IntValue(), validation.IsValidPortNum(port.IntValue()))
	case intstr.String:
		return Messages(path, port.StrVal, validation.IsValidPortName(port.StrVal))
	}
	return field.ErrorList{field.InternalError(path, fmt.Errorf("unknown type: %v", port.Type))}
}

// Selector checks a label selector. lenient lets label values be what they
// like, for objects that already hold invalid ones.
func Selector(path *field.Path, s *metav1.LabelSelector, lenient bool) field.ErrorList {
	return metavalidation.ValidateLabelSelector(s, metavalidation.LabelSelectorValidationOptions{
		AllowInvalidLabelValueInSelector: lenient,
	}, path)
}

// Unchanged wants a field to be as it was.
func Unchanged(path *field.Path, value, old any) field.ErrorList {
	return apivalidation.ValidateImmutableField(value, old, path)
}

// NotDecremented wants a counter never to go back, nor to vanish.
func NotDecremented(path *field.Path, value, old *int32) field.ErrorList {
	if old == nil || (value != nil && *value >= *old) {
		return nil
	}
	var v int32
	if value != nil {
		v = *value
	}
	return field.ErrorList{field.Invalid(path, v, "cannot be decremented")}
}

// IntOrPercent wants a count of zero or more, or a percentage.
func IntOrPercent(path *field.Path, v intstr.IntOrString) field.ErrorList {
	switch v.Type {
	case intstr.String:
		return Messages(path, v, validation.IsValidPercent(v.StrVal))
	case intstr.Int:
		return NonNegative(path, int64(v.IntValue()))
	}
	return field.ErrorList{field.Invalid(path, v, "must be an integer or percentage (e.g '5%%')")}
}

// AtMostHundredPercent refuses percentages above 100.
func AtMostHundredPercent(path *field.Path, v intstr.IntOrString) field.ErrorList {
	if n, ok := percent(v); ok && n > 100 {
		return field.ErrorList{field.Invalid(path, v, "must not be greater than 100%")}
	}
	return nil
}

// IntOrPercentValue is the number in v, whichever it counts.
func IntOrPercentValue(v intstr.IntOrString) int {
	if n, ok := percent(v); ok {
		return n
	}
	return v.IntValue()
}

func percent(v intstr.IntOrString) (int, bool) {
	if v.Type != intstr.String || len(validation.IsValidPercent(v.StrVal)) != 0 {
		return 0, false
	}
	n := intstr.Parse(strings.TrimSuffix(v.StrVal, "%"))
	return n.IntValue(), true
}

// NoBacksteps refuses ".." as an element of a path.
func NoBacksteps(path *field.Path, target string) field.ErrorList {
	if slices.Contains(strings.Split(target, "/"), "..") {
		return field.ErrorList{field.Invalid(path, target, "must not contain '..'")}
	}
	return nil
}

// RelativePath wants a path that stays below where it starts.
func RelativePath(path *field.Path, target string) field.ErrorList {
	var errs field.ErrorList
	if strings.HasPrefix(target, "/") {
		errs = append(errs, field.Invalid(path, target, "must be a relative path"))
	}
	return append(errs, NoBacksteps(path, target)...)
}

// FilePath wants a relative path whose first element is not one of those that
// kubelets write themselves ("..data").
func FilePath(path *field.Path, target string) field.ErrorList {
	errs := RelativePath(path, target)
	if strings.HasPrefix(target, "..") && !strings.HasPrefix(target, "../") {
		errs = append(errs, field.Invalid(path, target, "must not start with '..'"))
	}
	return errs
}

// OrdinaryIP refuses the addresses that never are a service's: unspecified,
// loopback and link-local ones.
func OrdinaryIP(path *field.Path, value string) field.ErrorList {
	ip := net.ParseIPSloppy(value)
	if ip == nil {
		return field.ErrorList{field.Invalid(path, value, "must be a valid IP address")}
	}
	var why string
	switch {
	case ip.IsUnspecified():
		why = fmt.Sprintf("may not be unspecified (%v)", value)
	case ip.IsLoopback():
		why = "may not be in the loopback range (127.0.0.0/8, ::1/128)"
	case ip.IsLinkLocalUnicast():
		why = "may not be in the link-local range (169.254.0.0/16, fe80::/10)"
	case ip.IsLinkLocalMulticast():
		why = "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)"
	default:
		return nil
	}
	return field.ErrorList{field.Invalid(path, value, why)}
}

// FileMode wants permission bits alone.
func FileMode(path *field.Path, mode *int32) field.ErrorList {
	if mode != nil && (*mode < 0 || *mode > 0o777) {
		return field.ErrorList{field.Invalid(path, *mode, "must be a number between 0 and 0777 (octal), both inclusive")}
	}
	return nil
}

// ReplicaCounts checks the status of what keeps a number of pods: no part is
// more than the whole.
func ReplicaCounts(replicas, labeled, ready, available int32, generation int64) field.ErrorList {
	path := field.NewPath("status")
	var errs field.ErrorList
	parts := []struct {
		name  string
		value int32
	}{{"fullyLabeledReplicas", labeled}, {"readyReplicas", ready}, {"availableReplicas", available}}
	errs = append(errs, NonNegative(path.Child("replicas"), int64(replicas))...)
	for _, p := range parts {
		errs = append(errs, NonNegative(path.Child(p.name), int64(p.value))...)
	}
	errs = append(errs, NonNegative(path.Child("observedGeneration"), generation)...)
	for _, p := range parts {
		if p.value > replicas {
			errs = append(errs, field.Invalid(path.Child(p.name), p.value, "cannot be greater than status.replicas"))
		}
	}
	if available > ready {
		errs = append(errs, field.Invalid(path.Child("availableReplicas"), available, "cannot be greater than readyReplicas"))
	}
	return errs
}
