package aggregation

import (
	"github.com/prometheus/client_golang/prometheus"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	"k8s.io/kube-aggregator/pkg/apis/apiregistration/v1/helper"
)

// metrics are those that alerts look for, under upstream's names.
type metrics struct {
	s     *Server
	now   *prometheus.Desc
	falls *prometheus.CounterVec
}

func newMetrics(s *Server) *metrics {
	return &metrics{
		s: s,
		now: prometheus.NewDesc("aggregator_unavailable_apiservice",
			"Gauge of APIServices which are marked as unavailable broken down by APIService name.", []string{"name"}, nil),
		falls: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "aggregator_unavailable_apiservice_total",
			Help: "Counter of APIServices which are marked as unavailable broken down by APIService name and reason.",
		}, []string{"name", "reason"}),
	}
}

// Describe implements prometheus.Collector.
func (m *metrics) Describe(ch chan<- *prometheus.Desc) {
	ch <- m.now
	m.falls.Describe(ch)
}

// Collect implements prometheus.Collector.
func (m *metrics) Collect(ch chan<- prometheus.Metric) {
	m.s.mu.Lock()
	services := m.s.present
	m.s.mu.Unlock()
	for _, svc := range services {
		value := 0.0
		if !helper.IsAPIServiceConditionTrue(svc, apiregistrationv1.Available) {
			value = 1
		}
		ch <- prometheus.MustNewConstMetric(m.now, prometheus.GaugeValue, value, svc.Name)
	}
	m.falls.Collect(ch)
}

// fell counts an APIService that is no longer available.
func (m *metrics) fell(name, reason string) { m.falls.WithLabelValues(name, reason).Inc() }

// forget drops what was counted of an APIService that is gone.
func (m *metrics) forget(name string) { m.falls.DeletePartialMatch(prometheus.Labels{"name": name}) }
