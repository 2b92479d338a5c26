package metricsapi_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/apiserver/metricsapi"
)

type objects map[string][]api.Object

func (o objects) Get(gr schema.GroupResource, namespace, name string) (api.Object, bool) {
	for _, obj := range o.List(gr, namespace) {
		if obj.GetName() == name {
			return obj, true
		}
	}
	return nil, false
}

func (o objects) List(gr schema.GroupResource, namespace string) (out []api.Object) {
	for _, obj := range o[gr.Resource] {
		if namespace == "" || obj.GetNamespace() == namespace {
			out = append(out, obj)
		}
	}
	return out
}

type kubelet func(r *http.Request) (string, error)

func (k kubelet) RoundTrip(r *http.Request) (*http.Response, error) {
	text, err := k(r)
	if err != nil {
		return nil, err
	}
	return &http.Response{StatusCode: http.StatusOK, Status: "200 OK", Body: io.NopCloser(strings.NewReader(text))}, nil
}

func node(name, ip string) *corev1.Node {
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: corev1.NodeStatus{
		Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: ip}},
	}}
}

func pod(name string, containers ...string) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default", Labels: map[string]string{"app": name}}}
	p.Spec.NodeName, p.Status.Phase = "a", corev1.PodRunning
	for _, c := range containers {
		p.Status.ContainerStatuses = append(p.Status.ContainerStatuses, corev1.ContainerStatus{
			Name: c, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}},
		})
	}
	return p
}

func TestReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		asked := 0
		transport := kubelet(func(r *http.Request) (string, error) {
			if r.URL.Hostname() != "10.0.0.1" {
				<-r.Context().Done() // a node that hangs
				return "", r.Context().Err()
			}
			if r.URL.Path != "/metrics/resource" || r.URL.Scheme != "https" {
				return "", fmt.Errorf("asked for %s", r.URL)
			}
			asked++
			now := time.Now()
			s := now.Sub(begin).Seconds()
			text := fmt.Sprintf("node_cpu_usage_seconds_total %g %d\nnode_memory_working_set_bytes 1048576\n", 100+2*s, now.UnixMilli())
			container := func(pod, name string, cpu float64) {
				l := fmt.Sprintf(`{container=%q,namespace="default",pod=%q}`, name, pod)
				text += fmt.Sprintf("container_cpu_usage_seconds_total%s %g %d\ncontainer_memory_working_set_bytes%s 4096\n", l, cpu, now.UnixMilli(), l)
			}
			container("steady", "c", 7+0.25*s)
			container("half", "c", s)
			if s > 60 { // it began at 60
				container("fresh", "c", s-60)
				text += fmt.Sprintf("container_start_time_seconds{container=\"c\",namespace=\"default\",pod=\"fresh\"} %d\n", begin.Add(time.Minute).Unix())
			}
			return text, nil
		})
		done := pod("done", "c")
		done.Status.Phase = corev1.PodSucceeded
		r, err := metricsapi.New(metricsapi.Config{Transport: transport, Logger: slog.New(slog.DiscardHandler), Source: objects{
			"nodes": {node("a", "10.0.0.1"), node("hangs", "10.0.0.2")},
			"pods":  {pod("steady", "c"), pod("half", "c", "other"), pod("fresh", "c"), done},
		}})
		if err != nil {
			t.Fatal(err)
		}
		f := r.Functions()
		nodes, pods := f[metricsv1beta1.SchemeGroupVersion.WithKind("NodeMetrics")], f[metricsv1beta1.SchemeGroupVersion.WithKind("PodMetrics")]

		expect := func(list []api.Object, want ...string) {
			t.Helper()
			var got []string
			for _, obj := range list {
				usage := corev1.ResourceList{}
				switch m := obj.(type) {
				case *metricsv1beta1.NodeMetrics:
					usage = m.Usage
				case *metricsv1beta1.PodMetrics:
					usage = m.Containers[0].Usage
				}
				got = append(got, fmt.Sprintf("%s %dm %s", obj.GetName(), usage.Cpu().MilliValue(), usage.Memory()))
			}
			if fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("got %q, want %q", got, want)
			}
		}
		expect(nodes.Make(t.Context(), ""), "a 2000m 1Mi")
		if asked != 2 {
			t.Errorf("the first read asked %d times", asked)
		}
		expect(pods.Make(t.Context(), ""), "steady 250m 4Ki")
		if asked != 2 {
			t.Error("figures that are new were asked for again")
		}
		time.Sleep(time.Until(begin.Add(70 * time.Second))) // the bubble's clock
		expect(pods.Make(t.Context(), "default"), "steady 250m 4Ki", "fresh 1000m 4Ki")
		if asked != 3 {
			t.Errorf("asked %d times", asked)
		}
		expect(pods.Make(t.Context(), "elsewhere"))

		for name, want := range map[string]string{
			"nope": `pods "nope" not found`, "half": `podmetrics.metrics.k8s.io "default/half" not found`,
		} {
			if err := pods.Missing("default", name); err.Error() != want {
				t.Errorf("of pod %s: %v", name, err)
			}
		}
		if err := nodes.Missing("", "hangs"); err.Error() != `nodemetrics.metrics.k8s.io "hangs" not found` {
			t.Errorf("of a node without metrics: %v", err)
		}

		ended, cancel := context.WithCancel(t.Context())
		cancel()
		time.Sleep(time.Minute)
		expect(nodes.Make(ended, ""))
		expect(nodes.Make(t.Context(), ""), "a 2000m 1Mi")
	})
}
