package apiserver

import (
	"maps"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/endpoints/request"

	"github.com/proa-dev/proa/api"
)

// metrics are those that dashboards look for, under upstream's names. A request
// finds its counters by one look into a map that nobody locks, and indexes: the
// names of labels are only put together for the first of its like.
type metrics struct {
	requests   *prometheus.CounterVec
	duration   *prometheus.HistogramVec
	sizes      *prometheus.HistogramVec
	long       *prometheus.GaugeVec
	deprecated *prometheus.GaugeVec
	checks     *prometheus.GaugeVec
	checked    *prometheus.CounterVec

	mu       sync.Mutex // held to add a resource
	resource atomic.Pointer[map[target]*series]
}

// target is what requests are for; it has no names for what is not served.
type target struct{ group, version, resource, subresource string }

// series are the counters of a target, made when first needed.
type series struct {
	target
	likes [verbs][scopes][2]atomic.Pointer[like] // by verb, scope and dry run
}

// like are the counters of requests that differ in their answers only.
type like struct {
	labels   []string
	codes    [5][codesPer]atomic.Pointer[prometheus.Counter] // by the hundreds of the code, and what is above them
	duration prometheus.Observer
	size     prometheus.Observer // of reads
}

// codesPer is how many codes of a hundred are found by their index.
const codesPer = 32

// The verbs of requests, as the metrics have them.
const (
	verbOther = iota
	verbGet
	verbList
	verbWatch
	verbPost
	verbPut
	verbPatch
	verbApply
	verbDelete
	verbDeleteCollection
	verbConnect
	verbHead
	verbOptions
	verbs
)

func verbName(verb int) string {
	return [verbs]string{"other", "GET", "LIST", "WATCH", "POST", "PUT", "PATCH", "APPLY", "DELETE", "DELETECOLLECTION", "CONNECT", "HEAD", "OPTIONS"}[verb]
}

const (
	scopeNone = iota
	scopeResource
	scopeNamespace
	scopeCluster
	scopes
)

func scopeName(scope int) string {
	return [scopes]string{"", "resource", "namespace", "cluster"}[scope]
}

// newMetrics registers the metrics; r may be nil, and then nothing is counted.
func newMetrics(r *prometheus.Registry) (*metrics, error) {
	if r == nil {
		return nil, nil
	}
	gauge := func(name, help string, labels ...string) *prometheus.GaugeVec {
		return prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: help}, labels)
	}
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "apiserver_request_total",
			Help: "Counter of apiserver requests broken out for each verb, dry run value, group, version, resource, scope, component, and HTTP response code.",
		}, []string{"verb", "dry_run", "group", "version", "resource", "subresource", "scope", "component", "code"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "apiserver_request_duration_seconds",
			Help:    "Response latency distribution in seconds for each verb, dry run value, group, version, resource, subresource, scope and component.",
			Buckets: []float64{0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 45, 60},
		}, []string{"verb", "dry_run", "group", "version", "resource", "subresource", "scope", "component"}),
		sizes: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "apiserver_response_sizes",
			Help:    "Response size distribution in bytes for each group, version, verb, resource, subresource, scope and component.",
			Buckets: prometheus.ExponentialBuckets(1000, 10, 7),
		}, []string{"verb", "group", "version", "resource", "subresource", "scope", "component"}),
		long: gauge("apiserver_longrunning_requests",
			"Gauge of all active long-running apiserver requests broken out by verb, group, version, resource, scope and component. Not all requests are tracked this way.",
			"verb", "group", "version", "resource", "subresource", "scope", "component"),
		deprecated: gauge("apiserver_requested_deprecated_apis",
			"Gauge of deprecated APIs that have been requested, broken out by API group, version, resource, subresource, and removed_release.",
			"group", "version", "resource", "subresource", "removed_release"),
		checks: gauge("kubernetes_healthcheck", "This metric records the result of a single healthcheck.", "name", "type"),
		checked: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "kubernetes_healthchecks_total",
			Help: "This metric records the results of all healthcheck."}, []string{"name", "type", "status"}),
	}
	m.resource.Store(&map[target]*series{})
	for _, c := range []prometheus.Collector{m.requests, m.duration, m.sizes, m.long, m.deprecated, m.checks, m.checked} {
		if err := r.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// of finds the counters of a request; kind is nil when it is for something that
// is not served: names that a client made up must not become series.
func (m *metrics) of(info *request.RequestInfo, r *http.Request, kind *api.Kind) *like {
	t := target{info.APIGroup, info.APIVersion, info.Resource, info.Subresource}
	if info.IsResourceRequest && kind == nil {
		t = target{}
	}
	s := (*m.resource.Load())[t]
	if s == nil {
		s = m.add(t)
	}
	verb, scope, dry := verbOf(info, r), scopeOf(info), 0
	if r.URL.RawQuery != "" && strings.Contains(r.URL.RawQuery, "dryRun=All") {
		dry = 1
	}
	at := &s.likes[verb][scope][dry]
	if l := at.Load(); l != nil {
		return l
	}
	l := m.newLike(t, verb, scope, dry)
	if kind != nil && kind.Deprecated != "" {
		m.deprecated.WithLabelValues(t.group, t.version, t.resource, t.subresource, "").Set(1)
	}
	at.CompareAndSwap(nil, l)
	return at.Load()
}

func (m *metrics) add(t target) *series {
	m.mu.Lock()
	defer m.mu.Unlock()
	old := *m.resource.Load()
	if s := old[t]; s != nil {
		return s
	}
	s := &series{target: t}
	next := maps.Clone(old)
	next[t] = s
	m.resource.Store(&next)
	return s
}

const component = "apiserver"

func (m *metrics) newLike(t target, verb, scope, dry int) *like {
	dryRun := ""
	if dry == 1 {
		dryRun = "All"
	}
	l := &like{labels: []string{verbName(verb), dryRun, t.group, t.version, t.resource, t.subresource, scopeName(scope), component}}
	if verb != verbWatch && verb != verbConnect {
		l.duration = m.duration.WithLabelValues(l.labels...)
	}
	if verb == verbGet || verb == verbList {
		l.size = m.sizes.WithLabelValues(verbName(verb), t.group, t.version, t.resource, t.subresource, scopeName(scope), component)
	}
	return l
}

// observe counts a request that was answered.
func (m *metrics) observe(info *request.RequestInfo, r *http.Request, kind *api.Kind, w *response, took time.Duration) {
	if m == nil || info == nil {
		return
	}
	l := m.of(info, r, kind)
	m.counter(l, w.status()).Inc()
	if l.duration != nil {
		l.duration.Observe(took.Seconds())
	}
	if l.size != nil {
		l.size.Observe(float64(w.written))
	}
}

func (m *metrics) counter(l *like, code int) prometheus.Counter {
	hundreds, rest := code/100-1, code%100
	indexed := hundreds >= 0 && hundreds < len(l.codes) && rest < codesPer
	if indexed {
		if c := l.codes[hundreds][rest].Load(); c != nil {
			return *c
		}
	}
	c := m.requests.WithLabelValues(append(l.labels[:len(l.labels):len(l.labels)], strconv.Itoa(code))...)
	if indexed {
		l.codes[hundreds][rest].Store(&c)
	}
	return c
}

// longRunning counts a request that lasts, until what it returns is called.
func (m *metrics) longRunning(info *request.RequestInfo, r *http.Request, kind *api.Kind) (done func()) {
	if m == nil {
		return func() {}
	}
	l := m.of(info, r, kind).labels
	g := m.long.WithLabelValues(l[0], l[2], l[3], l[4], l[5], l[6], l[7])
	g.Inc()
	return g.Dec
}

// check tells what a health check has found.
func (m *metrics) check(path, name string, err error) {
	if m == nil {
		return
	}
	kind := strings.Trim(path, "/")
	value, status := 1.0, "success"
	if err != nil {
		value, status = 0, "error"
	}
	m.checks.WithLabelValues(name, kind).Set(value)
	m.checked.WithLabelValues(name, kind, status).Inc()
}

func verbOf(info *request.RequestInfo, r *http.Request) int {
	if !info.IsResourceRequest {
		return methodOf(r.Method)
	}
	switch info.Verb {
	case "get":
		return verbGet
	case "list":
		return verbList
	case "watch":
		return verbWatch
	case "patch":
		if strings.HasPrefix(r.Header.Get("Content-Type"), string(types.ApplyYAMLPatchType)) {
			return verbApply
		}
		return verbPatch
	case "delete":
		return verbDelete
	case "deletecollection":
		return verbDeleteCollection
	case "create":
		return verbPost
	case "update":
		return verbPut
	case "proxy":
		return verbConnect
	}
	return verbOther
}

func methodOf(m string) int {
	switch m {
	case http.MethodGet:
		return verbGet
	case http.MethodHead:
		return verbHead
	case http.MethodPost:
		return verbPost
	case http.MethodPut:
		return verbPut
	case http.MethodPatch:
		return verbPatch
	case http.MethodDelete:
		return verbDelete
	case http.MethodOptions:
		return verbOptions
	}
	return verbOther
}

func scopeOf(info *request.RequestInfo) int {
	switch {
	case !info.IsResourceRequest:
		return scopeNone
	case info.Name != "" || info.Verb == "create":
		return scopeResource
	case info.Namespace != "":
		return scopeNamespace
	}
	return scopeCluster
}
