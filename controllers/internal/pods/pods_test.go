package pods_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/proa-dev/proa/controllers/internal/pods"
)

var now = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

// running is a pod that has been ready for a time.
func running(name string, age time.Duration, change func(*corev1.Pod)) *corev1.Pod {
	since := metav1.NewTime(now.Add(-age))
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name), CreationTimestamp: since},
		Spec:       corev1.PodSpec{NodeName: "n-" + name},
		Status: corev1.PodStatus{
			Phase:      corev1.PodRunning,
			Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: since}},
		},
	}
	if change != nil {
		change(p)
	}
	return p
}

func notReady(p *corev1.Pod) { p.Status.Conditions[0].Status = corev1.ConditionFalse }

func cost(v string) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Annotations = map[string]string{corev1.PodDeletionCost: v} }
}

func restarts(n int32) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Status.ContainerStatuses = []corev1.ContainerStatus{{RestartCount: n}} }
}

func TestVictims(t *testing.T) {
	unassigned := running("unassigned", time.Hour, func(p *corev1.Pod) { p.Spec.NodeName = ""; p.Status.Phase = corev1.PodPending; notReady(p) })
	pending := running("pending", time.Hour, func(p *corev1.Pod) { p.Status.Phase = corev1.PodPending; notReady(p) })
	failing := running("failing", time.Hour, notReady)
	cheap := running("cheap", 100*time.Hour, cost("-5"))
	dear := running("dear", time.Minute, cost("10"))
	young := running("young", time.Minute, nil)
	restarted := running("restarted", time.Hour, restarts(3))
	old := running("old", time.Hour, nil)
	same := running("same", time.Hour+time.Second, nil) // of one magnitude with old
	on := func(name string) *corev1.Pod {
		return running(name, time.Hour, func(p *corev1.Pod) { p.Spec.NodeName = "shared" })
	}
	for _, test := range []struct {
		name    string
		pods    []*corev1.Pod
		related []*corev1.Pod
		n       int
		want    string
	}{
		{"every rank", []*corev1.Pod{dear, old, young, cheap, failing, pending, unassigned}, nil, 6, "unassigned pending failing cheap young old"},
		{"restarts", []*corev1.Pod{old, restarted}, nil, 1, "restarted"},
		{"company on the node", []*corev1.Pod{old, on("crowded")}, []*corev1.Pod{on("a"), on("b"), old}, 1, "crowded"},
		{"ages of one magnitude go by UID", []*corev1.Pod{same, old}, nil, 1, "old"},
		{"a cost that is no number counts as 0", []*corev1.Pod{running("bad", time.Hour, cost("+7")), cheap}, nil, 1, "cheap"},
		{"all", []*corev1.Pod{old, young}, nil, 2, "old young"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var got []string
			for _, p := range pods.Victims(test.pods, test.related, test.n, now) {
				got = append(got, p.Name)
			}
			if strings.Join(got, " ") != test.want {
				t.Errorf("victims %v, want %v", got, test.want)
			}
		})
	}
}

func TestAvailable(t *testing.T) {
	for _, test := range []struct {
		name     string
		pod      *corev1.Pod
		minReady int32
		ok       bool
		wait     time.Duration
	}{
		{"ready", running("p", 0, nil), 0, true, 0},
		{"not ready", running("p", time.Hour, notReady), 0, false, 0},
		{"not for long enough", running("p", 10*time.Second, nil), 30, false, 20 * time.Second},
		{"right on time", running("p", 30*time.Second, nil), 30, true, 0},
		{"since when is unknown", running("p", 0, func(p *corev1.Pod) { p.Status.Conditions[0].LastTransitionTime = metav1.Time{} }), 30, false, 0},
	} {
		if ok, wait := pods.Available(test.pod, test.minReady, now); ok != test.ok || wait != test.wait {
			t.Errorf("%s: %v, %v", test.name, ok, wait)
		}
	}
}

func TestFromTemplateSharesNothing(t *testing.T) {
	template := &corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"a": "b"}, Finalizers: []string{"f/g"}},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c"}}},
	}
	owner := running("owner", 0, nil)
	p := pods.FromTemplate(template, owner, metav1.OwnerReference{Name: "owner"})
	p.Labels["a"], p.Finalizers[0], p.Spec.Containers[0].Name = "x", "x", "x"
	if template.Labels["a"] != "b" || !slices.Contains(template.Finalizers, "f/g") || template.Spec.Containers[0].Name != "c" {
		t.Error("the template was changed through the pod")
	}
	if p.GenerateName != "owner-" {
		t.Errorf("generateName %q", p.GenerateName)
	}
}
