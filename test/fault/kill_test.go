package fault

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// endPod kills the processes of a pod's container, and not its sandbox, and
// waits until its shim has noticed.
func (n *node) endPod(pod *corev1.Pod) {
	n.Helper()
	kill(n.T, string(pod.UID))
	_, id, _ := strings.Cut(pod.Status.ContainerStatuses[0].ContainerID, "://")
	note := filepath.Join(n.Dir, "run", "containerd", "io.containerd.runtime.v2.task", "k8s.io", id, "exit.json")
	for {
		if _, err := os.Stat(note); err == nil {
			return
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-n.Context().Done():
			n.Fatal("the shim does not notice the end of its container")
		}
	}
}

// kill ends the processes of a pod but for its sandbox's.
func kill(t *testing.T, uid string) {
	t.Helper()
	list, err := filepath.Glob("/proc/[0-9]*/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	killed := 0
	for _, file := range list {
		groups, err := os.ReadFile(file)
		if err != nil || !strings.Contains(string(groups), "pod"+uid) {
			continue
		}
		dir := filepath.Dir(file)
		line, err := os.ReadFile(filepath.Join(dir, "cmdline"))
		if err != nil || strings.HasPrefix(string(line), "/pause") {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil {
			t.Fatal(err)
		}
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		killed++
	}
	if killed == 0 {
		t.Fatal("the pod has no processes")
	}
}
