package pods

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/proa-dev/proa/kubelet/cri"
	"github.com/proa-dev/proa/kubelet/logs"
)

// rotatePeriod is how often the sizes of logs are looked at.
const rotatePeriod = 10 * time.Second

// RotateLogs keeps the logs of running containers in bounds until ctx ends.
func (m *Manager) RotateLogs(ctx context.Context) {
	for {
		t := m.cfg.Clock.NewTimer(rotatePeriod)
		select {
		case <-t.C():
		case <-ctx.Done():
			t.Stop()
			return
		}
		for _, c := range m.running() {
			err := logs.Rotate(c.LogPath, func() error {
				callCtx, cancel := context.WithTimeout(ctx, 2*time.Minute)
				defer cancel()
				_, err := m.cfg.CRI.Runtime.ReopenContainerLog(callCtx, &runtimeapi.ReopenContainerLogRequest{ContainerId: c.Id})
				return err
			})
			if err != nil && ctx.Err() == nil {
				m.cfg.Logger.Warn("log not rotated", "log", c.LogPath, "err", err)
			}
		}
	}
}

func (m *Manager) running() []*cri.Container {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []*cri.Container
	for _, w := range m.workers {
		w.mu.Lock()
		if w.published.runtime != nil {
			for _, c := range w.published.runtime.Containers {
				if c.Running() && c.LogPath != "" {
					out = append(out, c)
				}
			}
		}
		w.mu.Unlock()
	}
	return out
}

// Container finds a container of a pod as the runtime has it: the newest of
// that name, or the one that the status tells of as the last that ended, which
// is the newest while that waits to be restarted. Ended is closed once it does
// not run.
func (m *Manager) Container(pod *corev1.Pod, name string, previous bool) (c *cri.Container, ended <-chan struct{}) {
	m.mu.Lock()
	w := m.workers[pod.UID]
	m.mu.Unlock()
	if w == nil {
		return nil, nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.published.runtime == nil {
		return nil, nil
	}
	last := ""
	if previous {
		if last = w.lastEnded(name); last == "" {
			return nil, nil
		}
	}
	for _, k := range w.published.runtime.Containers {
		if k.Name() == name && (last == "" || last == m.cfg.RuntimeName+"://"+k.Id) {
			return k, w.endOf(k)
		}
	}
	return nil, nil
}

// lastEnded is the ID by which the status tells of a container's last end, or
// empty; w.mu is held.
func (w *worker) lastEnded(name string) string {
	s := &w.published.status
	for _, st := range slices.Concat(s.ContainerStatuses, s.InitContainerStatuses, s.EphemeralContainerStatuses) {
		if st.Name == name && st.LastTerminationState.Terminated != nil {
			return st.LastTerminationState.Terminated.ContainerID
		}
	}
	return ""
}

// Sandbox is the pod's running sandbox, or empty.
func (m *Manager) Sandbox(pod *corev1.Pod) string {
	m.mu.Lock()
	w := m.workers[pod.UID]
	m.mu.Unlock()
	if w == nil {
		return ""
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.published.runtime == nil || w.published.runtime.Sandbox() == nil {
		return ""
	}
	return w.published.runtime.Sandbox().Id
}

// HasStatic says that the static pod of a mirror is on this node.
func (m *Manager) HasStatic(mirror *corev1.Pod) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.static(nameOf(mirror))) > 0
}

// endOf is closed once the container does not run; w.mu is held. All who ask
// share one channel: a container that runs for years is asked about often.
func (w *worker) endOf(k *cri.Container) <-chan struct{} {
	for _, x := range w.watchers {
		if x.id == k.Id {
			return x.done
		}
	}
	done := make(chan struct{})
	if k.Running() {
		w.watchers = append(w.watchers, watcher{k.Id, done})
	} else {
		close(done)
	}
	return done
}

// watcher waits for the end of a container.
type watcher struct {
	id   string
	done chan struct{}
}

// tellEnded wakes those who wait for containers that run no more; w.mu is held.
func (w *worker) tellEnded() {
	var kept []watcher
	for _, x := range w.watchers {
		alive := false
		for _, c := range w.runtime.Containers {
			alive = alive || (c.Id == x.id && c.Running())
		}
		if alive {
			kept = append(kept, x)
		} else {
			close(x.done)
		}
	}
	w.watchers = kept
}

// removeLogs removes the pod's logs and the links to them. They are found by
// the pod's UID: of an orphan no more may be known.
func (w *worker) removeLogs() error {
	dirs, err := filepath.Glob(filepath.Join(w.m.cfg.PodLogsDir, "*_"+string(w.uid)))
	errs := []error{err}
	var links []string
	if w.m.cfg.ContainerLogsDir != "" && len(dirs) > 0 {
		links, err = filepath.Glob(filepath.Join(w.m.cfg.ContainerLogsDir, "*.log"))
		errs = append(errs, err)
	}
	for _, link := range links {
		if to, err := os.Readlink(link); err == nil && slices.Contains(dirs, filepath.Dir(filepath.Dir(to))) {
			errs = append(errs, os.Remove(link))
		}
	}
	for _, dir := range dirs {
		errs = append(errs, os.RemoveAll(dir))
	}
	return errors.Join(errs...)
}
