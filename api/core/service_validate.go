package core

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/net"
	"k8s.io/utils/ptr"

	"github.com/proa-dev/proa/api/validate"
)

func headless(s *corev1.ServiceSpec) bool {
	return len(s.ClusterIPs) == 1 && s.ClusterIPs[0] == corev1.ClusterIPNone
}

// validateService checks a service after its addresses were allocated; old is
// nil on create.
func validateService(svc, old *corev1.Service) field.ErrorList {
	s, path := &svc.Spec, field.NewPath("spec")
	var oldIPs, oldCIDRs []string
	if old != nil {
		oldIPs = append(append(oldIPs, old.Spec.ClusterIPs...), old.Spec.ExternalIPs...)
		oldCIDRs = old.Spec.LoadBalancerSourceRanges
	}
	errs := validateTopologyMode(svc)
	if len(s.Ports) == 0 && !headless(s) && s.Type != corev1.ServiceTypeExternalName {
		errs = append(errs, field.Required(path.Child("ports"), ""))
	}
	errs = append(errs, validateForType(path, s)...)
	names := sets.New[string]()
	for i := range s.Ports {
		errs = append(errs, validateServicePort(path.Child("ports").Index(i), &s.Ports[i], len(s.Ports) > 1, names)...)
	}
	errs = append(errs, metavalidation.ValidateLabels(s.Selector, path.Child("selector"))...)
	errs = append(errs, validateAffinityOf(path, s)...)
	errs = append(errs, validateClusterIPs(path, s, oldIPs)...)
	for i, ip := range s.ExternalIPs {
		at := path.Child("externalIPs").Index(i)
		if bad := validation.IsValidIPForLegacyField(at, ip, true, oldIPs); len(bad) != 0 {
			errs = append(errs, bad...)
		} else {
			errs = append(errs, validate.OrdinaryIP(at, ip)...)
		}
	}
	errs = append(errs, validate.RequiredOneOf(path.Child("type"), s.Type, corev1.ServiceTypeClusterIP,
		corev1.ServiceTypeNodePort, corev1.ServiceTypeLoadBalancer, corev1.ServiceTypeExternalName)...)
	errs = append(errs, validatePortsTogether(path.Child("ports"), s)...)
	errs = append(errs, validateSourceRanges(path, svc, oldCIDRs)...)
	errs = append(errs, validateBalancer(path, s)...)
	return append(errs, validateTraffic(path, s)...)
}

func validateServiceUpdate(s, old *corev1.Service) field.ErrorList {
	path := field.NewPath("spec")
	errs := validateClusterIPsUpdate(path, &s.Spec, &old.Spec)
	errs = append(errs, validateFamiliesUpdate(path, &s.Spec, &old.Spec)...)
	if s.Spec.Type == corev1.ServiceTypeLoadBalancer && old.Spec.Type == s.Spec.Type &&
		!ptr.Equal(s.Spec.LoadBalancerClass, old.Spec.LoadBalancerClass) {
		errs = append(errs, field.Invalid(path.Child("loadBalancerClass"), s.Spec.LoadBalancerClass, "may not change once set"))
	}
	if needsHealthCheckPort(&s.Spec) && needsHealthCheckPort(&old.Spec) && s.Spec.HealthCheckNodePort != old.Spec.HealthCheckNodePort {
		errs = append(errs, field.Forbidden(path.Child("healthCheckNodePort"), "field is immutable"))
	}
	return append(errs, validateService(s, old)...)
}

func validateTopologyMode(s *corev1.Service) field.ErrorList {
	mode, hasMode := s.Annotations[corev1.AnnotationTopologyMode]
	hints, hasHints := s.Annotations[corev1.DeprecatedAnnotationTopologyAwareHints]
	if hasMode && hasHints && mode != hints {
		return field.ErrorList{field.Invalid(field.NewPath("metadata", "annotations").Key(corev1.AnnotationTopologyMode), mode,
			fmt.Sprintf("must match annotations[%s] when both are specified", corev1.DeprecatedAnnotationTopologyAwareHints))}
	}
	return nil
}

// validateForType refuses what a type of service cannot have.
func validateForType(path *field.Path, s *corev1.ServiceSpec) field.ErrorList {
	var errs field.ErrorList
	switch s.Type {
	case corev1.ServiceTypeLoadBalancer, corev1.ServiceTypeNodePort:
		if headless(s) {
			errs = append(errs, field.Invalid(path.Child("clusterIPs").Index(0), s.ClusterIPs[0],
				fmt.Sprintf("may not be set to 'None' for %s services", s.Type)))
		}
	case corev1.ServiceTypeExternalName:
		const refused = "may not be set for ExternalName services"
		if len(s.ClusterIPs) > 0 {
			errs = append(errs, field.Forbidden(path.Child("clusterIPs"), refused))
		}
		if len(s.IPFamilies) > 0 {
			errs = append(errs, field.Forbidden(path.Child("ipFamilies"), refused))
		}
		if s.IPFamilyPolicy != nil {
			errs = append(errs, field.Forbidden(path.Child("ipFamilyPolicy"), refused))
		}
		if name := strings.TrimSuffix(s.ExternalName, "."); name != "" {
			errs = append(errs, validate.Subdomain(path.Child("externalName"), name)...)
		} else {
			errs = append(errs, field.Required(path.Child("externalName"), ""))
		}
	}
	return errs
}

func validateServicePort(path *field.Path, p *corev1.ServicePort, named bool, names sets.Set[string]) field.ErrorList {
	var errs field.ErrorList
	if p.Name != "" {
		errs = append(errs, validate.Label(path.Child("name"), p.Name)...)
		if names.Has(p.Name) {
			errs = append(errs, field.Duplicate(path.Child("name"), p.Name))
		}
		names.Insert(p.Name)
	} else if named {
		errs = append(errs, field.Required(path.Child("name"), ""))
	}
	errs = append(errs, validate.PortNumber(path.Child("port"), p.Port)...)
	errs = append(errs, validate.RequiredOneOf(path.Child("protocol"), p.Protocol,
		corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP)...)
	errs = append(errs, validate.PortNumberOrName(path.Child("targetPort"), p.TargetPort)...)
	if p.AppProtocol != nil {
		errs = append(errs, validate.QualifiedName(path.Child("appProtocol"), *p.AppProtocol)...)
	}
	return errs
}

// validatePortsTogether wants each port and node port once for a protocol.
func validatePortsTogether(path *field.Path, s *corev1.ServiceSpec) field.ErrorList {
	var errs field.ErrorList
	if s.Type == corev1.ServiceTypeClusterIP {
		for i, p := range s.Ports {
			if p.NodePort != 0 {
				errs = append(errs, field.Forbidden(path.Index(i).Child("nodePort"), "may not be used when `type` is 'ClusterIP'"))
			}
		}
	}
	nodePorts, ports := sets.New[corev1.ServicePort](), sets.New[corev1.ServicePort]()
	for i, p := range s.Ports {
		key := corev1.ServicePort{Protocol: p.Protocol, NodePort: p.NodePort}
		if p.NodePort != 0 && nodePorts.Has(key) {
			errs = append(errs, field.Duplicate(path.Index(i).Child("nodePort"), p.NodePort))
		}
		nodePorts.Insert(key)
	}
	for i, p := range s.Ports {
		key := corev1.ServicePort{Protocol: p.Protocol, Port: p.Port}
		if ports.Has(key) {
			errs = append(errs, field.Duplicate(path.Index(i), key))
		}
		ports.Insert(key)
	}
	return errs
}

func validateAffinityOf(path *field.Path, s *corev1.ServiceSpec) field.ErrorList {
	errs := validate.RequiredOneOf(path.Child("sessionAffinity"), s.SessionAffinity, corev1.ServiceAffinityClientIP, corev1.ServiceAffinityNone)
	at := path.Child("sessionAffinityConfig")
	c := s.SessionAffinityConfig
	switch s.SessionAffinity {
	case corev1.ServiceAffinityNone:
		if c != nil {
			errs = append(errs, field.Forbidden(at, fmt.Sprintf("must not be set when session affinity is %s", corev1.ServiceAffinityNone)))
		}
	case corev1.ServiceAffinityClientIP:
		why := fmt.Sprintf("when session affinity type is %s", corev1.ServiceAffinityClientIP)
		switch {
		case c == nil:
			errs = append(errs, field.Required(at, why))
		case c.ClientIP == nil:
			errs = append(errs, field.Required(at.Child("clientIP"), why))
		case c.ClientIP.TimeoutSeconds == nil:
			errs = append(errs, field.Required(at.Child("clientIP", "timeoutSeconds"), why))
		default:
			const day = 86400
			if t := c.ClientIP.TimeoutSeconds; *t <= 0 || *t > day {
				errs = append(errs, field.Invalid(at.Child("clientIP", "timeoutSeconds"), t, fmt.Sprintf("must be greater than 0 and less than %d", day)))
			}
		}
	}
	return errs
}

func validateClusterIPs(path *field.Path, s *corev1.ServiceSpec, known []string) field.ErrorList {
	if s.Type == corev1.ServiceTypeExternalName {
		return nil
	}
	var errs field.ErrorList
	ips := path.Child("clusterIPs")
	switch {
	case s.ClusterIP == "" && len(s.ClusterIPs) != 0:
		errs = append(errs, field.Invalid(ips, s.ClusterIPs, "must be empty when `clusterIP` is not specified"))
	case s.ClusterIP != "" && len(s.ClusterIPs) == 0:
		errs = append(errs, field.Required(ips, ""))
	case s.ClusterIP != "" && s.ClusterIPs[0] != s.ClusterIP:
		errs = append(errs, field.Invalid(ips, s.ClusterIPs, "first value must match `clusterIP`"))
	}
	seen := sets.New[corev1.IPFamily]()
	for i, f := range s.IPFamilies {
		at := path.Child("ipFamilies").Index(i)
		errs = append(errs, validate.OneOf(at, f, corev1.IPv4Protocol, corev1.IPv6Protocol)...)
		if seen.Has(f) {
			errs = append(errs, field.Duplicate(at, f))
		}
		seen.Insert(f)
	}
	if p := s.IPFamilyPolicy; p != nil {
		errs = append(errs, validate.OneOf(path.Child("ipFamilyPolicy"), *p, corev1.IPFamilyPolicySingleStack,
			corev1.IPFamilyPolicyPreferDualStack, corev1.IPFamilyPolicyRequireDualStack)...)
	}
	bad := false
	for i, ip := range s.ClusterIPs {
		if i == 0 && ip == corev1.ClusterIPNone {
			if len(s.ClusterIPs) > 1 {
				bad = true
				errs = append(errs, field.Invalid(ips, s.ClusterIPs, "'None' must be the first and only value"))
			}
			continue
		}
		invalid := validation.IsValidIPForLegacyField(ips.Index(i), ip, true, known)
		bad = bad || len(invalid) > 0
		errs = append(errs, invalid...)
	}
	if len(s.ClusterIPs) > 2 {
		errs = append(errs, field.Invalid(ips, s.ClusterIPs, "may only hold up to 2 values"))
	}
	if bad {
		// What follows would only confuse.
		return errs
	}
	return append(errs, validateFamilies(ips, s)...)
}

func validateFamilies(path *field.Path, s *corev1.ServiceSpec) field.ErrorList {
	var errs field.ErrorList
	if len(s.ClusterIPs) > 1 {
		dual, err := net.IsDualStackIPStrings(s.ClusterIPs)
		if err != nil {
			errs = append(errs, field.InternalError(path, fmt.Errorf("failed to check for dual stack with error:%w", err)))
		}
		if !dual {
			errs = append(errs, field.Invalid(path, s.ClusterIPs, "may specify no more than one IP for each IP family"))
		}
	}
	if headless(s) {
		return errs
	}
	for i, ip := range s.ClusterIPs {
		if i >= len(s.IPFamilies) {
			break
		}
		want := corev1.IPv4Protocol
		if net.IsIPv6String(ip) {
			want = corev1.IPv6Protocol
		}
		if f := s.IPFamilies[i]; f != want && (f == corev1.IPv4Protocol || f == corev1.IPv6Protocol) {
			errs = append(errs, field.Invalid(path.Index(i), ip, fmt.Sprintf("expected an %s value as indicated by `ipFamilies[%v]`", f, i)))
		}
	}
	return errs
}

// validateClusterIPsUpdate lets a second address come and go, never the first.
func validateClusterIPsUpdate(path *field.Path, s, old *corev1.ServiceSpec) field.ErrorList {
	if s.Type == corev1.ServiceTypeExternalName || old.Type == corev1.ServiceTypeExternalName || (headless(s) && headless(old)) {
		return nil
	}
	var errs field.ErrorList
	ips := path.Child("clusterIPs")
	const fixed = "may not change once set"
	n, o := s.ClusterIPs, old.ClusterIPs
	switch {
	case len(n) == len(o):
		for i := range o {
			if n[i] != o[i] {
				errs = append(errs, field.Invalid(ips.Index(i), n, fixed))
			}
		}
		return errs
	case len(n) == 0:
		return field.ErrorList{field.Invalid(ips.Index(0), n, "primary clusterIP can not be unset")}
	case len(o) > 0 && n[0] != o[0]:
		errs = append(errs, field.Invalid(ips.Index(0), n, fixed))
	}
	if len(n) == 1 && len(o) > 1 && ptr.Deref(s.IPFamilyPolicy, "") != corev1.IPFamilyPolicySingleStack {
		errs = append(errs, field.Invalid(path.Child("ipFamilyPolicy"), s.IPFamilyPolicy,
			"must be set to 'SingleStack' when releasing the secondary clusterIP"))
	}
	return errs
}

func validateFamiliesUpdate(path *field.Path, s, old *corev1.ServiceSpec) field.ErrorList {
	if s.Type == corev1.ServiceTypeExternalName || old.Type == corev1.ServiceTypeExternalName || headless(s) || headless(old) {
		return nil
	}
	var errs field.ErrorList
	first := path.Child("ipFamilies").Index(0)
	n, o := s.IPFamilies, old.IPFamilies
	if len(n) == len(o) {
		for i := range o {
			if n[i] != o[i] {
				errs = append(errs, field.Invalid(first, n, "may not change once set"))
			}
		}
		return errs
	}
	if len(o) > len(n) && len(s.ClusterIPs) == 0 {
		errs = append(errs, field.Invalid(first, n, "primary ipFamily can not be unset"))
	}
	if len(n) > 0 && len(o) > 0 && n[0] != o[0] {
		errs = append(errs, field.Invalid(first, s.ClusterIPs, "may not change once set"))
	}
	if len(n) == 1 && len(o) > 1 && ptr.Deref(s.IPFamilyPolicy, "") != corev1.IPFamilyPolicySingleStack {
		errs = append(errs, field.Invalid(path.Child("ipFamilyPolicy"), s.IPFamilyPolicy,
			"must be set to 'SingleStack' when releasing the secondary ipFamily"))
	}
	return errs
}

func validateSourceRanges(path *field.Path, svc *corev1.Service, known []string) field.ErrorList {
	var errs field.ErrorList
	const balancersOnly = "may only be used when `type` is 'LoadBalancer'"
	balancer := svc.Spec.Type == corev1.ServiceTypeLoadBalancer
	if len(svc.Spec.LoadBalancerSourceRanges) > 0 {
		at := path.Child("LoadBalancerSourceRanges")
		if !balancer {
			errs = append(errs, field.Forbidden(at, balancersOnly))
		}
		for i, c := range svc.Spec.LoadBalancerSourceRanges {
			// Spaces around them were allowed once.
			errs = append(errs, validation.IsValidCIDRForLegacyField(at.Index(i), strings.TrimSpace(c), true, known)...)
		}
		return errs
	}
	v, ok := svc.Annotations[corev1.AnnotationLoadBalancerSourceRangesKey]
	if !ok {
		return nil
	}
	at := field.NewPath("metadata", "annotations").Key(corev1.AnnotationLoadBalancerSourceRangesKey)
	if !balancer {
		errs = append(errs, field.Forbidden(at, balancersOnly))
	}
	if v = strings.TrimSpace(v); v != "" {
		for c := range strings.SplitSeq(v, ",") {
			errs = append(errs, validation.IsValidCIDRForLegacyField(at, strings.TrimSpace(c), false, nil)...)
		}
	}
	return errs
}

func validateBalancer(path *field.Path, s *corev1.ServiceSpec) field.ErrorList {
	var errs field.ErrorList
	const balancersOnly = "may only be used when `type` is 'LoadBalancer'"
	if s.Type != corev1.ServiceTypeLoadBalancer {
		if s.AllocateLoadBalancerNodePorts != nil {
			errs = append(errs, field.Forbidden(path.Child("allocateLoadBalancerNodePorts"), balancersOnly))
		}
		if s.LoadBalancerClass != nil {
			errs = append(errs, field.Forbidden(path.Child("loadBalancerClass"), balancersOnly))
		}
		return errs
	}
	if s.AllocateLoadBalancerNodePorts == nil {
		errs = append(errs, field.Required(field.NewPath("allocateLoadBalancerNodePorts"), ""))
	}
	if s.LoadBalancerClass != nil {
		errs = append(errs, validate.QualifiedName(path.Child("loadBalancerClass"), *s.LoadBalancerClass)...)
	}
	return errs
}

func validateTraffic(path *field.Path, s *corev1.ServiceSpec) field.ErrorList {
	var errs field.ErrorList
	external := path.Child("externalTrafficPolicy")
	if externallyAccessible(s) {
		errs = append(errs, validate.RequiredOneOf(external, s.ExternalTrafficPolicy,
			corev1.ServiceExternalTrafficPolicyCluster, corev1.ServiceExternalTrafficPolicyLocal)...)
	} else if s.ExternalTrafficPolicy != "" {
		errs = append(errs, field.Invalid(external, s.ExternalTrafficPolicy, "may only be set for externally-accessible services"))
	}
	health := path.Child("healthCheckNodePort")
	switch {
	case !needsHealthCheckPort(s):
		if s.HealthCheckNodePort != 0 {
			errs = append(errs, field.Invalid(health, s.HealthCheckNodePort,
				"may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'"))
		}
	case s.HealthCheckNodePort == 0:
		errs = append(errs, field.Required(health, ""))
	default:
		errs = append(errs, validate.PortNumber(health, s.HealthCheckNodePort)...)
	}
	if p := s.InternalTrafficPolicy; p != nil {
		errs = append(errs, validate.OneOf(path.Child("internalTrafficPolicy"), *p,
			corev1.ServiceInternalTrafficPolicyCluster, corev1.ServiceInternalTrafficPolicyLocal)...)
	} else if hasClusterIP(s) {
		errs = append(errs, field.Required(path.Child("internalTrafficPolicy"), ""))
	}
	if d := s.TrafficDistribution; d != nil {
		errs = append(errs, validate.OneOf(path.Child("trafficDistribution"), *d, corev1.ServiceTrafficDistributionPreferClose,
			corev1.ServiceTrafficDistributionPreferSameZone, corev1.ServiceTrafficDistributionPreferSameNode)...)
	}
	return errs
}

func validateServiceStatus(s, old *corev1.Service) field.ErrorList {
	var errs field.ErrorList
	path := field.NewPath("status", "loadBalancer", "ingress")
	if s.Spec.Type != corev1.ServiceTypeLoadBalancer && len(s.Status.LoadBalancer.Ingress) != 0 {
		return field.ErrorList{field.Forbidden(path, "may only be used when `spec.type` is 'LoadBalancer'")}
	}
	var known []string
	for _, in := range old.Status.LoadBalancer.Ingress {
		known = append(known, in.IP)
	}
	for i, in := range s.Status.LoadBalancer.Ingress {
		at := path.Index(i)
		if in.IP != "" {
			errs = append(errs, validation.IsValidIPForLegacyField(at.Child("ip"), in.IP, true, known)...)
		}
		switch {
		case in.IPMode == nil:
			if in.IP != "" {
				errs = append(errs, field.Required(at.Child("ipMode"), "must be specified when `ip` is set"))
			}
		case in.IP == "":
			errs = append(errs, field.Forbidden(at.Child("ipMode"), "may not be specified when `ip` is not set"))
		default:
			errs = append(errs, validate.OneOf(at.Child("ipMode"), *in.IPMode, corev1.LoadBalancerIPModeVIP, corev1.LoadBalancerIPModeProxy)...)
		}
		if in.Hostname != "" {
			errs = append(errs, validate.Subdomain(at.Child("hostname"), in.Hostname)...)
			if net.ParseIPSloppy(in.Hostname) != nil {
				errs = append(errs, field.Invalid(at.Child("hostname"), in.Hostname, "must be a DNS name, not an IP address"))
			}
		}
	}
	return errs
}
