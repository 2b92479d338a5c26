package core

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/net"
	"k8s.io/utils/ptr"

	"github.com/proa-dev/proa/api/validate"
)

func validatePodStatusUpdate(p, old *corev1.Pod) field.ErrorList {
	path := field.NewPath("status")
	errs := validatePodAnnotationsUpdate(p, old)
	for i, c := range p.Status.Conditions {
		at := path.Child("conditions").Index(i)
		errs = append(errs, validateObserved(at, c.ObservedGeneration)...)
		switch c.Type {
		case corev1.PodScheduled, corev1.PodReady, corev1.PodInitialized:
		default:
			errs = append(errs, validate.QualifiedName(at.Child("Type"), string(c.Type))...)
		}
	}
	if n := p.Status.NominatedNodeName; n != "" && n != old.Status.NominatedNodeName {
		errs = append(errs, validate.Subdomain(path.Child("nominatedNodeName"), n)...)
		if old.Spec.NodeName != "" {
			errs = append(errs, field.Forbidden(path.Child("nominatedNodeName"), "may not be set on pods that are already bound to a node"))
		}
	}
	errs = append(errs, validateObserved(path, p.Status.ObservedGeneration)...)
	errs = append(errs, validate.Unchanged(path.Child("qosClass"), p.Status.QOSClass, old.Status.QOSClass)...)
	errs = append(errs, validateRestarts(path.Child("containerStatuses"),
		p.Status.ContainerStatuses, old.Status.ContainerStatuses, old.Spec.Containers, old.Spec.RestartPolicy)...)
	errs = append(errs, validateRestarts(path.Child("initContainerStatuses"),
		p.Status.InitContainerStatuses, old.Status.InitContainerStatuses, old.Spec.InitContainers, old.Spec.RestartPolicy)...)
	errs = append(errs, validateRestarts(path.Child("ephemeralContainerStatuses"),
		p.Status.EphemeralContainerStatuses, old.Status.EphemeralContainerStatuses, nil, corev1.RestartPolicyNever)...)
	errs = append(errs, validateClaimStatuses(path.Child("resourceClaimStatuses"), p)...)
	errs = append(errs, validateExtendedClaim(path.Child("extendedResourceClaimStatus"), p.Status.ExtendedResourceClaimStatus, &p.Spec)...)
	errs = append(errs, validatePodAddresses(path, p, old)...)
	for _, l := range []struct {
		name       string
		statuses   []corev1.ContainerStatus
		containers []corev1.Container
	}{
		{"containerStatuses", p.Status.ContainerStatuses, p.Spec.Containers},
		{"initContainerStatuses", p.Status.InitContainerStatuses, p.Spec.InitContainers},
		{"ephemeralContainerStatuses", p.Status.EphemeralContainerStatuses, nil},
	} {
		at := path.Child(l.name)
		for i, s := range l.statuses {
			errs = append(errs, validateContainerUser(at.Index(i), s.User, p.Spec.OS)...)
			if l.name == "ephemeralContainerStatuses" && len(s.AllocatedResourcesStatus) > 0 {
				errs = append(errs, field.Forbidden(at.Index(i).Child("allocatedResourcesStatus"), "must not be specified in container status"))
			}
		}
		if l.name != "ephemeralContainerStatuses" {
			errs = append(errs, validateDeviceHealth(at, l.statuses, l.containers, &p.Status)...)
		}
	}
	return errs
}

func validateObserved(path *field.Path, generation int64) field.ErrorList {
	if generation < 0 {
		return field.ErrorList{field.Invalid(path.Child("observedGeneration"), generation, "must be a non-negative integer")}
	}
	return nil
}

// validateRestarts refuses a container that ended for good to run again.
func validateRestarts(path *field.Path, statuses, old []corev1.ContainerStatus, containers []corev1.Container, policy corev1.RestartPolicy) field.ErrorList {
	if policy == corev1.RestartPolicyAlways {
		return nil
	}
	restarts := sets.New[string]() // by a policy or rules of their own
	for _, c := range containers {
		if ptr.Deref(c.RestartPolicy, corev1.ContainerRestartPolicyNever) != corev1.ContainerRestartPolicyNever || len(c.RestartPolicyRules) > 0 {
			restarts.Insert(c.Name)
		}
		for _, r := range c.RestartPolicyRules {
			if r.Action == corev1.ContainerRestartRuleActionRestartAllContainers {
				return nil
			}
		}
	}
	var errs field.ErrorList
	for i, o := range old {
		t := o.State.Terminated
		if t == nil || (t.ExitCode != 0 && policy == corev1.RestartPolicyOnFailure) || restarts.Has(o.Name) {
			continue
		}
		for _, s := range statuses {
			if s.Name == o.Name && s.State.Terminated == nil {
				errs = append(errs, field.Forbidden(path.Index(i).Child("state"), "may not be transitioned to non-terminated state"))
			}
		}
	}
	return errs
}

func validateClaimStatuses(path *field.Path, p *corev1.Pod) field.ErrorList {
	var errs field.ErrorList
	claims, seen := sets.New[string](), sets.New[string]()
	for _, c := range p.Spec.ResourceClaims {
		claims.Insert(c.Name)
	}
	for i, s := range p.Status.ResourceClaimStatuses {
		at := path.Index(i).Child("name")
		if !claims.Has(s.Name) {
			errs = append(errs, field.Invalid(at, s.Name, "must match the name of an entry in `spec.resourceClaims`"))
		}
		if seen.Has(s.Name) {
			errs = append(errs, field.Duplicate(at, s.Name))
		}
		seen.Insert(s.Name)
		if s.ResourceClaimName != nil {
			errs = append(errs, validate.Messages(path.Index(i).Child("resourceClaimName"), s.ResourceClaimName, validation.IsDNS1123Subdomain(*s.ResourceClaimName))...)
		}
	}
	return errs
}

func validatePodAddresses(path *field.Path, p, old *corev1.Pod) field.ErrorList {
	podIPs := func(p *corev1.Pod) (out []string) {
		for _, ip := range p.Status.PodIPs {
			out = append(out, ip.IP)
		}
		return out
	}
	hostIPs := func(p *corev1.Pod) (out []string) {
		for _, ip := range p.Status.HostIPs {
			out = append(out, ip.IP)
		}
		return out
	}
	pod, host := podIPs(p), hostIPs(p)
	errs := validateDualStack(path.Child("podIPs"), pod, podIPs(old), p.Status.PodIPs)
	switch {
	case (p.Status.PodIP != "") != (len(pod) > 0):
		errs = append(errs, field.Invalid(path.Child("podIPs"), p.Status.PodIPs, "podIP and podIPs must either both be set or both be unset"))
	case len(pod) > 0 && p.Status.PodIP != pod[0]:
		errs = append(errs, field.Invalid(path.Child("podIPs").Index(0).Child("ip"), pod[0], "must be equal to `podIP`"))
	}
	if len(host) > 0 && p.Status.HostIP != host[0] {
		errs = append(errs, field.Invalid(path.Child("hostIPs").Index(0).Child("ip"), host[0], "must be equal to `hostIP`"))
	}
	return append(errs, validateDualStack(path.Child("hostIPs"), host, hostIPs(old), p.Status.HostIPs)...)
}

// validateDualStack wants valid addresses, at most one of each family; value
// is the field as it stands, for the message.
func validateDualStack(path *field.Path, ips, old []string, value any) field.ErrorList {
	var errs field.ErrorList
	for i, ip := range ips {
		errs = append(errs, validation.IsValidIPForLegacyField(path.Index(i), ip, true, old)...)
	}
	if len(ips) <= 1 {
		return errs
	}
	dual, err := net.IsDualStackIPStrings(ips)
	if err != nil {
		errs = append(errs, field.InternalError(path, fmt.Errorf("failed to check for dual stack with error:%w", err)))
	}
	if !dual || len(ips) > 2 {
		errs = append(errs, field.Invalid(path, value, "may specify no more than one IP for each IP family"))
	}
	return errs
}
