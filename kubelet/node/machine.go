package node

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// machine is what the hardware and the system are.
type machine struct {
	cpus      int64
	memory    int64
	disk      int64
	hugepages map[string]int64 // by resource name, in bytes
	arch      string
	info      corev1.NodeSystemInfo
}

func readMachine(rootDir string) (machine, error) {
	m := machine{cpus: int64(runtime.NumCPU()), arch: runtime.GOARCH, hugepages: map[string]int64{}}
	var si unix.Sysinfo_t
	if err := unix.Sysinfo(&si); err != nil {
		return m, fmt.Errorf("sysinfo: %w", err)
	}
	m.memory = int64(si.Totalram) * int64(si.Unit)
	if err := os.MkdirAll(rootDir, 0o750); err != nil {
		return m, err
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(rootDir, &fs); err != nil {
		return m, fmt.Errorf("file system of %s: %w", rootDir, err)
	}
	m.disk = int64(fs.Blocks) * fs.Bsize
	sizes, err := filepath.Glob("/sys/kernel/mm/hugepages/hugepages-*kB")
	if err != nil {
		return m, err
	}
	for _, dir := range sizes {
		var kb int64
		if _, err := fmt.Sscanf(filepath.Base(dir), "hugepages-%dkB", &kb); err != nil {
			continue
		}
		n, err := strconv.ParseInt(text(filepath.Join(dir, "nr_hugepages")), 10, 64)
		if err != nil {
			continue
		}
		size := resource.NewQuantity(kb<<10, resource.BinarySI)
		m.hugepages[corev1.ResourceHugePagesPrefix+size.String()] = n * kb << 10
	}
	m.info = systemInfo(m.arch)
	return m, nil
}

func text(path string) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(data))
}

func systemInfo(arch string) corev1.NodeSystemInfo {
	info := corev1.NodeSystemInfo{
		MachineID: text("/etc/machine-id"), SystemUUID: text("/sys/class/dmi/id/product_uuid"), BootID: text("/proc/sys/kernel/random/boot_id"),
		OperatingSystem: "linux", Architecture: arch,
	}
	var uts unix.Utsname
	if err := unix.Uname(&uts); err == nil {
		info.KernelVersion = unix.ByteSliceToString(uts.Release[:])
	}
	if info.SystemUUID == "" {
		info.SystemUUID = info.MachineID
	}
	info.OSImage = "Linux"
	for _, line := range strings.Split(text("/etc/os-release"), "\n") {
		if v, ok := strings.CutPrefix(line, "PRETTY_NAME="); ok {
			info.OSImage = strings.Trim(v, `"`)
		}
	}
	return info
}

func (m machine) capacity(pods int64) corev1.ResourceList {
	out := corev1.ResourceList{
		corev1.ResourceCPU:              *resource.NewQuantity(m.cpus, resource.DecimalSI),
		corev1.ResourceMemory:           *resource.NewQuantity(m.memory, resource.BinarySI),
		corev1.ResourceEphemeralStorage: *resource.NewQuantity(m.disk, resource.BinarySI),
		corev1.ResourcePods:             *resource.NewQuantity(pods, resource.DecimalSI),
	}
	for name, bytes := range m.hugepages {
		out[corev1.ResourceName(name)] = *resource.NewQuantity(bytes, resource.BinarySI)
	}
	return out
}

// allocatable is what pods get: below the thresholds, the node evicts.
func (m machine) allocatable(pods int64, thresholds Thresholds) corev1.ResourceList {
	out := m.capacity(pods)
	memory := m.memory - thresholds.reserved(MemoryAvailable, m.memory)
	for _, bytes := range m.hugepages {
		memory -= bytes
	}
	out[corev1.ResourceMemory] = *resource.NewQuantity(max(memory, 0), resource.BinarySI)
	out[corev1.ResourceEphemeralStorage] = *resource.NewQuantity(m.disk-thresholds.reserved(NodeFSAvailable, m.disk), resource.BinarySI)
	return out
}
