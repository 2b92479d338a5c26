package admission

import (
	"context"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Measured is the chain with metrics of how long its steps and plugins take,
// under upstream's names. Every counter is found beforehand: a write pays for
// one look at the clock and one addition a plugin.
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
	m := &measured{admit: newTimes(steps, "admit"), validate: newTimes(steps, "validate")}
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
	admit, validate *times
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
type times [operations][2]prometheus.Observer

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
			t[indexOf(o)][i] = v.WithLabelValues(append(name[:len(name):len(name)], string(o), strconv.FormatBool(rejected), kind)...)
		}
	}
	return t
}

func (t *times) observe(operation int, err error, took time.Duration) {
	rejected := 0
	if err != nil {
		rejected = 1
	}
	t[operation][rejected].Observe(took.Seconds())
}

var (
	_ Mutator   = (*measured)(nil)
	_ Validator = (*measured)(nil)
)

// Name implements Plugin; it is never shown.
func (*measured) Name() string { return "measured" }

// Admit implements Mutator.
func (m *measured) Admit(ctx context.Context, a *Attributes) error {
	operation, begin := indexOf(a.Operation), time.Now()
	last := begin
	for i := range m.mutators {
		err := m.mutators[i].Admit(ctx, a)
		now := time.Now()
		m.mutators[i].times.observe(operation, err, now.Sub(last))
		last = now
		if err != nil {
			m.admit.observe(operation, err, now.Sub(begin))
			return err
		}
	}
	m.admit.observe(operation, nil, last.Sub(begin))
	return nil
}

// Validate implements Validator.
func (m *measured) Validate(ctx context.Context, a *Attributes) error {
	operation, begin := indexOf(a.Operation), time.Now()
	last := begin
	for i := range m.validators {
		err := m.validators[i].Validate(ctx, a)
		now := time.Now()
		m.validators[i].times.observe(operation, err, now.Sub(last))
		last = now
		if err != nil {
			m.validate.observe(operation, err, now.Sub(begin))
			return err
		}
	}
	m.validate.observe(operation, nil, last.Sub(begin))
	return nil
}
