package api_test

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/utils/ptr"

	"github.com/proa-dev/proa/api"
)

func equalPod() *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "p", Labels: map[string]string{"a": "b"}, CreationTimestamp: metav1.NewTime(time.Unix(1700000000, 0))},
		Spec: corev1.PodSpec{
			Containers: []corev1.Container{{
				Name: "c", Command: []string{"sleep", "1"},
				Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1000m")}},
			}},
			TerminationGracePeriodSeconds: ptr.To[int64](30),
		},
	}
}

// Equal says what upstream's comparison says.
func TestEqual(t *testing.T) {
	for name, change := range map[string]func(*corev1.Pod){
		"nothing":             func(*corev1.Pod) {},
		"empty list":          func(p *corev1.Pod) { p.Spec.Tolerations = []corev1.Toleration{} },
		"empty map":           func(p *corev1.Pod) { p.Annotations = map[string]string{} },
		"empty struct":        func(p *corev1.Pod) { p.Spec.SecurityContext = &corev1.PodSecurityContext{} },
		"same time elsewhere": func(p *corev1.Pod) { p.CreationTimestamp.Time = p.CreationTimestamp.In(time.FixedZone("x", 3600)) },
		"another time":        func(p *corev1.Pod) { p.CreationTimestamp.Time = p.CreationTimestamp.Add(time.Second) },
		"same quantity": func(p *corev1.Pod) {
			p.Spec.Containers[0].Resources.Requests[corev1.ResourceCPU] = resource.MustParse("1")
		},
		"another quantity": func(p *corev1.Pod) {
			p.Spec.Containers[0].Resources.Requests[corev1.ResourceCPU] = resource.MustParse("2")
		},
		"another resource": func(p *corev1.Pod) {
			p.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("1")}
		},
		"label":           func(p *corev1.Pod) { p.Labels = map[string]string{"a": "c"} },
		"label's key":     func(p *corev1.Pod) { p.Labels = map[string]string{"b": "b"} },
		"pointer's value": func(p *corev1.Pod) { p.Spec.TerminationGracePeriodSeconds = ptr.To[int64](1) },
		"nil pointer":     func(p *corev1.Pod) { p.Spec.TerminationGracePeriodSeconds = nil },
		"one item more":   func(p *corev1.Pod) { p.Spec.Containers = append(p.Spec.Containers, corev1.Container{}) },
		"an item":         func(p *corev1.Pod) { p.Spec.Containers[0].Command[1] = "2" },
		"owner": func(p *corev1.Pod) {
			p.OwnerReferences = []metav1.OwnerReference{{Name: "o", Controller: ptr.To(true)}}
		},
		"managed fields": func(p *corev1.Pod) {
			p.ManagedFields = []metav1.ManagedFieldsEntry{{FieldsV1: &metav1.FieldsV1{Raw: []byte("{}")}}}
		},
	} {
		a, b := equalPod(), equalPod()
		change(b)
		want := equality.Semantic.DeepEqual(a, b)
		if got := api.Equal(a, b); got != want {
			t.Errorf("%s: %v, upstream says %v", name, got, want)
		}
		if got := api.Equal(*b, *a); got != want {
			t.Errorf("%s, by value: %v, upstream says %v", name, got, want)
		}
	}
	for _, pair := range [][2]any{
		{nil, nil}, {nil, 1}, {1, "1"}, {1.5, 1.5}, {&corev1.Pod{}, &corev1.Node{}},
		{runtime.RawExtension{Object: equalPod()}, runtime.RawExtension{Object: equalPod()}},
		{runtime.RawExtension{Object: equalPod()}, runtime.RawExtension{}},
	} {
		if got, want := api.Equal(pair[0], pair[1]), equality.Semantic.DeepEqual(pair[0], pair[1]); got != want {
			t.Errorf("%T %T: %v, upstream says %v", pair[0], pair[1], got, want)
		}
	}
}
