package quota

import (
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/component-helpers/resource"
	"k8s.io/kubectl/pkg/util/qos"

	"github.com/proa-dev/proa/api/validate"
)

type pods struct{}

const countPods corev1.ResourceName = "count/pods"

// mandatory are those that every container has to name once a quota bounds
// them; upstream calls it a mistake, and keeps it.
func mandatory(name corev1.ResourceName) bool {
	switch name {
	case corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceRequestsCPU, corev1.ResourceRequestsMemory,
		corev1.ResourceLimitsCPU, corev1.ResourceLimitsMemory:
		return true
	}
	return false
}

func (pods) Tracks(name corev1.ResourceName) bool {
	switch name {
	case countPods, corev1.ResourcePods, corev1.ResourceEphemeralStorage, corev1.ResourceRequestsEphemeralStorage, corev1.ResourceLimitsEphemeralStorage:
		return true
	}
	if mandatory(name) || hasPrefix(name, corev1.ResourceHugePagesPrefix) || hasPrefix(name, corev1.ResourceRequestsHugePagesPrefix) {
		return true
	}
	return hasPrefix(name, corev1.DefaultResourceRequestsPrefix) &&
		(!validate.NativeResource(name) || hasPrefix(name, corev1.DefaultResourceRequestsPrefix+resourcev1.ResourceDeviceClassPrefix))
}

func (pods) Usage(obj runtime.Object, now time.Time) corev1.ResourceList {
	pod, ok := obj.(*corev1.Pod)
	if !ok {
		return nil
	}
	used := corev1.ResourceList{countPods: pieces(1)}
	if !uses(pod, now) {
		return used
	}
	opts := resource.PodResourcesOptions{UseStatusResources: true}
	return Add(used, compute(resource.PodRequests(pod, opts), resource.PodLimits(pod, opts)))
}

// uses says that a pod counts for more than its object: it has not ended, and
// it is not one that a lost node cannot end.
func uses(pod *corev1.Pod, now time.Time) bool {
	if pod.Status.Phase == corev1.PodFailed || pod.Status.Phase == corev1.PodSucceeded {
		return false
	}
	gone, ok := Expiry(pod)
	return !ok || !now.After(gone)
}

// Expiry is when a pod that is being deleted stops to count, whatever happens.
func Expiry(pod *corev1.Pod) (time.Time, bool) {
	if pod.DeletionTimestamp == nil || pod.DeletionGracePeriodSeconds == nil {
		return time.Time{}, false
	}
	return pod.DeletionTimestamp.Add(time.Duration(*pod.DeletionGracePeriodSeconds) * time.Second), true
}

// compute spells requests and limits in the names of quotas.
func compute(req, lim corev1.ResourceList) corev1.ResourceList {
	used := corev1.ResourceList{corev1.ResourcePods: pieces(1)}
	for name, q := range req {
		switch {
		case name == corev1.ResourceCPU, name == corev1.ResourceMemory, name == corev1.ResourceEphemeralStorage,
			hasPrefix(name, corev1.ResourceHugePagesPrefix):
			used[name] = q
			used[requests(name)] = q
		case validate.ExtendedResource(name), hasPrefix(name, resourcev1.ResourceDeviceClassPrefix):
			used[requests(name)] = q
		}
	}
	for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage} {
		if q, ok := lim[name]; ok {
			used["limits."+name] = q
		}
	}
	return used
}

func (pods) InScope(s corev1.ScopedResourceSelectorRequirement, obj runtime.Object) bool {
	pod, ok := obj.(*corev1.Pod)
	if !ok {
		return false
	}
	switch s.ScopeName {
	case corev1.ResourceQuotaScopeTerminating:
		return terminating(pod)
	case corev1.ResourceQuotaScopeNotTerminating:
		return !terminating(pod)
	case corev1.ResourceQuotaScopeBestEffort:
		return qos.GetPodQOS(pod) == corev1.PodQOSBestEffort
	case corev1.ResourceQuotaScopeNotBestEffort:
		return qos.GetPodQOS(pod) != corev1.PodQOSBestEffort
	case corev1.ResourceQuotaScopePriorityClass:
		return hasClass(s, pod.Spec.PriorityClassName)
	case corev1.ResourceQuotaScopeCrossNamespacePodAffinity:
		return acrossNamespaces(pod.Spec.Affinity)
	}
	return false
}

func terminating(pod *corev1.Pod) bool {
	return pod.Spec.ActiveDeadlineSeconds != nil && *pod.Spec.ActiveDeadlineSeconds >= 0
}

func acrossNamespaces(a *corev1.Affinity) bool {
	if a == nil {
		return false
	}
	var terms []corev1.PodAffinityTerm
	var weighted []corev1.WeightedPodAffinityTerm
	if p := a.PodAffinity; p != nil {
		terms, weighted = append(terms, p.RequiredDuringSchedulingIgnoredDuringExecution...), append(weighted, p.PreferredDuringSchedulingIgnoredDuringExecution...)
	}
	if p := a.PodAntiAffinity; p != nil {
		terms, weighted = append(terms, p.RequiredDuringSchedulingIgnoredDuringExecution...), append(weighted, p.PreferredDuringSchedulingIgnoredDuringExecution...)
	}
	for _, w := range weighted {
		terms = append(terms, w.PodAffinityTerm)
	}
	return slices.ContainsFunc(terms, func(t corev1.PodAffinityTerm) bool {
		return len(t.Namespaces) > 0 || t.NamespaceSelector != nil
	})
}

func (pods) Lacking(bounded []corev1.ResourceName, obj runtime.Object) error {
	pod, ok := obj.(*corev1.Pod)
	if !ok || resource.IsPodLevelResourcesSet(pod) {
		return nil
	}
	lacking := map[corev1.ResourceName]sets.Set[string]{}
	for _, list := range [][]corev1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
		for i := range list {
			named := compute(list[i].Resources.Requests, list[i].Resources.Limits)
			for _, name := range bounded {
				if _, ok := named[name]; ok || !mandatory(name) {
					continue
				}
				if lacking[name] == nil {
					lacking[name] = sets.New[string]()
				}
				lacking[name].Insert(list[i].Name)
			}
		}
	}
	if len(lacking) == 0 {
		return nil
	}
	var parts []string
	for name, containers := range lacking {
		parts = append(parts, fmt.Sprintf("%s for: %s", name, strings.Join(sets.List(containers), ",")))
	}
	slices.Sort(parts)
	return fmt.Errorf("must specify %s", strings.Join(parts, "; "))
}

func (pods) Charged(w Write) bool {
	switch w.Subresource {
	case "":
		if w.Create {
			return true
		}
		pod, ok := w.Object.(*corev1.Pod)
		old, had := w.Old.(*corev1.Pod)
		return w.Update && ok && had && terminating(pod) != terminating(old)
	case "resize":
		return w.Update
	}
	return false
}
