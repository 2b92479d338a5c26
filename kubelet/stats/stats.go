// Package stats tells what the node, its pods and their containers use:
// /stats/summary, /metrics/resource and /metrics/cadvisor.
//
//	control groups ─┐
//	/proc/net/dev ──┼─> reading ──> Summary, Resource, Containers
//	CRI ────────────┤   (shared)
//	file systems ───┘
//
// Nothing is read unless somebody asks, and who asks within the same second
// shares one reading. What takes long, the size of directories, is measured
// beside the request and kept for ten seconds to a minute.
package stats

import (
	"context"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/utils/clock"

	"github.com/proa-dev/proa/kubelet/cgroups"
	"github.com/proa-dev/proa/kubelet/cri"
	"github.com/proa-dev/proa/kubelet/volumes"
)

// Pods is what pods are known from.
type Pods interface {
	Pods() []*corev1.Pod
	// Sandbox is the id of the pod's running sandbox, or empty.
	Sandbox(pod *corev1.Pod) string
}

// Groups reads control groups.
type Groups interface {
	Parent(pod *corev1.Pod) string
	Root() string
	Node() cgroups.Usage
	Pod(pod *corev1.Pod) cgroups.Usage
	Figures(path string) (cgroups.Figures, bool)
	PIDs(path string) []string
}

// Volumes knows where pods' volumes are.
type Volumes interface {
	Ready(uid types.UID) map[string]volumes.Volume
	PodDir(uid types.UID) string
}

// Config is what a Reader needs; all of it.
type Config struct {
	NodeName   string
	Pods       Pods
	CRI        *cri.Client
	Groups     Groups
	Volumes    Volumes
	RootDir    string
	PodLogsDir string
	Clock      clock.Clock
	Logger     *slog.Logger
}

// Reader reads. Safe for concurrent use.
type Reader struct {
	cfg   Config
	rates rates
	walks *walks
	runs  shared[running]
	whole shared[*reading]
}

// New makes a reader whose own work ends with ctx.
func New(ctx context.Context, cfg Config) *Reader {
	return &Reader{cfg: cfg, rates: rates{seen: map[string]sample{}}, walks: newWalks(ctx, cfg.Clock),
		runs: newShared[running](), whole: newShared[*reading]()}
}

// Wait returns when nothing is being measured any more, after ctx's end.
func (r *Reader) Wait() { r.walks.wg.Wait() }

// fresh is how long one reading serves all who ask.
const fresh = time.Second

// readTimeout bounds a reading.
const readTimeout = time.Minute

// shared is a reading that all who ask at about the same time share.
type shared[T any] struct {
	turn chan struct{}
	last *T
	at   time.Time
}

func newShared[T any]() shared[T] { return shared[T]{turn: make(chan struct{}, 1)} }

// get returns a fresh reading; who comes while one is made waits for it.
func (s *shared[T]) get(ctx context.Context, clk clock.Clock, read func(context.Context) (T, error)) (T, error) {
	var none T
	select {
	case s.turn <- struct{}{}:
		defer func() { <-s.turn }()
	case <-ctx.Done():
		return none, ctx.Err()
	}
	if s.last != nil && clk.Since(s.at) < fresh {
		return *s.last, nil
	}
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	got, err := read(ctx)
	if err != nil {
		return none, err
	}
	s.last, s.at = &got, clk.Now()
	return got, nil
}

// container is a running container as the runtime counts it.
type container struct {
	pod   *corev1.Pod
	name  string
	id    string
	image string
	start time.Time
	stats *runtimeapi.ContainerStats
}

// running is every running container, by its pod.
type running map[types.UID][]container

func (r *Reader) containers(ctx context.Context) (running, error) {
	return r.runs.get(ctx, r.cfg.Clock, func(ctx context.Context) (running, error) {
		got, err := r.cfg.CRI.Runtime.ListContainerStats(ctx, &runtimeapi.ListContainerStatsRequest{})
		if err != nil {
			return nil, err
		}
		pods := map[types.UID]*corev1.Pod{}
		for _, p := range r.cfg.Pods.Pods() {
			pods[p.UID] = p
		}
		out := running{}
		for _, st := range got.Stats {
			uid := types.UID(st.GetAttributes().GetLabels()[cri.LabelPodUID])
			if pod := pods[uid]; pod != nil {
				out[uid] = append(out[uid], newContainer(pod, st))
			}
		}
		return out, nil
	})
}

func newContainer(pod *corev1.Pod, st *runtimeapi.ContainerStats) container {
	c := container{pod: pod, name: st.GetAttributes().GetMetadata().GetName(), id: st.GetAttributes().GetId(), stats: st}
	for _, list := range [][]corev1.ContainerStatus{pod.Status.ContainerStatuses, pod.Status.InitContainerStatuses, pod.Status.EphemeralContainerStatuses} {
		for i := range list {
			if list[i].Name == c.name && list[i].State.Running != nil {
				c.start, c.image = list[i].State.Running.StartedAt.Time, list[i].Image
			}
		}
	}
	return c
}

// live lists the pods that may have processes.
func (r *Reader) live() []*corev1.Pod {
	var out []*corev1.Pod
	for _, p := range r.cfg.Pods.Pods() {
		if p.Status.Phase != corev1.PodSucceeded && p.Status.Phase != corev1.PodFailed {
			out = append(out, p)
		}
	}
	return out
}

// reading is all figures of one moment.
type reading struct {
	at    time.Time
	boot  time.Time
	node  cgroups.Figures
	all   cgroups.Figures // pods together
	nics  []nic           // of the node
	disk  fileSystem      // of the node's root directory
	image fileSystem
	// imageUsed and layers are what images and containers take of it.
	imageUsed, imageInodes   *uint64
	layersUsed, layersInodes *uint64
	pods                     []podReading
}

type podReading struct {
	pod        *corev1.Pod
	path       string
	figures    cgroups.Figures
	sandbox    string
	pause      cgroups.Figures
	nics       []nic
	containers []containerReading
}

type containerReading struct {
	container
	path    string
	figures cgroups.Figures
}

// read makes the figures of this moment.
func (r *Reader) read(ctx context.Context) (*reading, error) {
	return r.whole.get(ctx, r.cfg.Clock, func(ctx context.Context) (*reading, error) {
		runs, err := r.containers(ctx)
		if err != nil {
			return nil, err
		}
		now := r.cfg.Clock.Now()
		out := &reading{at: now, boot: bootTime(now), nics: nodeNICs(), disk: statFS(r.cfg.RootDir)}
		r.readImages(ctx, out)
		out.node, _ = r.cfg.Groups.Figures("/")
		out.all, _ = r.cfg.Groups.Figures(r.cfg.Groups.Root())
		for _, pod := range r.live() {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			out.pods = append(out.pods, r.readPod(pod, runs[pod.UID]))
		}
		return out, nil
	})
}

func (r *Reader) readPod(pod *corev1.Pod, runs []container) podReading {
	p := podReading{pod: pod, path: r.cfg.Groups.Parent(pod), sandbox: r.cfg.Pods.Sandbox(pod)}
	p.figures, _ = r.cfg.Groups.Figures(p.path)
	if p.sandbox != "" {
		path := filepath.Join(p.path, p.sandbox)
		p.pause, _ = r.cfg.Groups.Figures(path)
		if pids := r.cfg.Groups.PIDs(path); len(pids) > 0 && !pod.Spec.HostNetwork {
			p.nics = podNICs(pids[0])
		}
	}
	for _, c := range runs {
		path := filepath.Join(p.path, c.id)
		figures, ok := r.cfg.Groups.Figures(path)
		if !ok { // a runtime that keeps groups elsewhere counts itself
			figures = counted(c.stats)
		}
		p.containers = append(p.containers, containerReading{container: c, path: path, figures: figures})
	}
	return p
}

// counted is what a runtime tells of a container.
func counted(st *runtimeapi.ContainerStats) cgroups.Figures {
	var f cgroups.Figures
	f.CPUNanos = st.GetCpu().GetUsageCoreNanoSeconds().GetValue()
	m := st.GetMemory()
	f.Memory, f.WorkingSet, f.RSS = m.GetUsageBytes().GetValue(), m.GetWorkingSetBytes().GetValue(), m.GetRssBytes().GetValue()
	f.PageFaults, f.MajorPageFaults = m.GetPageFaults().GetValue(), m.GetMajorPageFaults().GetValue()
	f.Swap = st.GetSwap().GetSwapUsageBytes().GetValue()
	return f
}

// readImages asks where images and containers' layers are, and what they take.
func (r *Reader) readImages(ctx context.Context, out *reading) {
	got, err := r.cfg.CRI.Images.ImageFsInfo(ctx, &runtimeapi.ImageFsInfoRequest{})
	if err != nil {
		r.cfg.Logger.Warn("file system of images not read", "err", err)
		return
	}
	for _, fs := range got.GetImageFilesystems() {
		out.image = statFS(fs.GetFsId().GetMountpoint())
		out.imageUsed, out.imageInodes = value(fs.GetUsedBytes()), value(fs.GetInodesUsed())
		break
	}
	for _, fs := range got.GetContainerFilesystems() {
		out.layersUsed, out.layersInodes = value(fs.GetUsedBytes()), value(fs.GetInodesUsed())
		break
	}
}

func value(v *runtimeapi.UInt64Value) *uint64 {
	if v == nil {
		return nil
	}
	n := v.Value
	return &n
}

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
