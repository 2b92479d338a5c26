package pods

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	"k8s.io/component-helpers/resource"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/proa-dev/proa/kubelet/cri"
	"github.com/proa-dev/proa/kubelet/spec"
)

// allocate is the pod as this node runs it: as it was asked for, or, while a
// resize does not fit, with the resources that it has.
func (w *worker) allocate(pod *corev1.Pod) *corev1.Pod {
	waited := w.pending
	w.pending = nil
	if w.pod == nil || w.state != running || sameResources(w.pod, pod) {
		return pod
	}
	reason, message := w.m.fitsResized(pod)
	if reason == "" {
		w.resizing = &corev1.PodCondition{Type: corev1.PodResizeInProgress, Status: corev1.ConditionTrue, ObservedGeneration: pod.Generation}
		w.tellResize(corev1.EventTypeNormal, "ResizeStarted", "Pod resize started", pod, pod.Generation, "")
		return pod
	}
	w.pending = &corev1.PodCondition{Type: corev1.PodResizePending, Status: corev1.ConditionTrue, ObservedGeneration: pod.Generation, Reason: reason, Message: message}
	if waited == nil || waited.Reason != reason || waited.ObservedGeneration != pod.Generation {
		w.tellResize(corev1.EventTypeWarning, "Resize"+reason, "Pod resize "+reason, pod, pod.Generation, message)
	}
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

// recall takes up where the kubelet before this one was. The pod has the
// resources that it was given: what its spec asks for may be more than the node
// had.
func (w *worker) recall(pod *corev1.Pod) {
	w.pod = allocated(pod)
	for i := range pod.Status.Conditions {
		if c := &pod.Status.Conditions[i]; c.Type == corev1.PodResizePending {
			w.pending = c
		}
	}
}

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
	if own, given := kept.Spec.Resources, pod.Status.Resources; own != nil && given != nil {
		take := func(list, given corev1.ResourceList) { // the status has the sums of the containers, too
			for name := range list {
				if q, ok := given[name]; ok {
					list[name] = q
				} else {
					delete(list, name)
				}
			}
		}
		take(own.Requests, given.Requests)
		take(own.Limits, given.Limits)
	}
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
	for _, list := range [][]corev1.Container{w.pod.Spec.InitContainers, w.pod.Spec.Containers} {
		for i := range list {
			c := &list[i]
			running := w.runtime.Latest(c.Name)
			if running == nil || running.State != runtimeapi.ContainerState_CONTAINER_RUNNING {
				continue
			}
			one := &change{spec: c, running: running, have: running.GetResources().GetLinux(), want: spec.Resources(w.pod, c, memory)}
			if one.have != nil && (one.cpu() || one.memory()) {
				out = append(out, one)
			}
		}
	}
	return out
}

// resize brings the pod's group and its running containers to the resources of
// the spec, and returns when to try again what failed.
func (w *worker) resize(ctx context.Context) (next time.Time) {
	changes := w.changes()
	if len(changes) > 0 || w.size != spec.SizeOf(w.pod) {
		if err := w.resizeAll(ctx, changes); err != nil {
			w.resizeFailed(err)
			return w.now().Add(10 * time.Second)
		}
		if len(w.changes()) > 0 {
			return time.Time{} // one is to be made anew, and has not ended yet
		}
	}
	if done := w.resizing; done != nil {
		w.resizing = nil
		w.tellResize(corev1.EventTypeNormal, "ResizeCompleted", "Pod resize completed", w.pod, done.ObservedGeneration, "")
	}
	return time.Time{}
}

func (w *worker) resizeFailed(err error) {
	failed := &corev1.PodCondition{Type: corev1.PodResizeInProgress, Status: corev1.ConditionTrue, ObservedGeneration: w.pod.Generation,
		Reason: corev1.PodReasonError, Message: err.Error()}
	before := w.resizing
	w.resizing = failed
	if before != nil {
		failed.ObservedGeneration = before.ObservedGeneration
		if before.Reason == failed.Reason && before.Message == failed.Message {
			return
		}
	}
	w.tellResize(corev1.EventTypeWarning, "ResizeError", "Pod resize error", w.pod, failed.ObservedGeneration, failed.Message)
}

// tellResize records an event with the resources that are asked for, in the form
// that upstream gives it.
func (w *worker) tellResize(kind, reason, text string, pod *corev1.Pod, generation int64, why string) {
	type resources struct {
		Name      string                      `json:"name"`
		Resources corev1.ResourceRequirements `json:"resources"`
	}
	summary := struct {
		InitContainers []resources `json:"initContainers,omitempty"`
		Containers     []resources `json:"containers,omitempty"`
		Generation     int64       `json:"generation"`
		Error          string      `json:"error,omitempty"`
	}{Generation: generation, Error: why}
	for _, c := range pod.Spec.InitContainers {
		summary.InitContainers = append(summary.InitContainers, resources{c.Name, c.Resources})
	}
	for _, c := range pod.Spec.Containers {
		summary.Containers = append(summary.Containers, resources{c.Name, c.Resources})
	}
	if data, err := json.Marshal(summary); err == nil {
		text += ": " + string(data)
	}
	w.event("", kind, reason, text)
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
	if err := w.setGroup(); err != nil {
		w.log.Debug("pod's groups not resized before its containers", "err", err) // a share that a container has yet
	}
	for _, c := range inPlace {
		if err := w.update(ctx, c, c.want); err != nil {
			return err
		}
	}
	if err := w.setGroup(); err != nil {
		return fmt.Errorf("resize pod: %w", err)
	}
	return w.refresh(ctx)
}

// setGroup brings the pod's own group to the size that its spec says.
func (w *worker) setGroup() error {
	if err := w.m.cfg.Cgroups.Ensure(w.pod); err != nil {
		return err
	}
	w.size = spec.SizeOf(w.pod)
	return nil
}

// fitsUse makes sure that neither a container nor the pod uses the memory that it
// is to lose: the kernel would kill it.
func (w *worker) fitsUse(ctx context.Context, changes []*change) error {
	var errs []error
	limit := spec.SizeOf(w.pod).MemoryLimit
	if limit > 0 && (w.size.MemoryLimit == 0 || limit < w.size.MemoryLimit) {
		var used uint64
		for _, c := range w.runtime.Containers {
			if c.State != runtimeapi.ContainerState_CONTAINER_RUNNING {
				continue
			}
			n, err := w.memoryUse(ctx, c)
			if err != nil {
				return fmt.Errorf("unable to read memory usage for pod %q: %w", spec.PodName(w.pod), err)
			}
			used += n
		}
		if used >= uint64(limit) {
			errs = append(errs, fmt.Errorf("attempting to set pod memory limit (%d) below current usage (%d)", limit, used))
		}
	}
	for _, c := range changes {
		if !c.shrinks() {
			continue
		}
		used, err := w.memoryUse(ctx, c.running)
		if limit := uint64(c.want.MemoryLimitInBytes); err == nil && used >= limit {
			err = fmt.Errorf("attempting to set container %q memory limit (%d) below current usage (%d)", c.spec.Name, limit, used)
		}
		if err != nil {
			errs = append(errs, err)
		}
	}
	if err := utilerrors.NewAggregate(errs); err != nil {
		return fmt.Errorf("cannot decrease memory limits: %w", err)
	}
	return nil
}

func (w *worker) memoryUse(ctx context.Context, c *cri.Container) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	got, err := w.m.cfg.CRI.Runtime.ContainerStats(ctx, &runtimeapi.ContainerStatsRequest{ContainerId: c.Id})
	if err != nil {
		return 0, fmt.Errorf("memory usage of container %q: %w", c.Name(), err)
	}
	used := got.GetStats().GetMemory().GetUsageBytes()
	if used == nil {
		return 0, fmt.Errorf("missing container %q memory usage", c.Name())
	}
	return used.Value, nil
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

// resources fills in what the pod and its containers have got.
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
	w.ownResources(s)
	var kept []corev1.PodCondition
	for _, c := range s.Conditions {
		if c.Type != corev1.PodResizePending && c.Type != corev1.PodResizeInProgress {
			kept = append(kept, c)
		}
	}
	for _, c := range []*corev1.PodCondition{w.pending, w.resizing} {
		if c == nil || w.state >= terminated {
			continue
		}
		add := *c
		add.LastTransitionTime = metav1.NewTime(w.now().Truncate(time.Second))
		for _, old := range w.status.Conditions {
			if old.Type == add.Type && old.Reason == add.Reason {
				add.LastTransitionTime = old.LastTransitionTime
			}
		}
		kept = append(kept, add)
	}
	s.Conditions = kept
}

// ownResources fills in those of the pod as a whole, without what it costs to run
// it: who reads them adds that.
func (w *worker) ownResources(s *corev1.PodStatus) {
	opts := resource.PodResourcesOptions{ExcludeOverhead: true}
	s.AllocatedResources = resource.PodRequests(w.pod, opts)
	own := &corev1.ResourceRequirements{}
	if r := w.pod.Spec.Resources; r != nil {
		own = r.DeepCopy()
	}
	s.Resources = own
	limits := resource.PodLimits(w.pod, opts)
	if s.Phase != corev1.PodRunning {
		own.Requests, own.Limits = s.AllocatedResources.DeepCopy(), limits
		return
	}
	want, old := spec.SizeOf(w.pod), w.status.Resources
	if old == nil {
		old = &corev1.ResourceRequirements{}
	}
	set := func(list *corev1.ResourceList, name corev1.ResourceName, is, was corev1.ResourceList, changed bool) {
		if changed { // it has what it had
			is = was
		}
		if q, ok := is[name]; ok {
			if *list == nil {
				*list = corev1.ResourceList{}
			}
			(*list)[name] = q
		} else {
			delete(*list, name)
		}
	}
	set(&own.Requests, corev1.ResourceCPU, s.AllocatedResources, old.Requests, w.size.MilliCPU != want.MilliCPU)
	set(&own.Requests, corev1.ResourceMemory, s.AllocatedResources, old.Requests, false)
	if want.MilliCPULimit > 0 {
		set(&own.Limits, corev1.ResourceCPU, limits, old.Limits, w.size.MilliCPULimit != want.MilliCPULimit)
	}
	if want.MemoryLimit > 0 {
		set(&own.Limits, corev1.ResourceMemory, limits, old.Limits, w.size.MemoryLimit != want.MemoryLimit)
	}
}
