package cgroups

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Unlimited is a limit that is none.
const Unlimited = 0

// Figures are all that the kernel tells of a group. What it does not tell is
// zero: kernels and hierarchies differ in what they count.
type Figures struct {
	Usage
	CPUUserNanos, CPUSystemNanos uint64
	// Periods are those of a CPU limit, in which the group was throttled or not.
	Periods, ThrottledPeriods, ThrottledNanos uint64

	Cache, Mapped, Kernel, MaxMemory uint64
	ActiveFile, InactiveFile         uint64
	PageFaults, MajorPageFaults      uint64
	// LimitHits is how often memory reached its limit, OOMKills how many
	// processes that cost.
	LimitHits, OOMKills uint64

	// CPUQuota is microseconds of each CPUPeriod; Unlimited is none.
	CPUShares, CPUPeriod, CPUQuota                uint64
	MemoryLimit, SwapLimit, MemoryLow, ThreadsMax uint64

	Disks []Disk
	// Pressure is by resource; nil when the kernel does not measure it.
	CPUPressure, MemoryPressure, IOPressure *Pressure
}

// Disk is what a group did to one device.
type Disk struct {
	Major, Minor                         uint64
	Name                                 string // of the device node: /dev/sda
	ReadBytes, WriteBytes, Reads, Writes uint64
}

// Pressure is how long tasks waited for a resource: Some of them, or all.
type Pressure struct{ Some, Full Stall }

// Stall is one line of a pressure file.
type Stall struct {
	TotalMicros          uint64
	Avg10, Avg60, Avg300 float64
}

// Root is the group above all pods.
func (m *Manager) Root() string { return m.root }

// Figures reads all about a group; false when there is none of that path.
func (m *Manager) Figures(path string) (Figures, bool) {
	dir, ok := m.controller("memory", path)
	if !ok {
		return Figures{}, false
	}
	if _, err := os.Stat(dir); err != nil {
		return Figures{}, false
	}
	f := Figures{Usage: m.usage(path)}
	f.Processes = m.processes(path)
	if m.v2 {
		f.unified(dir)
	} else {
		m.legacy(path, &f)
	}
	return f, true
}

func (f *Figures) unified(dir string) {
	cpu := table(dir, "cpu.stat")
	f.CPUUserNanos, f.CPUSystemNanos = cpu["user_usec"]*1000, cpu["system_usec"]*1000
	f.Periods, f.ThrottledPeriods, f.ThrottledNanos = cpu["nr_periods"], cpu["nr_throttled"], cpu["throttled_usec"]*1000
	mem := table(dir, "memory.stat")
	f.Cache, f.Mapped, f.Kernel = mem["file"], mem["file_mapped"], mem["kernel"]
	f.ActiveFile, f.InactiveFile = mem["active_file"], mem["inactive_file"]
	f.PageFaults, f.MajorPageFaults = mem["pgfault"], mem["pgmajfault"]
	f.MaxMemory = number(dir, "memory.peak")
	events := table(dir, "memory.events")
	f.LimitHits, f.OOMKills = events["max"], events["oom_kill"]
	if quota, period, ok := strings.Cut(line(dir, "cpu.max"), " "); ok {
		f.CPUQuota, f.CPUPeriod = parse(quota), parse(period)
	}
	if weight := number(dir, "cpu.weight"); weight > 0 {
		f.CPUShares = 2 + (weight-1)*262142/9999
	}
	// "max" is no number, and so no limit.
	f.MemoryLimit, f.SwapLimit = number(dir, "memory.max"), number(dir, "memory.swap.max")
	f.MemoryLow, f.ThreadsMax = number(dir, "memory.low"), number(dir, "pids.max")
	for _, l := range strings.Split(line(dir, "io.stat"), "\n") {
		f.disk(l)
	}
	f.CPUPressure, f.MemoryPressure, f.IOPressure = pressure(dir, "cpu.pressure"), pressure(dir, "memory.pressure"), pressure(dir, "io.pressure")
}

// disk reads a line of io.stat: 8:0 rbytes=1 wbytes=2 rios=3 wios=4.
func (f *Figures) disk(l string) {
	fields := strings.Fields(l)
	if len(fields) < 2 {
		return
	}
	d := newDisk(fields[0])
	for _, pair := range fields[1:] {
		switch key, value, _ := strings.Cut(pair, "="); key {
		case "rbytes":
			d.ReadBytes = parse(value)
		case "wbytes":
			d.WriteBytes = parse(value)
		case "rios":
			d.Reads = parse(value)
		case "wios":
			d.Writes = parse(value)
		}
	}
	f.Disks = append(f.Disks, d)
}

func newDisk(numbers string) Disk {
	major, minor, _ := strings.Cut(numbers, ":")
	d := Disk{Major: parse(major), Minor: parse(minor)}
	if target, err := os.Readlink(filepath.Join("/sys/dev/block", numbers)); err == nil {
		d.Name = "/dev/" + filepath.Base(target)
	}
	return d
}

// noLimit is what v1 shows, rounded to pages, where nothing limits.
const noLimit = 1 << 62

func limit(n uint64) uint64 {
	if n >= noLimit {
		return Unlimited
	}
	return n
}

func (m *Manager) legacy(path string, f *Figures) {
	if dir, ok := m.controller("cpuacct", path); ok {
		f.CPUUserNanos, f.CPUSystemNanos = number(dir, "cpuacct.usage_user"), number(dir, "cpuacct.usage_sys")
	}
	if dir, ok := m.controller("cpu", path); ok {
		cpu := table(dir, "cpu.stat")
		f.Periods, f.ThrottledPeriods, f.ThrottledNanos = cpu["nr_periods"], cpu["nr_throttled"], cpu["throttled_time"]
		// A quota of -1 is no number, and so none.
		f.CPUShares, f.CPUPeriod, f.CPUQuota = number(dir, "cpu.shares"), number(dir, "cpu.cfs_period_us"), number(dir, "cpu.cfs_quota_us")
	}
	if dir, ok := m.controller("memory", path); ok {
		mem := table(dir, "memory.stat")
		f.Cache, f.Mapped = mem["total_cache"], mem["total_mapped_file"]
		f.ActiveFile, f.InactiveFile = mem["total_active_file"], mem["total_inactive_file"]
		f.PageFaults, f.MajorPageFaults = mem["total_pgfault"], mem["total_pgmajfault"]
		f.MaxMemory, f.Kernel = number(dir, "memory.max_usage_in_bytes"), number(dir, "memory.kmem.usage_in_bytes")
		f.LimitHits, f.OOMKills = number(dir, "memory.failcnt"), table(dir, "memory.oom_control")["oom_kill"]
		f.MemoryLimit, f.MemoryLow = limit(number(dir, "memory.limit_in_bytes")), limit(number(dir, "memory.soft_limit_in_bytes"))
		if both := limit(number(dir, "memory.memsw.limit_in_bytes")); both != Unlimited {
			f.SwapLimit = both - min(both, f.MemoryLimit)
		}
	}
	if dir, ok := m.controller("pids", path); ok {
		f.ThreadsMax = number(dir, "pids.max")
	}
	if dir, ok := m.controller("blkio", path); ok {
		f.Disks = blkio(dir)
	}
}

// blkio reads lines such as: 8:0 Read 4096.
func blkio(dir string) []Disk {
	var out []Disk
	at := map[string]int{}
	read := func(file string, set func(d *Disk, operation string, n uint64)) {
		for _, l := range strings.Split(line(dir, file), "\n") {
			fields := strings.Fields(l)
			if len(fields) != 3 {
				continue // the sum of all
			}
			i, ok := at[fields[0]]
			if !ok {
				i = len(out)
				at[fields[0]], out = i, append(out, newDisk(fields[0]))
			}
			set(&out[i], fields[1], parse(fields[2]))
		}
	}
	read("blkio.throttle.io_service_bytes_recursive", func(d *Disk, operation string, n uint64) {
		switch operation {
		case "Read":
			d.ReadBytes = n
		case "Write":
			d.WriteBytes = n
		}
	})
	read("blkio.throttle.io_serviced_recursive", func(d *Disk, operation string, n uint64) {
		switch operation {
		case "Read":
			d.Reads = n
		case "Write":
			d.Writes = n
		}
	})
	return out
}

// pressure reads lines such as: some avg10=0.00 avg60=0.00 avg300=0.00 total=12.
func pressure(dir, file string) *Pressure {
	text := line(dir, file)
	if text == "" {
		return nil
	}
	p := &Pressure{}
	for _, l := range strings.Split(text, "\n") {
		fields := strings.Fields(l)
		if len(fields) == 0 {
			continue
		}
		s := &p.Some
		if fields[0] == "full" {
			s = &p.Full
		}
		for _, pair := range fields[1:] {
			key, value, _ := strings.Cut(pair, "=")
			average, _ := strconv.ParseFloat(value, 64) // what is no number counts as none
			switch key {
			case "avg10":
				s.Avg10 = average
			case "avg60":
				s.Avg60 = average
			case "avg300":
				s.Avg300 = average
			case "total":
				s.TotalMicros = parse(value)
			}
		}
	}
	return p
}

// PIDs lists processes of a group, those of the groups below it excluded.
func (m *Manager) PIDs(path string) []string {
	dir, ok := m.controller("memory", path)
	if !ok {
		return nil
	}
	return strings.Fields(line(dir, "cgroup.procs"))
}

// processes counts the processes of a group and of those below it.
func (m *Manager) processes(path string) uint64 {
	dir, ok := m.controller("memory", path)
	if !ok {
		return 0
	}
	return countProcesses(dir, 0)
}

// maxDepth bounds how deep containers may nest groups and still be counted.
const maxDepth = 8

func countProcesses(dir string, depth int) uint64 {
	data, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if err != nil {
		return 0 // it went while one looked
	}
	n := uint64(bytes.Count(data, []byte{'\n'}))
	if depth == maxDepth {
		return n
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return n
	}
	for _, e := range entries {
		if e.IsDir() {
			n += countProcesses(filepath.Join(dir, e.Name()), depth+1)
		}
	}
	return n
}

// line is a file's text without the white space around it; empty if there is
// none.
func line(dir, file string) string {
	data, err := os.ReadFile(filepath.Join(dir, file))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(data))
}

func parse(s string) uint64 {
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// table reads a file of names and numbers.
func table(dir, file string) map[string]uint64 {
	out := map[string]uint64{}
	for _, l := range strings.Split(line(dir, file), "\n") {
		if key, value, ok := strings.Cut(l, " "); ok {
			out[key] = parse(value)
		}
	}
	return out
}
