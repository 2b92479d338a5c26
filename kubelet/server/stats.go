package server

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	dto "github.com/prometheus/client_model/go"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
	libraries "sigs.k8s.io/controller-runtime/pkg/metrics"

	"github.com/proa-dev/proa/kubelet/stats"
)

// Stats tells what the node and its pods use.
type Stats interface {
	Summary(ctx context.Context) (*statsapi.Summary, error)
	// CPU is CPU and memory alone.
	CPU(ctx context.Context) (*statsapi.Summary, error)
	Resource(ctx context.Context, w io.Writer) error
	Containers(ctx context.Context, w io.Writer) error
}

func (s *Server) statistics() {
	s.mux.HandleFunc("GET /stats/summary", s.summary)
	s.mux.HandleFunc("GET /metrics/resource", s.exposed(s.cfg.Stats.Resource))
	s.mux.HandleFunc("GET /metrics/cadvisor", s.exposed(s.cfg.Stats.Containers))
	s.mux.Handle("GET /metrics", promhttp.HandlerFor(prometheus.Gatherers{s.cfg.Metrics.Own, prometheus.GathererFunc(requests)}, promhttp.HandlerOpts{}))
	s.mux.Handle("GET /metrics/probes", promhttp.HandlerFor(s.cfg.Metrics.Probes, promhttp.HandlerOpts{}))
}

// requests are the metrics of requests to the API server, which client-go
// counts for the whole process.
func requests() ([]*dto.MetricFamily, error) {
	all, err := libraries.Registry.Gather()
	return slices.DeleteFunc(all, func(f *dto.MetricFamily) bool { return !strings.HasPrefix(f.GetName(), "rest_client_") }), err
}

func (s *Server) summary(w http.ResponseWriter, r *http.Request) {
	read := s.cfg.Stats.Summary
	if r.URL.Query().Get("only_cpu_and_memory") == "true" {
		read = s.cfg.Stats.CPU
	}
	got, err := read(r.Context())
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	writeJSON(w, got)
}

// exposed serves metrics in Prometheus' text format, whole or not at all.
func (s *Server) exposed(write func(ctx context.Context, w io.Writer) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var body bytes.Buffer
		if err := write(r.Context(), &body); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", stats.ContentType)
		_, _ = w.Write(body.Bytes()) // the caller may be gone
	}
}

// count counts a request by the route that it took.
func (s *Server) count(r *http.Request, begin time.Time) {
	method, path, _ := strings.Cut(r.Pattern, " ")
	path = strings.Trim(path, "/")
	if i := strings.Index(path, "/{"); i >= 0 {
		path = path[:i]
	}
	long := "false"
	switch path {
	case "exec", "attach", "portForward":
		long = "true"
	case "containerLogs":
		if r.URL.Query().Get("follow") == "true" {
			long = "true"
		}
	case "":
		method, path = "other", "other" // what a client made up must not become series
	}
	s.cfg.Metrics.Request(method, path, long, s.cfg.Clock.Since(begin))
}
