package server

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	"github.com/proa-dev/proa/kubelet/cgroups"
	"github.com/proa-dev/proa/kubelet/cri"
)

// rates turns growing counters into rates: what was used since the last look.
type rates struct {
	mu   sync.Mutex
	seen map[string]sample
}

type sample struct {
	nanos uint64
	rate  *uint64 // nil until there was a second look
	at    time.Time
}

// A rate is an average over at least rateWindow, however often it is asked for;
// the first one is there sooner.
const (
	rateWindow  = 10 * time.Second
	firstWindow = time.Second
)

// maxRates bounds the memory of counters; full, they begin anew.
const maxRates = 8192

// cores is the nano-CPUs that the owner of a counter uses now; nil at the
// first look.
func (r *rates) cores(key string, nanos uint64, now time.Time) *uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	old, ok := r.seen[key]
	next := sample{nanos: nanos, at: now}
	if since := now.Sub(old.at); ok && nanos >= old.nanos {
		if since < firstWindow || old.rate != nil && since < rateWindow {
			return old.rate
		}
		rate := uint64(float64(nanos-old.nanos) / since.Seconds())
		next.rate = &rate
	}
	if len(r.seen) >= maxRates {
		clear(r.seen)
	}
	r.seen[key] = next
	return next.rate
}

// containerUse is what one container uses.
type containerUse struct {
	pod   *corev1.Pod
	name  string
	start time.Time
	stats *runtimeapi.ContainerStats
}

func (s *Server) containers(ctx context.Context) (map[string][]containerUse, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	got, err := s.cfg.CRI.Runtime.ListContainerStats(ctx, &runtimeapi.ListContainerStatsRequest{})
	if err != nil {
		return nil, err
	}
	pods := map[string]*corev1.Pod{}
	for _, p := range s.cfg.Pods.Pods() {
		pods[string(p.UID)] = p
	}
	out := map[string][]containerUse{}
	for _, st := range got.Stats {
		uid := st.GetAttributes().GetLabels()[cri.LabelPodUID]
		pod := pods[uid]
		if pod == nil {
			continue
		}
		use := containerUse{pod: pod, name: st.GetAttributes().GetMetadata().GetName(), stats: st}
		for _, list := range [][]corev1.ContainerStatus{pod.Status.ContainerStatuses, pod.Status.InitContainerStatuses} {
			for i := range list {
				if list[i].Name == use.name && list[i].State.Running != nil {
					use.start = list[i].State.Running.StartedAt.Time
				}
			}
		}
		out[uid] = append(out[uid], use)
	}
	return out, nil
}

func (s *Server) summary(w http.ResponseWriter, r *http.Request) {
	use, err := s.containers(r.Context())
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	now := s.cfg.Clock.Now()
	fs := fsStats(s.cfg.RootDir, now)
	out := statsapi.Summary{Node: statsapi.NodeStats{NodeName: s.cfg.NodeName, StartTime: metav1.NewTime(bootTime(now)), Fs: fs,
		Runtime: &statsapi.RuntimeStats{ImageFs: fs, ContainerFs: fs}}}
	total := s.cfg.Cgroups.Node()
	out.Node.CPU, out.Node.Memory = s.cpu("node", total, now), memory(total, now)
	all := s.cfg.Cgroups.Pods()
	out.Node.SystemContainers = []statsapi.ContainerStats{{Name: "pods", StartTime: out.Node.StartTime, CPU: s.cpu("pods", all, now), Memory: memory(all, now)}}
	for _, pod := range s.cfg.Pods.Pods() {
		if pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed {
			continue
		}
		p := statsapi.PodStats{PodRef: statsapi.PodReference{Name: pod.Name, Namespace: pod.Namespace, UID: string(pod.UID)}, Containers: []statsapi.ContainerStats{}}
		if pod.Status.StartTime != nil {
			p.StartTime = *pod.Status.StartTime
		}
		u := s.cfg.Cgroups.Pod(pod)
		p.CPU, p.Memory = s.cpu("pod/"+string(pod.UID), u, now), memory(u, now)
		p.ProcessStats = &statsapi.ProcessStats{ProcessCount: &u.Processes}
		var disk uint64
		for _, c := range use[string(pod.UID)] {
			cs := s.containerStats(c, now)
			if cs.Rootfs != nil && cs.Rootfs.UsedBytes != nil {
				disk += *cs.Rootfs.UsedBytes
			}
			p.Containers = append(p.Containers, cs)
		}
		p.EphemeralStorage = &statsapi.FsStats{Time: metav1.NewTime(now), UsedBytes: &disk, AvailableBytes: fs.AvailableBytes, CapacityBytes: fs.CapacityBytes}
		out.Pods = append(out.Pods, p)
	}
	writeJSON(w, out)
}

func (s *Server) cpu(key string, u cgroups.Usage, now time.Time) *statsapi.CPUStats {
	return &statsapi.CPUStats{Time: metav1.NewTime(now), UsageCoreNanoSeconds: &u.CPUNanos, UsageNanoCores: s.rates.cores(key, u.CPUNanos, now)}
}

func memory(u cgroups.Usage, now time.Time) *statsapi.MemoryStats {
	return &statsapi.MemoryStats{Time: metav1.NewTime(now), UsageBytes: &u.Memory, WorkingSetBytes: &u.WorkingSet, RSSBytes: &u.RSS}
}

func (s *Server) containerStats(c containerUse, now time.Time) statsapi.ContainerStats {
	out := statsapi.ContainerStats{Name: c.name, StartTime: metav1.NewTime(c.start)}
	if cpu := c.stats.GetCpu(); cpu != nil {
		nanos := cpu.GetUsageCoreNanoSeconds().GetValue()
		out.CPU = &statsapi.CPUStats{Time: metav1.NewTime(now), UsageCoreNanoSeconds: &nanos,
			UsageNanoCores: s.rates.cores("container/"+c.stats.GetAttributes().GetId(), nanos, now)}
	}
	if m := c.stats.GetMemory(); m != nil {
		usage, set, rss := m.GetUsageBytes().GetValue(), m.GetWorkingSetBytes().GetValue(), m.GetRssBytes().GetValue()
		out.Memory = &statsapi.MemoryStats{Time: metav1.NewTime(now), UsageBytes: &usage, WorkingSetBytes: &set, RSSBytes: &rss}
	}
	if layer := c.stats.GetWritableLayer(); layer != nil {
		used, inodes := layer.GetUsedBytes().GetValue(), layer.GetInodesUsed().GetValue()
		out.Rootfs = &statsapi.FsStats{Time: metav1.NewTime(now), UsedBytes: &used, InodesUsed: &inodes}
	}
	return out
}

func fsStats(dir string, now time.Time) *statsapi.FsStats {
	var st unix.Statfs_t
	out := &statsapi.FsStats{Time: metav1.NewTime(now)}
	if err := unix.Statfs(dir, &st); err != nil {
		return out
	}
	size := uint64(max(st.Bsize, 0))
	available, capacity, used := st.Bavail*size, st.Blocks*size, (st.Blocks-st.Bfree)*size
	inodes, free := st.Files, st.Ffree
	inodesUsed := inodes - free
	out.AvailableBytes, out.CapacityBytes, out.UsedBytes = &available, &capacity, &used
	out.Inodes, out.InodesFree, out.InodesUsed = &inodes, &free, &inodesUsed
	return out
}

func bootTime(now time.Time) time.Time {
	var si unix.Sysinfo_t
	if err := unix.Sysinfo(&si); err != nil {
		return now
	}
	return now.Add(-time.Duration(si.Uptime) * time.Second).Truncate(time.Second)
}

// exposition writes metrics in Prometheus' text format.
type exposition struct{ b strings.Builder }

func (e *exposition) head(name, kind, help string) {
	fmt.Fprintf(&e.b, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, kind)
}

func (e *exposition) value(name string, v float64, labels ...string) {
	e.valueAt(name, v, time.Time{}, labels...)
}

// valueAt tells of a value with the time that it was read at.
func (e *exposition) valueAt(name string, v float64, at time.Time, labels ...string) {
	e.b.WriteString(name)
	for i := 0; i+1 < len(labels); i += 2 {
		sep := ","
		if i == 0 {
			sep = "{"
		}
		fmt.Fprintf(&e.b, "%s%s=%q", sep, labels[i], labels[i+1])
	}
	if len(labels) > 1 {
		e.b.WriteByte('}')
	}
	fmt.Fprintf(&e.b, " %g", v)
	if !at.IsZero() {
		fmt.Fprintf(&e.b, " %d", at.UnixMilli())
	}
	e.b.WriteByte('\n')
}

func (e *exposition) send(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	_, _ = w.Write([]byte(e.b.String())) // the caller may be gone
}

func (s *Server) resourceMetrics(w http.ResponseWriter, r *http.Request) {
	var e exposition
	failed := 0.0
	use, err := s.containers(r.Context())
	if err != nil {
		// What the node itself tells is worth having without them.
		s.cfg.Logger.Warn("container metrics", "error", err)
		failed = 1
	}
	now := s.cfg.Clock.Now()
	node := s.cfg.Cgroups.Node()
	e.head("node_cpu_usage_seconds_total", "counter", "Cumulative cpu time consumed by the node in core-seconds")
	e.valueAt("node_cpu_usage_seconds_total", float64(node.CPUNanos)/1e9, now)
	e.head("node_memory_working_set_bytes", "gauge", "Current working set of the node in bytes")
	e.valueAt("node_memory_working_set_bytes", float64(node.WorkingSet), now)
	e.head("container_cpu_usage_seconds_total", "counter", "Cumulative cpu time consumed by the container in core-seconds")
	eachContainer(use, func(c containerUse, labels []string) {
		if cpu := c.stats.GetCpu(); cpu.GetUsageCoreNanoSeconds() != nil {
			e.valueAt("container_cpu_usage_seconds_total", float64(cpu.UsageCoreNanoSeconds.Value)/1e9, time.Unix(0, cpu.Timestamp), labels...)
		}
	})
	e.head("container_memory_working_set_bytes", "gauge", "Current working set of the container in bytes")
	eachContainer(use, func(c containerUse, labels []string) {
		if m := c.stats.GetMemory(); m.GetWorkingSetBytes() != nil {
			e.valueAt("container_memory_working_set_bytes", float64(m.WorkingSetBytes.Value), time.Unix(0, m.Timestamp), labels...)
		}
	})
	e.head("container_start_time_seconds", "gauge", "Start time of the container since unix epoch in seconds")
	eachContainer(use, func(c containerUse, labels []string) {
		if !c.start.IsZero() {
			e.value("container_start_time_seconds", float64(c.start.Unix()), labels...)
		}
	})
	s.podMetrics(&e, now)
	e.head("resource_scrape_error", "gauge", "1 if there was an error while getting container metrics, 0 otherwise")
	e.value("resource_scrape_error", failed)
	e.send(w)
}

func (s *Server) podMetrics(e *exposition, now time.Time) {
	var pods []*corev1.Pod
	var used []cgroups.Usage
	for _, p := range s.cfg.Pods.Pods() {
		if p.Status.Phase != corev1.PodSucceeded && p.Status.Phase != corev1.PodFailed {
			pods, used = append(pods, p), append(used, s.cfg.Cgroups.Pod(p))
		}
	}
	e.head("pod_cpu_usage_seconds_total", "counter", "Cumulative cpu time consumed by the pod in core-seconds")
	for i, p := range pods {
		e.valueAt("pod_cpu_usage_seconds_total", float64(used[i].CPUNanos)/1e9, now, "namespace", p.Namespace, "pod", p.Name)
	}
	e.head("pod_memory_working_set_bytes", "gauge", "Current working set of the pod in bytes")
	for i, p := range pods {
		e.valueAt("pod_memory_working_set_bytes", float64(used[i].WorkingSet), now, "namespace", p.Namespace, "pod", p.Name)
	}
}

func eachContainer(use map[string][]containerUse, f func(c containerUse, labels []string)) {
	for _, list := range use {
		for _, c := range list {
			f(c, []string{"container", c.name, "namespace", c.pod.Namespace, "pod", c.pod.Name})
		}
	}
}

func (s *Server) containerMetrics(w http.ResponseWriter, r *http.Request) {
	use, err := s.containers(r.Context())
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	var e exposition
	gauges := []struct {
		name, kind, help string
		value            func(c containerUse) float64
	}{
		{"container_cpu_usage_seconds_total", "counter", "Cumulative cpu time consumed in seconds.", func(c containerUse) float64 {
			return float64(c.stats.GetCpu().GetUsageCoreNanoSeconds().GetValue()) / 1e9
		}},
		{"container_memory_usage_bytes", "gauge", "Current memory usage in bytes, including all memory regardless of when it was accessed", func(c containerUse) float64 {
			return float64(c.stats.GetMemory().GetUsageBytes().GetValue())
		}},
		{"container_memory_working_set_bytes", "gauge", "Current working set in bytes.", func(c containerUse) float64 {
			return float64(c.stats.GetMemory().GetWorkingSetBytes().GetValue())
		}},
		{"container_memory_rss", "gauge", "Size of RSS in bytes.", func(c containerUse) float64 {
			return float64(c.stats.GetMemory().GetRssBytes().GetValue())
		}},
		{"container_fs_usage_bytes", "gauge", "Number of bytes that are consumed by the container on this filesystem.", func(c containerUse) float64 {
			return float64(c.stats.GetWritableLayer().GetUsedBytes().GetValue())
		}},
	}
	for _, g := range gauges {
		e.head(g.name, g.kind, g.help)
		eachContainer(use, func(c containerUse, labels []string) {
			e.value(g.name, g.value(c), append(labels, "id", c.stats.GetAttributes().GetId())...)
		})
	}
	e.send(w)
}

// metrics are the kubelet's own.
func (s *Server) metrics(w http.ResponseWriter, _ *http.Request) {
	var e exposition
	running, containers := 0, map[string]int{}
	for _, p := range s.cfg.Pods.Pods() {
		if p.Status.Phase == corev1.PodRunning {
			running++
		}
		for _, st := range p.Status.ContainerStatuses {
			switch {
			case st.State.Running != nil:
				containers["running"]++
			case st.State.Terminated != nil:
				containers["exited"]++
			default:
				containers["created"]++
			}
		}
	}
	e.head("kubelet_running_pods", "gauge", "Number of pods that have a running pod sandbox")
	e.value("kubelet_running_pods", float64(running))
	e.head("kubelet_running_containers", "gauge", "Number of containers currently running")
	for _, state := range []string{"created", "exited", "running"} {
		e.value("kubelet_running_containers", float64(containers[state]), "container_state", state)
	}
	e.head("kubelet_node_name", "gauge", "The node's name. The count is always 1.")
	e.value("kubelet_node_name", 1, "node", s.cfg.NodeName)
	e.send(w)
}
