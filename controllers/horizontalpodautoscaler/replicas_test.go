package horizontalpodautoscaler

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

var noon = time.Date(2030, 1, 1, 12, 0, 0, 0, time.UTC)

// podsOf makes pods that request 1 CPU, written as usage in thousandths and
// marks: "-" no figure, "p" pending, "u" unready since its start, "n" started a
// moment ago and ready, "d" being deleted, "f" failed.
func podsOf(text string) ([]*corev1.Pod, Samples) {
	var list []*corev1.Pod
	samples := Samples{}
	for i, word := range strings.Fields(text) {
		started, ready := noon.Add(-time.Hour), corev1.ConditionTrue
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("p", i)}, Status: corev1.PodStatus{Phase: corev1.PodRunning}}
		p.Spec.Containers = []corev1.Container{{Name: "c", Resources: corev1.ResourceRequirements{
			Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1")},
		}}}
		digits := strings.TrimRight(word, "pundf-")
		switch word[len(digits):] {
		case "p":
			p.Status.Phase = corev1.PodPending
		case "u":
			ready = corev1.ConditionFalse
		case "n":
			started = noon.Add(-10 * time.Second)
		case "d":
			p.DeletionTimestamp = &metav1.Time{Time: noon}
		case "f":
			p.Status.Phase = corev1.PodFailed
		}
		since := metav1.NewTime(started.Add(time.Second))
		p.Status.StartTime = &metav1.Time{Time: started}
		p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: ready, LastTransitionTime: since}}
		if digits != "" {
			n := int64(0)
			fmt.Sscan(digits, &n)
			samples[p.Name] = Sample{Value: n, Time: noon, Window: 30 * time.Second}
		}
		list = append(list, p)
	}
	return list, samples
}

func calc(list []*corev1.Pod, current int32) *calculator {
	return &calculator{
		pods: list, now: noon, tolerance: tolerance{0.1, 0.1}, specReplicas: current, statusReplicas: current,
		cpuInitialization: 5 * time.Minute, initialReadiness: 30 * time.Second,
	}
}

// The target is half of the CPU that is requested.
func TestUtilization(t *testing.T) {
	for _, c := range []struct {
		name, pods string
		want       int32
		percent    int32
		err        string
	}{
		{"on target", "500 500", 2, 50, ""},
		{"within the tolerance", "540 550", 2, 54, ""},
		{"above", "900 900 900", 6, 90, ""},
		{"far above", "5000", 10, 500, ""},
		{"below", "100 100 100 100", 1, 10, ""},
		{"nothing to do", "0 0", 0, 0, ""},
		{"pods that just started have no say upwards", "1000 1000 0n", 4, 100, ""},
		{"nor pods without a place", "1000 p", 2, 100, ""},
		{"nor pods that never were ready", "1000 1000 900u", 4, 100, ""},
		{"missing figures are low upwards", "1000 1000 -", 4, 100, ""},
		{"and high downwards", "100 100 -", 3, 10, ""},
		{"which never turns the direction", "490 400 -", 3, 44, ""},
		{"pods on their way out do not count", "1000 1000d 1000f", 2, 100, ""},
		{"no pods", "", 0, 0, "no pods returned by selector while calculating replica count"},
		{"no figures", "- -", 0, 0, "did not receive metrics for targeted pods (pods might be unready)"},
	} {
		t.Run(c.name, func(t *testing.T) {
			list, samples := podsOf(c.pods)
			got, percent, _, err := calc(list, int32(len(list))).byUtilization(samples, 50, corev1.ResourceCPU, "")
			if got != c.want || percent != c.percent || fmt.Sprint(err) != orNil(c.err) {
				t.Errorf("%d replicas at %d%%, %v", got, percent, err)
			}
		})
	}
	list, samples := podsOf("500")
	for container, want := range map[string]string{
		"x": "container x not found in Pod p0", "c": "missing request for memory in container c of Pod p0", "": "missing request for memory in container c of Pod p0",
	} {
		if _, _, _, err := calc(list, 1).byUtilization(samples, 50, corev1.ResourceMemory, container); fmt.Sprint(err) != want {
			t.Error(err)
		}
	}
}

func orNil(s string) string {
	if s == "" {
		return "<nil>"
	}
	return s
}

func TestAverages(t *testing.T) {
	list, samples := podsOf("30 20 10")
	if n, usage, err := calc(list, 3).byAverage(samples, 10, ""); n != 6 || usage != 20 || err != nil {
		t.Errorf("%d of %d, %v", n, usage, err)
	}
	list, samples = podsOf("1 1 -")
	if n, _, err := calc(list, 3).byAverage(samples, 10, ""); n != 2 || err != nil {
		t.Errorf("%d, %v", n, err) // the missing one is taken to be on target
	}
	c := calc(list, 3)
	for _, x := range []struct{ usage, target, replicas, average int64 }{
		{90, 30, 3, 30}, {91, 30, 3, 31}, {200, 30, 7, 67}, {0, 30, 0, 0}, {math.MaxInt64, 1, math.MaxInt32, math.MaxInt64 / 3},
	} {
		n, avg := c.perPod(x.usage, x.target)
		if int64(n) != x.replicas || avg < x.average-1024 || avg > x.average+1024 {
			t.Errorf("%+v: %d, %d", x, n, avg)
		}
	}
	if n, err := c.byRatio(1.5); n != 5 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	if n, err := calc(nil, 0).byRatio(2.5); n != 3 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	if n, err := c.byRatio(1e300); n != math.MaxInt32 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
}

// Each case is a row of recommendations, "seconds:replicas", what the target is
// scaled to after each, and why at last.
func TestBehavior(t *testing.T) {
	rules := func(window int32, selection autoscalingv2.ScalingPolicySelect, policies ...autoscalingv2.HPAScalingPolicy) *autoscalingv2.HPAScalingRules {
		return &autoscalingv2.HPAScalingRules{StabilizationWindowSeconds: &window, SelectPolicy: &selection, Policies: policies}
	}
	policy := func(kind autoscalingv2.HPAScalingPolicyType, value, period int32) autoscalingv2.HPAScalingPolicy {
		return autoscalingv2.HPAScalingPolicy{Type: kind, Value: value, PeriodSeconds: period}
	}
	const most, fewest, never = autoscalingv2.MaxChangePolicySelect, autoscalingv2.MinChangePolicySelect, autoscalingv2.DisabledPolicySelect
	const count, percent = autoscalingv2.PodsScalingPolicy, autoscalingv2.PercentScalingPolicy
	free := rules(0, most, policy(percent, 100, 15))
	for _, c := range []struct {
		name     string
		behavior *autoscalingv2.HorizontalPodAutoscalerBehavior
		start    int32
		steps    string
		want     string
		why      string
	}{
		{"doubling at most", nil, 3, "0:50 15:50 30:50", "6 12 24", "ScaleUpLimit"},
		{"from one to four", nil, 1, "0:50", "4", "ScaleUpLimit"},
		{"the most", nil, 90, "0:150", "100", "TooManyReplicas"},
		{"the fewest", nil, 9, "0:0 301:0", "9 2", "TooFewReplicas"},
		{"down only after five minutes", nil, 10, "0:10 60:4 299:4 301:4 361:4", "10 10 10 4 4", "DesiredWithinRange"},
		{"a window downwards", &autoscalingv2.HorizontalPodAutoscalerBehavior{ScaleUp: free, ScaleDown: rules(60, most, policy(percent, 100, 15))},
			10, "0:10 30:5 59:5 61:5 95:3", "10 10 10 5 5", "DesiredWithinRange"},
		{"a window upwards", &autoscalingv2.HorizontalPodAutoscalerBehavior{ScaleUp: rules(60, most, policy(percent, 1000, 15)), ScaleDown: free},
			3, "0:3 10:9 50:8 61:7", "3 3 3 7", "DesiredWithinRange"},
		{"four pods a minute", &autoscalingv2.HorizontalPodAutoscalerBehavior{ScaleUp: rules(0, most, policy(count, 4, 60)), ScaleDown: free},
			2, "0:20 15:20 61:20", "6 6 10", "ScaleUpLimit"},
		{"the greater of two", &autoscalingv2.HorizontalPodAutoscalerBehavior{ScaleUp: rules(0, most, policy(count, 4, 60), policy(percent, 100, 60)), ScaleDown: free},
			10, "0:50", "20", "ScaleUpLimit"},
		{"the smaller of two", &autoscalingv2.HorizontalPodAutoscalerBehavior{ScaleUp: rules(0, fewest, policy(count, 4, 60), policy(percent, 100, 60)), ScaleDown: free},
			10, "0:50", "14", "ScaleUpLimit"},
		{"a tenth downwards", &autoscalingv2.HorizontalPodAutoscalerBehavior{ScaleUp: free, ScaleDown: rules(0, most, policy(percent, 10, 60))},
			50, "0:2 30:2 61:2", "45 45 40", "ScaleDownLimit"},
		{"the smaller of two downwards", &autoscalingv2.HorizontalPodAutoscalerBehavior{ScaleUp: free, ScaleDown: rules(0, fewest, policy(percent, 10, 60), policy(count, 1, 60))},
			50, "0:2", "49", "ScaleDownLimit"},
		{"never downwards", &autoscalingv2.HorizontalPodAutoscalerBehavior{ScaleUp: free, ScaleDown: rules(0, never)},
			9, "0:2", "9", "ScaleDownLimit"},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := &look{Controller: &Controller{Config: Config{Downscale: 5 * time.Minute}}, history: &history{}, current: c.start, hpa: &hpa{}}
			l.hpa.Spec = autoscalingv2.HorizontalPodAutoscalerSpec{MinReplicas: ptr.To[int32](2), MaxReplicas: 100, Behavior: c.behavior}
			var got []string
			for _, step := range strings.Fields(c.steps) {
				var at, n int32
				fmt.Sscanf(step, "%d:%d", &at, &n)
				l.now = noon.Add(time.Duration(at) * time.Second)
				if at == 0 {
					l.history.begin(l.current, l.now)
				}
				var to int32
				if c.behavior == nil {
					to = l.normalize(n)
				} else {
					to = l.normalizeByBehavior(n)
				}
				if to != l.current {
					l.history.rescaled(c.behavior, l.current, to, l.now)
				}
				l.current = to
				got = append(got, fmt.Sprint(to))
			}
			why := ""
			for _, cond := range l.hpa.Status.Conditions {
				if cond.Type == autoscalingv2.ScalingLimited {
					why = cond.Reason
				}
			}
			if strings.Join(got, " ") != c.want || why != c.why {
				t.Errorf("%v, %s", got, why)
			}
		})
	}
}
