package spec

import (
	"math"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	helpers "k8s.io/component-helpers/resource"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const (
	minShares     = 2
	maxShares     = 262144
	period        = 100000
	minQuota      = 1000
	pauseOOMScore = -998
)

// QOS is the pod's quality of service class.
func QOS(pod *corev1.Pod) corev1.PodQOSClass {
	if pod.Status.QOSClass != "" {
		return pod.Status.QOSClass
	}
	guaranteed, any := true, false
	look := func(r corev1.ResourceRequirements) {
		for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
			request, limit := r.Requests[name], r.Limits[name]
			if !request.IsZero() || !limit.IsZero() {
				any = true
			}
			if limit.IsZero() || (!request.IsZero() && request.Cmp(limit) != 0) {
				guaranteed = false
			}
		}
	}
	if pod.Spec.Resources != nil {
		look(*pod.Spec.Resources)
	} else {
		for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
			for i := range list {
				look(list[i].Resources)
			}
		}
	}
	switch {
	case !any:
		return corev1.PodQOSBestEffort
	case guaranteed:
		return corev1.PodQOSGuaranteed
	}
	return corev1.PodQOSBurstable
}

// Shares converts milli-CPUs to cgroup v1 cpu.shares, which runtimes convert
// to weights themselves.
func Shares(milli int64) int64 {
	return min(max(milli*1024/1000, minShares), maxShares)
}

// Quota converts milli-CPUs to a CFS quota per period; 0 means unlimited.
func Quota(milli int64) (quota, per int64) {
	if milli == 0 {
		return 0, 0
	}
	return max(milli*period/1000, minQuota), period
}

// Size is what the kernel is told of a pod as a whole. A limit of 0 is none.
type Size struct{ MilliCPU, MilliCPULimit, MemoryLimit int64 }

// SizeOf reads it from a pod's spec. A pod without limits of its own has some
// when every container has: else their sum says nothing.
func SizeOf(pod *corev1.Pod) Size {
	requests := helpers.PodRequests(pod, helpers.PodResourcesOptions{})
	limits := helpers.PodLimits(pod, helpers.PodResourcesOptions{})
	s := Size{MilliCPU: requests.Cpu().MilliValue()}
	if limited(pod, corev1.ResourceCPU) {
		s.MilliCPULimit = limits.Cpu().MilliValue()
	}
	if limited(pod, corev1.ResourceMemory) {
		s.MemoryLimit = limits.Memory().Value()
	}
	return s
}

func limited(pod *corev1.Pod, name corev1.ResourceName) bool {
	if r := pod.Spec.Resources; r != nil {
		if q, ok := r.Limits[name]; ok && !q.IsZero() {
			return true
		}
	}
	for _, list := range [][]corev1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
		for i := range list {
			if q := list[i].Resources.Limits[name]; q.IsZero() {
				return false
			}
		}
	}
	return true
}

// Resources are a container's limits as the kernel knows them.
func Resources(pod *corev1.Pod, c *corev1.Container, nodeMemory int64) *runtimeapi.LinuxContainerResources {
	cpuRequest, hasRequest := c.Resources.Requests[corev1.ResourceCPU]
	cpuLimit, memoryLimit := limitOf(pod, c, corev1.ResourceCPU), limitOf(pod, c, corev1.ResourceMemory)
	if !hasRequest && !cpuLimit.IsZero() {
		cpuRequest = cpuLimit
	}
	out := &runtimeapi.LinuxContainerResources{
		CpuShares:          Shares(cpuRequest.MilliValue()),
		MemoryLimitInBytes: memoryLimit.Value(),
		OomScoreAdj:        oomScore(pod, c, nodeMemory),
	}
	out.CpuQuota, out.CpuPeriod = Quota(cpuLimit.MilliValue())
	for name, q := range c.Resources.Limits {
		if size, ok := strings.CutPrefix(string(name), corev1.ResourceHugePagesPrefix); ok {
			out.HugepageLimits = append(out.HugepageLimits, &runtimeapi.HugepageLimit{
				PageSize: hugepageSize(size), Limit: uint64(q.Value())})
		}
	}
	return out
}

// limitOf is what a container may use: without a limit of its own what its pod
// may, so that programs which look at their own group see it.
func limitOf(pod *corev1.Pod, c *corev1.Container, name corev1.ResourceName) resource.Quantity {
	q := c.Resources.Limits[name]
	if q.IsZero() && pod.Spec.Resources != nil {
		q = pod.Spec.Resources.Limits[name]
	}
	return q
}

// hugepageSize converts "2Mi" to the kernel's "2MB".
func hugepageSize(s string) string {
	return strings.TrimSuffix(s, "i") + "B"
}

// memoryRequest is what a container counts as its own of the node's memory: what
// it asks for, and its part of what the pod asks for beyond its containers. A
// sidecar outlives those that it serves.
func memoryRequest(pod *corev1.Pod, c *corev1.Container) int64 {
	request := c.Resources.Requests.Memory().Value()
	if IsSidecar(c) {
		least := int64(math.MaxInt64)
		for i := range pod.Spec.Containers {
			least = min(least, pod.Spec.Containers[i].Resources.Requests.Memory().Value())
		}
		request = max(request, least)
	}
	if !helpers.IsPodLevelRequestsSet(pod) {
		return request
	}
	own := helpers.AggregateContainerRequests(pod, helpers.PodResourcesOptions{})
	rest := pod.Spec.Resources.Requests.Memory().Value() - own.Memory().Value()
	return request + max(rest, 0)/int64(len(pod.Spec.Containers)+len(pod.Spec.InitContainers))
}

// oomScore orders containers for the kernel's memory killer: the more of its
// request a burstable container uses, the sooner it goes.
func oomScore(pod *corev1.Pod, c *corev1.Container, nodeMemory int64) int64 {
	if pod.Spec.Priority != nil && *pod.Spec.Priority >= 2000001000 { // node-critical
		return -997
	}
	switch QOS(pod) {
	case corev1.PodQOSGuaranteed:
		return -997
	case corev1.PodQOSBestEffort:
		return 1000
	}
	if nodeMemory <= 0 {
		return 999
	}
	request := memoryRequest(pod, c)
	score := 1000 - 1000*request/nodeMemory
	return min(max(score, 3), 999)
}
