// Package cgroups keeps the control groups that pods live in:
//
//	<root>/kubepods/pod<uid>              guaranteed pods
//	<root>/kubepods/burstable/pod<uid>
//	<root>/kubepods/besteffort/pod<uid>
//
// It works with cgroup v2, with v1, and with v1 controllers beside an empty v2
// tree, and touches nothing outside its root.
package cgroups

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/proa-dev/proa/kubelet/spec"
)

// hierarchy is one mounted cgroup file system.
type hierarchy struct {
	mount       string
	controllers []string // v1 only
	v2          bool
}

// Manager makes and removes pods' groups. Safe for concurrent use.
type Manager struct {
	root        string // below every hierarchy, with a leading slash
	hierarchies []hierarchy
	v2          bool // controllers are managed by the v2 tree

	mu       sync.Mutex
	requests map[types.UID]int64 // milli-CPUs of burstable pods
}

// New finds the mounted hierarchies and makes the groups above the pods'.
// root is a name of one's own such as "/proa"; cpu is the node's milli-CPUs.
func New(root string, cpu int64) (*Manager, error) {
	root = filepath.Clean("/" + root)
	hs, err := mounted()
	if err != nil {
		return nil, err
	}
	m := &Manager{root: filepath.Join(root, "kubepods"), hierarchies: hs, requests: map[types.UID]int64{}}
	m.v2 = !slices.ContainsFunc(hs, func(h hierarchy) bool { return !h.v2 && slices.Contains(h.controllers, "memory") })
	for path, shares := range map[string]int64{
		m.root:                              spec.Shares(cpu),
		filepath.Join(m.root, "burstable"):  spec.Shares(0),
		filepath.Join(m.root, "besteffort"): spec.Shares(0),
	} {
		if err := m.create(path); err != nil {
			return nil, err
		}
		if err := m.setShares(path, shares); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// mounted lists the cgroup mounts of this process's mount namespace.
func mounted() ([]hierarchy, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var out []hierarchy
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		before, after, ok := strings.Cut(lines.Text(), " - ")
		left, right := strings.Fields(before), strings.Fields(after)
		if !ok || len(left) < 5 || len(right) < 3 {
			continue
		}
		switch right[0] {
		case "cgroup2":
			out = append(out, hierarchy{mount: left[4], v2: true})
		case "cgroup":
			out = append(out, hierarchy{mount: left[4], controllers: strings.Split(right[2], ",")})
		}
	}
	if err := lines.Err(); err != nil {
		return nil, err
	}
	if len(out) == 0 {
		return nil, errors.New("no cgroup file system is mounted")
	}
	return out, nil
}

// V2 says that controllers are managed by the v2 tree.
func (m *Manager) V2() bool { return m.v2 }

// Unified is what every container's group is set to in the v2 tree, as upstream
// has it by default: who is out of memory ends as a whole, since what is left of
// it may run on and do nothing; and nobody swaps, where that can be forbidden.
// With v1 it is nothing.
func (m *Manager) Unified() map[string]string {
	dir, ok := m.controller("memory", m.root)
	if !m.v2 || !ok {
		return nil
	}
	out := map[string]string{"memory.oom.group": "1"}
	if _, err := os.Stat(filepath.Join(dir, "memory.swap.max")); err == nil {
		out["memory.swap.max"] = "0"
	}
	return out
}

// Parent is the path of a pod's group, which runtimes want as cgroup parent.
func (m *Manager) Parent(pod *corev1.Pod) string {
	return m.path(pod.UID, spec.QOS(pod))
}

func (m *Manager) path(uid types.UID, class corev1.PodQOSClass) string {
	switch class {
	case corev1.PodQOSBurstable:
		return filepath.Join(m.root, "burstable", "pod"+string(uid))
	case corev1.PodQOSBestEffort:
		return filepath.Join(m.root, "besteffort", "pod"+string(uid))
	}
	return filepath.Join(m.root, "pod"+string(uid))
}

// Ensure makes a pod's group and sets its limits to the spec's.
func (m *Manager) Ensure(pod *corev1.Pod) error {
	path := m.Parent(pod)
	if err := m.create(path); err != nil {
		return err
	}
	size := spec.SizeOf(pod)
	if err := m.setShares(path, spec.Shares(size.MilliCPU)); err != nil {
		return err
	}
	quota, period := spec.Quota(size.MilliCPULimit)
	if err := m.setQuota(path, quota, period); err != nil {
		return err
	}
	if err := m.setMemory(path, size.MemoryLimit); err != nil {
		return err
	}
	if spec.QOS(pod) != corev1.PodQOSBurstable {
		return nil
	}
	return m.burstable(pod.UID, size.MilliCPU)
}

// burstable gives the burstable class the sum of its pods' requests.
func (m *Manager) burstable(uid types.UID, cpu int64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if old, ok := m.requests[uid]; ok && old == cpu {
		return nil
	}
	if cpu < 0 {
		if _, ok := m.requests[uid]; !ok {
			return nil
		}
		delete(m.requests, uid)
	} else {
		m.requests[uid] = cpu
	}
	var sum int64
	for _, c := range m.requests {
		sum += c
	}
	return m.setShares(filepath.Join(m.root, "burstable"), spec.Shares(sum))
}

// Remove removes a pod's group of whatever class with all below. Processes
// that are left in it are killed; the error then asks to be called again.
func (m *Manager) Remove(uid types.UID) error {
	if uid == "" || strings.ContainsAny(string(uid), "/\x00") {
		return fmt.Errorf("%q is no uid of a pod", uid)
	}
	var errs []error
	for _, class := range []corev1.PodQOSClass{corev1.PodQOSGuaranteed, corev1.PodQOSBurstable, corev1.PodQOSBestEffort} {
		for _, h := range m.hierarchies {
			errs = append(errs, removeTree(filepath.Join(h.mount, m.path(uid, class))))
		}
	}
	errs = append(errs, m.burstable(uid, -1))
	return errors.Join(errs...)
}

func removeTree(dir string) error {
	var dirs []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil && d.IsDir() {
			dirs = append(dirs, path)
		}
		return err
	})
	if err != nil {
		return err
	}
	slices.Reverse(dirs)
	for _, d := range dirs {
		err := unix.Rmdir(d)
		if errors.Is(err, unix.EBUSY) && kill(d) {
			err = unix.Rmdir(d)
		}
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("remove cgroup %s: %w", d, err)
		}
	}
	return nil
}

// kill kills the processes of one group.
func kill(dir string) bool {
	data, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if err != nil {
		return false
	}
	for _, f := range strings.Fields(string(data)) {
		if pid, err := strconv.Atoi(f); err == nil && pid > 1 && pid != os.Getpid() {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
	}
	return true
}

// UIDs lists the pods that have a group.
func (m *Manager) UIDs() []types.UID {
	seen := map[types.UID]bool{}
	for _, h := range m.hierarchies {
		for _, sub := range []string{"", "burstable", "besteffort"} {
			entries, err := os.ReadDir(filepath.Join(h.mount, m.root, sub))
			if err != nil {
				continue
			}
			for _, e := range entries {
				if uid, ok := strings.CutPrefix(e.Name(), "pod"); ok && e.IsDir() {
					seen[types.UID(uid)] = true
				}
			}
		}
	}
	var out []types.UID
	for uid := range seen {
		out = append(out, uid)
	}
	return out
}
