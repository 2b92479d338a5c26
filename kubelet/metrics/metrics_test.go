package metrics_test

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/proa-dev/proa/kubelet/metrics"
)

// A pod that goes takes what was counted for it, and not what is counted for
// another one of its name, as those of a StatefulSet have.
func TestForget(t *testing.T) {
	m := metrics.New()
	old := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p", UID: "1"}}
	next := old.DeepCopy()
	next.UID = "2"
	m.Probe("Liveness", "c", old).Done(metrics.Successful, time.Second)
	probe := m.Probe("Liveness", "c", next)
	m.Forget(old)
	probe.Done(metrics.Successful, time.Second)
	families, err := m.Probes.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]int{}
	for _, f := range families {
		for _, s := range f.Metric {
			got[f.GetName()] += int(s.GetCounter().GetValue()) + int(s.GetHistogram().GetSampleCount())
		}
	}
	if got["prober_probe_total"] != 1 || got["prober_probe_duration_seconds"] != 1 {
		t.Errorf("%v", got)
	}
}
