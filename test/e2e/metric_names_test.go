package e2e

import (
	"bufio"
	"os"
	"slices"
	"strings"
	"testing"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// promised is a metric as upstream has it.
type promised struct {
	level, kind, name string
	labels            []string
	path              string // "-" when Proa lacks it
}

func readPromised(t *testing.T) []promised {
	t.Helper()
	f, err := os.Open("testdata/metrics.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var out []promised
	for lines := bufio.NewScanner(f); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if len(fields) == 0 || fields[0] == "#" {
			continue
		}
		if len(fields) != 5 {
			t.Fatalf("%q", lines.Text())
		}
		p := promised{level: fields[0], kind: fields[1], name: fields[2], path: fields[4]}
		if fields[3] != "-" {
			p.labels = strings.Split(fields[3], ",")
		}
		out = append(out, p)
	}
	return out
}

// metricPod asks for something and is probed.
const metricPod = `
apiVersion: v1
kind: Pod
metadata: {name: measured}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: c
    image: proa.dev/e2e/busybox:1
    command: [sleep, "3600"]
    resources: {requests: {cpu: 1m}, limits: {cpu: 100m}}
    readinessProbe: {exec: {command: ["true"]}, periodSeconds: 1}
`

// What dashboards and alerts ask for by name is there, with the labels that
// they select by.
func TestMetricNames(t *testing.T) {
	e := newEnv(t)
	e.apply(metricPod)
	e.kubectl("wait", "--for=condition=Ready", "pod/measured", "--timeout=60s")
	e.kubectl("get", "endpoints")
	e.kubectl("get", "--raw", "/readyz")
	w, err := e.client.CoreV1().Pods(e.namespace).Watch(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	status, err := os.ReadFile("../../docs/status.md")
	if err != nil {
		t.Fatal(err)
	}
	shown := map[string]map[string]*dto.MetricFamily{}
	for _, p := range readPromised(t) {
		if p.path == "-" {
			if p.level == "STABLE" && !strings.Contains(string(status), p.name) {
				t.Errorf("docs/status.md does not say that %s is missing", p.name)
			}
			continue
		}
		path, optional := strings.CutSuffix(p.path, "?")
		if shown[path] == nil {
			shown[path] = e.families(path)
		}
		if f := shown[path][p.name]; f != nil || !optional {
			p.check(t, f)
		}
	}
}

func (e *env) families(path string) map[string]*dto.MetricFamily {
	e.t.Helper()
	var text string
	if own, ok := strings.CutPrefix(path, "kubelet"); ok {
		text = e.node("measured", own)
	} else {
		text = e.kubectl("get", "--raw", path)
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	out, err := parser.TextToMetricFamilies(strings.NewReader(text + "\n"))
	if err != nil {
		e.t.Fatal(path, err)
	}
	return out
}

func (p promised) check(t *testing.T, f *dto.MetricFamily) {
	t.Helper()
	if f == nil {
		t.Errorf("%s does not show %s", p.path, p.name)
		return
	}
	if kind := strings.ToLower(f.GetType().String()); kind != p.kind {
		t.Errorf("%s is a %s", p.name, kind)
	}
	for _, m := range f.GetMetric() {
		var labels []string
		for _, l := range m.GetLabel() {
			labels = append(labels, l.GetName())
		}
		slices.Sort(labels)
		if !slices.Equal(labels, p.labels) {
			t.Errorf("%s has labels %q, not %q", p.name, labels, p.labels)
			return
		}
	}
}
