package main

import (
	"runtime"
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"k8s.io/component-base/version"
	libraries "sigs.k8s.io/controller-runtime/pkg/metrics"
)

// libraryMetrics are what libraries count for the whole process: queues,
// requests, memory. Queues are named as upstream names them, by name alone.
func libraryMetrics() ([]*dto.MetricFamily, error) {
	all, err := libraries.Registry.Gather()
	for _, f := range all {
		if strings.HasPrefix(f.GetName(), "workqueue_") {
			f.Metric = byName(f.GetMetric())
		}
	}
	return all, err
}

// byName merges the series of one queue: gauges and counters are added up, of
// histograms there is one a queue.
func byName(series []*dto.Metric) []*dto.Metric {
	var out []*dto.Metric
	at := map[string]*dto.Metric{}
	for _, m := range series {
		i := slices.IndexFunc(m.GetLabel(), func(l *dto.LabelPair) bool { return l.GetName() == "name" })
		if i < 0 {
			continue
		}
		m.Label = m.Label[i : i+1]
		name := m.Label[0].GetValue()
		first := at[name]
		switch {
		case first == nil:
			at[name] = m
			out = append(out, m)
		case m.Gauge != nil && first.Gauge != nil:
			sum := first.Gauge.GetValue() + m.Gauge.GetValue()
			first.Gauge.Value = &sum
		case m.Counter != nil && first.Counter != nil:
			sum := first.Counter.GetValue() + m.Counter.GetValue()
			first.Counter.Value = &sum
		}
	}
	return out
}

// buildInfo tells what this program was built from.
func buildInfo() prometheus.Collector {
	v := version.Get()
	g := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "kubernetes_build_info",
		Help: "A metric with a constant '1' value labeled by major, minor, git version, git commit, git tree state, build date, Go version, and compiler from which Kubernetes was built, and platform on which it is running."},
		[]string{"major", "minor", "git_version", "git_commit", "git_tree_state", "build_date", "go_version", "compiler", "platform"})
	g.WithLabelValues(v.Major, v.Minor, v.GitVersion, v.GitCommit, v.GitTreeState, v.BuildDate, runtime.Version(), runtime.Compiler, runtime.GOOS+"/"+runtime.GOARCH).Set(1)
	return g
}
