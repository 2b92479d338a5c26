package pods

import (
	"context"
	"errors"
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

// allocated is a pod that ran before this kubelet did, with the resources that
// it was given: what its spec asks for may be more than the node had.
func allocated(pod *corev1.Pod) *corev1.Pod {
	kept := pod.DeepCopy()
	each := func(list []corev1.Container, statuses []corev1.ContainerStatus) {
		for i := range list {
			for _, s := range statuses {
				if s.Name == list[i].Name && s.Resources != nil {
					list[i].Resources.Limits, list[i].Resources.Requests = s.Resources.Limits, s.Resources.Requests
				}
			}
		}
	}
	each(kept.Spec.Containers, pod.Status.ContainerStatuses)
	each(kept.Spec.InitContainers, pod.Status.InitContainerStatuses)
	if sameResources(kept, pod) {
		return pod
	}
	return kept
}

// change is a container whose resources are not what its spec says.
type change struct {
	spec       *corev1.Container
	running    *cri.Container
	have, want *runtimeapi.LinuxContainerResources
}

func (c *change) cpu() bool {
	return c.have.CpuShares != c.want.CpuShares || max(c.have.CpuQuota, 0) != c.want.CpuQuota
}

func (c *change) memory() bool { return c.have.MemoryLimitInBytes != c.want.MemoryLimitInBytes }

// shrinks says that the container gets less memory than it may use now.
func (c *change) shrinks() bool {
	return c.memory() && c.want.MemoryLimitInBytes > 0 && (c.have.MemoryLimitInBytes <= 0 || c.want.MemoryLimitInBytes < c.have.MemoryLimitInBytes)
}

// restarts says that the container wants to be made anew for it.
func (c *change) restarts() bool {
	for _, p := range c.spec.ResizePolicy {
		changed := p.ResourceName == corev1.ResourceCPU && c.cpu() || p.ResourceName == corev1.ResourceMemory && c.memory()
		if changed && p.RestartPolicy == corev1.RestartContainer {
			return true
		}
	}
	return false
}

// changes lists the running containers that are to be resized.
func (w *worker) changes() (out []*change) {
	memory := w.m.cfg.Node().Status.Capacity.Memory().Value()
	each := func(list []corev1.Container, init bool) {
		for i := range list {
			c := &list[i]
			running := w.runtime.Latest(c.Name)
			if running == nil || running.State != runtimeapi.ContainerState_CONTAINER_RUNNING || (init && !spec.IsSidecar(c)) {
				continue
			}
			one := &change{spec: c, running: running, have: running.GetResources().GetLinux(), want: spec.Resources(w.pod, c, memory)}
			if one.have != nil && (one.cpu() || one.memory()) {
				out = append(out, one)
			}
		}
	}
	each(w.pod.Spec.InitContainers, true)
	each(w.pod.Spec.Containers, false)
	return out
}

// resize brings running containers to the resources of the spec, and returns
// when to try again what failed.
func (w *worker) resize(ctx context.Context) (next time.Time) {
	w.resizing = nil
	changes := w.changes()
	if len(changes) == 0 {
		return time.Time{}
	}
	if err := w.resizeAll(ctx, changes); err != nil {
		w.resizing = &corev1.PodCondition{Type: corev1.PodResizeInProgress, Status: corev1.ConditionTrue, Reason: corev1.PodReasonError, Message: err.Error()}
		return w.now().Add(10 * time.Second)
	}
	return time.Time{}
}

func (w *worker) resizeAll(ctx context.Context, changes []*change) error {
	var inPlace []*change
	for _, c := range changes {
		if c.restarts() {
			w.renewed[c.running.Id] = true
			w.kill(c.running, w.podGrace(), fmt.Sprintf("Container %s resize requires restart", c.spec.Name))
			continue
		}
		inPlace = append(inPlace, c)
	}
	if err := w.fitsUse(ctx, inPlace); err != nil {
		return err
	}
	// What shrinks comes first: the pod's own limit would else be below those of
	// its containers.
	for _, c := range inPlace {
		if c.shrinks() {
			if err := w.update(ctx, c, c.have); err != nil {
				return err
			}
		}
	}
	if err := w.m.cfg.Cgroups.Ensure(w.pod); err != nil {
		w.log.Debug("pod's groups not resized before its containers", "err", err) // a share that a container has yet
	}
	for _, c := range inPlace {
		if err := w.update(ctx, c, c.want); err != nil {
			return err
		}
	}
	if err := w.m.cfg.Cgroups.Ensure(w.pod); err != nil {
		return fmt.Errorf("resize pod: %w", err)
	}
	return w.refresh(ctx)
}

// fitsUse makes sure that no container uses the memory that it is to lose: the
// kernel would kill it.
func (w *worker) fitsUse(ctx context.Context, changes []*change) error {
	var errs []error
	for _, c := range changes {
		if !c.shrinks() {
			continue
		}
		callCtx, cancel := context.WithTimeout(ctx, 2*time.Minute)
		got, err := w.m.cfg.CRI.Runtime.ContainerStats(callCtx, &runtimeapi.ContainerStatsRequest{ContainerId: c.running.Id})
		cancel()
		used := got.GetStats().GetMemory().GetUsageBytes()
		switch limit := uint64(c.want.MemoryLimitInBytes); {
		case err != nil:
			errs = append(errs, fmt.Errorf("memory usage of container %q: %w", c.spec.Name, err))
		case used == nil:
			errs = append(errs, fmt.Errorf("missing container %q memory usage", c.spec.Name))
		case used.Value >= limit:
			errs = append(errs, fmt.Errorf("attempting to set container %q memory limit (%d) below current usage (%d)", c.spec.Name, limit, used.Value))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("cannot decrease memory limits: %w", err)
	}
	return nil
}

// update sets a container's memory to what it is to have, and its share of CPUs
// to that of cpu.
func (w *worker) update(ctx context.Context, c *change, cpu *runtimeapi.LinuxContainerResources) error {
	ask := &runtimeapi.LinuxContainerResources{CpuPeriod: cpu.CpuPeriod, CpuQuota: cpu.CpuQuota, CpuShares: cpu.CpuShares,
		MemoryLimitInBytes: c.want.MemoryLimitInBytes, OomScoreAdj: c.want.OomScoreAdj}
	if ask.CpuQuota == 0 {
		ask.CpuQuota, ask.CpuPeriod = -1, 100000
	}
	if ask.MemoryLimitInBytes == 0 && c.have.MemoryLimitInBytes > 0 {
		ask.MemoryLimitInBytes = -1
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	if _, err := w.m.cfg.CRI.Runtime.UpdateContainerResources(ctx, &runtimeapi.UpdateContainerResourcesRequest{ContainerId: c.running.Id, Linux: ask}); err != nil {
		return fmt.Errorf("resize container %s: %w", c.spec.Name, err)
	}
	w.dirty = true
	return nil
}

// resources fills in what the containers have got.
func (w *worker) resources(s *corev1.PodStatus) {
	pending := map[string]bool{}
	for _, c := range w.changes() {
		pending[c.spec.Name] = true
	}
	fill := func(list []corev1.Container, statuses []corev1.ContainerStatus) {
		for i := range list {
			if i >= len(statuses) {
				return
			}
			r := list[i].Resources
			statuses[i].AllocatedResources = r.Requests
			if pending[list[i].Name] && statuses[i].Resources != nil {
				continue // it has what it had
			}
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
