package node

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Signals is what the node has left, as eviction looks at it.
type Signals struct {
	MemoryAvailable int64
	// Percent of space and inodes that are free.
	DiskFree, InodesFree   int64
	ImageFree, ImageInodes int64
	PIDFree                int64 // percent
}

// Thresholds of hard eviction, as upstream has them.
const (
	minMemory    = 100 << 20
	minDisk      = 10
	minInodes    = 5
	minImageDisk = 15
	minPID       = 2
)

// Short says what the signals are below the thresholds for, with upstream's
// names of the resources.
func (s Signals) Short() (memory, disk, pid bool) {
	return s.MemoryAvailable < minMemory,
		s.DiskFree < minDisk || s.InodesFree < minInodes || s.ImageFree < minImageDisk || s.ImageInodes < minInodes,
		s.PIDFree < minPID
}

// Measure reads the signals. imageDir may be empty: the same file system.
func Measure(rootDir, imageDir string, workingSet int64) (Signals, error) {
	var s Signals
	var si unix.Sysinfo_t
	if err := unix.Sysinfo(&si); err != nil {
		return s, err
	}
	s.MemoryAvailable = int64(si.Totalram)*int64(si.Unit) - workingSet
	if free, ok := memAvailable(); ok {
		s.MemoryAvailable = free
	}
	var err error
	if s.DiskFree, s.InodesFree, err = free(rootDir); err != nil {
		return s, err
	}
	s.ImageFree, s.ImageInodes = s.DiskFree+minImageDisk-minDisk, s.InodesFree
	if imageDir != "" && !sameFS(rootDir, imageDir) {
		if s.ImageFree, s.ImageInodes, err = free(imageDir); err != nil {
			return s, err
		}
	}
	s.PIDFree = 100
	if most, err := strconv.ParseInt(text("/proc/sys/kernel/pid_max"), 10, 64); err == nil && most > 0 {
		s.PIDFree = 100 - int64(si.Procs)*100/most
	}
	return s, nil
}

func sameFS(a, b string) bool {
	var x, y unix.Stat_t
	return unix.Stat(a, &x) == nil && unix.Stat(b, &y) == nil && x.Dev == y.Dev
}

func free(dir string) (space, inodes int64, err error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return 0, 0, fmt.Errorf("file system of %s: %w", dir, err)
	}
	space, inodes = 100, 100
	if fs.Blocks > 0 {
		space = int64(fs.Bavail * 100 / fs.Blocks)
	}
	if fs.Files > 0 {
		inodes = int64(fs.Ffree * 100 / fs.Files)
	}
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
