package e2e

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// watched is a pod that uses a bit of everything: a claim, scratch space, the
// network and a probe.
const watched = `
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Mi}}}
---
apiVersion: v1
kind: Pod
metadata: {name: watched}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: c
    image: proa.dev/e2e/busybox:1
    command: [sh, -c, "dd if=/dev/zero of=/scratch/x bs=1k count=512 && echo logged && exec sleep 3600"]
    resources: {limits: {cpu: 200m, memory: 50Mi}}
    readinessProbe: {exec: {command: ["test", "-e", "/scratch/x"]}, periodSeconds: 1}
    volumeMounts: [{name: data, mountPath: /data}, {name: scratch, mountPath: /scratch}]
  volumes:
  - {name: data, persistentVolumeClaim: {claimName: data}}
  - {name: scratch, emptyDir: {}}
`

// node reads a path of the node that the pod runs on.
func (e *env) node(pod, path string) string {
	e.t.Helper()
	name := e.kubectl("get", "pod", pod, "-o", "jsonpath={.spec.nodeName}")
	return e.kubectl("get", "--raw", "/api/v1/nodes/"+name+"/proxy"+path)
}

func TestStats(t *testing.T) {
	e := newEnv(t)
	e.apply(watched)
	e.kubectl("wait", "--for=condition=Ready", "pod/watched", "--timeout=60s")
	t.Run("summary", e.summary)
	t.Run("cAdvisor", func(t *testing.T) {
		e.series(t, e.node("watched", "/metrics/cadvisor"), map[string]string{
			"container_cpu_usage_seconds_total":      `container="c" cpu="total" namespace="stats" pod="watched"`,
			"container_memory_working_set_bytes":     `container="c" image="proa.dev/e2e/busybox:1" namespace="stats" pod="watched"`,
			"container_memory_rss":                   `container="c" pod="watched"`,
			"container_memory_failures_total":        `container="c" failure_type="pgfault" pod="watched" scope="container"`,
			"container_network_receive_bytes_total":  `container="" interface="eth0" namespace="stats" pod="watched"`,
			"container_network_transmit_bytes_total": `id="/"`,
			"container_fs_usage_bytes":               `container="c" pod="watched"`,
			"container_fs_limit_bytes":               `id="/"`,
			"container_start_time_seconds":           `container="c" pod="watched"`,
			"container_oom_events_total":             `container="c" pod="watched"`,
			"container_processes":                    `container="c" pod="watched"`,
			"container_spec_memory_limit_bytes":      `container="c" pod="watched"`,
			"container_spec_cpu_quota":               `container="c" pod="watched"`,
			"container_spec_cpu_period":              `container="c" pod="watched"`,
			"machine_cpu_cores":                      ``,
			"machine_memory_bytes":                   ``,
		})
	})
	t.Run("resource", func(t *testing.T) {
		e.series(t, e.node("watched", "/metrics/resource"), map[string]string{
			"node_cpu_usage_seconds_total": ``, "container_memory_working_set_bytes": `container="c" namespace="stats" pod="watched"`,
			"pod_cpu_usage_seconds_total": `namespace="stats" pod="watched"`, "resource_scrape_error": ``,
		})
	})
	t.Run("probes", func(t *testing.T) {
		e.series(t, e.node("watched", "/metrics/probes"), map[string]string{
			"prober_probe_total":            `container="c" namespace="stats" pod="watched" probe_type="Readiness" result="successful"`,
			"prober_probe_duration_seconds": `container="c" namespace="stats" pod="watched" probe_type="Readiness"`,
		})
	})
	t.Run("kubelet", func(t *testing.T) {
		e.series(t, e.node("watched", "/metrics"), map[string]string{
			"kubelet_running_pods": ``, "kubelet_running_containers": `container_state="running"`,
			"kubelet_runtime_operations_total":        `operation_type="start_container"`,
			"kubelet_pod_start_duration_seconds":      ``,
			"kubelet_pod_worker_duration_seconds":     `operation_type="create"`,
			"kubelet_started_containers_total":        `container_type="container"`,
			"kubelet_volume_stats_capacity_bytes":     `namespace="stats" persistentvolumeclaim="data"`,
			"kubelet_cgroup_manager_duration_seconds": `operation_type="create"`,
			"process_resident_memory_bytes":           ``,
			"go_goroutines":                           ``,
		})
	})
}

func (e *env) summary(t *testing.T) {
	var got statsapi.Summary
	if err := json.Unmarshal([]byte(e.node("watched", "/stats/summary")), &got); err != nil {
		t.Fatal(err)
	}
	n := got.Node
	for what, ok := range map[string]bool{
		"CPU":     n.CPU != nil && *n.CPU.UsageCoreNanoSeconds > 0,
		"memory":  n.Memory != nil && *n.Memory.WorkingSetBytes > 0 && *n.Memory.AvailableBytes > 0,
		"files":   n.Fs != nil && *n.Fs.CapacityBytes > *n.Fs.AvailableBytes && *n.Fs.Inodes > 0,
		"images":  n.Runtime != nil && n.Runtime.ImageFs != nil && n.Runtime.ImageFs.UsedBytes != nil && *n.Runtime.ImageFs.CapacityBytes > 0,
		"network": n.Network != nil && len(n.Network.Interfaces) > 0,
		"rlimit":  n.Rlimit != nil && *n.Rlimit.MaxPID > 0 && *n.Rlimit.NumOfRunningProcesses > 0,
		"swap":    n.Swap != nil,
		"pods":    len(n.SystemContainers) == 1 && *n.SystemContainers[0].Memory.UsageBytes > 0,
	} {
		if !ok {
			t.Errorf("node: %s: %+v", what, n)
		}
	}
	for i := range got.Pods {
		if p := &got.Pods[i]; p.PodRef.Name == "watched" && p.PodRef.Namespace == e.namespace {
			e.podSummary(t, p)
			return
		}
	}
	t.Error("the pod is missing")
}

func (e *env) podSummary(t *testing.T, p *statsapi.PodStats) {
	volumes := map[string]statsapi.VolumeStats{}
	for _, v := range p.VolumeStats {
		volumes[v.Name] = v
	}
	if len(p.Containers) != 1 {
		t.Fatalf("%+v", p)
	}
	c, data, scratch := p.Containers[0], volumes["data"], volumes["scratch"]
	for what, ok := range map[string]bool{
		"CPU":          c.CPU != nil && *c.CPU.UsageCoreNanoSeconds > 0,
		"working set":  c.Memory != nil && *c.Memory.WorkingSetBytes > 0 && *c.Memory.AvailableBytes < 50<<20,
		"page faults":  *c.Memory.PageFaults > 0,
		"pod's memory": *p.Memory.UsageBytes >= *c.Memory.UsageBytes/2,
		"root":         c.Rootfs != nil && c.Rootfs.UsedBytes != nil && *c.Rootfs.CapacityBytes > 0,
		"logs":         c.Logs != nil && *c.Logs.UsedBytes > 0,
		"processes":    *p.ProcessStats.ProcessCount >= 2,
		"network":      p.Network != nil && p.Network.Name == "eth0" && p.Network.RxBytes != nil,
		"claim":        data.PVCRef != nil && data.PVCRef.Name == "data" && data.PVCRef.Namespace == e.namespace && *data.CapacityBytes > 0,
		"scratch":      scratch.UsedBytes != nil && *scratch.UsedBytes >= 512<<10 && scratch.PVCRef == nil,
		"ephemeral":    *p.EphemeralStorage.UsedBytes >= 512<<10,
	} {
		if !ok {
			text, _ := json.Marshal(p)
			t.Errorf("%s: %s", what, text)
		}
	}
}

// series wants metrics to be there, each with a series that has these labels.
func (e *env) series(t *testing.T, text string, want map[string]string) {
	t.Helper()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(text + "\n"))
	if err != nil {
		t.Fatal(err)
	}
	for name, labels := range want {
		found := false
		for _, m := range families[name].GetMetric() {
			has := map[string]bool{}
			for _, l := range m.GetLabel() {
				has[l.GetName()+`="`+l.GetValue()+`"`] = true
			}
			all := true
			for _, l := range strings.Fields(labels) {
				all = all && has[l]
			}
			found = found || all
		}
		if !found {
			t.Errorf("no %s{%s}: %v", name, labels, families[name])
		}
	}
}

// Pods that write more to the node's disk than their limits allow are ended.
func TestLocalStorageLimits(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.apply(`
apiVersion: v1
kind: Pod
metadata: {name: volume}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - {name: c, image: "proa.dev/e2e/busybox:1", command: [sh, -c, "dd if=/dev/zero of=/v/x bs=1k count=3072; exec sleep 3600"], volumeMounts: [{name: v, mountPath: /v}]}
  volumes: [{name: v, emptyDir: {sizeLimit: 1Mi}}]
---
apiVersion: v1
kind: Pod
metadata: {name: container}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: c
    image: proa.dev/e2e/busybox:1
    command: [sh, -c, "yes what is written to logs counts as well | head -n 50000; exec sleep 3600"]
    resources: {limits: {ephemeral-storage: 1Mi}}
  - {name: d, image: "proa.dev/e2e/busybox:1", command: [sleep, "3600"], resources: {limits: {ephemeral-storage: 20Mi}}}
`)
	for pod, want := range map[string]string{
		"volume":    `Evicted Usage of EmptyDir volume "v" exceeds the limit "1Mi".`,
		"container": `Evicted Container c exceeded its local ephemeral storage limit "1Mi".`,
	} {
		e.kubectl("wait", "--for=jsonpath={.status.phase}=Failed", "pod/"+pod, "--timeout=90s")
		if got := strings.TrimSpace(e.kubectl("get", "pod", pod, "-o", "jsonpath={.status.reason} {.status.message}")); got != want {
			t.Errorf("%s: %q, want %q", pod, got, want)
		}
	}
}
