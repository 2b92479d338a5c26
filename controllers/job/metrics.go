package job

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	batchv1 "k8s.io/api/batch/v1"
)

// What one pass over a job came to do.
const (
	actionReconciling = "reconciling" // it waits for what was asked for
	actionTracking    = "tracking"    // nothing but counting
	actionCreated     = "pods_created"
	actionDeleted     = "pods_deleted"
)

// metrics count passes, jobs and pods under upstream's names.
type metrics struct {
	duration *prometheus.HistogramVec
	passes   *prometheus.CounterVec
	pods     *prometheus.CounterVec
	jobs     *prometheus.CounterVec
}

func newMetrics() *metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Subsystem: "job_controller", Name: name, Help: help}, labels)
	}
	m := &metrics{
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{Subsystem: "job_controller", Name: "job_sync_duration_seconds",
			Help: "The time it took to sync a job", Buckets: prometheus.ExponentialBuckets(0.004, 2, 15)}, []string{"completion_mode", "result", "action"}),
		passes: counter("job_syncs_total", "The number of job syncs", "completion_mode", "result", "action"),
		pods:   counter("job_pods_finished_total", "The number of finished Pods that are fully tracked", "completion_mode", "result"),
		jobs:   counter("jobs_finished_total", "The number of finished jobs", "completion_mode", "result", "reason"),
	}
	for _, mode := range []batchv1.CompletionMode{batchv1.NonIndexedCompletion, batchv1.IndexedCompletion} {
		m.pods.WithLabelValues(string(mode), "succeeded")
		m.pods.WithLabelValues(string(mode), "failed")
		m.jobs.WithLabelValues(string(mode), "succeeded", batchv1.JobReasonCompletionsReached)
		m.passed(string(mode), actionTracking, nil, -1)
	}
	return m
}

func (m *metrics) all() []prometheus.Collector {
	return []prometheus.Collector{m.duration, m.passes, m.pods, m.jobs}
}

// passed counts a pass; one that never was only makes the series.
func (m *metrics) passed(mode, action string, err error, took time.Duration) {
	result := "success"
	if err != nil {
		result = "error"
	}
	duration, passes := m.duration.WithLabelValues(mode, result, action), m.passes.WithLabelValues(mode, result, action)
	if took >= 0 {
		duration.Observe(took.Seconds())
		passes.Inc()
	}
}

// written counts the pods that the status that was just written counts first.
func (m *metrics) written(p *pass) {
	s := &p.job.Status
	for result, n := range map[string]int32{"succeeded": s.Succeeded - p.toldSucceeded, "failed": s.Failed - p.toldFailed} {
		if n > 0 {
			m.pods.WithLabelValues(p.mode(), result).Add(float64(n))
		}
	}
	p.toldSucceeded, p.toldFailed = s.Succeeded, s.Failed
}

// ended counts a job that has ended.
func (m *metrics) ended(p *pass) {
	result := "failed"
	if p.finished.Type == batchv1.JobComplete {
		result = "succeeded"
	}
	m.jobs.WithLabelValues(p.mode(), result, p.finished.Reason).Inc()
}

// mode is how the job's completions are counted.
func (p *pass) mode() string {
	if p.indexed() {
		return string(batchv1.IndexedCompletion)
	}
	return string(batchv1.NonIndexedCompletion)
}
