package stats

import (
	"context"
	"io"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/proa-dev/proa/kubelet/cgroups"
)

// Resource writes what autoscalers read: CPU and memory of the node, of pods
// and of containers. It reads no more than that.
func (r *Reader) Resource(ctx context.Context, w io.Writer) error {
	var e exposition
	failed := 0.0
	use, err := r.containers(ctx)
	if err != nil {
		// What the node itself tells is worth having without them.
		r.cfg.Logger.Warn("container metrics", "error", err)
		failed = 1
	}
	now := r.cfg.Clock.Now()
	node := r.cfg.Groups.Node()
	e.head("node_cpu_usage_seconds_total", "counter", "Cumulative cpu time consumed by the node in core-seconds")
	e.valueAt("node_cpu_usage_seconds_total", float64(node.CPUNanos)/1e9, now)
	e.head("node_memory_working_set_bytes", "gauge", "Current working set of the node in bytes")
	e.valueAt("node_memory_working_set_bytes", float64(node.WorkingSet), now)
	_, swapTotal, swapFree := memInfo()
	e.head("node_swap_usage_bytes", "gauge", "Current swap usage of the node in bytes. Reported only on non-windows systems")
	e.valueAt("node_swap_usage_bytes", float64(swapTotal-min(swapTotal, swapFree)), now)
	e.head("container_cpu_usage_seconds_total", "counter", "Cumulative cpu time consumed by the container in core-seconds")
	use.each(func(c container, labels []string) {
		if cpu := c.stats.GetCpu(); cpu.GetUsageCoreNanoSeconds() != nil {
			e.valueAt("container_cpu_usage_seconds_total", float64(cpu.UsageCoreNanoSeconds.Value)/1e9, time.Unix(0, cpu.Timestamp), labels...)
		}
	})
	e.head("container_memory_working_set_bytes", "gauge", "Current working set of the container in bytes")
	use.each(func(c container, labels []string) {
		if m := c.stats.GetMemory(); m.GetWorkingSetBytes() != nil {
			e.valueAt("container_memory_working_set_bytes", float64(m.WorkingSetBytes.Value), time.Unix(0, m.Timestamp), labels...)
		}
	})
	e.head("container_swap_usage_bytes", "gauge", "Current amount of the container swap usage in bytes. Reported only on non-windows systems")
	use.each(func(c container, labels []string) {
		if s := c.stats.GetSwap(); s.GetSwapUsageBytes() != nil {
			e.valueAt("container_swap_usage_bytes", float64(s.SwapUsageBytes.Value), time.Unix(0, s.Timestamp), labels...)
		}
	})
	e.head("container_swap_limit_bytes", "gauge", "Current amount of the container swap limit in bytes. Reported only on non-windows systems")
	use.each(func(c container, labels []string) {
		if s := c.stats.GetSwap(); s.GetSwapAvailableBytes() != nil {
			e.valueAt("container_swap_limit_bytes", float64(s.SwapAvailableBytes.Value)+float64(s.GetSwapUsageBytes().GetValue()), time.Unix(0, s.Timestamp), labels...)
		}
	})
	e.head("container_start_time_seconds", "gauge", "Start time of the container since unix epoch in seconds")
	use.each(func(c container, labels []string) {
		if !c.start.IsZero() {
			e.value("container_start_time_seconds", float64(c.start.UnixNano())/1e9, labels...)
		}
	})
	r.podUse(&e, now)
	e.head("resource_scrape_error", "gauge", "1 if there was an error while getting container metrics, 0 otherwise")
	e.value("resource_scrape_error", failed)
	return e.send(w)
}

func (r *Reader) podUse(e *exposition, now time.Time) {
	var pods []*corev1.Pod
	var used []cgroups.Usage
	for _, p := range r.live() {
		pods, used = append(pods, p), append(used, r.cfg.Groups.Pod(p))
	}
	e.head("pod_cpu_usage_seconds_total", "counter", "Cumulative cpu time consumed by the pod in core-seconds")
	for i, p := range pods {
		e.valueAt("pod_cpu_usage_seconds_total", float64(used[i].CPUNanos)/1e9, now, "namespace", p.Namespace, "pod", p.Name)
	}
	e.head("pod_memory_working_set_bytes", "gauge", "Current working set of the pod in bytes")
	for i, p := range pods {
		e.valueAt("pod_memory_working_set_bytes", float64(used[i].WorkingSet), now, "namespace", p.Namespace, "pod", p.Name)
	}
	e.head("pod_swap_usage_bytes", "gauge", "Current amount of the pod swap usage in bytes. Reported only on non-windows systems")
	for i, p := range pods {
		e.valueAt("pod_swap_usage_bytes", float64(used[i].Swap), now, "namespace", p.Namespace, "pod", p.Name)
	}
}

// each calls f for every container, with its labels.
func (u running) each(f func(c container, labels []string)) {
	for _, list := range u {
		for _, c := range list {
			f(c, []string{"container", c.name, "namespace", c.pod.Namespace, "pod", c.pod.Name})
		}
	}
}
