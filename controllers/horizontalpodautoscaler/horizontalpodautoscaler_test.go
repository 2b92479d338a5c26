package horizontalpodautoscaler_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"
	"k8s.io/utils/ptr"

	"github.com/proa-dev/proa/controllers/horizontalpodautoscaler"
	"github.com/proa-dev/proa/controllers/internal/clustertest"
)

// figures are metrics that a test sets.
type figures struct {
	mu  sync.Mutex
	cpu int64 // of each pod, in thousandths
	out int64 // of the world outside
	err error
}

func (f *figures) set(cpu, out int64, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.cpu, f.out, f.err = cpu, out, err
}

func (f *figures) Resource(context.Context, string, labels.Selector, corev1.ResourceName, string) (horizontalpodautoscaler.Samples, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := horizontalpodautoscaler.Samples{}
	for i := range 3 {
		s[fmt.Sprint("web-", i)] = horizontalpodautoscaler.Sample{Value: f.cpu, Time: time.Now(), Window: time.Second}
	}
	return s, f.err
}

func (f *figures) Pods(context.Context, string, labels.Selector, string, labels.Selector) (horizontalpodautoscaler.Samples, error) {
	return nil, errors.New("none")
}

func (f *figures) Object(context.Context, string, autoscalingv2.CrossVersionObjectReference, string, labels.Selector) (int64, error) {
	return 0, errors.New("none")
}

func (f *figures) External(context.Context, string, string, labels.Selector) ([]int64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return []int64{f.out}, f.err
}

func autoscaler(change func(*autoscalingv2.HorizontalPodAutoscalerSpec)) *autoscalingv2.HorizontalPodAutoscaler {
	h := &autoscalingv2.HorizontalPodAutoscaler{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "web"},
		Spec: autoscalingv2.HorizontalPodAutoscalerSpec{
			ScaleTargetRef: autoscalingv2.CrossVersionObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Name: "web"},
			MinReplicas:    ptr.To[int32](1), MaxReplicas: 10,
			Metrics: []autoscalingv2.MetricSpec{{Type: autoscalingv2.ResourceMetricSourceType, Resource: &autoscalingv2.ResourceMetricSource{
				Name: corev1.ResourceCPU, Target: autoscalingv2.MetricTarget{Type: autoscalingv2.UtilizationMetricType, AverageUtilization: ptr.To[int32](50)},
			}}},
		},
	}
	if change != nil {
		change(&h.Spec)
	}
	return h
}

// start runs the controller over a Deployment of three pods that have run for
// an hour and request one CPU each.
func start(t *testing.T, f *figures, h *autoscalingv2.HorizontalPodAutoscaler) *clustertest.Cluster {
	t.Helper()
	l := map[string]string{"app": "web"}
	began := metav1.Now()
	time.Sleep(time.Hour)
	c := clustertest.New(t, h, &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "web"},
		Spec:       appsv1.DeploymentSpec{Replicas: ptr.To[int32](3), Selector: &metav1.LabelSelector{MatchLabels: l}},
		Status:     appsv1.DeploymentStatus{Replicas: 3},
	})
	for i := range 3 {
		c.Do(c.API.Create(t.Context(), &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: fmt.Sprint("web-", i), Labels: l},
			Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Resources: corev1.ResourceRequirements{
				Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1")},
			}}}},
			Status: corev1.PodStatus{Phase: corev1.PodRunning, StartTime: &began, Conditions: []corev1.PodCondition{
				{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: began}}},
		}))
	}
	run, err := horizontalpodautoscaler.New(c.Env(nil), horizontalpodautoscaler.Config{Metrics: f})
	c.Do(err)
	c.Run(run)
	time.Sleep(time.Second)
	return c
}

// told is how many replicas there should be, and what the conditions say.
func told(c *clustertest.Cluster) string {
	synctest.Wait()
	d, h := &appsv1.Deployment{}, &autoscalingv2.HorizontalPodAutoscaler{}
	c.Get(d, "ns", "web")
	c.Get(h, "ns", "web")
	out := fmt.Sprintf("%d:", *d.Spec.Replicas)
	for _, cond := range h.Status.Conditions {
		out += fmt.Sprintf(" %s=%s/%s", cond.Type, cond.Status, cond.Reason)
	}
	return out
}

func scale(c *clustertest.Cluster, t *testing.T, n int32) {
	d := &appsv1.Deployment{}
	c.Get(d, "ns", "web")
	d.Spec.Replicas = &n
	c.Do(c.API.Update(t.Context(), d))
}

func TestScales(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &figures{cpu: 500}
		c := start(t, f, autoscaler(nil))
		for _, step := range []struct {
			cpu  int64
			err  error
			wait time.Duration
			want string
		}{
			{500, nil, 0, "3: AbleToScale=True/ReadyForNewScale ScalingActive=True/ValidMetricFound ScalingLimited=False/DesiredWithinRange"},
			{800, nil, 15 * time.Second, "5: AbleToScale=True/SucceededRescale ScalingActive=True/ValidMetricFound ScalingLimited=False/DesiredWithinRange ScaledToZero=False/NotScaledToZero"},
			{0, errors.New("gone"), 15 * time.Second, "5: AbleToScale=True/SucceededGetScale ScalingActive=False/FailedGetResourceMetric ScalingLimited=False/DesiredWithinRange ScaledToZero=False/NotScaledToZero"},
			{100, nil, 15 * time.Second, "5: AbleToScale=True/ScaleDownStabilized ScalingActive=True/ValidMetricFound ScalingLimited=False/DesiredWithinRange ScaledToZero=False/NotScaledToZero"},
			{100, nil, 6 * time.Minute, "1: AbleToScale=True/ReadyForNewScale ScalingActive=True/ValidMetricFound ScalingLimited=False/DesiredWithinRange ScaledToZero=False/NotScaledToZero"},
		} {
			f.set(step.cpu, 0, step.err)
			time.Sleep(step.wait)
			if got := told(c); got != step.want {
				t.Fatalf("cpu %d:\n%s\nwant\n%s", step.cpu, got, step.want)
			}
		}
		h := &autoscalingv2.HorizontalPodAutoscaler{}
		c.Get(h, "ns", "web")
		if s := h.Status; *s.ObservedGeneration != 1 || s.CurrentReplicas != 1 || s.DesiredReplicas != 1 || s.LastScaleTime == nil ||
			*s.CurrentMetrics[0].Resource.Current.AverageUtilization != 10 || s.CurrentMetrics[0].Resource.Current.AverageValue.String() != "100m" {
			t.Errorf("%+v", s)
		}
		for _, want := range []string{
			"Normal SuccessfulRescale New size: 5; reason: cpu resource utilization (percentage of request) above target",
			"Normal SuccessfulRescale New size: 1; reason: All metrics below target",
			"Warning FailedGetResourceMetric failed to get cpu utilization: unable to get metrics for resource cpu: gone",
			"Warning FailedComputeMetricsReplicas invalid metrics (1 invalid out of 1), first error is: failed to get cpu resource metric value: failed to get cpu utilization: unable to get metrics for resource cpu: gone",
		} {
			if !slices.Contains(c.Events(), want) {
				t.Errorf("no event %q in %q", want, c.Events())
			}
		}

		// Limits and a stop by hand.
		scale(c, t, 20)
		time.Sleep(15 * time.Second)
		if got := told(c); !strings.HasPrefix(got, "10: ") {
			t.Error(got)
		}
		scale(c, t, 0)
		time.Sleep(15 * time.Second)
		if got := told(c); !strings.HasPrefix(got, "0: ") || !strings.Contains(got, "ScalingActive=False/ScalingDisabled") {
			t.Error(got)
		}
	})
}

// What no pod is needed for can scale to none, and back.
func TestScalesToZero(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &figures{out: 30000}
		c := start(t, f, autoscaler(func(s *autoscalingv2.HorizontalPodAutoscalerSpec) {
			s.MinReplicas = ptr.To[int32](0)
			s.Metrics = []autoscalingv2.MetricSpec{{Type: autoscalingv2.ExternalMetricSourceType, External: &autoscalingv2.ExternalMetricSource{
				Metric: autoscalingv2.MetricIdentifier{Name: "queue"},
				Target: autoscalingv2.MetricTarget{Type: autoscalingv2.ValueMetricType, Value: ptr.To(resource.MustParse("30"))},
			}}}
		}))
		f.set(0, 0, nil)
		time.Sleep(6 * time.Minute)
		if got := told(c); !strings.HasPrefix(got, "0: ") || !strings.Contains(got, "ScaledToZero=True/ScaledToZero") {
			t.Fatal(got)
		}
		f.set(0, 45000, nil)
		time.Sleep(15 * time.Second)
		if got := told(c); !strings.HasPrefix(got, "2: ") || !strings.Contains(got, "ScaledToZero=False/NotScaledToZero") {
			t.Fatal(got)
		}
	})
}

func TestTargetsThatCannotBeScaled(t *testing.T) {
	for _, c := range []struct {
		ref  autoscalingv2.CrossVersionObjectReference
		want string
	}{
		{autoscalingv2.CrossVersionObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Name: "other"}, `deployments.apps "other" not found`},
		{autoscalingv2.CrossVersionObjectReference{APIVersion: "a/b/c", Kind: "Deployment", Name: "web"}, `unexpected GroupVersion string: a/b/c`},
		{autoscalingv2.CrossVersionObjectReference{APIVersion: "example.com/v1", Kind: "Thing", Name: "web"}, `no matches for kind "Thing" in group "example.com"`},
	} {
		synctest.Test(t, func(t *testing.T) {
			cl := start(t, &figures{}, autoscaler(func(s *autoscalingv2.HorizontalPodAutoscalerSpec) { s.ScaleTargetRef = c.ref }))
			h := &autoscalingv2.HorizontalPodAutoscaler{}
			cl.Get(h, "ns", "web")
			if len(h.Status.Conditions) != 1 || h.Status.Conditions[0].Message != "the HPA controller was unable to get the target's current scale: "+c.want {
				t.Errorf("%+v, %q", h.Status.Conditions, cl.Events())
			}
			time.Sleep(time.Minute)
			if n := len(cl.Events()); n != 5 {
				t.Errorf("%d events in a minute", n)
			}
		})
	}
}

// The metrics APIs as adapters serve them.
func TestMetricsOverHTTP(t *testing.T) {
	answers := map[string]string{
		"/apis/metrics.k8s.io/v1beta1/namespaces/ns/pods?labelSelector=app=web": `{"items": [
			{"metadata": {"name": "a"}, "timestamp": "2030-01-01T00:00:00Z", "window": "30s", "containers": [{"name": "c", "usage": {"cpu": "100m", "memory": "1Ki"}}, {"name": "d", "usage": {"cpu": "1500u"}}]},
			{"metadata": {"name": "b"}, "timestamp": "2030-01-01T00:00:00Z", "window": "30s", "containers": [{"name": "c", "usage": {"cpu": "1"}}, {"name": "d", "usage": {}}]},
			{"metadata": {"name": "e"}, "containers": []}]}`,
		"/apis/custom.metrics.k8s.io": `{"versions": [{"version": "v1beta1"}, {"version": "v1beta2"}]}`,
		"/apis/custom.metrics.k8s.io/v1beta2/namespaces/ns/pods/*/rate?labelSelector=app=web&metricLabelSelector=verb=GET": `{"items": [
			{"describedObject": {"name": "a"}, "timestamp": "2030-01-01T00:00:00Z", "windowSeconds": 5, "value": "2500m"}, {"describedObject": {"name": "b"}, "value": "1"}]}`,
		"/apis/custom.metrics.k8s.io/v1beta2/namespaces/ns/ingresses.networking.k8s.io/main/hits": `{"items": [{"value": "7"}]}`,
		"/apis/custom.metrics.k8s.io/v1beta2/namespaces/ns/metrics/hits":                          `{"items": []}`,
		"/apis/external.metrics.k8s.io/v1beta1/namespaces/ns/queue?labelSelector=q=a":             `{"items": [{"value": "3"}, {"value": "500m"}]}`,
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		path := r.URL.Path
		if q := r.URL.RawQuery; q != "" {
			text, _ := url.QueryUnescape(q)
			path += "?" + text
		}
		text, ok := answers[path]
		if !ok {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, text)
	}))
	defer server.Close()
	mapper := meta.NewDefaultRESTMapper([]schema.GroupVersion{{Group: "networking.k8s.io", Version: "v1"}})
	mapper.Add(schema.GroupVersionKind{Group: "networking.k8s.io", Version: "v1", Kind: "Ingress"}, meta.RESTScopeNamespace)
	m, err := horizontalpodautoscaler.NewMetrics(&rest.Config{Host: server.URL}, mapper)
	if err != nil {
		t.Fatal(err)
	}
	ctx, web := t.Context(), labels.SelectorFromSet(labels.Set{"app": "web"})
	at := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	type samples = horizontalpodautoscaler.Samples
	same := func(what string, got any, err error, want any) {
		t.Helper()
		if diff := cmp.Diff(want, got); diff != "" || err != nil {
			t.Errorf("%s: %s %v", what, diff, err)
		}
	}
	s, err := m.Resource(ctx, "ns", web, corev1.ResourceCPU, "")
	same("pods", s, err, samples{"a": {Value: 102, Time: at.Local(), Window: 30 * time.Second}})
	s, err = m.Resource(ctx, "ns", web, corev1.ResourceCPU, "c")
	same("containers", len(s), err, 2)
	s, err = m.Pods(ctx, "ns", web, "rate", labels.SelectorFromSet(labels.Set{"verb": "GET"}))
	same("custom", s, err, samples{"a": {Value: 2500, Time: at.Local(), Window: 5 * time.Second}, "b": {Value: 1000, Window: time.Minute}})
	n, err := m.Object(ctx, "ns", autoscalingv2.CrossVersionObjectReference{APIVersion: "networking.k8s.io/v1", Kind: "Ingress", Name: "main"}, "hits", labels.Everything())
	same("object", n, err, int64(7000))
	values, err := m.External(ctx, "ns", "queue", labels.SelectorFromSet(labels.Set{"q": "a"}))
	same("external", values, err, []int64{3000, 500})

	for want, ask := range map[string]func() error{
		"unable to fetch metrics from resource metrics API: the server could not find the requested resource (get pods.metrics.k8s.io)": func() error {
			_, err := m.Resource(ctx, "other", web, corev1.ResourceCPU, "")
			return err
		},
		"unable to fetch metrics from custom metrics API: the custom metrics API server returned 0 results when we asked for exactly one": func() error {
			_, err := m.Object(ctx, "ns", autoscalingv2.CrossVersionObjectReference{APIVersion: "v1", Kind: "Namespace", Name: "other"}, "hits", labels.Everything())
			return err
		},
	} {
		if err := ask(); fmt.Sprint(err) != want {
			t.Error(err)
		}
	}
}
