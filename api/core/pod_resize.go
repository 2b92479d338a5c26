package core

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/kubectl/pkg/util/qos"
	"k8s.io/utils/ptr"

	"github.com/proa-dev/proa/api/core/podspec"
)

func validatePodResize(p, old *corev1.Pod) field.ErrorList {
	refused := func(why string) field.ErrorList {
		return field.ErrorList{field.Forbidden(field.NewPath(""), why)}
	}
	if _, ok := old.Annotations[corev1.MirrorPodAnnotationKey]; ok {
		return refused("static pods cannot be resized")
	}
	if old.Spec.OS != nil && old.Spec.OS.Name == corev1.Windows {
		return refused("windows pods cannot be resized")
	}
	path := field.NewPath("spec")
	errs := podspec.ValidatePodAfter(p, old)
	if qos.GetPodQOS(old) != qos.ComputePodQOS(p) {
		errs = append(errs, field.Invalid(path, p.Status.QOSClass, "Pod QOS Class may not change as a result of resizing"))
	}
	if !resizable(old) {
		errs = append(errs, field.Forbidden(path, "Pod running on node without support for resize"))
	}
	errs = append(errs, validateOwnResize(path, p.Spec.Resources, old.Spec.Resources)...)
	moved := validateResizeOrder(path, "containers", p.Spec.Containers, old.Spec.Containers)
	moved = append(moved, validateResizeOrder(path, "initContainers", p.Spec.InitContainers, old.Spec.InitContainers)...)
	if len(moved) > 0 {
		return append(errs, moved...)
	}
	for i := range old.Spec.InitContainers {
		o, n, at := &old.Spec.InitContainers[i], &p.Spec.InitContainers[i], path.Child("initContainers").Index(i)
		errs = append(errs, validateContainerResize(at.Child("resources"), n, o)...)
		if !sameButCompute(n, o) {
			errs = append(errs, field.Forbidden(at, "only cpu and memory resources for init or sidecar containers are mutable"))
		}
		sidecar := ptr.Deref(o.RestartPolicy, "") == corev1.ContainerRestartPolicyAlways
		if sidecar || equality.Semantic.DeepEqual(n, o) {
			continue
		}
		if slices.ContainsFunc(n.ResizePolicy, func(r corev1.ContainerResizePolicy) bool { return r.RestartPolicy == corev1.RestartContainer }) {
			errs = append(errs, field.Forbidden(at, "non-sidecar init containers with a resize policy of RestartContainer cannot be resized"))
		}
	}
	for i := range old.Spec.Containers {
		o, n, at := &old.Spec.Containers[i], &p.Spec.Containers[i], path.Child("containers").Index(i)
		errs = append(errs, validateContainerResize(at.Child("resources"), n, o)...)
		if !sameButCompute(n, o) {
			errs = append(errs, field.Forbidden(path, "only cpu and memory resources are mutable"))
		}
	}
	return errs
}

// resizable says whether the node's agent tells resources, as those that can
// resize do. Before anything runs nobody knows.
func resizable(p *corev1.Pod) bool {
	for _, s := range p.Status.ContainerStatuses {
		if s.State.Running != nil {
			return s.Resources != nil
		}
	}
	return true
}

func validateResizeOrder(path *field.Path, name string, list, old []corev1.Container) field.ErrorList {
	if len(list) != len(old) {
		return field.ErrorList{field.Forbidden(path.Child(name), name+" may not be added or removed on resize")}
	}
	var errs field.ErrorList
	for i := range old {
		if list[i].Name != old[i].Name {
			errs = append(errs, field.Forbidden(path.Child(name).Index(i).Child("name"), name+" may not be renamed or reordered on resize"))
		}
	}
	return errs
}

// validateOwnResize sees to the resources of the pod as a whole.
func validateOwnResize(path *field.Path, r, old *corev1.ResourceRequirements) field.ErrorList {
	if old != nil && r == nil {
		return field.ErrorList{field.Forbidden(path.Child("resources"), "pod-level resources cannot be removed")}
	}
	if r == nil {
		return nil
	}
	if old == nil {
		old = &corev1.ResourceRequirements{}
	}
	var errs field.ErrorList
	if resourceRemoved(r.Requests, old.Requests) {
		errs = append(errs, field.Forbidden(path.Child("resources", "requests"), "pod-level resource requests cannot be removed"))
	}
	if resourceRemoved(r.Limits, old.Limits) {
		errs = append(errs, field.Forbidden(path.Child("resources", "limits"), "pod-level resource limits cannot be removed"))
	}
	rest := r.DeepCopy()
	restoreCompute(&rest.Limits, old.Limits)
	restoreCompute(&rest.Requests, old.Requests)
	if !equality.Semantic.DeepEqual(rest, old) {
		errs = append(errs, field.Forbidden(path, "only cpu and memory resources are mutable at pod-level"))
	}
	return errs
}

func resourceRemoved(l, old corev1.ResourceList) bool {
	for name := range old {
		if _, ok := l[name]; !ok {
			return true
		}
	}
	return false
}

// restoreCompute puts the old amounts of CPU and memory into a list.
func restoreCompute(l *corev1.ResourceList, old corev1.ResourceList) {
	for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
		delete(*l, name)
		if q, ok := old[name]; ok {
			if *l == nil {
				*l = corev1.ResourceList{}
			}
			(*l)[name] = q
		}
	}
}

func validateContainerResize(path *field.Path, c, old *corev1.Container) field.ErrorList {
	var errs field.ErrorList
	if resourceRemoved(c.Resources.Requests, old.Resources.Requests) {
		errs = append(errs, field.Forbidden(path.Child("requests"), "resource requests cannot be removed"))
	}
	if resourceRemoved(c.Resources.Limits, old.Resources.Limits) {
		errs = append(errs, field.Forbidden(path.Child("limits"), "resource limits cannot be removed"))
	}
	return errs
}

// sameButCompute says that c is old but for the amounts of CPU and memory.
func sameButCompute(c, old *corev1.Container) bool {
	c = c.DeepCopy()
	restoreCompute(&c.Resources.Limits, old.Resources.Limits)
	restoreCompute(&c.Resources.Requests, old.Resources.Requests)
	return equality.Semantic.DeepEqual(c, old)
}
