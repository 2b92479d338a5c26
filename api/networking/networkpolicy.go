package networking

import (
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/net"
	"k8s.io/utils/ptr"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/api/validate"
)

// NetworkPolicy is the kind of network policies.
func NetworkPolicy() *api.Kind {
	type P = *networkingv1.NetworkPolicy
	return &api.Kind{
		GVK:         gvk("NetworkPolicy"),
		Resource:    "networkpolicies",
		ShortNames:  []string{"netpol"},
		Namespaced:  true,
		New:         api.Maker[networkingv1.NetworkPolicy](),
		NewList:     api.ListMaker[networkingv1.NetworkPolicyList](),
		StoragePath: "networkpolicies",
		Columns: []api.Column{
			api.Col("Pod-Selector", "string", "The pods that it isolates.", func(p P) any { return metav1.FormatLabelSelector(&p.Spec.PodSelector) }),
			api.AgeColumn(),
		},
		Default:       api.On(defaultPolicy),
		PrepareCreate: api.On(func(p P) { p.Generation = 1 }),
		PrepareUpdate: api.OnUpdate(func(p, old P) { api.BumpGeneration(p, old, &p.Spec, &old.Spec) }),
		Validate:      api.Check(func(p P) field.ErrorList { return (&policyChecker{}).policy(p) }),
		ValidateUpdate: api.CheckUpdate(func(p, old P) field.ErrorList {
			c := policyChecker{labels: len(validate.Selector(nil, &old.Spec.PodSelector, false)) > 0}
			visitBlocks(old, func(_ *field.Path, b *networkingv1.IPBlock) {
				c.cidrs = append(append(c.cidrs, b.CIDR), b.Except...)
			})
			return c.policy(p)
		}),
		Warnings: api.Warn(func(p, _ P) []string {
			var out []string
			visitBlocks(p, func(path *field.Path, b *networkingv1.IPBlock) {
				out = append(out, validation.GetWarningsForCIDR(path.Child("cidr"), b.CIDR)...)
				for i, e := range b.Except {
					out = append(out, validation.GetWarningsForCIDR(path.Child("except").Index(i), e)...)
				}
			})
			return out
		}),
	}
}

func defaultPolicy(p *networkingv1.NetworkPolicy) {
	s := &p.Spec
	ports := func(list []networkingv1.NetworkPolicyPort) {
		for i := range list {
			if list[i].Protocol == nil {
				list[i].Protocol = ptr.To(corev1.ProtocolTCP)
			}
		}
	}
	for i := range s.Ingress {
		ports(s.Ingress[i].Ports)
	}
	for i := range s.Egress {
		ports(s.Egress[i].Ports)
	}
	if len(s.PolicyTypes) == 0 {
		s.PolicyTypes = []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}
		if len(s.Egress) > 0 {
			s.PolicyTypes = append(s.PolicyTypes, networkingv1.PolicyTypeEgress)
		}
	}
}

func visitBlocks(p *networkingv1.NetworkPolicy, f func(*field.Path, *networkingv1.IPBlock)) {
	peers := func(path *field.Path, list []networkingv1.NetworkPolicyPeer) {
		for i := range list {
			if b := list[i].IPBlock; b != nil {
				f(path.Index(i).Child("ipBlock"), b)
			}
		}
	}
	spec := field.NewPath("spec")
	for i := range p.Spec.Ingress {
		peers(spec.Child("ingress").Index(i).Child("from"), p.Spec.Ingress[i].From)
	}
	for i := range p.Spec.Egress {
		peers(spec.Child("egress").Index(i).Child("to"), p.Spec.Egress[i].To)
	}
}

// policyChecker validates policies. What an old policy holds already may stay.
type policyChecker struct {
	labels bool     // invalid values in selectors
	cidrs  []string // that are accepted, valid or not
}

func (c *policyChecker) policy(p *networkingv1.NetworkPolicy) field.ErrorList {
	s, path := &p.Spec, field.NewPath("spec")
	errs := validate.Selector(path.Child("podSelector"), &s.PodSelector, c.labels)
	rule := func(at *field.Path, ports []networkingv1.NetworkPolicyPort, name string, peers []networkingv1.NetworkPolicyPeer) {
		for i := range ports {
			errs = append(errs, validatePolicyPort(at.Child("ports").Index(i), &ports[i])...)
		}
		for i := range peers {
			errs = append(errs, c.peer(at.Child(name).Index(i), &peers[i])...)
		}
	}
	for i, r := range s.Ingress {
		rule(path.Child("ingress").Index(i), r.Ports, "from", r.From)
	}
	for i, r := range s.Egress {
		rule(path.Child("egress").Index(i), r.Ports, "to", r.To)
	}
	types := path.Child("policyTypes")
	if len(s.PolicyTypes) > 2 {
		return append(errs, field.Invalid(types, &s.PolicyTypes, "may not specify more than two policyTypes"))
	}
	for i, t := range s.PolicyTypes {
		if t != networkingv1.PolicyTypeIngress && t != networkingv1.PolicyTypeEgress {
			errs = append(errs, field.NotSupported(types.Index(i), t, []networkingv1.PolicyType{networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress}))
		}
	}
	return errs
}

func validatePolicyPort(path *field.Path, p *networkingv1.NetworkPolicyPort) field.ErrorList {
	var errs field.ErrorList
	if proto := p.Protocol; proto != nil && *proto != corev1.ProtocolTCP && *proto != corev1.ProtocolUDP && *proto != corev1.ProtocolSCTP {
		errs = append(errs, field.NotSupported(path.Child("protocol"), *proto, []corev1.Protocol{corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP}))
	}
	port, end := path.Child("port"), path.Child("endPort")
	switch {
	case p.Port == nil:
		if p.EndPort != nil {
			errs = append(errs, field.Invalid(end, *p.EndPort, "may not be specified when `port` is not specified"))
		}
	case p.Port.Type == intstr.Int:
		errs = append(errs, validate.PortNumber(port, p.Port.IntVal)...)
		if p.EndPort == nil {
			break
		}
		if *p.EndPort < p.Port.IntVal {
			errs = append(errs, field.Invalid(end, *p.EndPort, "must be greater than or equal to `port`"))
		}
		errs = append(errs, validate.PortNumber(end, *p.EndPort)...)
	default:
		if p.EndPort != nil {
			errs = append(errs, field.Invalid(end, *p.EndPort, "may not be specified when `port` is non-numeric"))
		}
		errs = append(errs, validate.Messages(port, p.Port.StrVal, validation.IsValidPortName(p.Port.StrVal))...)
	}
	return errs
}

func (c *policyChecker) peer(path *field.Path, p *networkingv1.NetworkPolicyPeer) field.ErrorList {
	var errs field.ErrorList
	selects := false
	if p.PodSelector != nil {
		selects = true
		errs = append(errs, validate.Selector(path.Child("podSelector"), p.PodSelector, c.labels)...)
	}
	if p.NamespaceSelector != nil {
		selects = true
		errs = append(errs, validate.Selector(path.Child("namespaceSelector"), p.NamespaceSelector, c.labels)...)
	}
	switch {
	case p.IPBlock != nil:
		errs = append(errs, c.block(path.Child("ipBlock"), p.IPBlock)...)
		if selects {
			errs = append(errs, field.Forbidden(path, "may not specify both ipBlock and another peer"))
		}
	case !selects:
		errs = append(errs, field.Required(path, "must specify a peer"))
	}
	return errs
}

func (c *policyChecker) block(path *field.Path, b *networkingv1.IPBlock) field.ErrorList {
	if b.CIDR == "" {
		return field.ErrorList{field.Required(path.Child("cidr"), "")}
	}
	errs := validation.IsValidCIDRForLegacyField(path.Child("cidr"), b.CIDR, true, c.cidrs)
	_, whole, err := net.ParseCIDRSloppy(b.CIDR)
	if err != nil { // which is said already
		return errs
	}
	size, _ := whole.Mask.Size()
	for i, e := range b.Except {
		at := path.Child("except").Index(i)
		errs = append(errs, validation.IsValidCIDRForLegacyField(at, e, true, c.cidrs)...)
		_, part, err := net.ParseCIDRSloppy(e)
		if err != nil {
			continue
		}
		if n, _ := part.Mask.Size(); !whole.Contains(part.IP) || size >= n {
			errs = append(errs, field.Invalid(at, e, "must be a strict subset of `cidr`"))
		}
	}
	return errs
}
