package e2e

import (
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/proa-dev/proa/test/isolate"
)

func regexpMatch(t *testing.T, pattern, text string) bool {
	t.Helper()
	ok, err := regexp.MatchString(pattern, text)
	if err != nil {
		t.Fatal(err)
	}
	return ok
}

// Pods of files run without the API, which shows a mirror of each.
func TestPodStatic(t *testing.T) {
	e := newEnv(t)
	file := filepath.Join(shared.Dir, "manifests", "web.yaml")
	write := func(command string) {
		t.Helper()
		manifest := "apiVersion: v1\nkind: Pod\nmetadata: {name: web, namespace: " + e.namespace + ", labels: {tier: static}}\nspec:\n" +
			"  terminationGracePeriodSeconds: 1\n  containers: [{name: c, image: " + busybox + ", command: [sh, -c, '" + command + "; sleep 3600']}]\n"
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(manifest), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { _ = os.Remove(file) })
	write("echo one")
	const mirror = "web-" + isolate.Host
	e.until("the mirror pod is there", func() bool {
		_, err := e.client.CoreV1().Pods(e.namespace).Get(t.Context(), mirror, metav1.GetOptions{})
		return err == nil
	})
	pod := e.ready(mirror)
	a := pod.Annotations
	if a["kubernetes.io/config.mirror"] == "" || a["kubernetes.io/config.mirror"] != a["kubernetes.io/config.hash"] || a["kubernetes.io/config.source"] != "file" ||
		pod.Labels["tier"] != "static" || len(pod.OwnerReferences) != 1 || pod.OwnerReferences[0].Kind != "Node" {
		t.Errorf("metadata %+v", pod.ObjectMeta)
	}
	e.untilLog(mirror, "c", "one")

	// Who deletes the mirror deletes no pod: the mirror comes back.
	id := pod.Status.ContainerStatuses[0].ContainerID
	e.kubectl("delete", "pod", mirror, "--wait=false")
	e.until("the mirror is back", func() bool {
		p, err := e.client.CoreV1().Pods(e.namespace).Get(t.Context(), mirror, metav1.GetOptions{})
		return err == nil && p.UID != pod.UID && isReady(p) && p.Status.ContainerStatuses[0].ContainerID == id
	})
	write("echo two")
	e.until("the changed pod runs", func() bool {
		log, err := e.tryLogs(mirror, "c")
		return err == nil && log == "two\n"
	})
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	e.gone(mirror)
}

// What a node says of itself.
func TestPodNode(t *testing.T) {
	e := newEnv(t)
	node, err := e.client.CoreV1().Nodes().Get(t.Context(), isolate.Host, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []struct {
		kind            corev1.NodeConditionType
		status          corev1.ConditionStatus
		reason, message string
	}{
		{corev1.NodeReady, corev1.ConditionTrue, "KubeletReady", "kubelet is posting ready status"},
		{corev1.NodeMemoryPressure, corev1.ConditionFalse, "KubeletHasSufficientMemory", "kubelet has sufficient memory available"},
		{corev1.NodeDiskPressure, corev1.ConditionFalse, "KubeletHasNoDiskPressure", "kubelet has no disk pressure"},
		{corev1.NodePIDPressure, corev1.ConditionFalse, "KubeletHasSufficientPID", "kubelet has sufficient PID available"},
	} {
		found := false
		for _, c := range node.Status.Conditions {
			if c.Type == want.kind {
				found = true
				if c.Status != want.status || c.Reason != want.reason || c.Message != want.message || c.LastHeartbeatTime.IsZero() || c.LastTransitionTime.IsZero() {
					t.Errorf("condition %+v", c)
				}
			}
		}
		if !found {
			t.Errorf("no condition %s", want.kind)
		}
	}
	if n := node.Status.Capacity.Cpu().Value(); n != int64(runtime.NumCPU()) {
		t.Errorf("%d CPUs", n)
	}
	for _, r := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourcePods, corev1.ResourceEphemeralStorage} {
		total, free := node.Status.Capacity[r], node.Status.Allocatable[r]
		if total.IsZero() || free.IsZero() || free.Cmp(total) > 0 {
			t.Errorf("%s: capacity %s, allocatable %s", r, total.String(), free.String())
		}
	}
	addresses := map[corev1.NodeAddressType]string{}
	for _, a := range node.Status.Addresses {
		addresses[a.Type] = a.Address
	}
	if addresses[corev1.NodeInternalIP] != isolate.Address || addresses[corev1.NodeHostName] != isolate.Host {
		t.Errorf("addresses %v", addresses)
	}
	info := node.Status.NodeInfo
	if info.KubeletVersion == "" || info.ContainerRuntimeVersion == "" || info.KernelVersion == "" || info.OperatingSystem != "linux" || info.MachineID == "" && info.SystemUUID == "" || info.BootID == "" || info.OSImage == "" {
		t.Errorf("info %+v", info)
	}
	for key, want := range map[string]string{"kubernetes.io/hostname": isolate.Host, "kubernetes.io/os": "linux", "kubernetes.io/arch": runtime.GOARCH} {
		if node.Labels[key] != want {
			t.Errorf("label %s is %q", key, node.Labels[key])
		}
	}
	if len(node.Status.Images) == 0 || len(node.Status.Images[0].Names) == 0 || node.Status.DaemonEndpoints.KubeletEndpoint.Port != 10250 {
		t.Errorf("images %v, port %d", node.Status.Images, node.Status.DaemonEndpoints.KubeletEndpoint.Port)
	}
	lease, err := e.client.CoordinationV1().Leases(corev1.NamespaceNodeLease).Get(t.Context(), isolate.Host, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if lease.Spec.HolderIdentity == nil || *lease.Spec.HolderIdentity != isolate.Host || *lease.Spec.LeaseDurationSeconds != 40 ||
		time.Since(lease.Spec.RenewTime.Time) > 40*time.Second || len(lease.OwnerReferences) != 1 || lease.OwnerReferences[0].Name != node.Name {
		t.Errorf("lease %+v", lease)
	}
}

// Pods that a node cannot run are refused in upstream's words.
func TestPodRefused(t *testing.T) {
	e := newEnv(t)
	for name, c := range map[string]struct{ spec, reason, message string }{
		"selector": {"nodeSelector: {nowhere: x}\n", "NodeAffinity", "Pod was rejected: Predicate NodeAffinity failed: node\\(s\\) didn't match Pod's node affinity/selector"},
		"cpu":      {"containers: [{command: ['true'], resources: {requests: {cpu: '1000'}}}]\n", "OutOfcpu", `Pod was rejected: Node didn't have enough resource: cpu, requested: 1000000, used: \d+, capacity: \d+`},
		"sysctl":   {"securityContext: {sysctls: [{name: kernel.msgmax, value: '1'}]}\n", "SysctlForbidden", `Pod was rejected: forbidden sysctl: "kernel.msgmax" not allowlisted`},
	} {
		spec := "nodeName: " + isolate.Host + "\n" + c.spec
		if name != "cpu" {
			spec += "containers: [{command: ['true']}]\n"
		}
		e.create(podOf(t, name, spec))
		pod := e.ended(name)
		if pod.Status.Phase != corev1.PodFailed || pod.Status.Reason != c.reason || !regexpMatch(t, "^"+c.message+"$", pod.Status.Message) {
			t.Errorf("%s: %s %s: %s", name, pod.Status.Phase, pod.Status.Reason, pod.Status.Message)
		}
	}
}
