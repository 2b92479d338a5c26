package fault

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// killShims kills the shims of a data directory and waits for their end.
func killShims(t *testing.T, dataDir string) {
	t.Helper()
	killed := 0
	for again := true; again; {
		again = false
		list, err := filepath.Glob("/proc/[0-9]*/exe")
		if err != nil {
			t.Fatal(err)
		}
		for _, link := range list {
			exe, err := os.Readlink(link)
			if err != nil || !strings.HasPrefix(exe, dataDir+"/") || !strings.Contains(filepath.Base(exe), "shim") {
				continue
			}
			pid, err := strconv.Atoi(filepath.Base(filepath.Dir(link)))
			if err != nil {
				t.Fatal(err)
			}
			if syscall.Kill(pid, syscall.SIGKILL) == nil {
				killed++
			}
			again = true
		}
		if again {
			select {
			case <-time.After(time.Millisecond):
			case <-t.Context().Done():
				t.Fatal("a shim does not end")
			}
		}
	}
	if killed == 0 {
		t.Fatal("no shim ran")
	}
}

// A pod whose shim is killed, by the kernel for want of memory perhaps, runs
// again, and nothing of its first life is left.
func TestShimDies(t *testing.T) {
	n := newNode(t)
	n.start()
	n.importBusybox()
	n.run("first")
	n.pod("first")
	n.delete("first")
	n.gone("first")
	before := look(t, n.Dir, nil)
	n.run("p")
	pod := n.pod("p")
	again := func() {
		t.Helper()
		old := pod.Status.ContainerStatuses[0]
		n.until("the pod runs again", func() bool {
			got, err := n.client.CoreV1().Pods("default").Get(t.Context(), "p", metav1.GetOptions{})
			if err != nil || len(got.Status.ContainerStatuses) != 1 {
				return false
			}
			c := got.Status.ContainerStatuses[0]
			return c.State.Running != nil && c.ContainerID != old.ContainerID && c.RestartCount > old.RestartCount && c.Ready
		})
		pod = n.pod("p")
		if last := pod.Status.ContainerStatuses[0].LastTerminationState.Terminated; last == nil || last.ExitCode == 0 {
			t.Errorf("last state %+v", last)
		}
		n.until("exec works", func() bool {
			out, err := n.Kubectl(t.Context(), nil, "exec", "p", "--", "echo", "alive")
			return err == nil && out == "alive\n"
		})
	}
	killShims(t, n.Dir)
	again()
	if err := n.Kill(); err != nil {
		t.Fatal(err)
	}
	killShims(t, n.Dir)
	n.start()
	again()
	n.delete("p")
	n.gone("p")
	n.wantClean(before, []string{string(pod.UID)})
}
