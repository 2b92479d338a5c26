package admission_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/proa-dev/proa/apiserver/admission"
)

// plugin takes its time, and refuses deletes.
type plugin struct {
	name string
	wait time.Duration
}

func (p plugin) Name() string { return p.name }

func (p plugin) Validate(_ context.Context, a *admission.Attributes) error {
	time.Sleep(p.wait) // in a bubble: its clock jumps
	if a.Operation == admission.Delete {
		return errors.New("no")
	}
	return nil
}

// Every write is counted, and what is slow is told of the plugin that is.
func TestMeasured(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		registry := prometheus.NewRegistry()
		chain, err := admission.Measured(admission.Chain{plugin{"slow", 10 * time.Millisecond}, plugin{"fast", 0}}, registry)
		if err != nil {
			t.Fatal(err)
		}
		for range 100 {
			if err := chain.Admit(t.Context(), &admission.Attributes{Operation: admission.Create}); err != nil {
				t.Error(err)
			}
			if err := chain.Validate(t.Context(), &admission.Attributes{Operation: admission.Create}); err != nil {
				t.Error(err)
			}
		}
		if chain.Validate(t.Context(), &admission.Attributes{Operation: admission.Delete}) == nil {
			t.Error("what a plugin refuses is let pass")
		}
		families, err := registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		count := func(name string, labels map[string]string) (uint64, float64) {
			for _, f := range families {
				for _, m := range f.GetMetric() {
					if f.GetName() == name && has(m, labels) {
						return m.GetHistogram().GetSampleCount(), m.GetHistogram().GetSampleSum()
					}
				}
			}
			return 0, 0
		}
		for _, c := range []struct {
			plugin, operation, rejected string
			n                           uint64
			sum                         float64
		}{{"slow", "CREATE", "false", 100, 1}, {"fast", "CREATE", "false", 100, 0}, {"slow", "DELETE", "true", 1, 0.01}, {"fast", "DELETE", "true", 0, 0}} {
			n, sum := count("apiserver_admission_controller_admission_duration_seconds",
				map[string]string{"name": c.plugin, "operation": c.operation, "rejected": c.rejected, "type": "validate"})
			if n != c.n || sum < c.sum*0.99 || sum > c.sum*1.01 {
				t.Errorf("%+v: %d, %v", c, n, sum)
			}
		}
		if n, sum := count("apiserver_admission_step_admission_duration_seconds", map[string]string{"operation": "CREATE", "rejected": "false", "type": "validate"}); n != 100 || sum < 0.99 {
			t.Errorf("steps: %d, %v", n, sum)
		}
	})
}

func has(m *dto.Metric, want map[string]string) bool {
	n := 0
	for _, l := range m.GetLabel() {
		if want[l.GetName()] == l.GetValue() {
			n++
		}
	}
	return n == len(want)
}
