package admission

import (
	"context"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Measured is the chain with metrics of how long its steps and plugins take,
// under upstream's names. Every counter is found beforehand. Every write is
// counted; the clock, which costs more than most plugins, is looked at for a
// sample of them, and for all as long as one of the sample took its time.
func Measured(c Chain, r prometheus.Registerer) (Chain, error) {
	buckets := []float64{0.005, 0.025, 0.1, 0.5, 1.0, 2.5}
	steps := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:    "apiserver_admission_step_admission_duration_seconds",
		Help:    "Admission sub-step latency histogram in seconds, broken out for each operation and API resource and step type (validate or admit).",
		Buckets: buckets,
	}, []string{"operation", "rejected", "type"})
	plugins := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:    "apiserver_admission_controller_admission_duration_seconds",
		Help:    "Admission controller latency histogram in seconds, identified by name and broken out for each operation and API resource and type (validate or admit).",
		Buckets: buckets,
	}, []string{"name", "operation", "rejected", "type"})
	for _, v := range []prometheus.Collector{steps, plugins} {
		if err := r.Register(v); err != nil {
			return nil, err
		}
	}
	m := &measured{}
	m.admit.times, m.validate.times = newTimes(steps, "admit"), newTimes(steps, "validate")
	for _, p := range c {
		if x, ok := p.(Mutator); ok {
			m.mutators = append(m.mutators, measuredMutator{x, newTimes(plugins, "admit", p.Name())})
		}
		if x, ok := p.(Validator); ok {
			m.validators = append(m.validators, measuredValidator{x, newTimes(plugins, "validate", p.Name())})
		}
	}
	return Chain{m}, nil
}

// measured runs a whole chain.
type measured struct {
	mutators        []measuredMutator
	validators      []measuredValidator
	admit, validate step
}

// step is the plugins that change, or those that refuse.
type step struct {
	times       *times
	count, slow atomic.Int64 // runs in all, and up to which each is measured
}

type measuredMutator struct {
	Mutator
	times *times
}

type measuredValidator struct {
	Validator
	times *times
}

// times are histograms by operation and by whether the write was refused.
type times [operations]struct {
	took [2]prometheus.Observer
	// last is what it took when the clock was last looked at.
	last atomic.Int64
}

const operations = 4

func indexOf(o Operation) int {
	switch o {
	case Create:
		return 0
	case Update:
		return 1
	case Delete:
		return 2
	}
	return 3
}

func newTimes(v *prometheus.HistogramVec, kind string, name ...string) *times {
	t := &times{}
	for _, o := range []Operation{Create, Update, Delete, Connect} {
		for i, rejected := range []bool{false, true} {
			t[indexOf(o)].took[i] = v.WithLabelValues(append(name[:len(name):len(name)], string(o), strconv.FormatBool(rejected), kind)...)
		}
	}
	return t
}

// observe counts one call, which took as long as the last one whose time is
// known if its own is not.
func (t *times) observe(operation int, err error, took time.Duration) {
	at := &t[operation]
	if took == unknown {
		took = time.Duration(at.last.Load())
	} else {
		at.last.Store(int64(took))
	}
	rejected := 0
	if err != nil {
		rejected = 1
	}
	at.took[rejected].Observe(took.Seconds())
}

// unknown is a time that nobody looked at the clock for.
const unknown time.Duration = -1

// One of sampled runs is measured, and the slowRuns that follow one which took
// longer than slowRun: then it matters which plugin it is.
const (
	sampled  = 16
	slowRun  = time.Millisecond
	slowRuns = 4 * sampled
)

var (
	_ Mutator   = (*measured)(nil)
	_ Validator = (*measured)(nil)
)

// Name implements Plugin; it is never shown.
func (*measured) Name() string { return "measured" }

// begin starts the watch of a run.
func (s *step) begin() watch {
	n := s.count.Add(1)
	return startWatch(n%sampled == 1 || n <= s.slow.Load())
}

// end ends a run.
func (s *step) end(operation int, err error, w *watch) {
	took := w.total()
	s.times.observe(operation, err, took)
	if took > slowRun {
		s.slow.Store(s.count.Load() + slowRuns)
	}
}

// watch tells how long plugins take, if it is to look at the clock.
type watch struct {
	on          bool
	start, last time.Time
}

func startWatch(on bool) watch {
	if !on {
		return watch{}
	}
	now := time.Now()
	return watch{on: true, start: now, last: now}
}

// lap is the time since the last lap.
func (w *watch) lap() time.Duration {
	if !w.on {
		return unknown
	}
	now := time.Now()
	took := now.Sub(w.last)
	w.last = now
	return took
}

// total is the time until the last lap.
func (w *watch) total() time.Duration {
	if !w.on {
		return unknown
	}
	return w.last.Sub(w.start)
}

// Admit implements Mutator.
func (m *measured) Admit(ctx context.Context, a *Attributes) error {
	operation, w := indexOf(a.Operation), m.admit.begin()
	var err error
	for i := range m.mutators {
		err = m.mutators[i].Admit(ctx, a)
		m.mutators[i].times.observe(operation, err, w.lap())
		if err != nil {
			break
		}
	}
	m.admit.end(operation, err, &w)
	return err
}

// Validate implements Validator.
func (m *measured) Validate(ctx context.Context, a *Attributes) error {
	operation, w := indexOf(a.Operation), m.validate.begin()
	var err error
	for i := range m.validators {
		err = m.validators[i].Validate(ctx, a)
		m.validators[i].times.observe(operation, err, w.lap())
		if err != nil {
			break
		}
	}
	m.validate.end(operation, err, &w)
	return err
}
