package job

import (
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"

	"github.com/proa-dev/proa/controllers/internal/pods"
)

// The wait before a failed pod is replaced doubles with each failure.
const (
	firstBackoff = 10 * time.Second
	maxBackoff   = 10 * time.Minute
)

// backoff is how often a job has failed since its last success.
type backoff struct {
	failures int
	last     time.Time
}

// after returns the backoff when some more pods have finished.
func (b backoff) after(succeeded, failed []*corev1.Pod) backoff {
	var success time.Time
	if len(succeeded) > 0 {
		success = slices.MaxFunc(finishTimes(succeeded), time.Time.Compare)
		b = backoff{}
	}
	for _, t := range finishTimes(failed) {
		if len(succeeded) > 0 && !t.After(success) {
			continue
		}
		b.failures++
		if t.After(b.last) {
			b.last = t
		}
	}
	return b
}

// wait is the time left until the next pod may be made.
func (b backoff) wait(now time.Time) time.Duration {
	if b.failures == 0 {
		return 0
	}
	d := firstBackoff
	for i := 1; i < b.failures && d < maxBackoff; i++ {
		d = min(2*d, maxBackoff)
	}
	return max(0, d-now.Sub(b.last))
}

// indexBackoff is the backoff of the index of a failed pod, which may be nil.
func indexBackoff(pod *corev1.Pod) backoff {
	if pod == nil {
		return backoff{}
	}
	return backoff{failures: int(min(allFailures(pod), 1000)) + 1, last: finishTime(pod)}
}

func finishTimes(list []*corev1.Pod) []time.Time {
	out := make([]time.Time, len(list))
	for i, p := range list {
		out[i] = finishTime(p)
	}
	return out
}

// finishTime is when a pod ended: when its last container did, or it was no
// longer ready, or its deletion began. A pod that tells nothing of that ended
// when it was created.
func finishTime(p *corev1.Pod) time.Time {
	if t, ok := containersFinished(p); ok {
		return t
	}
	if c := pods.Condition(&p.Status, corev1.PodReady); c != nil && c.Status == corev1.ConditionFalse && !c.LastTransitionTime.IsZero() {
		return c.LastTransitionTime.Time
	}
	if p.DeletionTimestamp != nil {
		return p.DeletionTimestamp.Add(-time.Duration(ptr.Deref(p.DeletionGracePeriodSeconds, 0)) * time.Second)
	}
	return p.CreationTimestamp.Time
}

// containersFinished returns when the last container ended, if all have.
// Sidecars count: they end last.
func containersFinished(p *corev1.Pod) (time.Time, bool) {
	sidecar := map[string]bool{}
	for i := range p.Spec.InitContainers {
		c := &p.Spec.InitContainers[i]
		sidecar[c.Name] = ptr.Deref(c.RestartPolicy, "") == corev1.ContainerRestartPolicyAlways
	}
	var latest time.Time
	see := func(s *corev1.ContainerStatus) bool {
		if s.State.Terminated == nil || s.State.Terminated.FinishedAt.IsZero() {
			return false
		}
		if t := s.State.Terminated.FinishedAt.Time; t.After(latest) {
			latest = t
		}
		return true
	}
	for i := range p.Status.ContainerStatuses {
		if !see(&p.Status.ContainerStatuses[i]) {
			return time.Time{}, false
		}
	}
	for i := range p.Status.InitContainerStatuses {
		if s := &p.Status.InitContainerStatuses[i]; sidecar[s.Name] && !see(s) {
			return time.Time{}, false
		}
	}
	return latest, !latest.IsZero()
}
