package validate

import (
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// SignerName wants the name of a signer of certificates: domain/name, the
// domain with two labels at least.
func SignerName(path *field.Path, name string) field.ErrorList {
	if name == "" {
		return field.ErrorList{field.Required(path, "")}
	}
	segments := strings.Split(name, "/")
	if len(segments) != 2 {
		return field.ErrorList{field.Invalid(path, name, "must be a fully qualified domain and path of the form 'example.com/signer-name'")}
	}
	domain, rest := segments[0], segments[1]
	var errs field.ErrorList
	if limit := validation.DNS1123SubdomainMaxLength; len(domain) > limit {
		errs = append(errs, field.TooLong(path, "", limit))
	}
	labels := strings.Split(domain, ".")
	errs = append(errs, firstBadLabel(path, domain, labels, validation.IsDNS1123Label)...)
	if len(labels) < 2 {
		errs = append(errs, field.Invalid(path, domain, "should be a domain with at least two segments separated by dots"))
	}
	errs = append(errs, firstBadLabel(path, rest, strings.Split(rest, "."), validation.IsDNS1123Subdomain)...)
	// The path may be a label, a dot and a subdomain.
	const longest = 2*validation.DNS1123SubdomainMaxLength + validation.DNS1123LabelMaxLength + 2
	if len(name) > longest {
		errs = append(errs, field.TooLong(path, "", longest))
	}
	return errs
}

func firstBadLabel(path *field.Path, whole string, labels []string, check func(string) []string) field.ErrorList {
	for _, label := range labels {
		messages := check(label)
		if len(messages) == 0 {
			continue
		}
		var errs field.ErrorList
		for _, m := range messages {
			errs = append(errs, field.Invalid(path, whole, fmt.Sprintf("validating label %q: %s", label, m)))
		}
		return errs
	}
	return nil
}
