package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
)

// Probe counts one probe of one container.
type Probe struct {
	m                           *Metrics
	successful, failed, unknown prometheus.Counter
	// labels are of the times, which do not tell pods of one name apart: the
	// series may go with another one.
	labels []string
}

// Probe finds the counters of a probe: Liveness, Readiness or Startup.
func (m *Metrics) Probe(kind, container string, pod *corev1.Pod) Probe {
	of := func(result string) prometheus.Counter {
		return m.probes.WithLabelValues(kind, result, container, pod.Name, pod.Namespace, string(pod.UID))
	}
	return Probe{m: m, successful: of("successful"), failed: of("failed"), unknown: of("unknown"),
		labels: []string{kind, container, pod.Name, pod.Namespace}}
}

// Result is what a probe came to.
type Result int

// The results of probes.
const (
	Successful Result = iota
	Failed
	Unknown
)

// Done counts a probe that has ended.
func (p Probe) Done(result Result, took time.Duration) {
	switch result {
	case Successful:
		p.successful.Inc()
		p.m.probeTimes.WithLabelValues(p.labels...).Observe(took.Seconds())
	case Failed:
		p.failed.Inc()
	default:
		p.unknown.Inc()
	}
}

// Forget drops what was counted for a pod that is gone.
func (m *Metrics) Forget(pod *corev1.Pod) {
	of := prometheus.Labels{"namespace": pod.Namespace, "pod": pod.Name}
	m.probeTimes.DeletePartialMatch(of)
	m.probes.DeletePartialMatch(prometheus.Labels{"pod_uid": string(pod.UID)})
}
