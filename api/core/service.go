package core

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/intstr"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"github.com/proa-dev/proa/api"
)

// Service is the kind of services. Addresses, node ports and IP families are
// given out by the API server's allocators, not here.
func Service() *api.Kind {
	return &api.Kind{
		GVK:           gvk("Service"),
		ReturnDeleted: true,
		Resource:      "services",
		ShortNames:    []string{"svc"},
		Categories:    []string{"all"},
		Namespaced:    true,
		New:           api.Maker[corev1.Service](),
		NewList:       api.ListMaker[corev1.ServiceList](),
		StoragePath:   "services/specs",
		Columns:       serviceColumns(),

		ValidateName:   validation.NameIsDNSLabel, // may begin with a digit since 1.36
		CreateOnUpdate: true,
		Default:        api.On(defaultService),
		PrepareCreate:  api.On(func(s *corev1.Service) { s.Status = corev1.ServiceStatus{} }),
		PrepareUpdate: api.OnUpdate(func(s, old *corev1.Service) {
			s.Status = old.Status
			keepAllocated(s, old)
			dropForType(s, old)
		}),
		Validate:       api.Check(func(s *corev1.Service) field.ErrorList { return validateService(s, nil) }),
		ValidateUpdate: api.CheckUpdate(validateServiceUpdate),
		Warnings:       api.Warn(serviceWarnings),
		Status: &api.Status{
			PrepareUpdate:  api.OnUpdate(func(s, old *corev1.Service) { s.Spec = old.Spec }),
			ValidateUpdate: api.CheckUpdate(validateServiceStatus),
		},
		Subresources: []api.Subresource{{
			Name: "proxy", GVK: gvk("ServiceProxyOptions"), Verbs: []string{"create", "delete", "get", "patch", "update"},
		}},
		Fields: api.FieldsOf(func(s *corev1.Service) fields.Set {
			return fields.Set{"spec.clusterIP": s.Spec.ClusterIP, "spec.type": string(s.Spec.Type)}
		}),
		FieldNames: []string{"spec.clusterIP", "spec.type"},
		ResetFields: map[string][]string{
			"": {"status"}, "status": {"spec"},
		},
	}
}

func hasClusterIP(s *corev1.ServiceSpec) bool {
	switch s.Type {
	case corev1.ServiceTypeClusterIP, corev1.ServiceTypeNodePort, corev1.ServiceTypeLoadBalancer:
		return true
	}
	return false
}

// externallyAccessible says that traffic from outside reaches the service, so
// that externalTrafficPolicy means something.
func externallyAccessible(s *corev1.ServiceSpec) bool {
	return s.Type == corev1.ServiceTypeLoadBalancer || s.Type == corev1.ServiceTypeNodePort ||
		(s.Type == corev1.ServiceTypeClusterIP && len(s.ExternalIPs) > 0)
}

func needsHealthCheckPort(s *corev1.ServiceSpec) bool {
	return s.Type == corev1.ServiceTypeLoadBalancer && s.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
}

func defaultService(svc *corev1.Service) {
	s := &svc.Spec
	if s.SessionAffinity == "" {
		s.SessionAffinity = corev1.ServiceAffinityNone
	}
	switch s.SessionAffinity {
	case corev1.ServiceAffinityNone:
		s.SessionAffinityConfig = nil
	case corev1.ServiceAffinityClientIP:
		if s.SessionAffinityConfig == nil || s.SessionAffinityConfig.ClientIP == nil ||
			s.SessionAffinityConfig.ClientIP.TimeoutSeconds == nil {
			s.SessionAffinityConfig = &corev1.SessionAffinityConfig{
				ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: ptr.To(corev1.DefaultClientIPServiceAffinitySeconds)},
			}
		}
	}
	if s.Type == "" {
		s.Type = corev1.ServiceTypeClusterIP
	}
	for i := range s.Ports {
		p := &s.Ports[i]
		if p.Protocol == "" {
			p.Protocol = corev1.ProtocolTCP
		}
		if p.TargetPort == intstr.FromInt32(0) || p.TargetPort == intstr.FromString("") {
			p.TargetPort = intstr.FromInt32(p.Port)
		}
	}
	if externallyAccessible(s) && s.ExternalTrafficPolicy == "" {
		s.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyCluster
	}
	if s.InternalTrafficPolicy == nil && hasClusterIP(s) {
		s.InternalTrafficPolicy = ptr.To(corev1.ServiceInternalTrafficPolicyCluster)
	}
	if s.Type == corev1.ServiceTypeLoadBalancer {
		if s.AllocateLoadBalancerNodePorts == nil {
			s.AllocateLoadBalancerNodePorts = ptr.To(true)
		}
		for i := range svc.Status.LoadBalancer.Ingress {
			if in := &svc.Status.LoadBalancer.Ingress[i]; in.IP != "" && in.IPMode == nil {
				in.IPMode = ptr.To(corev1.LoadBalancerIPModeVIP)
			}
		}
	}
}

// keepAllocated lets an update leave out what was allocated: addresses and
// node ports stay as they were where the new object names none.
func keepAllocated(svc, oldSvc *corev1.Service) {
	s, old := &svc.Spec, &oldSvc.Spec
	if hasClusterIP(old) && hasClusterIP(s) {
		if s.ClusterIP == "" {
			s.ClusterIP = old.ClusterIP
		}
		if len(s.ClusterIPs) == 0 {
			s.ClusterIPs = slices.Clone(old.ClusterIPs)
		}
	}
	followClusterIP(s, old)
	if nodePortType(old) && nodePortType(s) {
		keepNodePorts(s, old)
	}
	if needsHealthCheckPort(old) && needsHealthCheckPort(s) && s.HealthCheckNodePort == 0 {
		s.HealthCheckNodePort = old.HealthCheckNodePort
	}
}

// followClusterIP makes clusterIPs what a client meant that changed clusterIP
// and left the list as it was, since it may not know that there is one.
func followClusterIP(s, old *corev1.ServiceSpec) {
	if s.ClusterIP == old.ClusterIP {
		if len(s.ClusterIPs) == 0 {
			s.ClusterIPs = slices.Clone(old.ClusterIPs)
		}
		return
	}
	if !slices.Equal(s.ClusterIPs, old.ClusterIPs) {
		return // changed both: validation compares them
	}
	s.ClusterIPs = nil
	if s.ClusterIP != "" {
		s.ClusterIPs = []string{s.ClusterIP}
	}
}

// keepNodePorts matches ports by name: the client may have changed the rest.
func keepNodePorts(s, old *corev1.ServiceSpec) {
	allocated := map[string]int32{}
	for _, p := range old.Ports {
		allocated[p.Name] = p.NodePort
	}
	taken := map[int32]bool{}
	for _, p := range s.Ports {
		if p.NodePort != 0 {
			taken[p.NodePort] = true
		}
	}
	for i := range s.Ports {
		p := &s.Ports[i]
		if was := allocated[p.Name]; p.NodePort == 0 && was != 0 && !taken[was] {
			p.NodePort = was
		}
	}
}

// dropForType clears what the new type does not have, where the update left it
// as it was: so a change of type alone is enough.
func dropForType(svc, oldSvc *corev1.Service) {
	s, old := &svc.Spec, &oldSvc.Spec
	if hasClusterIP(old) && !hasClusterIP(s) &&
		s.ClusterIP == old.ClusterIP && slices.Equal(s.ClusterIPs, old.ClusterIPs) {
		s.ClusterIP, s.ClusterIPs = "", nil
	}
	if hasClusterIP(old) && !hasClusterIP(s) &&
		equality.Semantic.DeepEqual(s.IPFamilies, old.IPFamilies) &&
		equality.Semantic.DeepEqual(s.IPFamilyPolicy, old.IPFamilyPolicy) {
		s.IPFamilies, s.IPFamilyPolicy = nil, nil
	}
	if nodePortType(old) && !nodePortType(s) && sameNodePorts(s, old) {
		for i := range s.Ports {
			s.Ports[i].NodePort = 0
		}
	}
	if needsHealthCheckPort(old) && !needsHealthCheckPort(s) && s.HealthCheckNodePort == old.HealthCheckNodePort {
		s.HealthCheckNodePort = 0
	}
	wasLB, isLB := old.Type == corev1.ServiceTypeLoadBalancer, s.Type == corev1.ServiceTypeLoadBalancer
	if wasLB && !isLB {
		if equality.Semantic.DeepEqual(s.AllocateLoadBalancerNodePorts, old.AllocateLoadBalancerNodePorts) {
			s.AllocateLoadBalancerNodePorts = nil
		}
		if equality.Semantic.DeepEqual(s.LoadBalancerClass, old.LoadBalancerClass) {
			s.LoadBalancerClass = nil
		}
	}
	if externallyAccessible(old) && !externallyAccessible(s) && s.ExternalTrafficPolicy == old.ExternalTrafficPolicy {
		s.ExternalTrafficPolicy = ""
	}
	if hasClusterIP(old) && !hasClusterIP(s) &&
		equality.Semantic.DeepEqual(s.InternalTrafficPolicy, old.InternalTrafficPolicy) {
		s.InternalTrafficPolicy = nil
	}
	if !isLB {
		svc.Status.LoadBalancer = corev1.LoadBalancerStatus{}
	}
}

func nodePortType(s *corev1.ServiceSpec) bool {
	return s.Type == corev1.ServiceTypeNodePort || s.Type == corev1.ServiceTypeLoadBalancer
}

func sameNodePorts(s, old *corev1.ServiceSpec) bool {
	was := map[int32]bool{}
	for _, p := range old.Ports {
		was[p.NodePort] = true
	}
	for _, p := range s.Ports {
		if !was[p.NodePort] {
			return false
		}
	}
	return true
}

func serviceWarnings(s, _ *corev1.Service) []string {
	var out []string
	if _, ok := s.Annotations[corev1.DeprecatedAnnotationTopologyAwareHints]; ok {
		out = append(out, fmt.Sprintf("annotation %s is deprecated, please use %s instead",
			corev1.DeprecatedAnnotationTopologyAwareHints, corev1.AnnotationTopologyMode))
	}
	path := field.NewPath("spec")
	if hasClusterIP(&s.Spec) && !headless(&s.Spec) {
		for i, ip := range s.Spec.ClusterIPs {
			out = append(out, utilvalidation.GetWarningsForIP(path.Child("clusterIPs").Index(i), ip)...)
		}
	}
	if headless(&s.Spec) {
		if s.Spec.LoadBalancerIP != "" {
			out = append(out, "spec.loadBalancerIP is ignored for headless services")
		}
		if len(s.Spec.ExternalIPs) > 0 {
			out = append(out, "spec.externalIPs is ignored for headless services")
		}
		if s.Spec.SessionAffinity != corev1.ServiceAffinityNone {
			out = append(out, "spec.SessionAffinity is ignored for headless services")
		}
	}
	for i, ip := range s.Spec.ExternalIPs {
		out = append(out, utilvalidation.GetWarningsForIP(path.Child("externalIPs").Index(i), ip)...)
	}
	if len(s.Spec.ExternalIPs) > 0 && !headless(&s.Spec) && s.Spec.Type != corev1.ServiceTypeExternalName {
		out = append(out, "spec.externalIPs is deprecated and may no longer be implemented in some clusters")
	}
	if s.Spec.LoadBalancerIP != "" {
		out = append(out, utilvalidation.GetWarningsForIP(path.Child("loadBalancerIP"), s.Spec.LoadBalancerIP)...)
	}
	for i, c := range s.Spec.LoadBalancerSourceRanges {
		out = append(out, utilvalidation.GetWarningsForCIDR(path.Child("loadBalancerSourceRanges").Index(i), c)...)
	}
	if s.Spec.Type == corev1.ServiceTypeExternalName && len(s.Spec.ExternalIPs) > 0 {
		out = append(out, fmt.Sprintf("spec.externalIPs is ignored when spec.type is %q", corev1.ServiceTypeExternalName))
	}
	if s.Spec.Type != corev1.ServiceTypeExternalName && s.Spec.ExternalName != "" {
		out = append(out, fmt.Sprintf("spec.externalName is ignored when spec.type is not %q", corev1.ServiceTypeExternalName))
	}
	if d := s.Spec.TrafficDistribution; d != nil && *d == corev1.ServiceTrafficDistributionPreferClose {
		out = append(out, fmt.Sprintf("spec.trafficDistribution: %q is deprecated; use %q",
			corev1.ServiceTrafficDistributionPreferClose, corev1.ServiceTrafficDistributionPreferSameZone))
	}
	return out
}
