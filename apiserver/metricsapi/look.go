package metricsapi

import (
	"context"
	"fmt"
	"io"
	"math"
	"net/http"
	"sync"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"

	"github.com/proa-dev/proa/apiserver/connect"
)

const (
	// answerTime is how long a node may take to answer.
	answerTime = 5 * time.Second
	// atATime bounds the nodes that are asked at a time.
	atATime = 64
	// maxAnswer bounds what a node may answer: some 100,000 containers.
	maxAnswer = 64 << 20
)

// subject is a container, or the node itself when empty.
type subject struct{ namespace, pod, container string }

// point is what a counter and a gauge said at a time.
type point struct {
	cpu               float64 // seconds since start
	memory            int64
	at, start         time.Time
	hasCPU, hasMemory bool
}

// look is what all nodes said at a time.
type look struct {
	at    time.Time // before any node was asked
	nodes map[string]map[subject]point
}

func (l *look) point(node string, s subject) (point, bool) {
	if l == nil {
		return point{}, false
	}
	p, ok := l.nodes[node][s]
	return p, ok
}

// look asks all nodes. Those that do not answer are not in it.
func (r *Reader) look(ctx context.Context) *look {
	l := &look{at: time.Now(), nodes: map[string]map[subject]point{}}
	var mu sync.Mutex
	var group errgroup.Group
	group.SetLimit(atATime)
	for _, obj := range r.cfg.Source.List(corev1.Resource("nodes"), "") {
		node, ok := obj.(*corev1.Node)
		if !ok {
			continue
		}
		group.Go(func() error {
			points, err := r.ask(ctx, node)
			if err != nil {
				r.cfg.Logger.Debug("node tells no metrics", "node", node.Name, "error", err)
				return nil
			}
			mu.Lock()
			defer mu.Unlock()
			l.nodes[node.Name] = points
			return nil
		})
	}
	_ = group.Wait() // none returns an error: a node that is gone must not hide the others
	return l
}

func (r *Reader) ask(ctx context.Context, node *corev1.Node) (map[subject]point, error) {
	to, err := connect.KubeletURL(node)
	if err != nil {
		return nil, err
	}
	to.Path = "/metrics/resource"
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, to.String(), nil)
	if err != nil {
		return nil, err
	}
	resp, err := r.cfg.Transport.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }() // it was read
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s", to.Redacted(), resp.Status)
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return nil, fmt.Errorf("read the metrics of node %s: %w", node.Name, err)
	}
	return points(families, time.Now()), nil
}

// points reads upstream's resource metrics. Those without a time are of now.
func points(families map[string]*dto.MetricFamily, now time.Time) map[subject]point {
	out := map[subject]point{}
	for name, set := range map[string]func(p *point, v float64, at time.Time){
		"node_cpu_usage_seconds_total":       setCPU,
		"container_cpu_usage_seconds_total":  setCPU,
		"node_memory_working_set_bytes":      setMemory,
		"container_memory_working_set_bytes": setMemory,
		"container_start_time_seconds": func(p *point, v float64, _ time.Time) {
			p.start = time.UnixMilli(int64(v * 1000))
		},
	} {
		for _, m := range families[name].GetMetric() {
			v := value(m)
			if math.IsNaN(v) || v < 0 || v > 1<<62 {
				continue
			}
			at := now
			if m.TimestampMs != nil {
				at = time.UnixMilli(m.GetTimestampMs())
			}
			s := subjectOf(m)
			p := out[s]
			set(&p, v, at)
			out[s] = p
		}
	}
	return out
}

func setCPU(p *point, v float64, at time.Time) { p.cpu, p.at, p.hasCPU = v, at, true }

func setMemory(p *point, v float64, _ time.Time) { p.memory, p.hasMemory = int64(v), true }

func value(m *dto.Metric) float64 {
	switch {
	case m.Counter != nil:
		return m.Counter.GetValue()
	case m.Gauge != nil:
		return m.Gauge.GetValue()
	}
	return m.GetUntyped().GetValue()
}

func subjectOf(m *dto.Metric) subject {
	var s subject
	for _, l := range m.Label {
		switch l.GetName() {
		case "namespace":
			s.namespace = l.GetValue()
		case "pod":
			s.pod = l.GetValue()
		case "container":
			s.container = l.GetValue()
		}
	}
	return s
}
