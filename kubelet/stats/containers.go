package stats

import (
	"context"
	"io"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/proa-dev/proa/kubelet/cgroups"
)

// group is a control group as cAdvisor's metrics name it.
type group struct {
	labels  []string // id, name, image, container, pod, namespace
	figures cgroups.Figures
	start   time.Time
	nics    []nic
	disk    fileSystem // that its files are on
	used    *uint64    // by its own files
	seen    time.Time
}

// pauseImage stands for the image of sandboxes, of which runtimes do not tell:
// dashboards take series without an image for sums.
const pauseImage = "pause"

func labelsOf(id, name, image, container, pod, namespace string) []string {
	return []string{"container", container, "id", id, "image", image, "name", name, "namespace", namespace, "pod", pod}
}

// groups lists what the metrics tell of: the machine, all pods and their
// classes, each pod, its sandbox and its containers.
func (r *Reader) groups(now *reading) []group {
	out := []group{{labels: labelsOf("/", "", "", "", "", ""), figures: now.node, start: now.boot, nics: now.nics, disk: now.disk, used: &now.disk.used}}
	root := r.cfg.Groups.Root()
	out = append(out, group{labels: labelsOf(root, "", "", "", "", ""), figures: now.all, start: now.boot})
	for _, class := range []string{"burstable", "besteffort"} {
		path := filepath.Join(root, class)
		if f, ok := r.cfg.Groups.Figures(path); ok {
			out = append(out, group{labels: labelsOf(path, "", "", "", "", ""), figures: f, start: now.boot})
		}
	}
	for i := range now.pods {
		p := &now.pods[i]
		ns, name := p.pod.Namespace, p.pod.Name
		start := p.pod.CreationTimestamp.Time
		if p.pod.Status.StartTime != nil {
			start = p.pod.Status.StartTime.Time
		}
		out = append(out, group{labels: labelsOf(p.path, "", "", "", name, ns), figures: p.figures, start: start})
		if p.sandbox != "" {
			out = append(out, group{labels: labelsOf(filepath.Join(p.path, p.sandbox), p.sandbox, pauseImage, "", name, ns),
				figures: p.pause, start: start, nics: p.nics})
		}
		for j := range p.containers {
			c := &p.containers[j]
			out = append(out, group{labels: labelsOf(c.path, c.id, c.image, c.name, name, ns), figures: c.figures, start: c.start,
				disk: now.image, used: value(c.stats.GetWritableLayer().GetUsedBytes())})
		}
	}
	return out
}

// family is one metric of groups.
type family struct {
	name, kind, help string
	// of tells the values of a group, by what tells them apart.
	of func(g *group, tell func(v float64, extra ...string))
}

// one makes a family with a value for each group.
func one(name, kind, help string, of func(f *cgroups.Figures) uint64) family {
	return family{name, kind, help, func(g *group, tell func(float64, ...string)) { tell(float64(of(&g.figures))) }}
}

// seconds makes one of nanoseconds.
func seconds(name, help string, of func(f *cgroups.Figures) uint64) family {
	return family{name, "counter", help, func(g *group, tell func(float64, ...string)) { tell(float64(of(&g.figures)) / 1e9) }}
}

// Containers writes cAdvisor's metrics.
func (r *Reader) Containers(ctx context.Context, w io.Writer) error {
	now, err := r.read(ctx)
	if err != nil {
		return err
	}
	var e exposition
	groups := r.groups(now)
	for i := range groups {
		groups[i].seen = now.at
	}
	for _, list := range [][]family{cpuFamilies(), memoryFamilies(), networkFamilies(), diskFamilies(), specFamilies(), pressureFamilies()} {
		for _, f := range list {
			begun := false
			for i := range groups {
				g := &groups[i]
				f.of(g, func(v float64, extra ...string) {
					if !begun {
						begun = true
						e.head(f.name, f.kind, f.help)
					}
					e.valueAt(f.name, v, now.at, append(g.labels[:len(g.labels):len(g.labels)], extra...)...)
				})
			}
		}
	}
	machine(&e, now)
	return e.send(w)
}

func cpuFamilies() []family {
	limited := func(name, help string, of func(f *cgroups.Figures) float64) family {
		return family{name, "counter", help, func(g *group, tell func(float64, ...string)) {
			if g.figures.CPUQuota != cgroups.Unlimited {
				tell(of(&g.figures))
			}
		}}
	}
	return []family{
		{"container_cpu_usage_seconds_total", "counter", "Cumulative cpu time consumed in seconds.", func(g *group, tell func(float64, ...string)) {
			tell(float64(g.figures.CPUNanos)/1e9, "cpu", "total")
		}},
		seconds("container_cpu_user_seconds_total", "Cumulative user cpu time consumed in seconds.", func(f *cgroups.Figures) uint64 { return f.CPUUserNanos }),
		seconds("container_cpu_system_seconds_total", "Cumulative system cpu time consumed in seconds.", func(f *cgroups.Figures) uint64 { return f.CPUSystemNanos }),
		limited("container_cpu_cfs_periods_total", "Number of elapsed enforcement period intervals.", func(f *cgroups.Figures) float64 { return float64(f.Periods) }),
		limited("container_cpu_cfs_throttled_periods_total", "Number of throttled period intervals.", func(f *cgroups.Figures) float64 { return float64(f.ThrottledPeriods) }),
		limited("container_cpu_cfs_throttled_seconds_total", "Total time duration the container has been throttled.", func(f *cgroups.Figures) float64 { return float64(f.ThrottledNanos) / 1e9 }),
		one("container_processes", "gauge", "Number of processes running inside the container.", func(f *cgroups.Figures) uint64 { return f.Processes }),
		one("container_threads", "gauge", "Number of threads running inside the container", func(f *cgroups.Figures) uint64 { return f.Threads }),
		one("container_threads_max", "gauge", "Maximum number of threads allowed inside the container, infinity if value is zero", func(f *cgroups.Figures) uint64 { return f.ThreadsMax }),
		{"container_start_time_seconds", "gauge", "Start time of the container since unix epoch in seconds.", func(g *group, tell func(float64, ...string)) {
			if !g.start.IsZero() {
				tell(float64(g.start.Unix()))
			}
		}},
		{"container_last_seen", "gauge", "Last time a container was seen by the exporter", func(g *group, tell func(float64, ...string)) {
			tell(float64(g.seen.Unix()))
		}},
	}
}

func memoryFamilies() []family {
	return []family{
		one("container_memory_usage_bytes", "gauge", "Current memory usage in bytes, including all memory regardless of when it was accessed", func(f *cgroups.Figures) uint64 { return f.Memory }),
		one("container_memory_working_set_bytes", "gauge", "Current working set in bytes.", func(f *cgroups.Figures) uint64 { return f.WorkingSet }),
		one("container_memory_rss", "gauge", "Size of RSS in bytes.", func(f *cgroups.Figures) uint64 { return f.RSS }),
		one("container_memory_cache", "gauge", "Number of bytes of page cache memory.", func(f *cgroups.Figures) uint64 { return f.Cache }),
		one("container_memory_swap", "gauge", "Container swap usage in bytes.", func(f *cgroups.Figures) uint64 { return f.Swap }),
		one("container_memory_mapped_file", "gauge", "Size of memory mapped files in bytes.", func(f *cgroups.Figures) uint64 { return f.Mapped }),
		one("container_memory_kernel_usage", "gauge", "Size of kernel memory allocated in bytes.", func(f *cgroups.Figures) uint64 { return f.Kernel }),
		one("container_memory_max_usage_bytes", "gauge", "Maximum memory usage recorded in bytes", func(f *cgroups.Figures) uint64 { return f.MaxMemory }),
		one("container_memory_failcnt", "counter", "Number of memory usage hits limits", func(f *cgroups.Figures) uint64 { return f.LimitHits }),
		one("container_memory_total_active_file_bytes", "gauge", "Current total active file in bytes.", func(f *cgroups.Figures) uint64 { return f.ActiveFile }),
		one("container_memory_total_inactive_file_bytes", "gauge", "Current total inactive file in bytes.", func(f *cgroups.Figures) uint64 { return f.InactiveFile }),
		{"container_memory_failures_total", "counter", "Cumulative count of memory allocation failures.", func(g *group, tell func(float64, ...string)) {
			for _, scope := range []string{"container", "hierarchy"} {
				tell(float64(g.figures.PageFaults), "failure_type", "pgfault", "scope", scope)
				tell(float64(g.figures.MajorPageFaults), "failure_type", "pgmajfault", "scope", scope)
			}
		}},
		one("container_oom_events_total", "counter", "Count of out of memory events observed for the container", func(f *cgroups.Figures) uint64 { return f.OOMKills }),
	}
}

func networkFamilies() []family {
	each := func(name, help string, of func(n *nic) uint64) family {
		return family{"container_network_" + name, "counter", help, func(g *group, tell func(float64, ...string)) {
			for i := range g.nics {
				tell(float64(of(&g.nics[i])), "interface", g.nics[i].name)
			}
		}}
	}
	return []family{
		each("receive_bytes_total", "Cumulative count of bytes received", func(n *nic) uint64 { return n.rxBytes }),
		each("receive_packets_total", "Cumulative count of packets received", func(n *nic) uint64 { return n.rxPackets }),
		each("receive_packets_dropped_total", "Cumulative count of packets dropped while receiving", func(n *nic) uint64 { return n.rxDropped }),
		each("receive_errors_total", "Cumulative count of errors encountered while receiving", func(n *nic) uint64 { return n.rxErrors }),
		each("transmit_bytes_total", "Cumulative count of bytes transmitted", func(n *nic) uint64 { return n.txBytes }),
		each("transmit_packets_total", "Cumulative count of packets transmitted", func(n *nic) uint64 { return n.txPackets }),
		each("transmit_packets_dropped_total", "Cumulative count of packets dropped while transmitting", func(n *nic) uint64 { return n.txDropped }),
		each("transmit_errors_total", "Cumulative count of errors encountered while transmitting", func(n *nic) uint64 { return n.txErrors }),
	}
}

func diskFamilies() []family {
	device := func(name, help string, of func(d *cgroups.Disk) uint64) family {
		return family{name, "counter", help, func(g *group, tell func(float64, ...string)) {
			for i := range g.figures.Disks {
				tell(float64(of(&g.figures.Disks[i])), "device", g.figures.Disks[i].Name)
			}
		}}
	}
	files := func(name, help string, of func(g *group) *uint64) family {
		return family{name, "gauge", help, func(g *group, tell func(float64, ...string)) {
			if v := of(g); v != nil && g.disk.ok {
				tell(float64(*v), "device", g.disk.device)
			}
		}}
	}
	return []family{
		files("container_fs_usage_bytes", "Number of bytes that are consumed by the container on this filesystem.", func(g *group) *uint64 { return g.used }),
		files("container_fs_limit_bytes", "Number of bytes that can be consumed by the container on this filesystem.", func(g *group) *uint64 { return &g.disk.capacity }),
		files("container_fs_inodes_total", "Number of Inodes", func(g *group) *uint64 { return &g.disk.inodes }),
		files("container_fs_inodes_free", "Number of available Inodes", func(g *group) *uint64 { return &g.disk.inodesFree }),
		device("container_fs_reads_bytes_total", "Cumulative count of bytes read", func(d *cgroups.Disk) uint64 { return d.ReadBytes }),
		device("container_fs_reads_total", "Cumulative count of reads completed", func(d *cgroups.Disk) uint64 { return d.Reads }),
		device("container_fs_writes_bytes_total", "Cumulative count of bytes written", func(d *cgroups.Disk) uint64 { return d.WriteBytes }),
		device("container_fs_writes_total", "Cumulative count of writes completed", func(d *cgroups.Disk) uint64 { return d.Writes }),
		{"container_blkio_device_usage_total", "counter", "Blkio Device bytes usage", func(g *group, tell func(float64, ...string)) {
			for i := range g.figures.Disks {
				d := &g.figures.Disks[i]
				major, minor := strconv.FormatUint(d.Major, 10), strconv.FormatUint(d.Minor, 10)
				tell(float64(d.ReadBytes), "device", d.Name, "major", major, "minor", minor, "operation", "Read")
				tell(float64(d.WriteBytes), "device", d.Name, "major", major, "minor", minor, "operation", "Write")
			}
		}},
	}
}

func specFamilies() []family {
	return []family{
		one("container_spec_cpu_period", "gauge", "CPU period of the container.", func(f *cgroups.Figures) uint64 { return f.CPUPeriod }),
		{"container_spec_cpu_quota", "gauge", "CPU quota of the container.", func(g *group, tell func(float64, ...string)) {
			if g.figures.CPUQuota != cgroups.Unlimited {
				tell(float64(g.figures.CPUQuota))
			}
		}},
		one("container_spec_cpu_shares", "gauge", "CPU share of the container.", func(f *cgroups.Figures) uint64 { return f.CPUShares }),
		one("container_spec_memory_limit_bytes", "gauge", "Memory limit for the container.", func(f *cgroups.Figures) uint64 { return f.MemoryLimit }),
		one("container_spec_memory_swap_limit_bytes", "gauge", "Memory swap limit for the container.", func(f *cgroups.Figures) uint64 { return f.SwapLimit }),
		one("container_spec_memory_reservation_limit_bytes", "gauge", "Memory reservation limit for the container.", func(f *cgroups.Figures) uint64 { return f.MemoryLow }),
	}
}

func pressureFamilies() []family {
	var out []family
	for _, of := range []struct {
		name, what string
		pressure   func(f *cgroups.Figures) *cgroups.Pressure
	}{
		{"cpu", "CPU", func(f *cgroups.Figures) *cgroups.Pressure { return f.CPUPressure }},
		{"memory", "memory", func(f *cgroups.Figures) *cgroups.Pressure { return f.MemoryPressure }},
		{"io", "IO", func(f *cgroups.Figures) *cgroups.Pressure { return f.IOPressure }},
	} {
		each := func(name, help string, of1 func(p *cgroups.Pressure) uint64) family {
			return family{"container_pressure_" + of.name + name, "counter", help, func(g *group, tell func(float64, ...string)) {
				if p := of.pressure(&g.figures); p != nil {
					tell(float64(of1(p)) / 1e6)
				}
			}}
		}
		out = append(out,
			each("_waiting_seconds_total", "Total time duration tasks in the container have waited due to "+of.what+" congestion.",
				func(p *cgroups.Pressure) uint64 { return p.Some.TotalMicros }),
			each("_stalled_seconds_total", "Total time duration no tasks in the container could make progress due to "+of.what+" congestion.",
				func(p *cgroups.Pressure) uint64 { return p.Full.TotalMicros }))
	}
	return out
}

// machine writes what the machine has.
func machine(e *exposition, now *reading) {
	cores, sockets := topology()
	total, swapTotal, _ := memInfo()
	var name unix.Utsname
	kernel := ""
	if unix.Uname(&name) == nil {
		kernel = unix.ByteSliceToString(name.Release[:])
	}
	labels := []string{"boot_id", text("/proc/sys/kernel/random/boot_id"), "machine_id", text("/etc/machine-id"),
		"system_uuid", text("/sys/class/dmi/id/product_uuid")}
	gauge := func(name, help string, v int64) {
		e.head(name, "gauge", help)
		e.valueAt(name, float64(v), now.at, labels...)
	}
	gauge("machine_cpu_cores", "Number of logical CPU cores.", int64(runtime.NumCPU()))
	gauge("machine_cpu_physical_cores", "Number of physical CPU cores.", int64(cores))
	gauge("machine_cpu_sockets", "Number of CPU sockets.", int64(sockets))
	gauge("machine_memory_bytes", "Amount of memory installed on the machine.", int64(total))
	gauge("machine_swap_bytes", "Amount of swap memory available on the machine.", int64(swapTotal))
	e.head("machine_scrape_error", "gauge", "1 if there was an error while getting machine metrics, 0 otherwise.")
	e.value("machine_scrape_error", 0)
	e.head("container_scrape_error", "gauge", "1 if there was an error while getting container metrics, 0 otherwise")
	e.value("container_scrape_error", 0)
	e.head("cadvisor_version_info", "gauge", "A metric with a constant '1' value labeled by kernel version, OS version, docker version, cadvisor version & cadvisor revision.")
	e.value("cadvisor_version_info", 1, "cadvisorRevision", "", "cadvisorVersion", "", "dockerVersion", "", "kernelVersion", kernel, "osVersion", osName())
}

// topology counts the physical cores and the sockets.
func topology() (cores, sockets int) {
	dirs, err := filepath.Glob("/sys/devices/system/cpu/cpu[0-9]*/topology")
	if err != nil || len(dirs) == 0 {
		return runtime.NumCPU(), 1
	}
	all, packages := map[string]bool{}, map[string]bool{}
	for _, dir := range dirs {
		p := text(filepath.Join(dir, "physical_package_id"))
		packages[p] = true
		all[p+"/"+text(filepath.Join(dir, "core_id"))] = true
	}
	return len(all), len(packages)
}

func osName() string {
	for _, l := range strings.Split(text("/etc/os-release"), "\n") {
		if v, ok := strings.CutPrefix(l, "PRETTY_NAME="); ok {
			return strings.Trim(v, `"`)
		}
	}
	return "Linux"
}
