// Package metrics counts what the kubelet does, under upstream's names. Each
// kubelet has its own: several may share a process.
package metrics

import (
	"context"
	"path"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"google.golang.org/grpc"
	corev1 "k8s.io/api/core/v1"
)

// Metrics are the kubelet's. Safe for concurrent use.
type Metrics struct {
	// Own is what /metrics shows, Probes what /metrics/probes shows.
	Own, Probes *prometheus.Registry

	// WorkerStart is how long a pod waited for its worker, Start until it ran
	// since it was seen, StartTotal since it was created, StartSLI the same
	// without pulls and init containers.
	WorkerStart, Start, StartTotal, StartSLI prometheus.Observer
	StartedPods, StartedPodsErrors           prometheus.Counter
	ContainersPerPod                         prometheus.Observer
	// ImageVolumes count volumes that are images.
	ImageVolumesRequested, ImageVolumesMounted, ImageVolumesFailed prometheus.Counter
	OrphanedPods                                                   prometheus.Counter

	work          map[string]prometheus.Observer
	cgroups       map[string]prometheus.Observer
	started       map[string]prometheus.Counter
	startedErrors *prometheus.CounterVec
	evictions     *prometheus.CounterVec
	rejections    *prometheus.CounterVec
	pulls         *prometheus.HistogramVec
	sandboxes     *prometheus.HistogramVec
	sandboxErrors *prometheus.CounterVec
	images        *prometheus.CounterVec
	requests      *prometheus.CounterVec
	durations     *prometheus.HistogramVec
	operations    map[string]*operation
	other         *operation
	probes        *prometheus.CounterVec
	probeTimes    *prometheus.HistogramVec
}

// operation is the calls of one of the runtime's methods.
type operation struct {
	total, errors prometheus.Counter
	duration      prometheus.Observer
}

// What a worker does with its pod.
const (
	WorkCreate = "create"
	WorkUpdate = "update"
	WorkSync   = "sync"
	WorkKill   = "kill"
)

// What is done to control groups.
const (
	GroupCreate  = "create"
	GroupDestroy = "destroy"
)

// The types of containers.
const (
	Container          = "container"
	InitContainer      = "init_container"
	EphemeralContainer = "ephemeral_container"
)

// New makes the metrics of one kubelet.
func New() *Metrics {
	m := &Metrics{Own: prometheus.NewRegistry(), Probes: prometheus.NewRegistry()}
	m.Own.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	m.pods()
	m.runtime()
	m.server()
	m.probing()
	return m
}

const subsystem = "kubelet"

func startBuckets() []float64 {
	return []float64{0.5, 1, 2, 3, 4, 5, 6, 8, 10, 20, 30, 45, 60, 120, 180, 240, 300, 360, 480, 600, 900, 1200, 1800, 2700, 3600}
}

func (m *Metrics) counter(name, help string) prometheus.Counter {
	c := prometheus.NewCounter(prometheus.CounterOpts{Subsystem: subsystem, Name: name, Help: help})
	m.Own.MustRegister(c)
	return c
}

func (m *Metrics) counters(name, help string, labels ...string) *prometheus.CounterVec {
	c := prometheus.NewCounterVec(prometheus.CounterOpts{Subsystem: subsystem, Name: name, Help: help}, labels)
	m.Own.MustRegister(c)
	return c
}

func (m *Metrics) histogram(name, help string, buckets []float64) prometheus.Histogram {
	h := prometheus.NewHistogram(prometheus.HistogramOpts{Subsystem: subsystem, Name: name, Help: help, Buckets: buckets})
	m.Own.MustRegister(h)
	return h
}

func (m *Metrics) histograms(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
	h := prometheus.NewHistogramVec(prometheus.HistogramOpts{Subsystem: subsystem, Name: name, Help: help, Buckets: buckets}, labels)
	m.Own.MustRegister(h)
	return h
}

func (m *Metrics) pods() {
	m.WorkerStart = m.histogram("pod_worker_start_duration_seconds", "Duration in seconds from kubelet seeing a pod to starting a worker.", prometheus.DefBuckets)
	m.Start = m.histogram("pod_start_duration_seconds", "Duration in seconds from kubelet seeing a pod for the first time to the pod starting to run", startBuckets())
	m.StartSLI = m.histogram("pod_start_sli_duration_seconds", "Duration in seconds to start a pod, excluding time to pull images and run init containers, "+
		"measured from pod creation timestamp to when all its containers are reported as started and observed via watch", startBuckets())
	m.StartTotal = m.histogram("pod_start_total_duration_seconds", "Duration in seconds to start a pod since creation, including time to pull images and run init containers, "+
		"measured from pod creation timestamp to when all its containers are reported as started and observed via watch", startBuckets())
	m.ContainersPerPod = m.histogram("containers_per_pod_count", "The number of containers per pod.", prometheus.ExponentialBuckets(1, 2, 5))
	m.StartedPods = m.counter("started_pods_total", "Cumulative number of pods started")
	m.StartedPodsErrors = m.counter("started_pods_errors_total", "Cumulative number of errors when starting pods")
	m.OrphanedPods = m.counter("orphaned_runtime_pods_total", "Number of pods that have been detected in the container runtime without being already known to the pod worker. "+
		"This typically indicates the kubelet was restarted while a pod was force deleted in the API or in the local configuration, which is unusual.")
	m.ImageVolumesRequested = m.counter("image_volume_requested_total", "Number of requested image volumes.")
	m.ImageVolumesMounted = m.counter("image_volume_mounted_succeed_total", "Number of successful image volume mounts.")
	m.ImageVolumesFailed = m.counter("image_volume_mounted_errors_total", "Number of failed image volume mounts.")
	work := m.histograms("pod_worker_duration_seconds", "Duration in seconds to sync a single pod. Broken down by operation type: create, update, or sync", prometheus.DefBuckets, "operation_type")
	m.work = map[string]prometheus.Observer{}
	for _, w := range []string{WorkCreate, WorkUpdate, WorkSync, WorkKill} {
		m.work[w] = work.WithLabelValues(w)
	}
	groups := m.histograms("cgroup_manager_duration_seconds", "Duration in seconds for cgroup manager operations. Broken down by method.", prometheus.DefBuckets, "operation_type")
	m.cgroups = map[string]prometheus.Observer{}
	for _, g := range []string{GroupCreate, GroupDestroy} {
		m.cgroups[g] = groups.WithLabelValues(g)
	}
	started := m.counters("started_containers_total", "Cumulative number of containers started", "container_type")
	m.started = map[string]prometheus.Counter{}
	for _, c := range []string{Container, InitContainer, EphemeralContainer} {
		m.started[c] = started.WithLabelValues(c)
	}
	m.startedErrors = m.counters("started_containers_errors_total", "Cumulative number of errors when starting containers", "container_type", "code")
	m.evictions = m.counters("evictions", "Cumulative number of pod evictions by eviction signal", "eviction_signal")
	m.rejections = m.counters("admission_rejections_total", "Cumulative number pod admission rejections by the Kubelet.", "reason")
}

func (m *Metrics) runtime() {
	m.pulls = m.histograms("image_pull_duration_seconds", "Duration in seconds to pull an image.",
		[]float64{1, 5, 10, 20, 30, 60, 120, 180, 240, 300, 360, 480, 600, 900, 1200, 1800, 2700, 3600}, "image_size_in_bytes")
	m.sandboxes = m.histograms("run_podsandbox_duration_seconds", "Duration in seconds of the run_podsandbox operations. Broken down by RuntimeClass.Handler.", prometheus.DefBuckets, "runtime_handler")
	m.sandboxErrors = m.counters("run_podsandbox_errors_total", "Cumulative number of the run_podsandbox operation errors by RuntimeClass.Handler.", "runtime_handler")
	m.images = m.counters("image_garbage_collected_total", "Total number of images garbage collected by the kubelet, whether through disk usage or image age.", "reason")
	total := m.counters("runtime_operations_total", "Cumulative number of runtime operations by operation type.", "operation_type")
	failed := m.counters("runtime_operations_errors_total", "Cumulative number of runtime operation errors by operation type.", "operation_type")
	duration := m.histograms("runtime_operations_duration_seconds", "Duration in seconds of runtime operations. Broken down by operation type.", prometheus.ExponentialBuckets(.005, 2.5, 14), "operation_type")
	of := func(name string) *operation {
		return &operation{total.WithLabelValues(name), failed.WithLabelValues(name), duration.WithLabelValues(name)}
	}
	m.operations, m.other = map[string]*operation{}, of("other")
	for method, name := range map[string]string{
		"Version": "version", "Status": "status", "RunPodSandbox": "run_podsandbox", "StopPodSandbox": "stop_podsandbox",
		"RemovePodSandbox": "remove_podsandbox", "PodSandboxStatus": "podsandbox_status", "ListPodSandbox": "list_podsandbox",
		"CreateContainer": "create_container", "StartContainer": "start_container", "StopContainer": "stop_container",
		"RemoveContainer": "remove_container", "ListContainers": "list_containers", "ContainerStatus": "container_status",
		"UpdateContainerResources": "update_container", "ReopenContainerLog": "reopen_container_log", "ExecSync": "exec_sync",
		"Exec": "exec", "Attach": "attach", "PortForward": "port_forward", "ListContainerStats": "list_container_stats",
		"UpdatePodSandboxResources": "update_podsandbox_resources", "ListImages": "list_images", "ImageStatus": "image_status",
		"PullImage": "pull_image", "RemoveImage": "remove_image", "ImageFsInfo": "image_fs_info",
	} {
		m.operations[method] = of(name)
	}
}

func (m *Metrics) server() {
	m.requests = m.counters("http_requests_total", "Number of the http requests received since the server started", "method", "path", "server_type", "long_running")
	m.durations = m.histograms("http_requests_duration_seconds", "Duration in seconds to serve http requests", prometheus.DefBuckets, "method", "path", "server_type", "long_running")
}

func (m *Metrics) probing() {
	m.probes = prometheus.NewCounterVec(prometheus.CounterOpts{Subsystem: "prober", Name: "probe_total",
		Help: "Cumulative number of a liveness, readiness or startup probe for a container by result.",
	}, []string{"probe_type", "result", "container", "pod", "namespace", "pod_uid"})
	m.probeTimes = prometheus.NewHistogramVec(prometheus.HistogramOpts{Subsystem: "prober", Name: "probe_duration_seconds",
		Help: "Duration in seconds for a probe response.", Buckets: prometheus.DefBuckets,
	}, []string{"probe_type", "container", "pod", "namespace"})
	m.Probes.MustRegister(m.probes, m.probeTimes)
}

// Work tells how long a worker was busy with its pod.
func (m *Metrics) Work(what string, took time.Duration) { m.work[what].Observe(took.Seconds()) }

// Group tells how long an operation on control groups took.
func (m *Metrics) Group(what string, took time.Duration) { m.cgroups[what].Observe(took.Seconds()) }

// Started counts a container that was started, or failed to for a reason.
func (m *Metrics) Started(kind, failure string) {
	m.started[kind].Inc()
	if failure != "" {
		m.startedErrors.WithLabelValues(kind, failure).Inc()
	}
}

// Evicted counts a pod that a signal ended.
func (m *Metrics) Evicted(signal string) { m.evictions.WithLabelValues(signal).Inc() }

// Rejected counts a pod that the node does not take.
func (m *Metrics) Rejected(reason string) { m.rejections.WithLabelValues(reason).Inc() }

// Collected counts an image that was removed.
func (m *Metrics) Collected(reason string) { m.images.WithLabelValues(reason).Inc() }

// Sandbox tells how long it took to make a sandbox, or to fail.
func (m *Metrics) Sandbox(handler string, took time.Duration, err error) {
	m.sandboxes.WithLabelValues(handler).Observe(took.Seconds())
	if err != nil {
		m.sandboxErrors.WithLabelValues(handler).Inc()
	}
}

// Pulled tells how long the pull of an image of that size took.
func (m *Metrics) Pulled(size uint64, took time.Duration) {
	m.pulls.WithLabelValues(sizeRange(size)).Observe(took.Seconds())
}

func sizeRange(size uint64) string {
	const mb, gb = 1 << 20, 1 << 30
	if size == 0 {
		return "N/A"
	}
	for _, r := range []struct {
		upTo uint64
		name string
	}{
		{10 * mb, "0-10MB"}, {100 * mb, "10MB-100MB"}, {500 * mb, "100MB-500MB"}, {gb, "500MB-1GB"}, {5 * gb, "1GB-5GB"}, {10 * gb, "5GB-10GB"},
		{20 * gb, "10GB-20GB"}, {30 * gb, "20GB-30GB"}, {40 * gb, "30GB-40GB"}, {60 * gb, "40GB-60GB"}, {100 * gb, "60GB-100GB"},
	} {
		if size <= r.upTo {
			return r.name
		}
	}
	return "GT100GB"
}

// Request counts a request to the node API.
func (m *Metrics) Request(method, path, long string, took time.Duration) {
	m.requests.WithLabelValues(method, path, "readwrite", long).Inc()
	m.durations.WithLabelValues(method, path, "readwrite", long).Observe(took.Seconds())
}

// Runtime counts the calls to the container runtime.
func (m *Metrics) Runtime() grpc.UnaryClientInterceptor {
	return func(ctx context.Context, method string, req, reply any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		o := m.operations[path.Base(method)]
		if o == nil {
			o = m.other
		}
		begin := time.Now()
		err := invoke(ctx, method, req, reply, conn, opts...)
		o.total.Inc()
		o.duration.Observe(time.Since(begin).Seconds())
		if err != nil {
			o.errors.Inc()
		}
		return err
	}
}

// Gauges registers what is read when somebody asks.
func (m *Metrics) Gauges(nodeName string, cgroupVersion int, pods func() []*corev1.Pod, static func(*corev1.Pod) bool, volumes prometheus.Collector) {
	m.Own.MustRegister(&gauges{pods: pods, static: static}, volumes)
	name := prometheus.NewGaugeVec(prometheus.GaugeOpts{Subsystem: subsystem, Name: "node_name", Help: "The node's name. The count is always 1."}, []string{"node"})
	name.WithLabelValues(nodeName).Set(1)
	version := prometheus.NewGauge(prometheus.GaugeOpts{Subsystem: subsystem, Name: "cgroup_version", Help: "cgroup version on the hosts."})
	version.Set(float64(cgroupVersion))
	m.Own.MustRegister(name, version)
}

// gauges counts the pods as they are.
type gauges struct {
	pods   func() []*corev1.Pod
	static func(*corev1.Pod) bool
}

var _ prometheus.Collector = (*gauges)(nil)

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(prometheus.BuildFQName("", subsystem, name), help, labels, nil)
}

// Describe implements prometheus.Collector: what it collects is not checked.
func (*gauges) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (g *gauges) Collect(out chan<- prometheus.Metric) {
	running, mirrors, ephemeral := 0, 0, 0
	desired, active := map[bool]int{}, map[bool]int{}
	containers := map[string]int{"created": 0, "exited": 0, "running": 0}
	for _, p := range g.pods() {
		static := g.static(p)
		desired[static]++
		if p.Status.Phase != corev1.PodSucceeded && p.Status.Phase != corev1.PodFailed {
			active[static]++
		}
		if static {
			mirrors++
		}
		if p.Status.Phase == corev1.PodRunning {
			running++
		}
		ephemeral += len(p.Spec.EphemeralContainers)
		for _, list := range [][]corev1.ContainerStatus{p.Status.InitContainerStatuses, p.Status.ContainerStatuses, p.Status.EphemeralContainerStatuses} {
			for i := range list {
				switch {
				case list[i].State.Running != nil:
					containers["running"]++
				case list[i].State.Terminated != nil:
					containers["exited"]++
				case list[i].ContainerID != "":
					containers["created"]++
				}
			}
		}
	}
	tell := func(d *prometheus.Desc, v int, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(v), labels...)
	}
	tell(desc("running_pods", "Number of pods that have a running pod sandbox"), running)
	inState := desc("running_containers", "Number of containers currently running", "container_state")
	for state, n := range containers {
		tell(inState, n, state)
	}
	wanted := desc("desired_pods", "The number of pods the kubelet is being instructed to run. static is true if the pod is not from the apiserver.", "static")
	working := desc("active_pods", "The number of pods the kubelet considers active and which are being considered when admitting new pods. static is true if the pod is not from the apiserver.", "static")
	for _, static := range []bool{false, true} {
		tell(wanted, desired[static], strconv.FormatBool(static))
		tell(working, active[static], strconv.FormatBool(static))
	}
	tell(desc("mirror_pods", "The number of mirror pods the kubelet will try to create (one per admitted static pod)"), mirrors)
	tell(desc("managed_ephemeral_containers", "Current number of ephemeral containers in pods managed by this kubelet."), ephemeral)
}
