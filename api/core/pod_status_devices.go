package core

import (
	"fmt"
	"math"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/proa-dev/proa/api/validate"
)

// validateExtendedClaim checks the claim that was made for a pod's extended
// resources.
func validateExtendedClaim(path *field.Path, s *corev1.PodExtendedResourceClaimStatus, spec *corev1.PodSpec) field.ErrorList {
	if s == nil {
		return nil
	}
	containers := map[string]*corev1.Container{}
	for _, list := range [][]corev1.Container{spec.InitContainers, spec.Containers} {
		for i := range list {
			containers[list[i].Name] = &list[i]
		}
	}
	var errs field.ErrorList
	if len(s.RequestMappings) == 0 {
		errs = append(errs, field.Required(path.Child("requestMappings"), "at least one request mapping is required"))
	}
	seen := sets.New[corev1.ContainerExtendedResourceRequest]()
	for i, m := range s.RequestMappings {
		at := path.Child("requestMappings").Index(i)
		if c, ok := containers[m.ContainerName]; !ok {
			errs = append(errs, field.Invalid(at.Child("containerName"), m.ContainerName, "must match the name of an entry in spec.initContainers.name or spec.containers.name"))
		} else if _, ok := c.Resources.Requests[corev1.ResourceName(m.ResourceName)]; !ok {
			errs = append(errs, field.Invalid(at.Child("resourceName"), m.ResourceName, "must match the extended resource name of an entry in spec.initContainers.resources.requests or spec.containers.resources.requests"))
		}
		errs = append(errs, validate.Label(path.Child("requestName"), m.RequestName)...)
		if seen.Has(m) {
			errs = append(errs, field.Duplicate(at.Child("containerName"), m.ContainerName),
				field.Duplicate(at.Child("resourceName"), m.ResourceName), field.Duplicate(at.Child("requestName"), m.RequestName))
		}
		seen.Insert(m)
	}
	if at := path.Child("resourceClaimName"); s.ResourceClaimName == "" {
		errs = append(errs, field.Required(at, ""))
	} else {
		errs = append(errs, validate.Subdomain(at, s.ResourceClaimName)...)
	}
	return errs
}

// validateDeviceHealth checks what a container's status says of the health of
// its devices. Containers that the spec lacks are nobody's fault.
func validateDeviceHealth(path *field.Path, statuses []corev1.ContainerStatus, containers []corev1.Container, pod *corev1.PodStatus) field.ErrorList {
	var errs field.ErrorList
	for i := range statuses {
		s := &statuses[i]
		for j, r := range s.AllocatedResourcesStatus {
			at := path.Index(i).Child("allocatedResourcesStatus").Index(j)
			if k := slices.IndexFunc(containers, func(c corev1.Container) bool { return c.Name == s.Name }); k >= 0 {
				if why := unknownResource(r.Name, &containers[k], pod.ExtendedResourceClaimStatus); why != "" {
					errs = append(errs, field.Invalid(at.Child("name"), r.Name, why))
				}
			}
			ids := sets.New[corev1.ResourceID]()
			for k, h := range r.Resources {
				each := at.Child("resources").Index(k)
				errs = append(errs, validate.OneOf(each.Child("health"), h.Health,
					corev1.ResourceHealthStatusHealthy, corev1.ResourceHealthStatusUnhealthy, corev1.ResourceHealthStatusUnknown)...)
				if m := h.Message; m != nil && *m == "" {
					errs = append(errs, field.Required(each.Child("message"), "must be non-empty if specified"))
				} else if m != nil && len(*m) > corev1.ResourceHealthMessageMaxLength {
					errs = append(errs, field.TooLong(each.Child("message"), *m, corev1.ResourceHealthMessageMaxLength))
				}
				if ids.Has(h.ResourceID) {
					errs = append(errs, field.Duplicate(each.Child("resourceID"), h.ResourceID))
				}
				ids.Insert(h.ResourceID)
			}
		}
	}
	return errs
}

// unknownResource says what a resource would have to match, if c asks for no
// such one.
func unknownResource(name corev1.ResourceName, c *corev1.Container, extended *corev1.PodExtendedResourceClaimStatus) string {
	claim, isClaim := strings.CutPrefix(string(name), "claim:")
	if !isClaim {
		if _, ok := c.Resources.Requests[name]; ok {
			return ""
		}
		return "must match one of the container's resource requests"
	}
	for _, r := range c.Resources.Claims {
		if claim == r.Name && r.Request == "" || claim == r.Name+"/"+r.Request && r.Request != "" {
			return ""
		}
	}
	if extended != nil {
		of, request, _ := strings.Cut(claim, "/")
		for _, m := range extended.RequestMappings {
			q := c.Resources.Requests[corev1.ResourceName(m.ResourceName)]
			if request != "" && of == extended.ResourceClaimName && m.ContainerName == c.Name && m.RequestName == request && !q.IsZero() {
				return ""
			}
		}
	}
	return "must match one of the container's resource claims as 'claim:<claimName>/<requestName>' when container.resources.claims[*].request is set or 'claim:<claimName>' when it is empty"
}

// validateContainerUser checks who a container runs as. The runtime tells it,
// so that any user is possible, not only those that a spec may ask for.
func validateContainerUser(path *field.Path, u *corev1.ContainerUser, os *corev1.PodOS) field.ErrorList {
	if u == nil || u.Linux == nil {
		return nil
	}
	path = path.Child("user", "linux")
	if os != nil && os.Name == corev1.Windows {
		return field.ErrorList{field.Forbidden(path, "cannot be set for a windows pod")}
	}
	var errs field.ErrorList
	if u.Linux.UID < 0 || u.Linux.UID > math.MaxUint32 {
		errs = append(errs, field.Invalid(path.Child("uid"), u.Linux.UID, fmt.Sprintf("must be between 0 and %d, inclusive", int64(math.MaxUint32))))
	}
	errs = append(errs, validate.Messages(path.Child("gid"), u.Linux.GID, validation.IsValidGroupID(u.Linux.GID))...)
	for i, g := range u.Linux.SupplementalGroups {
		errs = append(errs, validate.Messages(path.Child("supplementalGroups").Index(i), g, validation.IsValidGroupID(g))...)
	}
	return errs
}
