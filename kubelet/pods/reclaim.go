package pods

import (
	"context"
	"errors"

	corev1 "k8s.io/api/core/v1"
)

// Reclaim removes what the runtime keeps of pods that have ended: their dead
// containers with what these have written, and their logs. The API has their
// statuses.
func (m *Manager) Reclaim(ctx context.Context) error {
	type asked struct {
		of     *worker
		answer chan error
	}
	var all []asked
	m.mu.Lock()
	for _, w := range m.workers {
		w.mu.Lock()
		ended := w.published.state == cleaned
		w.mu.Unlock()
		if ended {
			a := asked{w, make(chan error, 1)}
			w.call(func() { a.answer <- w.reclaim(ctx) })
			all = append(all, a)
		}
	}
	m.mu.Unlock()
	var errs []error
	for _, a := range all {
		select {
		case err := <-a.answer:
			errs = append(errs, err)
		case <-a.of.done: // nothing is left of it
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return errors.Join(errs...)
}

func (w *worker) reclaim(ctx context.Context) error {
	if !final(w.pod) || len(w.runtime.Containers)+len(w.runtime.Sandboxes) == 0 {
		return nil
	}
	w.dirty = true
	return w.purge(ctx)
}

// final says that the API has the last word about a pod.
func final(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodFailed || pod.Status.Phase == corev1.PodSucceeded
}
