package cgroups

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// create makes the group in every hierarchy and hands controllers down.
func (m *Manager) create(path string) error {
	for _, h := range m.hierarchies {
		if h.v2 != m.v2 && h.v2 {
			continue // an empty tree beside v1: runtimes make what they need
		}
		if !h.v2 && !h.wanted() {
			continue
		}
		if err := os.MkdirAll(filepath.Join(h.mount, path), 0o755); err != nil {
			return fmt.Errorf("make cgroup: %w", err)
		}
		var err error
		if h.v2 {
			err = h.delegate(path)
		} else if slices.Contains(h.controllers, "cpuset") {
			err = h.inheritCpuset(path)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (h hierarchy) wanted() bool {
	for _, c := range []string{"cpu", "cpuacct", "cpuset", "memory", "pids", "hugetlb"} {
		if slices.Contains(h.controllers, c) {
			return true
		}
	}
	return false
}

// delegate enables controllers in every group above path.
func (h hierarchy) delegate(path string) error {
	dir := h.mount
	for _, part := range strings.Split(strings.Trim(path, "/"), "/") {
		have, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
		if err != nil {
			return err
		}
		enabled, err := os.ReadFile(filepath.Join(dir, "cgroup.subtree_control"))
		if err != nil {
			return err
		}
		for _, c := range []string{"cpuset", "cpu", "io", "memory", "pids", "hugetlb"} {
			if !slices.Contains(strings.Fields(string(have)), c) || slices.Contains(strings.Fields(string(enabled)), c) {
				continue
			}
			if err := os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+"+c), 0o644); err != nil {
				return fmt.Errorf("enable cgroup controller %s below %s: %w", c, dir, err)
			}
		}
		dir = filepath.Join(dir, part)
	}
	return nil
}

// inheritCpuset fills in what v1 leaves empty in a new group, from the top down.
func (h hierarchy) inheritCpuset(path string) error {
	parent := h.mount
	for _, part := range strings.Split(strings.Trim(path, "/"), "/") {
		dir := filepath.Join(parent, part)
		for _, name := range []string{"cpuset.cpus", "cpuset.mems"} {
			own, err := os.ReadFile(filepath.Join(dir, name))
			if err != nil {
				return err
			}
			if strings.TrimSpace(string(own)) != "" {
				continue
			}
			above, err := os.ReadFile(filepath.Join(parent, name))
			if err != nil {
				return err
			}
			if err := os.WriteFile(filepath.Join(dir, name), above, 0o644); err != nil {
				return err
			}
		}
		parent = dir
	}
	return nil
}

// controller finds the directory of a group in the hierarchy of a controller.
func (m *Manager) controller(name, path string) (dir string, ok bool) {
	for _, h := range m.hierarchies {
		if (m.v2 && h.v2) || (!m.v2 && slices.Contains(h.controllers, name)) {
			return filepath.Join(h.mount, path), true
		}
	}
	return "", false
}

// set writes one file of a group. A controller that the kernel lacks has no
// file, and nothing to limit with.
func (m *Manager) set(controller, path, file, value string) error {
	dir, ok := m.controller(controller, path)
	if !ok {
		return nil
	}
	name := filepath.Join(dir, file)
	old, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil && strings.TrimSpace(string(old)) == value {
		return nil
	}
	if err := os.WriteFile(name, []byte(value), 0o644); err != nil {
		return fmt.Errorf("set cgroup limit: %w", err)
	}
	return nil
}

func (m *Manager) setShares(path string, shares int64) error {
	if !m.v2 {
		return m.set("cpu", path, "cpu.shares", strconv.FormatInt(shares, 10))
	}
	weight := 1 + (shares-2)*9999/262142
	return m.set("cpu", path, "cpu.weight", strconv.FormatInt(weight, 10))
}

func (m *Manager) setQuota(path string, quota, period int64) error {
	if m.v2 {
		value := "max 100000"
		if quota > 0 {
			value = fmt.Sprintf("%d %d", quota, period)
		}
		return m.set("cpu", path, "cpu.max", value)
	}
	if quota <= 0 {
		return m.set("cpu", path, "cpu.cfs_quota_us", "-1")
	}
	if err := m.set("cpu", path, "cpu.cfs_period_us", strconv.FormatInt(period, 10)); err != nil {
		return err
	}
	return m.set("cpu", path, "cpu.cfs_quota_us", strconv.FormatInt(quota, 10))
}

func (m *Manager) setMemory(path string, limit int64) error {
	if m.v2 {
		value := "max"
		if limit > 0 {
			value = strconv.FormatInt(limit, 10)
		}
		return m.set("memory", path, "memory.max", value)
	}
	value := "-1"
	if limit > 0 {
		value = strconv.FormatInt(limit, 10)
	} else if dir, ok := m.controller("memory", path); ok {
		// The kernel shows "unlimited" as a huge number: leave it.
		data, err := os.ReadFile(filepath.Join(dir, "memory.limit_in_bytes"))
		if n, e := strconv.ParseUint(strings.TrimSpace(string(data)), 10, 64); err == nil && e == nil && n > 1<<62 {
			return nil
		}
	}
	return m.set("memory", path, "memory.limit_in_bytes", value)
}
