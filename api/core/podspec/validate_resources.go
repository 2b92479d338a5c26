package podspec

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"
	resourcehelper "k8s.io/component-helpers/resource"

	"github.com/proa-dev/proa/api/validate"
)

// ValidateLimits validates an amount of resources outside of any pod.
func ValidateLimits(path *field.Path, l corev1.ResourceList) field.ErrorList {
	c := &checker{}
	return c.validateResources(path, &corev1.ResourceRequirements{Limits: l}, validate.ContainerResourceName)
}

type nameCheck func(*field.Path, corev1.ResourceName) field.ErrorList

func (c *checker) validateResources(path *field.Path, r *corev1.ResourceRequirements, names nameCheck) field.ErrorList {
	var errs field.ErrorList
	limits, requests := path.Child("limits"), path.Child("requests")
	compute, hugePages := false, false
	one := func(list *field.Path, l corev1.ResourceList, name corev1.ResourceName) {
		q, at := l[name], list.Key(string(name))
		errs = append(errs, names(at, name)...)
		errs = append(errs, validate.Quantity(at, name, q)...)
		if validate.HugePages(name) {
			hugePages = true
			if !c.hugePages {
				errs = append(errs, validate.WholeHugePages(at, name, q)...)
			}
		}
		compute = compute || name == corev1.ResourceCPU || name == corev1.ResourceMemory
	}
	for _, name := range validate.SortedResources(r.Limits) {
		one(limits, r.Limits, name)
	}
	for _, name := range validate.SortedResources(r.Requests) {
		one(requests, r.Requests, name)
		request := r.Requests[name]
		limit, limited := r.Limits[name]
		overcommit := validate.Overcommit(name)
		switch {
		case limited && !overcommit && request.Cmp(limit) != 0:
			errs = append(errs, field.Invalid(requests, request.String(), fmt.Sprintf("must be equal to %s limit of %s", name, limit.String())))
		case limited && request.Cmp(limit) > 0:
			errs = append(errs, field.Invalid(requests, request.String(), fmt.Sprintf("must be less than or equal to %s limit of %s", name, limit.String())))
		case !limited && !overcommit:
			errs = append(errs, field.Required(limits, "Limit must be set for non overcommitable resources"))
		}
	}
	if hugePages && !compute {
		errs = append(errs, field.Forbidden(path, "HugePages require cpu or memory"))
	}
	return append(errs, c.validateClaimNames(path.Child("claims"), r.Claims)...)
}

// validateClaimNames wants each claim (or each request of it) once, and among
// the pod's claims.
func (c *checker) validateClaimNames(path *field.Path, claims []corev1.ResourceClaim) field.ErrorList {
	var errs field.ErrorList
	seen := sets.New[string]()
	for i, claim := range claims {
		at := path.Index(i)
		if claim.Name == "" {
			errs = append(errs, field.Required(at, ""))
			continue
		}
		key := claim.Name
		if claim.Request != "" {
			errs = append(errs, validate.Label(at.Child("request"), claim.Request)...)
			key += "/" + claim.Request
		}
		switch {
		case seen.Has(claim.Name):
			errs = append(errs, field.Duplicate(at, claim.Name))
		case seen.Has(key):
			errs = append(errs, field.Duplicate(at, key))
		case claim.Request == "":
			for other := range seen {
				if strings.HasPrefix(other, claim.Name+"/") {
					errs = append(errs, field.Duplicate(at, claim.Name))
				}
			}
		}
		seen.Insert(key)
		if !c.claims.Has(claim.Name) {
			err := field.NotFound(at, claim.Name)
			err.Detail = "must be one of the names in pod.spec.resourceClaims"
			if c.claims.Len() == 0 {
				err.Detail += " which is empty"
			} else {
				err.Detail += ": " + strings.Join(sets.List(c.claims), ", ")
			}
			errs = append(errs, err)
		}
	}
	return errs
}

// validatePodResources checks what a pod asks for as a whole against what its
// containers do.
func (c *checker) validatePodResources(path *field.Path) field.ErrorList {
	r := c.spec.Resources
	if r == nil {
		return nil
	}
	if c.spec.OS != nil && c.spec.OS.Name == corev1.Windows {
		return field.ErrorList{field.Forbidden(path, "may not be set for a windows pod")}
	}
	var errs field.ErrorList
	if r.Claims != nil {
		errs = append(errs, field.Forbidden(path.Child("claims"), "claims may not be set for Resources at pod-level"))
	}
	errs = append(errs, c.validateResources(path, r, func(path *field.Path, name corev1.ResourceName) field.ErrorList {
		if errs := validate.ResourceName(path, name); len(errs) != 0 {
			return errs
		}
		if !resourcehelper.IsSupportedPodLevelResource(name) {
			return field.ErrorList{field.NotSupported(path, name, sets.List(resourcehelper.SupportedPodLevelResources()))}
		}
		return nil
	})...)
	total := resourcehelper.AggregateContainerRequests(&corev1.Pod{Spec: *c.spec}, resourcehelper.PodResourcesOptions{})
	for _, name := range validate.SortedResources(total) {
		if !resourcehelper.IsSupportedPodLevelResource(name) {
			continue
		}
		sum, own := total[name], r.Requests[name]
		if sum.Cmp(own) > 0 {
			errs = append(errs, field.Invalid(path.Child("requests").Key(string(name)), own.String(),
				fmt.Sprintf("must be greater than or equal to aggregate container requests of %s", sum.String())))
		}
	}
	for i, ctr := range c.spec.Containers {
		for _, name := range validate.SortedResources(ctr.Resources.Limits) {
			limit := ctr.Resources.Limits[name]
			if own, ok := r.Limits[name]; ok && limit.Cmp(own) > 0 {
				errs = append(errs, field.Invalid(path.Child("containers").Index(i).Key(string(name)).Child("limits"), limit.String(),
					fmt.Sprintf("must be less than or equal to pod limits of %s", own.String())))
			}
		}
	}
	return errs
}
