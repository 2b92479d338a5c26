package networking

import (
	"fmt"
	"slices"
	"strings"

	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"github.com/proa-dev/proa/api"
)

// classAnnotation named the class before spec.ingressClassName did.
const classAnnotation = "kubernetes.io/ingress.class"

// Ingress is the kind of ingresses.
func Ingress() *api.Kind {
	type I = *networkingv1.Ingress
	return &api.Kind{
		GVK:         gvk("Ingress"),
		Resource:    "ingresses",
		ShortNames:  []string{"ing"},
		Namespaced:  true,
		New:         api.Maker[networkingv1.Ingress](),
		NewList:     api.ListMaker[networkingv1.IngressList](),
		StoragePath: "ingress",
		Columns: []api.Column{
			api.Col("Class", "string", "The class that serves it.", func(i I) any { return ptr.Deref(i.Spec.IngressClassName, "<none>") }),
			api.Col("Hosts", "string", "Hosts that it answers for.", func(i I) any { return hostsText(i.Spec.Rules) }),
			api.Col("Address", "string", "Where it is reached.", func(i I) any { return addressText(i.Status.LoadBalancer.Ingress) }),
			api.Col("Ports", "string", "Ports that are open.", func(i I) any {
				if len(i.Spec.TLS) > 0 {
					return "80, 443"
				}
				return "80"
			}),
			api.AgeColumn(),
		},
		PrepareCreate: api.On(func(i I) {
			i.Status = networkingv1.IngressStatus{}
			i.Generation = 1
		}),
		PrepareUpdate: api.OnUpdate(func(i, old I) {
			i.Status = old.Status
			api.BumpGeneration(i, old, &i.Spec, &old.Spec)
		}),
		Validate: api.Check(func(i I) field.ErrorList {
			errs := validateIngress(i, nil)
			if class, ok := i.Annotations[classAnnotation]; ok && i.Spec.IngressClassName != nil && class != *i.Spec.IngressClassName {
				errs = append(errs, field.Invalid(field.NewPath("annotations").Child(classAnnotation), class, "must match `ingressClassName` when both are specified"))
			}
			return errs
		}),
		ValidateUpdate: api.CheckUpdate(validateIngress),
		Warnings: api.Warn(func(i, old I) []string {
			if _, ok := i.Annotations[classAnnotation]; ok && old == nil && i.Spec.IngressClassName == nil {
				return []string{fmt.Sprintf("annotation %q is deprecated, please use 'spec.ingressClassName' instead", classAnnotation)}
			}
			return nil
		}),
		Status: &api.Status{
			PrepareUpdate:  api.OnUpdate(func(i, old I) { i.Spec = old.Spec }),
			ValidateUpdate: api.CheckUpdate(validateIngressStatus),
		},
		ResetFields: map[string][]string{"": {"status"}, "status": {"spec"}},
	}
}

// hostsText shows the first three hosts. Rules are counted, not hosts, as
// upstream does.
func hostsText(rules []networkingv1.IngressRule) string {
	const most = 3
	var hosts []string
	more := false
	for _, r := range rules {
		more = more || len(hosts) == most
		if !more && r.Host != "" {
			hosts = append(hosts, r.Host)
		}
	}
	switch text := strings.Join(hosts, ","); {
	case text == "":
		return "*"
	case more:
		return fmt.Sprintf("%s + %d more...", text, len(rules)-most)
	default:
		return text
	}
}

// addressText is cut to what a narrow table has room for.
func addressText(points []networkingv1.IngressLoadBalancerIngress) string {
	const width = 16
	var all []string
	for _, p := range points {
		if p.IP != "" {
			all = append(all, p.IP)
		} else if p.Hostname != "" {
			all = append(all, p.Hostname)
		}
	}
	slices.Sort(all)
	text := strings.Join(slices.Compact(all), ",")
	if len(text) > width {
		return text[:width-3] + "..."
	}
	return text
}

func validateIngressStatus(i, old *networkingv1.Ingress) field.ErrorList {
	var known []string
	for _, p := range old.Status.LoadBalancer.Ingress {
		if p.IP != "" {
			known = append(known, p.IP)
		}
	}
	var errs field.ErrorList
	for n, p := range i.Status.LoadBalancer.Ingress {
		path := field.NewPath("status", "loadBalancer", "ingress").Index(n)
		if p.IP != "" {
			errs = append(errs, validation.IsValidIPForLegacyField(path.Child("ip"), p.IP, true, known)...)
		}
		if p.Hostname != "" {
			errs = append(errs, dnsName(path.Child("hostname"), p.Hostname, false)...)
		}
	}
	return errs
}
