package apiserver

import (
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apiserver/pkg/endpoints/request"
)

// metrics are those that dashboards look for, under upstream's names.
type metrics struct {
	requests *prometheus.CounterVec
	duration *prometheus.HistogramVec
}

func newMetrics(r *prometheus.Registry) (*metrics, error) {
	if r == nil {
		return nil, nil
	}
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "apiserver_request_total",
			Help: "Counter of apiserver requests broken out for each verb, dry run value, group, version, resource, scope, component, and HTTP response code.",
		}, []string{"verb", "dry_run", "group", "version", "resource", "subresource", "scope", "component", "code"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "apiserver_request_duration_seconds",
			Help:    "Response latency distribution in seconds for each verb, dry run value, group, version, resource, subresource, scope and component.",
			Buckets: []float64{0.001, 0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 45, 60},
		}, []string{"verb", "dry_run", "group", "version", "resource", "subresource", "scope", "component"}),
	}
	for _, c := range []prometheus.Collector{m.requests, m.duration} {
		if err := r.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func (m *metrics) observe(info *request.RequestInfo, r *http.Request, known bool, code int, took time.Duration) {
	if m == nil || info == nil {
		return
	}
	verb, scope, dry := verbOf(info, r), scopeOf(info), ""
	if strings.Contains(r.URL.RawQuery, "dryRun=All") {
		dry = "All"
	}
	group, version, resource, sub := info.APIGroup, info.APIVersion, info.Resource, info.Subresource
	if info.IsResourceRequest && !known {
		group, version, resource, sub = "", "", "", "" // names that a client made up must not become series
	}
	m.requests.WithLabelValues(verb, dry, group, version, resource, sub, scope, "apiserver", strconv.Itoa(code)).Inc()
	if verb != "WATCH" && verb != "CONNECT" {
		m.duration.WithLabelValues(verb, dry, group, version, resource, sub, scope, "apiserver").Observe(took.Seconds())
	}
}

func verbOf(info *request.RequestInfo, r *http.Request) string {
	if !info.IsResourceRequest {
		return knownMethod(r.Method)
	}
	switch info.Verb {
	case "get", "list", "watch", "patch", "delete", "deletecollection":
		return strings.ToUpper(info.Verb)
	case "create":
		return "POST"
	case "update":
		return "PUT"
	case "proxy":
		return "CONNECT"
	}
	return "other"
}

func knownMethod(m string) string {
	switch m {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions:
		return m
	}
	return "other"
}

func scopeOf(info *request.RequestInfo) string {
	switch {
	case !info.IsResourceRequest:
		return ""
	case info.Name != "" || info.Verb == "create":
		return "resource"
	case info.Namespace != "":
		return "namespace"
	}
	return "cluster"
}
