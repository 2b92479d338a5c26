package node

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// Signal is a thing that the node can run short of, by upstream's name.
type Signal string

// The signals.
const (
	MemoryAvailable  Signal = "memory.available"
	NodeFSAvailable  Signal = "nodefs.available"
	NodeFSInodes     Signal = "nodefs.inodesFree"
	ImageFSAvailable Signal = "imagefs.available"
	ImageFSInodes    Signal = "imagefs.inodesFree"
	PIDAvailable     Signal = "pid.available"
)

// signals lists them all, the most urgent first.
func signals() []Signal {
	return []Signal{MemoryAvailable, NodeFSAvailable, NodeFSInodes, ImageFSAvailable, ImageFSInodes, PIDAvailable}
}

// Resource is what a shortage is said to be of.
func (s Signal) Resource() corev1.ResourceName {
	switch s {
	case MemoryAvailable:
		return corev1.ResourceMemory
	case NodeFSInodes, ImageFSInodes:
		return "inodes"
	case PIDAvailable:
		return "pids"
	}
	return corev1.ResourceEphemeralStorage
}

// Condition is the node's condition that a shortage makes true.
func (s Signal) Condition() corev1.NodeConditionType {
	switch s {
	case MemoryAvailable:
		return corev1.NodeMemoryPressure
	case PIDAvailable:
		return corev1.NodePIDPressure
	}
	return corev1.NodeDiskPressure
}

// Level is how much of something there is: bytes, inodes or process numbers.
type Level struct{ Available, Capacity int64 }

// Threshold is how much there must be: a quantity, or a share of the capacity.
type Threshold struct {
	Quantity resource.Quantity
	Percent  float64 // when not 0
}

// Of is the threshold for a capacity.
func (t Threshold) Of(capacity int64) resource.Quantity {
	if t.Percent != 0 {
		return *resource.NewQuantity(int64(float64(capacity)*t.Percent/100), resource.BinarySI)
	}
	return t.Quantity.DeepCopy()
}

// Thresholds are those of hard eviction: below, the node ends pods.
type Thresholds map[Signal]Threshold

// DefaultThresholds are upstream's.
func DefaultThresholds() Thresholds {
	return Thresholds{
		MemoryAvailable: {Quantity: resource.MustParse("100Mi")},
		NodeFSAvailable: {Percent: 10}, NodeFSInodes: {Percent: 5},
		ImageFSAvailable: {Percent: 15}, ImageFSInodes: {Percent: 5},
	}
}

// ParseThresholds reads the form of upstream's flag, "memory.available<100Mi"
// or "nodefs.available<10%"; signals that are not named are not looked at.
func ParseThresholds(list []string) (Thresholds, error) {
	out := Thresholds{}
	known := map[Signal]bool{}
	for _, s := range signals() {
		known[s] = true
	}
	for _, text := range list {
		name, value, ok := strings.Cut(strings.TrimSpace(text), "<")
		if !ok {
			return nil, fmt.Errorf("eviction threshold %q: want signal<quantity", text)
		}
		signal := Signal(name)
		if !known[signal] {
			return nil, fmt.Errorf("unsupported eviction signal %s", name)
		}
		if share, ok := strings.CutSuffix(value, "%"); ok {
			percent, err := strconv.ParseFloat(share, 64)
			if err != nil || !(percent >= 0 && percent <= 100) {
				return nil, fmt.Errorf("eviction percentage threshold %s must be from 0%% to 100%%: %s", name, value)
			}
			if percent != 0 && percent != 100 { // as upstream: no threshold
				out[signal] = Threshold{Percent: percent}
			}
			continue
		}
		quantity, err := resource.ParseQuantity(value)
		if err != nil || quantity.Sign() <= 0 {
			return nil, fmt.Errorf("eviction threshold %s must be a positive quantity: %s", name, value)
		}
		out[signal] = Threshold{Quantity: quantity}
	}
	return out, nil
}

// Met lists the signals that are below their threshold, the most urgent first.
func (t Thresholds) Met(levels map[Signal]Level) []Signal {
	var out []Signal
	for _, s := range signals() {
		threshold, watched := t[s]
		level, seen := levels[s]
		if !watched || !seen {
			continue
		}
		least := threshold.Of(level.Capacity)
		if least.CmpInt64(level.Available) > 0 {
			out = append(out, s)
		}
	}
	return out
}

// reserved is what pods do not get of a capacity.
func (t Thresholds) reserved(s Signal, capacity int64) int64 {
	threshold, ok := t[s]
	if !ok {
		return 0
	}
	least := threshold.Of(capacity)
	return min(max(least.Value(), 0), capacity)
}

// Measure reads the levels. imageDir is where images are kept; it may be
// empty: on the same file system. workingSet is the memory in use where the
// kernel does not say what is available.
func Measure(rootDir, imageDir string, workingSet int64) (map[Signal]Level, error) {
	levels := map[Signal]Level{}
	var si unix.Sysinfo_t
	if err := unix.Sysinfo(&si); err != nil {
		return nil, err
	}
	memory := Level{Capacity: int64(si.Totalram) * int64(si.Unit)}
	memory.Available = memory.Capacity - workingSet
	if free, ok := memAvailable(); ok {
		memory.Available = free
	}
	levels[MemoryAvailable] = memory
	var err error
	if levels[NodeFSAvailable], levels[NodeFSInodes], err = free(rootDir); err != nil {
		return nil, err
	}
	if imageDir == "" {
		imageDir = rootDir
	}
	if levels[ImageFSAvailable], levels[ImageFSInodes], err = free(imageDir); err != nil {
		return nil, err
	}
	if most, err := strconv.ParseInt(text("/proc/sys/kernel/pid_max"), 10, 64); err == nil && most > 0 {
		levels[PIDAvailable] = Level{Available: most - int64(si.Procs), Capacity: most}
	}
	return levels, nil
}

// free is what a file system has left. One that counts no inodes is never
// short of them.
func free(dir string) (space, inodes Level, err error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return space, inodes, fmt.Errorf("file system of %s: %w", dir, err)
	}
	space = Level{Available: int64(fs.Bavail) * fs.Bsize, Capacity: int64(fs.Blocks) * fs.Bsize}
	inodes = Level{Available: int64(fs.Ffree), Capacity: int64(fs.Files)}
	return space, inodes, nil
}

func memAvailable() (int64, bool) {
	data, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, false
	}
	for _, line := range strings.Split(string(data), "\n") {
		if v, ok := strings.CutPrefix(line, "MemAvailable:"); ok {
			kb, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(v), " kB"), 10, 64)
			return kb << 10, err == nil
		}
	}
	return 0, false
}
