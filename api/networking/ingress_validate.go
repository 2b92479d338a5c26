package networking

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/net"

	"github.com/proa-dev/proa/api/validate"
)

// lenience is what an old object breaks already, and may go on breaking.
type lenience struct {
	secretNames   bool // of TLS
	wildcardRules bool // the paths of rules for wildcard hosts
}

func lenienceOf(old *networkingv1.Ingress) lenience {
	var l lenience
	if old == nil {
		return l
	}
	for _, t := range old.Spec.TLS {
		l.secretNames = l.secretNames || len(secretName(nil, t.SecretName)) > 0
	}
	for _, r := range old.Spec.Rules {
		l.wildcardRules = l.wildcardRules || strings.Contains(r.Host, "*") && len(validateRule(nil, r.HTTP)) > 0
	}
	return l
}

// validateIngress checks an ingress in view of the old one, nil for none.
func validateIngress(ing, old *networkingv1.Ingress) field.ErrorList {
	s, path, may := &ing.Spec, field.NewPath("spec"), lenienceOf(old)
	var errs field.ErrorList
	if len(s.Rules) == 0 && s.DefaultBackend == nil {
		errs = append(errs, field.Invalid(path, s.Rules, "either `defaultBackend` or `rules` must be specified"))
	}
	if s.DefaultBackend != nil {
		errs = append(errs, validateBackend(path.Child("defaultBackend"), s.DefaultBackend)...)
	}
	for i, r := range s.Rules {
		at := path.Child("rules").Index(i)
		if r.Host != "" {
			errs = append(errs, dnsName(at.Child("host"), r.Host, true)...)
		}
		if !may.wildcardRules || !strings.Contains(r.Host, "*") {
			errs = append(errs, validateRule(at.Child("http"), r.HTTP)...)
		}
	}
	for i, t := range s.TLS {
		at := path.Child("tls").Index(i)
		for j, host := range t.Hosts {
			errs = append(errs, hostPattern(at.Child("hosts").Index(j), host)...)
		}
		if !may.secretNames {
			errs = append(errs, secretName(at.Child("secretName"), t.SecretName)...)
		}
	}
	if s.IngressClassName != nil {
		errs = append(errs, validate.Subdomain(path.Child("ingressClassName"), *s.IngressClassName)...)
	}
	return errs
}

func secretName(path *field.Path, name string) field.ErrorList {
	if name == "" {
		return nil
	}
	return validate.Subdomain(path, name)
}

func hostPattern(path *field.Path, host string) field.ErrorList {
	if strings.Contains(host, "*") {
		return validate.Messages(path, host, validation.IsWildcardDNS1123Subdomain(host))
	}
	return validate.Subdomain(path, host)
}

// dnsName wants a name, or a pattern of names, that is no address.
func dnsName(path *field.Path, host string, pattern bool) field.ErrorList {
	var address, errs field.ErrorList
	if net.ParseIPSloppy(host) != nil {
		address = field.ErrorList{field.Invalid(path, host, "must be a DNS name, not an IP address")}
	}
	if pattern {
		return append(address, hostPattern(path, host)...)
	}
	errs = validate.Subdomain(path, host)
	return append(errs, address...)
}

func validateRule(path *field.Path, http *networkingv1.HTTPIngressRuleValue) field.ErrorList {
	if http == nil {
		return nil
	}
	var errs field.ErrorList
	if len(http.Paths) == 0 {
		errs = append(errs, field.Required(path.Child("paths"), ""))
	}
	for i := range http.Paths {
		errs = append(errs, validatePath(path.Child("paths").Index(i), &http.Paths[i])...)
	}
	return errs
}

func validatePath(path *field.Path, p *networkingv1.HTTPIngressPath) field.ErrorList {
	if p.PathType == nil {
		return field.ErrorList{field.Required(path.Child("pathType"), "pathType must be specified")}
	}
	var errs field.ErrorList
	at := path.Child("path")
	absolute := func() {
		if !strings.HasPrefix(p.Path, "/") {
			errs = append(errs, field.Invalid(at, p.Path, "must be an absolute path"))
		}
	}
	switch *p.PathType {
	case networkingv1.PathTypeExact, networkingv1.PathTypePrefix:
		absolute()
		for _, part := range []string{"//", "/./", "/../", "%2f", "%2F"} {
			if strings.Contains(p.Path, part) {
				errs = append(errs, field.Invalid(at, p.Path, fmt.Sprintf("must not contain '%s'", part)))
			}
		}
		for _, end := range []string{"/..", "/."} {
			if strings.HasSuffix(p.Path, end) {
				errs = append(errs, field.Invalid(at, p.Path, fmt.Sprintf("cannot end with '%s'", end)))
			}
		}
	case networkingv1.PathTypeImplementationSpecific:
		if p.Path != "" {
			absolute()
		}
	default:
		errs = append(errs, validate.OneOf(path.Child("pathType"), *p.PathType,
			networkingv1.PathTypeExact, networkingv1.PathTypePrefix, networkingv1.PathTypeImplementationSpecific)...)
	}
	return append(errs, validateBackend(path.Child("backend"), &p.Backend)...)
}

func validateBackend(path *field.Path, b *networkingv1.IngressBackend) field.ErrorList {
	switch {
	case b.Resource != nil && b.Service != nil:
		return field.ErrorList{field.Invalid(path, "", "cannot set both resource and service backends")}
	case b.Resource != nil:
		return validateReference(path.Child("resource"), b.Resource)
	case b.Service == nil:
		return field.ErrorList{field.Invalid(path, "", "resource or service backend is required")}
	}
	var errs field.ErrorList
	name, port := path.Child("service", "name"), path.Child("service", "port")
	if b.Service.Name == "" {
		errs = append(errs, field.Required(name, ""))
	} else {
		errs = append(errs, validate.Label(name, b.Service.Name)...)
	}
	switch p := b.Service.Port; {
	case p.Name != "" && p.Number != 0:
		errs = append(errs, field.Invalid(path, "", "cannot set both port name & port number"))
	case p.Name != "":
		errs = append(errs, validate.Messages(port.Child("name"), p.Name, validation.IsValidPortName(p.Name))...)
	case p.Number != 0:
		errs = append(errs, validate.PortNumber(port.Child("number"), p.Number)...)
	default:
		errs = append(errs, field.Required(path, "port name or number is required"))
	}
	return errs
}

func validateReference(path *field.Path, r *corev1.TypedLocalObjectReference) field.ErrorList {
	var errs field.ErrorList
	if r.APIGroup != nil {
		errs = append(errs, validate.Subdomain(path.Child("apiGroup"), *r.APIGroup)...)
	}
	errs = append(errs, requiredSegment(path.Child("kind"), r.Kind)...)
	return append(errs, requiredSegment(path.Child("name"), r.Name)...)
}
