package container_test

import (
	"strings"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/proa-dev/proa/container"
	"github.com/proa-dev/proa/container/containertest"
)

func TestConfigIsValidated(t *testing.T) {
	for what, c := range map[string]container.Config{
		"no directories":      {},
		"the same directory":  {DataDir: "/d", StateDir: "/d"},
		"unknown snapshotter": {DataDir: "/d", StateDir: "/s", Snapshotter: "zfs"},
		"path too long":       {DataDir: t.TempDir(), StateDir: "/" + strings.Repeat("x", 100)},
	} {
		if _, err := container.New(c); err == nil {
			t.Errorf("%s was accepted", what)
		}
	}
}

func TestContainers(t *testing.T) {
	for _, snapshotter := range []string{"overlayfs", "native"} {
		t.Run(snapshotter, func(t *testing.T) {
			n := containertest.Start(t, containertest.Dir(t), func(c *container.Config) { c.Snapshotter = snapshotter })
			n.Import(containertest.Image(t, containertest.Busybox))
			testContainers(t, n)
		})
	}
}

func testContainers(t *testing.T, n *containertest.Node) {
	type security = runtimeapi.LinuxContainerSecurityContext
	secure := func(change func(*security)) func(*runtimeapi.ContainerConfig) {
		return func(c *runtimeapi.ContainerConfig) { change(c.Linux.SecurityContext) }
	}
	pod := n.RunPod(containertest.HostNetwork, func(c *runtimeapi.PodSandboxConfig) { c.Linux.SecurityContext.Privileged = true })
	for name, c := range map[string]struct {
		script string
		adjust func(*runtimeapi.ContainerConfig)
		log    string
		code   int32
		reason string
	}{
		"success": {"id -u", nil, "0\n", 0, "Completed"},
		"failure": {"echo err >&2; exit 3", nil, "err\n", 3, "Error"},
		"user": {"id -u; id -G", secure(func(s *security) {
			s.RunAsUser, s.SupplementalGroups = &runtimeapi.Int64Value{Value: 1000}, []int64{7}
		}), "1000\n0 7\n", 0, "Completed"},
		"seccomp": {"grep Seccomp: /proc/self/status | cut -f2", secure(func(s *security) {
			s.Seccomp = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault}
		}), "2\n", 0, "Completed"},
		"read-only": {"touch /x 2>/dev/null || echo refused", secure(func(s *security) { s.ReadonlyRootfs = true }), "refused\n", 0, "Completed"},
		"privileged": {"mount -t tmpfs none /mnt 2>/dev/null || mkdir /mnt && mount -t tmpfs none /mnt && echo mounted", secure(func(s *security) {
			s.Privileged = true
		}), "mounted\n", 0, "Completed"},
		"OOM": {"exec dd if=/dev/zero of=/dev/null bs=64M count=1", func(c *runtimeapi.ContainerConfig) {
			c.Linux.Resources = &runtimeapi.LinuxContainerResources{MemoryLimitInBytes: 16 << 20, MemorySwapLimitInBytes: 16 << 20, OomScoreAdj: -997}
		}, "", 137, "OOMKilled"},
	} {
		name = strings.ToLower(name)
		var adjust []func(*runtimeapi.ContainerConfig)
		if c.adjust != nil {
			adjust = append(adjust, c.adjust)
		}
		id := pod.Run(name, c.script, adjust...)
		containertest.Eventually(t, "the end of "+name, func() bool { return n.State(id) == runtimeapi.ContainerState_CONTAINER_EXITED })
		if s := n.Status(id); s.ExitCode != c.code || s.Reason != c.reason {
			t.Errorf("%s: exit code %d, %s; want %d, %s: %s", name, s.ExitCode, s.Reason, c.code, c.reason, pod.Log(name))
		}
		if got := pod.Log(name); got != c.log {
			t.Errorf("%s: log %q, want %q", name, got, c.log)
		}
	}
	id := pod.Run("exec", "exec sleep 1000")
	if out, code := n.Exec(id, "sh", "-c", "id -u; exit 3"); out != "0\n" || code != 3 {
		t.Errorf("exec: %q, %d", out, code)
	}
	pod.Remove()
	if left := containertest.Mounts(t, n.Config.StateDir); len(left) != 0 {
		t.Errorf("mounts remain: %v", left)
	}
}
