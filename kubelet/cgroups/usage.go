package cgroups

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// Usage is what a group uses.
type Usage struct {
	CPUNanos   uint64 // since the group was made
	Memory     uint64
	WorkingSet uint64 // memory that cannot be dropped at once
	RSS        uint64
	Swap       uint64
	Processes  uint64 // of Figures only: they have to be counted
	Threads    uint64
}

// Pod reads what a pod uses.
func (m *Manager) Pod(pod *corev1.Pod) Usage { return m.usage(m.Parent(pod)) }

// Pods reads what all pods use together.
func (m *Manager) Pods() Usage { return m.usage(m.root) }

// Node reads what the whole machine uses.
func (m *Manager) Node() Usage { return m.usage("/") }

func (m *Manager) usage(path string) Usage {
	var u Usage
	if m.v2 {
		dir, _ := m.controller("", path)
		u.CPUNanos = keyed(dir, "cpu.stat", "usage_usec") * 1000
		if path == "/" { // the kernel accounts no memory to the root
			u.Memory = inUse()
		} else {
			u.Memory = number(dir, "memory.current")
		}
		u.RSS = keyed(dir, "memory.stat", "anon")
		u.WorkingSet = u.Memory - min(u.Memory, keyed(dir, "memory.stat", "inactive_file"))
		u.Swap, u.Threads = number(dir, "memory.swap.current"), number(dir, "pids.current")
		return u
	}
	if dir, ok := m.controller("cpuacct", path); ok {
		u.CPUNanos = number(dir, "cpuacct.usage")
	}
	if dir, ok := m.controller("memory", path); ok {
		u.Memory = number(dir, "memory.usage_in_bytes")
		u.RSS, u.Swap = keyed(dir, "memory.stat", "total_rss"), keyed(dir, "memory.stat", "total_swap")
		u.WorkingSet = u.Memory - min(u.Memory, keyed(dir, "memory.stat", "total_inactive_file"))
	}
	if dir, ok := m.controller("pids", path); ok {
		u.Threads = number(dir, "pids.current")
	}
	return u
}

func number(dir, file string) uint64 { return parse(line(dir, file)) }

// inUse is the memory of the machine that is not free.
func inUse() uint64 {
	total, free := uint64(0), uint64(0)
	for _, l := range strings.Split(line("/proc", "meminfo"), "\n") {
		fields := strings.Fields(l)
		if len(fields) < 2 {
			continue
		}
		switch fields[0] {
		case "MemTotal:":
			total = parse(fields[1]) << 10
		case "MemFree:":
			free = parse(fields[1]) << 10
		}
	}
	return total - min(total, free)
}

func keyed(dir, file, key string) uint64 {
	for _, l := range strings.Split(line(dir, file), "\n") {
		if k, v, ok := strings.Cut(l, " "); ok && k == key {
			return parse(v)
		}
	}
	return 0
}
