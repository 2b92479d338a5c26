package cgroups

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// Usage is what a group uses.
type Usage struct {
	CPUNanos   uint64 // since the group was made
	Memory     uint64
	WorkingSet uint64 // memory that cannot be dropped at once
	RSS        uint64
	Processes  uint64
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
		u.Memory = number(dir, "memory.current")
		u.RSS = keyed(dir, "memory.stat", "anon")
		u.WorkingSet = u.Memory - min(u.Memory, keyed(dir, "memory.stat", "inactive_file"))
		u.Processes = number(dir, "pids.current")
		return u
	}
	if dir, ok := m.controller("cpuacct", path); ok {
		u.CPUNanos = number(dir, "cpuacct.usage")
	}
	if dir, ok := m.controller("memory", path); ok {
		u.Memory = number(dir, "memory.usage_in_bytes")
		u.RSS = keyed(dir, "memory.stat", "total_rss")
		u.WorkingSet = u.Memory - min(u.Memory, keyed(dir, "memory.stat", "total_inactive_file"))
	}
	if dir, ok := m.controller("pids", path); ok {
		u.Processes = number(dir, "pids.current")
	}
	return u
}

func number(dir, file string) uint64 {
	data, err := os.ReadFile(filepath.Join(dir, file))
	if err != nil {
		return 0
	}
	n, err := strconv.ParseUint(strings.TrimSpace(string(data)), 10, 64)
	if err != nil {
		return 0
	}
	return n
}

func keyed(dir, file, key string) uint64 {
	data, err := os.ReadFile(filepath.Join(dir, file))
	if err != nil {
		return 0
	}
	for _, line := range strings.Split(string(data), "\n") {
		if k, v, ok := strings.Cut(line, " "); ok && k == key {
			n, err := strconv.ParseUint(v, 10, 64)
			if err != nil {
				return 0
			}
			return n
		}
	}
	return 0
}
