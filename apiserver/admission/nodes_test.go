package admission_test

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/proa-dev/proa/apiserver/admission"
)

func zonedNode() *corev1.Node {
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: "n", Labels: map[string]string{corev1.LabelTopologyZone: "z", corev1.LabelOSStable: "linux"}},
		Status:     corev1.NodeStatus{Allocatable: corev1.ResourceList{"cpu": resource.MustParse("2"), "memory": resource.MustParse("1Gi")}},
	}
}

// A pod learns its node's zone when it is bound, or made on a node.
func TestPodTopologyLabels(t *testing.T) {
	chain := admission.Chain{admission.NewPodTopologyLabels(admission.Lookup{Source: cluster().Put(res("nodes"), zonedNode())})}
	binding := &corev1.Binding{ObjectMeta: meta("ns", "p"), Target: corev1.ObjectReference{Kind: "Node", Name: "n"}}
	a := attributes(admission.Create, res("pods"), binding)
	a.Subresource = "binding"
	pod := &corev1.Pod{ObjectMeta: meta("ns", "p"), Spec: corev1.PodSpec{NodeName: "n"}}
	unbound := &corev1.Pod{ObjectMeta: meta("ns", "q")}
	for _, a := range []*admission.Attributes{a, attributes(admission.Create, res("pods"), pod), attributes(admission.Create, res("pods"), unbound)} {
		if err := run(chain, a); err != nil {
			t.Fatal(err)
		}
	}
	for _, labels := range []map[string]string{binding.Labels, pod.Labels} {
		if len(labels) != 1 || labels[corev1.LabelTopologyZone] != "z" {
			t.Errorf("labels %v", labels)
		}
	}
	if unbound.Labels != nil {
		t.Errorf("labels %v of a pod without a node", unbound.Labels)
	}
}

func TestPodResizeValidator(t *testing.T) {
	chain := admission.Chain{admission.NewPodResizeValidator(admission.Lookup{Source: cluster().Put(res("nodes"), zonedNode())})}
	for cpu, want := range map[string]string{
		"2": "", "3": "node didn't have enough allocatable resources: cpu, requested: 3000, allocatable: 2000",
	} {
		old := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p", Generation: 1}, Spec: corev1.PodSpec{NodeName: "n"}}
		pod := old.DeepCopy()
		pod.Generation = 2
		pod.Spec.Containers = []corev1.Container{{Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{"cpu": resource.MustParse(cpu)}}}}
		a := attributes(admission.Update, res("pods"), pod)
		a.OldObject, a.Subresource = old, "resize"
		err := run(chain, a)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s CPUs: %v", cpu, err)
		}
	}
}

func TestNodeDeclaredFeatureValidator(t *testing.T) {
	node := zonedNode()
	chain := admission.Chain{admission.NewNodeDeclaredFeatureValidator(admission.Lookup{Source: cluster().Put(res("nodes"), node)})}
	old := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p", Generation: 1}, Spec: corev1.PodSpec{NodeName: "n"}}
	old.Spec.Containers = []corev1.Container{{Name: "c"}}
	some := corev1.ResourceRequirements{Requests: corev1.ResourceList{"cpu": resource.MustParse("1")}}
	whole, part := old.DeepCopy(), old.DeepCopy()
	whole.Generation, whole.Spec.Resources = 2, &some
	part.Generation, part.Spec.Containers[0].Resources = 2, some
	check := func(pod *corev1.Pod, want string) {
		t.Helper()
		a := attributes(admission.Update, res("pods"), pod)
		a.OldObject, a.Subresource = old, "resize"
		err := run(chain, a)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Error(err)
		}
	}
	check(part, "")
	check(whole, `pod update requires features InPlacePodLevelResourcesVerticalScaling which are not available on node "n"`)
	node.Status.DeclaredFeatures = []string{"InPlacePodLevelResourcesVerticalScaling"}
	check(whole, "")
}
