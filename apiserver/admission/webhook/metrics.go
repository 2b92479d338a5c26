package webhook

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/proa-dev/proa/apiserver/admission"
)

// metrics are upstream's. Nil counts nothing.
type metrics struct {
	duration, conditionSeconds                             *prometheus.HistogramVec
	requests, rejections, open, conditionFaults, exclusion *prometheus.CounterVec
}

func newMetrics(r prometheus.Registerer) (*metrics, error) {
	if r == nil {
		return nil, nil
	}
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "apiserver_admission_" + name, Help: help}, labels)
	}
	histogram := func(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
		return prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "apiserver_admission_" + name, Help: help, Buckets: buckets}, labels)
	}
	m := &metrics{
		duration: histogram("webhook_admission_duration_seconds", "How long calls of webhooks take.",
			[]float64{0.005, 0.025, 0.1, 0.5, 1, 2.5, 10, 25}, "name", "type", "operation", "rejected"),
		requests: counter("webhook_request_total", "Calls of webhooks by the code of the answer; codes above 600 count as 600.",
			"name", "type", "operation", "code", "rejected"),
		rejections: counter("webhook_rejection_count", "Requests that were refused because of a webhook, by the kind of error and the code; codes above 600 count as 600.",
			"name", "type", "operation", "error_type", "rejection_code"),
		open: counter("webhook_fail_open_count", "Requests that were let pass although a webhook failed.", "name", "type"),
		conditionFaults: counter("match_condition_evaluation_errors_total", "Match conditions that could not be evaluated.",
			"name", "kind", "type", "operation"),
		exclusion: counter("match_condition_exclusions_total", "Requests that a match condition kept from a webhook.",
			"name", "kind", "type", "operation"),
		conditionSeconds: histogram("match_condition_evaluation_seconds", "How long match conditions take.",
			[]float64{0.001, 0.005, 0.01, 0.025, 0.1, 0.2, 0.25}, "name", "kind", "type", "operation"),
	}
	for _, c := range []prometheus.Collector{m.duration, m.conditionSeconds, m.requests, m.rejections, m.open, m.conditionFaults, m.exclusion} {
		if err := r.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// observed is one call.
type observed struct {
	hook, kind string
	operation  admission.Operation
	took       time.Duration
	code       int32
	rejected   bool
}

// text bounds what a webhook may make series of.
func (o observed) text() string { return strconv.Itoa(int(min(o.code, 600))) }

func (m *metrics) observe(o observed) {
	if m == nil {
		return
	}
	rejected := strconv.FormatBool(o.rejected)
	m.requests.WithLabelValues(o.hook, o.kind, string(o.operation), o.text(), rejected).Inc()
	m.duration.WithLabelValues(o.hook, o.kind, string(o.operation), rejected).Observe(o.took.Seconds())
}

func (m *metrics) refused(o observed, why string) {
	if m != nil {
		m.rejections.WithLabelValues(o.hook, o.kind, string(o.operation), why, o.text()).Inc()
	}
}

func (m *metrics) ignored(o observed) {
	if m != nil {
		m.open.WithLabelValues(o.hook, o.kind).Inc()
	}
}

func (m *metrics) conditions(hook, step string, op admission.Operation, took time.Duration, failed int) {
	if m == nil {
		return
	}
	m.conditionSeconds.WithLabelValues(hook, "webhook", step, string(op)).Observe(took.Seconds())
	if failed > 0 {
		m.conditionFaults.WithLabelValues(hook, "webhook", step, string(op)).Add(float64(failed))
	}
}

func (m *metrics) excluded(hook, step string, op admission.Operation) {
	if m != nil {
		m.exclusion.WithLabelValues(hook, "webhook", step, string(op)).Inc()
	}
}
