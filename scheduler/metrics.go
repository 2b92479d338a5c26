package scheduler

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/proa-dev/proa/scheduler/queue"
)

// What happened that pods are queued for, as upstream's metrics have it.
const (
	eventNamespace          = "NamespaceUpdate"
	eventNode               = "NodeUpdate"
	eventNodeGone           = "NodeDelete"
	eventPodUpdate          = "UnscheduledPodUpdate"
	eventPlaced             = "AssignedPodAdd"
	eventFreed              = "AssignedPodDelete"
	eventClaim              = "PersistentVolumeClaimUpdate"
	eventVolume             = "PersistentVolumeAdd"
	eventClass              = "storage.k8s.io/StorageClassAdd"
	eventStorage            = "storage.k8s.io/CSINodeUpdate"
	eventDevices            = "resource.k8s.io/ResourceClaimUpdate"
	eventDeviceClass        = "resource.k8s.io/DeviceClassUpdate"
	eventSlices             = "resource.k8s.io/ResourceSliceUpdate"
	resultScheduled         = "scheduled"
	resultUnschedulable     = "unschedulable"
	resultError             = "error"
	pointPreBind            = "PreBind"
	pointPreFlight          = "PreBindPreFlight"
	pointBind               = "Bind"
	pointPostFilter         = "PostFilter"
	statusSuccess           = "Success"
	statusError             = "Error"
	statusSkip              = "Skip"
	statusUnschedulable     = "Unschedulable"
	maxAttemptsLabel    int = 15
)

// metrics count decisions under upstream's names. What is counted for every
// pod is found beforehand.
type metrics struct {
	results   map[string]map[string]outcome // by profile and result
	points    *prometheus.HistogramVec
	attempts  prometheus.Histogram
	algorithm prometheus.Histogram
	sli       [maxAttemptsLabel + 1]prometheus.Observer
	preempts  prometheus.Counter
	victims   prometheus.Histogram
	incoming  *prometheus.CounterVec
	bind      map[string][2]prometheus.Observer // by profile, and whether it failed
	preFlight map[string][2]prometheus.Observer // by profile, and whether nothing comes before the bind

	conditional *prometheus.CounterVec   // devices that had to be ready before a bind
	waits       *prometheus.HistogramVec // for them
}

type outcome struct {
	count prometheus.Counter
	took  prometheus.Observer
}

// newMetrics makes and, if anybody asks for them, registers the metrics.
func newMetrics(s *Scheduler, r prometheus.Registerer) (*metrics, error) {
	histogram := func(name, help string, buckets []float64) prometheus.Histogram {
		return prometheus.NewHistogram(prometheus.HistogramOpts{Subsystem: "scheduler", Name: name, Help: help, Buckets: buckets})
	}
	histograms := func(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
		return prometheus.NewHistogramVec(prometheus.HistogramOpts{Subsystem: "scheduler", Name: name, Help: help, Buckets: buckets}, labels)
	}
	attempts := prometheus.NewCounterVec(prometheus.CounterOpts{Subsystem: "scheduler", Name: "schedule_attempts_total",
		Help: "Number of attempts to schedule pods, by the result. 'unschedulable' means a pod could not be scheduled, while 'error' means an internal scheduler problem."},
		[]string{"result", "profile"})
	took := histograms("scheduling_attempt_duration_seconds", "Scheduling attempt latency in seconds (scheduling algorithm + binding)",
		prometheus.ExponentialBuckets(0.001, 2, 15), "result", "profile")
	sli := histograms("pod_scheduling_sli_duration_seconds",
		"E2e latency for a pod being scheduled, from the time the pod enters the scheduling queue and might involve multiple scheduling attempts.",
		prometheus.ExponentialBuckets(0.01, 2, 20), "attempts")
	m := &metrics{
		results: map[string]map[string]outcome{}, bind: map[string][2]prometheus.Observer{}, preFlight: map[string][2]prometheus.Observer{},
		points: histograms("framework_extension_point_duration_seconds", "Latency for running all plugins of a specific extension point.",
			prometheus.ExponentialBuckets(0.0001, 2, 12), "extension_point", "status", "profile"),
		attempts:  histogram("pod_scheduling_attempts", "Number of attempts to successfully schedule a pod.", prometheus.ExponentialBuckets(1, 2, 5)),
		algorithm: histogram("scheduling_algorithm_duration_seconds", "Scheduling algorithm latency in seconds", prometheus.ExponentialBuckets(0.001, 2, 15)),
		victims:   histogram("preemption_victims", "Number of selected preemption victims", prometheus.ExponentialBuckets(1, 2, 7)),
		preempts: prometheus.NewCounter(prometheus.CounterOpts{Subsystem: "scheduler", Name: "preemption_attempts_total",
			Help: "Total preemption attempts in the cluster till now"}),
		incoming: prometheus.NewCounterVec(prometheus.CounterOpts{Subsystem: "scheduler", Name: "queue_incoming_pods_total",
			Help: "Number of pods added to scheduling queues by event and queue type."}, []string{"queue", "event"}),
		conditional: prometheus.NewCounterVec(prometheus.CounterOpts{Subsystem: "scheduler", Name: "dra_bindingconditions_allocations_total",
			Help: "Number of allocations using devices with BindingConditions, counted per driver per scheduling attempt"}, []string{"profile", "driver", "status"}),
		waits: histograms("dra_bindingconditions_wait_duration_seconds", "Time in seconds spent waiting for BindingConditions to be satisfied during PreBind.",
			prometheus.ExponentialBuckets(0.1, 2, 14), "profile", "driver", "status"),
	}
	for profile := range s.profiles {
		m.results[profile] = map[string]outcome{}
		for _, result := range []string{resultScheduled, resultUnschedulable, resultError} {
			m.results[profile][result] = outcome{attempts.WithLabelValues(result, profile), took.WithLabelValues(result, profile)}
		}
		m.bind[profile] = [2]prometheus.Observer{m.points.WithLabelValues(pointBind, statusSuccess, profile), m.points.WithLabelValues(pointBind, statusError, profile)}
		m.preFlight[profile] = [2]prometheus.Observer{m.points.WithLabelValues(pointPreFlight, statusSuccess, profile), m.points.WithLabelValues(pointPreFlight, statusSkip, profile)}
	}
	for i := range m.sli {
		label := strconv.Itoa(i)
		if i == maxAttemptsLabel {
			label += "+"
		}
		if i > 0 {
			m.sli[i] = sli.WithLabelValues(label)
		}
	}
	s.queue.Moved = m.moved()
	if r == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{attempts, took, sli, m.points, m.attempts, m.algorithm, m.victims, m.preempts, m.incoming, m.conditional, m.waits, newPending(s)} {
		if err := r.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// moved counts pods that join a queue. The scheduler's lock is held.
func (m *metrics) moved() func(to, event string) {
	type way struct{ to, event string }
	known := map[way]prometheus.Counter{}
	for _, w := range []way{{queue.Active, queue.EventAdd}, {queue.Backoff, queue.EventFailed}, {queue.Unschedulable, queue.EventFailed}, {queue.Active, queue.EventRested}} {
		known[w] = m.incoming.WithLabelValues(w.to, w.event)
	}
	return func(to, event string) {
		c := known[way{to, event}]
		if c == nil {
			c = m.incoming.WithLabelValues(to, event)
			known[way{to, event}] = c
		}
		c.Inc()
	}
}

// tried counts an attempt that has come to a result.
func (m *metrics) tried(it *queue.Item, profile, result string, now time.Time) {
	o, ok := m.results[profile][result]
	if !ok {
		return
	}
	o.count.Inc()
	o.took.Observe(now.Sub(it.Taken).Seconds())
	if result != resultScheduled {
		return
	}
	m.attempts.Observe(float64(it.Attempts))
	m.sli[min(max(it.Attempts, 1), maxAttemptsLabel)].Observe(now.Sub(it.Added).Seconds())
}

// bound tells how long the write of a binding took.
func (m *metrics) bound(profile string, took time.Duration, err error) {
	failed := 0
	if err != nil {
		failed = 1
	}
	if o := m.bind[profile][failed]; o != nil {
		o.Observe(took.Seconds())
	}
}

// planned tells how long it took to find what has to be done before the bind:
// of most pods, nothing.
func (m *metrics) planned(profile string, work bool, took time.Duration) {
	skip := 1
	if work {
		skip = 0
	}
	if o := m.preFlight[profile][skip]; o != nil {
		o.Observe(took.Seconds())
	}
}

// point tells how long a step took that few pods need.
func (m *metrics) point(name, status, profile string, begin time.Time) {
	m.points.WithLabelValues(name, status, profile).Observe(time.Since(begin).Seconds())
}

// pending tells how many pods wait, when somebody asks.
type pending struct {
	s    *Scheduler
	desc *prometheus.Desc
}

var _ prometheus.Collector = (*pending)(nil)

func newPending(s *Scheduler) *pending {
	return &pending{s, prometheus.NewDesc("scheduler_pending_pods",
		"Number of pending pods, by the queue type. 'active' means number of pods in activeQ; 'backoff' means number of pods in backoffQ; "+
			"'unschedulable' means number of pods in unschedulablePods that the scheduler attempted to schedule and failed; "+
			"'gated' is the number of unschedulable pods that the scheduler never attempted to schedule because they are gated.", []string{"queue"}, nil)}
}

// Describe implements prometheus.Collector.
func (p *pending) Describe(out chan<- *prometheus.Desc) { out <- p.desc }

// Collect implements prometheus.Collector.
func (p *pending) Collect(out chan<- prometheus.Metric) {
	p.s.mu.Lock()
	active, backoff, unschedulable := p.s.queue.Waiting()
	gated := len(p.s.gated)
	p.s.mu.Unlock()
	for name, n := range map[string]int{queue.Active: active, queue.Backoff: backoff, queue.Unschedulable: unschedulable, "gated": gated} {
		out <- prometheus.MustNewConstMetric(p.desc, prometheus.GaugeValue, float64(n), name)
	}
}
