package pods

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/proa-dev/proa/kubelet/cri"
	"github.com/proa-dev/proa/kubelet/spec"
)

// allocate is the pod as this node runs it: as it was asked for, or, while a
// resize does not fit, with the resources that it has.
func (w *worker) allocate(pod *corev1.Pod) *corev1.Pod {
	w.pending = nil
	if w.pod == nil || w.state != running || sameResources(w.pod, pod) {
		return pod
	}
	reason, message := w.m.fitsResized(pod)
	if reason == "" {
		return pod
	}
	w.pending = &corev1.PodCondition{Type: corev1.PodResizePending, Status: corev1.ConditionTrue, Reason: reason, Message: message}
	kept := pod.DeepCopy()
	for i := range kept.Spec.Containers {
		if old := spec.FindContainer(w.pod, kept.Spec.Containers[i].Name); old != nil {
			kept.Spec.Containers[i].Resources = old.Resources
		}
	}
	for i := range kept.Spec.InitContainers {
		if old := spec.FindContainer(w.pod, kept.Spec.InitContainers[i].Name); old != nil {
			kept.Spec.InitContainers[i].Resources = old.Resources
		}
	}
	kept.Spec.Resources = w.pod.Spec.Resources
	return kept
}

func sameResources(a, b *corev1.Pod) bool {
	if !equality.Semantic.DeepEqual(a.Spec.Resources, b.Spec.Resources) {
		return false
	}
	same := func(x, y []corev1.Container) bool {
		if len(x) != len(y) {
			return true // not a resize
		}
		for i := range x {
			if !equality.Semantic.DeepEqual(x[i].Resources, y[i].Resources) {
				return false
			}
		}
		return true
	}
	return same(a.Spec.Containers, b.Spec.Containers) && same(a.Spec.InitContainers, b.Spec.InitContainers)
}

// resize brings running containers to the resources of the spec, and returns
// when to try again what failed.
func (w *worker) resize(ctx context.Context) (next time.Time) {
	w.resizing = nil
	memory := w.m.cfg.Node().Status.Capacity.Memory().Value()
	grown := false
	each := func(list []corev1.Container, init bool) {
		for i := range list {
			c := &list[i]
			running := w.runtime.Latest(c.Name)
			if running == nil || running.State != runtimeapi.ContainerState_CONTAINER_RUNNING || (init && !spec.IsSidecar(c)) {
				continue
			}
			have, want := running.GetResources().GetLinux(), spec.Resources(w.pod, c, memory)
			if have == nil || (have.CpuShares == want.CpuShares && max(have.CpuQuota, 0) == want.CpuQuota && have.MemoryLimitInBytes == want.MemoryLimitInBytes) {
				continue
			}
			if !grown {
				grown = true
				if err := w.m.cfg.Cgroups.Ensure(w.pod); err != nil {
					w.log.Debug("pod's groups not resized before its containers", "err", err) // memory in use: containers shrink first
				}
			}
			if err := w.resizeContainer(ctx, c, running, have, want); err != nil {
				w.resizing = &corev1.PodCondition{Type: corev1.PodResizeInProgress, Status: corev1.ConditionTrue, Reason: corev1.PodReasonError, Message: err.Error()}
				next = w.now().Add(10 * time.Second)
			}
		}
	}
	each(w.pod.Spec.InitContainers, true)
	each(w.pod.Spec.Containers, false)
	if grown {
		if err := w.m.cfg.Cgroups.Ensure(w.pod); err != nil {
			w.log.Warn("pod's groups not resized", "err", err)
			next = w.now().Add(10 * time.Second)
		}
	}
	return next
}

func (w *worker) resizeContainer(ctx context.Context, c *corev1.Container, running *cri.Container, have, want *runtimeapi.LinuxContainerResources) error {
	for _, p := range c.ResizePolicy {
		changed := p.ResourceName == corev1.ResourceCPU && (have.CpuShares != want.CpuShares || max(have.CpuQuota, 0) != want.CpuQuota) ||
			p.ResourceName == corev1.ResourceMemory && have.MemoryLimitInBytes != want.MemoryLimitInBytes
		if changed && p.RestartPolicy == corev1.RestartContainer {
			w.kill(running, w.podGrace(), fmt.Sprintf("Container %s resize requires restart", c.Name))
			return nil
		}
	}
	ask := &runtimeapi.LinuxContainerResources{CpuPeriod: want.CpuPeriod, CpuQuota: want.CpuQuota, CpuShares: want.CpuShares,
		MemoryLimitInBytes: want.MemoryLimitInBytes, OomScoreAdj: want.OomScoreAdj}
	if ask.CpuQuota == 0 {
		ask.CpuQuota, ask.CpuPeriod = -1, 100000
	}
	if ask.MemoryLimitInBytes == 0 && have.MemoryLimitInBytes > 0 {
		ask.MemoryLimitInBytes = -1
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	if _, err := w.m.cfg.CRI.Runtime.UpdateContainerResources(ctx, &runtimeapi.UpdateContainerResourcesRequest{ContainerId: running.Id, Linux: ask}); err != nil {
		return fmt.Errorf("resize container %s: %w", c.Name, err)
	}
	w.dirty = true
	return w.refresh(ctx)
}

// resources fills in what the containers have got.
func (w *worker) resources(s *corev1.PodStatus) {
	fill := func(list []corev1.Container, statuses []corev1.ContainerStatus) {
		for i := range list {
			if i >= len(statuses) {
				return
			}
			r := list[i].Resources
			statuses[i].AllocatedResources = r.Requests
			statuses[i].Resources = &corev1.ResourceRequirements{Limits: r.Limits, Requests: r.Requests, Claims: r.Claims}
		}
	}
	fill(w.pod.Spec.Containers, s.ContainerStatuses)
	fill(w.pod.Spec.InitContainers, s.InitContainerStatuses)
	var kept []corev1.PodCondition
	for _, c := range s.Conditions {
		if c.Type != corev1.PodResizePending && c.Type != corev1.PodResizeInProgress {
			kept = append(kept, c)
		}
	}
	for _, c := range []*corev1.PodCondition{w.pending, w.resizing} {
		if c == nil {
			continue
		}
		add := *c
		add.LastTransitionTime = metav1.NewTime(w.now().Truncate(time.Second))
		add.ObservedGeneration = w.pod.Generation
		for _, old := range w.status.Conditions {
			if old.Type == add.Type && old.Reason == add.Reason {
				add.LastTransitionTime = old.LastTransitionTime
			}
		}
		kept = append(kept, add)
	}
	s.Conditions = kept
}
