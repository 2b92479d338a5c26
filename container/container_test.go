package container_test

import (
	"strings"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/proa-dev/proa/container/containertest"
)

func TestContainerRuns(t *testing.T) {
	begin := time.Now()
	n := containertest.Start(t, containertest.Dir(t))
	t.Logf("start %v", time.Since(begin))
	n.Import(containertest.Image(t, containertest.Busybox))
	t.Logf("import %v", time.Since(begin))
	for range 5 {
		begin = time.Now()
		pod := n.RunPod(containertest.HostNetwork)
		t1 := time.Since(begin)
		id := pod.Run("c", "echo hello; exec sleep 1000")
		t.Logf("sandbox %v, container %v", t1, time.Since(begin)-t1)
		containertest.Eventually(t, "the log", func() bool { return strings.Contains(pod.Log("c"), "hello") })
		out, code := n.Exec(id, "sh", "-c", "id -u; exit 3")
		if out != "0\n" || code != 3 {
			t.Errorf("exec: %q, %d", out, code)
		}
		if s := n.State(id); s != runtimeapi.ContainerState_CONTAINER_RUNNING {
			t.Errorf("state %v", s)
		}
		begin = time.Now()
		pod.Remove()
		t.Logf("remove %v", time.Since(begin))
	}
}
