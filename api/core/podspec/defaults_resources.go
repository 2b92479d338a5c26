package podspec

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/validation/field"
	resourcehelper "k8s.io/component-helpers/resource"

	"github.com/proa-dev/proa/api/validate"
)

// DefaultPodResources completes the resources of the pod as a whole, where it
// has some. It comes after admission, which may have added containers.
//
// The order matters: huge pages cannot be overcommitted, so their limits come
// first and become requests; requests decide which limits are filled in.
func DefaultPodResources(pod *corev1.Pod) {
	r := pod.Spec.Resources
	if r == nil || len(r.Requests)+len(r.Limits) == 0 {
		return
	}
	limits := resourcehelper.AggregateContainerLimits(pod, resourcehelper.PodResourcesOptions{})
	for name, q := range limits {
		if _, requested := r.Requests[name]; validate.HugePages(name) && !requested {
			addResource(&r.Limits, name, q)
		}
	}
	for name, q := range resourcehelper.AggregateContainerRequests(pod, resourcehelper.PodResourcesOptions{}) {
		if !validate.HugePages(name) {
			addResource(&r.Requests, name, q)
		}
	}
	for name, q := range r.Limits {
		addResource(&r.Requests, name, q)
	}
	for name, request := range r.Requests {
		limit, ok := limits[name]
		if !ok || !allLimit(&pod.Spec, name) {
			continue
		}
		// A pod that requests more than its containers may use stays valid.
		if request.Cmp(limit) > 0 {
			limit = request
		}
		addResource(&r.Limits, name, limit)
	}
}

// addResource adds to a list what pods may have as a whole and the list lacks.
func addResource(l *corev1.ResourceList, name corev1.ResourceName, q resource.Quantity) {
	if _, ok := (*l)[name]; ok || !resourcehelper.IsSupportedPodLevelResource(name) {
		return
	}
	if *l == nil {
		*l = corev1.ResourceList{}
	}
	(*l)[name] = q.DeepCopy()
}

// allLimit says that every container has a limit of the resource.
func allLimit(spec *corev1.PodSpec, name corev1.ResourceName) bool {
	all := true
	visitContainers(spec, nil, func(c *corev1.Container, _ *field.Path) {
		if _, ok := c.Resources.Limits[name]; !ok {
			all = false
		}
	})
	return all
}
