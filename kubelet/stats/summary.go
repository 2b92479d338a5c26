package stats

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	"github.com/proa-dev/proa/kubelet/cgroups"
	"github.com/proa-dev/proa/kubelet/internal/du"
)

// Summary is all that /stats/summary tells.
func (r *Reader) Summary(ctx context.Context) (*statsapi.Summary, error) {
	now, err := r.read(ctx)
	if err != nil {
		return nil, err
	}
	for i := range now.pods {
		r.beginWalks(now.pods[i].pod)
	}
	until := r.cfg.Clock.Now().Add(walkPatience)
	out := &statsapi.Summary{Node: r.node(now), Pods: []statsapi.PodStats{}}
	for i := range now.pods {
		out.Pods = append(out.Pods, r.pod(ctx, until, now, &now.pods[i]))
	}
	return out, nil
}

// CPU is what the node and its pods use of CPU and memory. It reads no disk.
func (r *Reader) CPU(ctx context.Context) (*statsapi.Summary, error) {
	now, err := r.read(ctx)
	if err != nil {
		return nil, err
	}
	full := r.node(now)
	out := &statsapi.Summary{Pods: []statsapi.PodStats{}, Node: statsapi.NodeStats{NodeName: full.NodeName, StartTime: full.StartTime,
		CPU: full.CPU, Memory: full.Memory, Swap: full.Swap, SystemContainers: full.SystemContainers}}
	for i := range now.pods {
		p := &now.pods[i]
		small := r.use(now, p)
		small.IO, small.Network = nil, nil
		for j := range p.containers {
			c := r.containerUse(now, &p.containers[j])
			c.IO = nil
			small.Containers = append(small.Containers, c)
		}
		out.Pods = append(out.Pods, small)
	}
	return out, nil
}

func (r *reading) time() metav1.Time { return metav1.NewTime(r.at) }

func (r *Reader) node(now *reading) statsapi.NodeStats {
	at := now.time()
	out := statsapi.NodeStats{NodeName: r.cfg.NodeName, StartTime: metav1.NewTime(now.boot),
		CPU: r.cpu(now, "node", now.node), Memory: memory(now, now.node), IO: pressureIO(now, now.node),
		Network: now.network(now.nics), Fs: now.disk.stats(at), Rlimit: rlimit(at),
		Runtime: &statsapi.RuntimeStats{ImageFs: now.image.within(at, now.imageUsed, now.imageInodes),
			ContainerFs: now.image.within(at, now.layersUsed, now.layersInodes)}}
	total, swapTotal, swapFree := memInfo()
	if out.Memory.AvailableBytes == nil && total > 0 {
		available := total - min(total, now.node.WorkingSet)
		out.Memory.AvailableBytes = &available
	}
	used := swapTotal - min(swapTotal, swapFree)
	out.Swap = &statsapi.SwapStats{Time: at, SwapAvailableBytes: &swapFree, SwapUsageBytes: &used}
	pods := statsapi.ContainerStats{Name: statsapi.SystemContainerPods, StartTime: out.StartTime,
		CPU: r.cpu(now, "pods", now.all), Memory: memory(now, now.all), IO: pressureIO(now, now.all), Swap: swap(now, now.all)}
	if pods.Memory.AvailableBytes == nil && total > 0 {
		available := total - min(total, now.all.WorkingSet)
		pods.Memory.AvailableBytes = &available
	}
	out.SystemContainers = []statsapi.ContainerStats{pods}
	return out
}

// use is what a pod uses but for disks.
func (r *Reader) use(now *reading, p *podReading) statsapi.PodStats {
	out := statsapi.PodStats{PodRef: statsapi.PodReference{Name: p.pod.Name, Namespace: p.pod.Namespace, UID: string(p.pod.UID)},
		Containers: []statsapi.ContainerStats{}, CPU: r.cpu(now, "pod/"+string(p.pod.UID), p.figures), Memory: memory(now, p.figures),
		IO: pressureIO(now, p.figures), Swap: swap(now, p.figures), Network: now.network(p.nics)}
	if p.pod.Status.StartTime != nil {
		out.StartTime = *p.pod.Status.StartTime
	}
	return out
}

func (r *Reader) pod(ctx context.Context, until time.Time, now *reading, p *podReading) statsapi.PodStats {
	out := r.use(now, p)
	processes := p.figures.Processes
	out.ProcessStats = &statsapi.ProcessStats{ProcessCount: &processes}
	var disk du.Size
	add := func(fs *statsapi.FsStats) {
		if fs != nil && fs.UsedBytes != nil {
			disk.Bytes += *fs.UsedBytes
		}
		if fs != nil && fs.InodesUsed != nil {
			disk.Inodes += *fs.InodesUsed
		}
	}
	for i := range p.containers {
		c := r.container(ctx, now, &p.containers[i])
		add(c.Rootfs)
		add(c.Logs)
		out.Containers = append(out.Containers, c)
	}
	for v, path := range r.mounted(p.pod) {
		st := r.volume(ctx, until, now, p.pod, v, path)
		if st == nil {
			continue
		}
		out.VolumeStats = append(out.VolumeStats, *st)
		if onNode(v) {
			add(&st.FsStats)
		}
	}
	if hosts, err := du.Measure(ctx, r.hostsFile(p.pod)); err == nil {
		disk.Bytes, disk.Inodes = disk.Bytes+hosts.Bytes, disk.Inodes+hosts.Inodes
	}
	out.EphemeralStorage = now.disk.within(now.time(), &disk.Bytes, &disk.Inodes)
	return out
}

// containerUse is what a container uses but for disks.
func (r *Reader) containerUse(now *reading, c *containerReading) statsapi.ContainerStats {
	return statsapi.ContainerStats{Name: c.name, StartTime: metav1.NewTime(c.start), CPU: r.cpu(now, "container/"+c.id, c.figures),
		Memory: memory(now, c.figures), IO: pressureIO(now, c.figures), Swap: swap(now, c.figures)}
}

func (r *Reader) container(ctx context.Context, now *reading, c *containerReading) statsapi.ContainerStats {
	at, out := now.time(), r.containerUse(now, c)
	if layer := c.stats.GetWritableLayer(); layer != nil {
		out.Rootfs = now.image.within(at, value(layer.GetUsedBytes()), value(layer.GetInodesUsed()))
	}
	if logs, err := du.Measure(ctx, r.logsOf(&c.container)); err == nil {
		out.Logs = now.disk.within(at, &logs.Bytes, &logs.Inodes)
	}
	return out
}

func (r *Reader) cpu(now *reading, key string, f cgroups.Figures) *statsapi.CPUStats {
	nanos := f.CPUNanos
	return &statsapi.CPUStats{Time: now.time(), UsageCoreNanoSeconds: &nanos,
		UsageNanoCores: r.rates.cores(key, nanos, now.at), PSI: psi(f.CPUPressure)}
}

func memory(now *reading, f cgroups.Figures) *statsapi.MemoryStats {
	out := &statsapi.MemoryStats{Time: now.time(), UsageBytes: &f.Memory, WorkingSetBytes: &f.WorkingSet, RSSBytes: &f.RSS,
		PageFaults: &f.PageFaults, MajorPageFaults: &f.MajorPageFaults, PSI: psi(f.MemoryPressure)}
	if f.MemoryLimit != cgroups.Unlimited {
		available := f.MemoryLimit - min(f.MemoryLimit, f.WorkingSet)
		out.AvailableBytes = &available
	}
	return out
}

func swap(now *reading, f cgroups.Figures) *statsapi.SwapStats {
	out := &statsapi.SwapStats{Time: now.time(), SwapUsageBytes: &f.Swap}
	if f.SwapLimit != cgroups.Unlimited {
		available := f.SwapLimit - min(f.SwapLimit, f.Swap)
		out.SwapAvailableBytes = &available
	}
	return out
}

func pressureIO(now *reading, f cgroups.Figures) *statsapi.IOStats {
	if f.IOPressure == nil {
		return nil
	}
	return &statsapi.IOStats{Time: now.time(), PSI: psi(f.IOPressure)}
}

func psi(p *cgroups.Pressure) *statsapi.PSIStats {
	if p == nil {
		return nil
	}
	data := func(s cgroups.Stall) statsapi.PSIData {
		return statsapi.PSIData{Total: s.TotalMicros * 1000, Avg10: s.Avg10, Avg60: s.Avg60, Avg300: s.Avg300}
	}
	return &statsapi.PSIStats{Full: data(p.Full), Some: data(p.Some)}
}

// rlimit says how many processes there may be, and are.
func rlimit(at metav1.Time) *statsapi.RlimitStats {
	out := &statsapi.RlimitStats{Time: at}
	for _, file := range []string{"/proc/sys/kernel/pid_max", "/proc/sys/kernel/threads-max"} {
		if n, err := strconv.ParseInt(text(file), 10, 64); err == nil && (out.MaxPID == nil || n < *out.MaxPID) {
			out.MaxPID = &n
		}
	}
	if fields := strings.Fields(text("/proc/loadavg")); len(fields) > 3 {
		if _, all, ok := strings.Cut(fields[3], "/"); ok {
			if n, err := strconv.ParseInt(all, 10, 64); err == nil {
				out.NumOfRunningProcesses = &n
			}
		}
	}
	return out
}

// memInfo is the machine's memory and swap space, in bytes.
func memInfo() (total, swapTotal, swapFree uint64) {
	var si unix.Sysinfo_t
	if unix.Sysinfo(&si) != nil {
		return 0, 0, 0
	}
	unit := uint64(si.Unit)
	return si.Totalram * unit, si.Totalswap * unit, si.Freeswap * unit
}

func bootTime(now time.Time) time.Time {
	var si unix.Sysinfo_t
	if err := unix.Sysinfo(&si); err != nil {
		return now
	}
	return now.Add(-time.Duration(si.Uptime) * time.Second).Truncate(time.Second)
}

func devNumber(dev uint64) string { return fmt.Sprintf("%d:%d", unix.Major(dev), unix.Minor(dev)) }
