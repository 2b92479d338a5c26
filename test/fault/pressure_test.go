package fault

import (
	"regexp"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/proa-dev/proa/test/isolate"
)

// A node that is short of something, here because it is told to want more than
// there is, ends pods, says so, and takes no more of them.
func TestPressure(t *testing.T) {
	const unused = "proa.dev/fault/unused:1"
	for _, c := range []struct {
		name, flag     string
		condition      corev1.NodeConditionType
		reason, text   string
		taint          string
		resource, says string
		images         bool // unused ones go first
	}{
		{
			"memory", "memory.available<1000Ti", corev1.NodeMemoryPressure, "KubeletHasInsufficientMemory", "kubelet has insufficient memory available",
			corev1.TaintNodeMemoryPressure, "memory", `Threshold quantity: 1000Ti, available: \d+[KM]i\. (Container main was using \d+[KM]i, request is 4Mi, has larger consumption of memory\. )?`, false,
		},
		{
			"disk", "nodefs.available<99.999%", corev1.NodeDiskPressure, "KubeletHasDiskPressure", "kubelet has disk pressure",
			corev1.TaintNodeDiskPressure, "ephemeral-storage", `Threshold quantity: \d+[KM]?i?, available: \d+[KM]i\. (Container main was using \d+[KM]?i?, request is 0, has larger consumption of ephemeral-storage\. )?`, true,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := newNode(t)
			n.start()
			n.importBusybox(unused)
			n.run("p")
			n.pod("p")
			if err := n.Stop(); err != nil {
				t.Fatal(err)
			}
			n.start("--eviction-hard=" + c.flag)
			var pod *corev1.Pod
			n.until("the pod is evicted", func() bool {
				var err error
				pod, err = n.client.CoreV1().Pods("default").Get(t.Context(), "p", metav1.GetOptions{})
				return err == nil && pod.Status.Phase == corev1.PodFailed
			})
			says := regexp.MustCompile(`^The node was low on resource: ` + c.resource + `\. ` + c.says + `$`)
			if pod.Status.Reason != "Evicted" || !says.MatchString(pod.Status.Message) {
				t.Errorf("%s: %q", pod.Status.Reason, pod.Status.Message)
			}
			disrupted := false
			for _, cond := range pod.Status.Conditions {
				disrupted = disrupted || (cond.Type == corev1.DisruptionTarget && cond.Status == corev1.ConditionTrue && cond.Reason == "TerminationByKubelet" && cond.Message == pod.Status.Message)
			}
			if !disrupted {
				t.Errorf("conditions %+v", pod.Status.Conditions)
			}
			n.until("the node has its condition and taint", func() bool {
				node, err := n.client.CoreV1().Nodes().Get(t.Context(), isolate.Host, metav1.GetOptions{})
				if err != nil {
					return false
				}
				told, tainted := false, false
				for _, cond := range node.Status.Conditions {
					told = told || (cond.Type == c.condition && cond.Status == corev1.ConditionTrue && cond.Reason == c.reason && cond.Message == c.text)
				}
				for _, taint := range node.Spec.Taints {
					tainted = tainted || (taint.Key == c.taint && taint.Effect == corev1.TaintEffectNoSchedule)
				}
				return told && tainted
			})
			n.until("the events tell", func() bool {
				out, err := n.Kubectl(t.Context(), nil, "get", "events", "-A")
				return err == nil && strings.Contains(out, "Attempting to reclaim "+c.resource) && strings.Contains(out, "The node was low on resource: "+c.resource)
			})
			images, err := n.Proa(t.Context(), nil, "image", "list")
			if err != nil || !strings.Contains(images, busybox) || strings.Contains(images, unused) == c.images {
				t.Errorf("images, %v:\n%s", err, images)
			}

			refused := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "more"}, Spec: corev1.PodSpec{NodeName: isolate.Host,
				Containers: []corev1.Container{{Name: "c", Image: busybox, Command: []string{"true"}}}}}
			if _, err := n.client.CoreV1().Pods("default").Create(t.Context(), refused, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
			n.until("another pod is refused", func() bool {
				pod, err := n.client.CoreV1().Pods("default").Get(t.Context(), "more", metav1.GetOptions{})
				return err == nil && pod.Status.Phase == corev1.PodFailed && pod.Status.Reason == "Evicted" &&
					pod.Status.Message == "Pod was rejected: The node had condition: ["+string(c.condition)+"]. "
			})
		})
	}
}
