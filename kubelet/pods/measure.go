package pods

import (
	"errors"
	"time"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/proa-dev/proa/kubelet/metrics"
)

// measureWork tells how long one step of the pod took; before is the pod that
// was asked for when it began.
func (w *worker) measureWork(begin time.Time, before *corev1.Pod) {
	what := metrics.WorkSync
	switch {
	case w.state != running:
		what = metrics.WorkKill
	case !w.synced:
		what = metrics.WorkCreate
	case w.asked != before:
		what = metrics.WorkUpdate
	}
	w.synced = true
	w.m.cfg.Metrics.Work(what, w.m.cfg.Clock.Since(begin))
}

// measureStart tells, once, how long the pod's containers took to run.
func (w *worker) measureStart() {
	if w.measured || w.status.Phase != corev1.PodRunning {
		return
	}
	for i := range w.status.ContainerStatuses {
		if w.status.ContainerStatuses[i].State.Waiting != nil {
			return
		}
	}
	w.measured = true
	m, now := w.m.cfg.Metrics, w.now()
	m.Start.Observe(now.Sub(w.seen).Seconds())
	if IsStatic(w.pod) || w.pod.CreationTimestamp.IsZero() {
		return
	}
	total := now.Sub(w.pod.CreationTimestamp.Time)
	m.StartTotal.Observe(total.Seconds())
	m.StartSLI.Observe(max(total-w.pulled-w.initTime(), 0).Seconds())
}

// initTime is what the pod's init containers took, sidecars excluded.
func (w *worker) initTime() (took time.Duration) {
	for i := range w.status.InitContainerStatuses {
		if t := w.status.InitContainerStatuses[i].State.Terminated; t != nil {
			took += t.FinishedAt.Sub(t.StartedAt.Time)
		}
	}
	return took
}

// ensureGroup makes the pod's control group.
func (w *worker) ensureGroup() error {
	begin := w.now()
	err := w.setGroup()
	w.m.cfg.Metrics.Group(metrics.GroupCreate, w.m.cfg.Clock.Since(begin))
	return err
}

// removeGroup removes it.
func (w *worker) removeGroup() error {
	begin := w.now()
	err := w.m.cfg.Cgroups.Remove(w.uid)
	w.m.cfg.Metrics.Group(metrics.GroupDestroy, w.m.cfg.Clock.Since(begin))
	return err
}

// countStart counts a container that was to be started, and the images that
// it mounts.
func (w *worker) countStart(c *corev1.Container, config *runtimeapi.ContainerConfig, err error) {
	m := w.m.cfg.Metrics
	reason := ""
	var failed *startError
	if errors.As(err, &failed) {
		reason = failed.reason
	}
	m.Started(w.kindOf(c.Name), reason)
	for _, mount := range config.GetMounts() {
		if mount.GetImage() == nil {
			continue
		}
		m.ImageVolumesRequested.Inc()
		if err != nil {
			m.ImageVolumesFailed.Inc()
		} else {
			m.ImageVolumesMounted.Inc()
		}
	}
}

func (w *worker) kindOf(name string) string {
	for i := range w.pod.Spec.InitContainers {
		if w.pod.Spec.InitContainers[i].Name == name {
			return metrics.InitContainer
		}
	}
	for i := range w.pod.Spec.EphemeralContainers {
		if w.pod.Spec.EphemeralContainers[i].Name == name {
			return metrics.EphemeralContainer
		}
	}
	return metrics.Container
}
