package stats_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/proa-dev/proa/kubelet/cgroups"
	"github.com/proa-dev/proa/kubelet/cri"
	"github.com/proa-dev/proa/kubelet/stats"
	"github.com/proa-dev/proa/kubelet/volumes"
)

// node is one pod with one container, an emptyDir and a claim.
type node struct {
	runtimeapi.RuntimeServiceClient
	runtimeapi.ImageServiceClient
	dir     string
	reads   atomic.Int32
	looks   atomic.Int32  // at volumes
	entered chan struct{} // told of reads that wait for release
	release chan struct{}
	err     error
	cpu     atomic.Uint64
}

func (n *node) pod() *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p", UID: "u"}, Spec: corev1.PodSpec{Volumes: []corev1.Volume{
		{Name: "scratch", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
		{Name: "data", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "c"}}},
		{Name: "host", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: n.dir}}},
	}}}
}

func (n *node) Pods() []*corev1.Pod         { return []*corev1.Pod{n.pod()} }
func (*node) Sandbox(*corev1.Pod) string    { return "" }
func (*node) Parent(*corev1.Pod) string     { return "/pods/podu" }
func (*node) Root() string                  { return "/pods" }
func (*node) PIDs(string) []string          { return nil }
func (*node) Node() cgroups.Usage           { return cgroups.Usage{CPUNanos: 5e9} }
func (*node) Pod(*corev1.Pod) cgroups.Usage { return cgroups.Usage{CPUNanos: 2e9, Swap: 9} }

func (n *node) Figures(path string) (cgroups.Figures, bool) {
	return cgroups.Figures{Usage: cgroups.Usage{CPUNanos: n.cpu.Load(), WorkingSet: 10}, MemoryLimit: 100, OOMKills: 3}, !strings.HasSuffix(path, "/elsewhere")
}

func (n *node) PodDir(types.UID) string { return n.dir }

func (n *node) Ready(types.UID) map[string]volumes.Volume {
	n.looks.Add(1)
	return map[string]volumes.Volume{"scratch": {Path: filepath.Join(n.dir, "scratch")}, "data": {Path: n.dir}, "host": {Path: n.dir}}
}

func (n *node) ListContainerStats(context.Context, *runtimeapi.ListContainerStatsRequest, ...grpc.CallOption) (*runtimeapi.ListContainerStatsResponse, error) {
	n.reads.Add(1)
	if n.release != nil {
		n.entered <- struct{}{}
		<-n.release
	}
	one := func(name, id string) *runtimeapi.ContainerStats {
		return &runtimeapi.ContainerStats{
			Attributes:    &runtimeapi.ContainerAttributes{Id: id, Metadata: &runtimeapi.ContainerMetadata{Name: name}, Labels: map[string]string{cri.LabelPodUID: "u"}},
			Swap:          &runtimeapi.SwapUsage{SwapUsageBytes: &runtimeapi.UInt64Value{Value: 5}, SwapAvailableBytes: &runtimeapi.UInt64Value{Value: 7}},
			WritableLayer: &runtimeapi.FilesystemUsage{UsedBytes: &runtimeapi.UInt64Value{Value: 1000}},
			Cpu:           &runtimeapi.CpuUsage{UsageCoreNanoSeconds: &runtimeapi.UInt64Value{Value: 7e9}},
		}
	}
	return &runtimeapi.ListContainerStatsResponse{Stats: []*runtimeapi.ContainerStats{one("c", "1"), one("far", "elsewhere")}}, n.err
}

func (*node) ImageFsInfo(context.Context, *runtimeapi.ImageFsInfoRequest, ...grpc.CallOption) (*runtimeapi.ImageFsInfoResponse, error) {
	return &runtimeapi.ImageFsInfoResponse{}, nil
}

func newReader(t *testing.T, n *node) (*stats.Reader, *clocktesting.FakeClock) {
	t.Helper()
	n.dir = t.TempDir()
	if err := os.MkdirAll(filepath.Join(n.dir, "scratch"), 0o755); err != nil {
		t.Fatal(err)
	}
	clk := clocktesting.NewFakeClock(time.Now())
	ctx, cancel := context.WithCancel(t.Context())
	r := stats.New(ctx, stats.Config{NodeName: "n1", Pods: n, CRI: &cri.Client{Runtime: n, Images: n}, Groups: n, Volumes: n,
		RootDir: n.dir, PodLogsDir: n.dir, Clock: clk, Logger: slog.New(slog.DiscardHandler)})
	t.Cleanup(func() { cancel(); r.Wait() })
	return r, clk
}

func TestSummary(t *testing.T) {
	n := &node{}
	r, clk := newReader(t, n)
	file := filepath.Join(n.dir, "scratch", "x")
	if err := os.WriteFile(file, make([]byte, 64<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(file, filepath.Join(n.dir, "scratch", "same")); err != nil {
		t.Fatal(err)
	}
	n.cpu.Store(1e9)
	got, err := r.Summary(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	p := got.Pods[0]
	if len(p.VolumeStats) != 2 || p.VolumeStats[1].PVCRef == nil || p.VolumeStats[1].PVCRef.Name != "c" || *p.VolumeStats[1].CapacityBytes == 0 {
		t.Errorf("volumes: %+v", p.VolumeStats)
	}
	if used := *p.VolumeStats[0].UsedBytes; used < 64<<10 || used >= 128<<10 {
		t.Errorf("scratch space holds %d bytes: a file with two names counts once", used)
	}
	if *p.Memory.AvailableBytes != 90 || p.CPU.UsageNanoCores != nil {
		t.Errorf("memory %d, a rate at the first look: %v", *p.Memory.AvailableBytes, p.CPU.UsageNanoCores)
	}
	if far := p.Containers[1]; *far.CPU.UsageCoreNanoSeconds != 7e9 {
		t.Errorf("a runtime that keeps groups elsewhere is not asked: %+v", far.CPU)
	}
	clk.Step(10 * time.Second)
	n.cpu.Store(6e9)
	if got, err = r.Summary(t.Context()); err != nil || *got.Pods[0].CPU.UsageNanoCores != 5e8 {
		t.Errorf("%v, %v", got.Pods[0].CPU, err)
	}
}

// Many who ask at once cost one reading.
func TestShared(t *testing.T) {
	n := &node{entered: make(chan struct{}, 1), release: make(chan struct{})}
	r, clk := newReader(t, n)
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			var err error
			switch i % 3 {
			case 0:
				err = r.Resource(t.Context(), &bytes.Buffer{})
			case 1:
				err = r.Containers(t.Context(), &bytes.Buffer{})
			default:
				_, err = r.Summary(t.Context())
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	<-n.entered
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := r.Summary(gone); !errors.Is(err, context.Canceled) {
		t.Errorf("who is gone still waits: %v", err)
	}
	close(n.release)
	wg.Wait()
	if reads := n.reads.Load(); reads != 1 {
		t.Errorf("%d readings", reads)
	}
	clk.Step(2 * time.Second)
	if _, err := r.Summary(t.Context()); err != nil || n.reads.Load() != 2 {
		t.Errorf("an old reading is told: %d, %v", n.reads.Load(), err)
	}
}

func TestExpositions(t *testing.T) {
	n := &node{}
	r, _ := newReader(t, n)
	var b bytes.Buffer
	if err := r.Containers(t.Context(), &b); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"# TYPE container_cpu_usage_seconds_total counter\n",
		`container_cpu_usage_seconds_total{container="far",id="/pods/podu/elsewhere",image="",name="elsewhere",namespace="ns",pod="p",cpu="total"} 7 `,
		`container_oom_events_total{container="c",id="/pods/podu/1",image="",name="1",namespace="ns",pod="p"} 3 `,
		`container_spec_memory_limit_bytes{container="",id="/",image="",name="",namespace="",pod=""} 100 `,
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %s in\n%s", want, b.String())
		}
	}
	b.Reset()
	if err := r.Resource(t.Context(), &b); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`container_swap_usage_bytes{container="c",namespace="ns",pod="p"} 5 `, `container_swap_limit_bytes{container="c",namespace="ns",pod="p"} 12 `,
		`pod_swap_usage_bytes{namespace="ns",pod="p"} 9 `,
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %s in\n%s", want, b.String())
		}
	}
	n = &node{err: errors.New("no runtime")}
	r, _ = newReader(t, n)
	b.Reset()
	if err := r.Resource(t.Context(), &b); err != nil || !strings.Contains(b.String(), "resource_scrape_error 1\n") || !strings.Contains(b.String(), "\nnode_cpu_usage_seconds_total 5 ") {
		t.Errorf("what the node knows without its runtime: %v\n%s", err, b.String())
	}
	if _, err := r.Summary(t.Context()); err == nil {
		t.Error("a summary without containers looks whole")
	}
}

// Who asks for CPU and memory alone does not wait for disks.
func TestCPU(t *testing.T) {
	n := &node{}
	r, _ := newReader(t, n)
	n.cpu.Store(1e9)
	got, err := r.CPU(t.Context())
	if err != nil || len(got.Pods) != 1 || len(got.Pods[0].Containers) != 2 {
		t.Fatalf("%+v, %v", got, err)
	}
	if p := got.Pods[0]; *p.CPU.UsageCoreNanoSeconds != 1e9 || *p.Containers[0].Memory.WorkingSetBytes != 10 || p.EphemeralStorage != nil || got.Node.Fs != nil {
		t.Errorf("%+v", p)
	}
	if n.looks.Load() > 0 {
		t.Error("volumes were looked at")
	}
}

// What a pod takes of the disk: its directories, its logs, and what its
// containers wrote.
func TestStorage(t *testing.T) {
	n := &node{}
	r, _ := newReader(t, n)
	logs := filepath.Join(n.dir, "ns_p_u", "c")
	if err := os.MkdirAll(logs, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{filepath.Join(logs, "0.log"), filepath.Join(n.dir, "scratch", "x")} {
		if err := os.WriteFile(file, make([]byte, 64<<10), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if first, err := r.Storage(t.Context(), n.pod()); err != nil || first.Total < 64<<10 {
		t.Errorf("%+v, %v", first, err)
	}
	r.Wait() // for what was not measured yet
	got, err := r.Storage(t.Context(), n.pod())
	if err != nil || len(got.Volumes) != 1 || got.Volumes["scratch"] < 64<<10 || got.Logs["c"] < 64<<10 || got.Layers["c"] != 1000 ||
		got.Total != got.Volumes["scratch"]+got.Logs["c"]+got.Logs["far"]+2000 {
		t.Errorf("%+v, %v", got, err)
	}
}
