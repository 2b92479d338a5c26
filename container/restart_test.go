package container_test

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/proa-dev/proa/container"
	"github.com/proa-dev/proa/container/containertest"
	"github.com/proa-dev/proa/internal/ociimage"
)

// TestMain runs a Runtime instead of the tests when the tests ask for a
// process of its own, to kill it.
func TestMain(m *testing.M) {
	if dir := os.Getenv("CONTAINER_TEST_RUNTIME"); dir != "" {
		rt, err := container.New(container.Config{
			DataDir:  filepath.Join(dir, "data"),
			StateDir: filepath.Join(dir, "run"),
			Logger:   slog.New(slog.NewTextHandler(os.Stderr, nil)),
		})
		if err == nil {
			err = rt.Run(context.Background(), func() { _, _ = os.Stdout.WriteString("ready\n") })
		}
		slog.Error("runtime ended", "error", err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// startProcess runs a Runtime in a process of its own.
func startProcess(t *testing.T, dir string) (kill func()) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), "CONTAINER_TEST_RUNTIME="+dir)
	cmd.Stderr = t.Output()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 6)); err != nil {
		t.Fatalf("runtime in a process of its own: %v", err)
	}
	return func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
}

// A container must not notice that the Runtime is killed; the next one knows
// it, its exit code and its log as if nothing had been.
func TestContainersSurviveAKill(t *testing.T) {
	dir := containertest.Dir(t)
	images := filepath.Join(dir, "data", "images")
	if err := os.MkdirAll(images, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(images, "busybox.tar"), containertest.Image(t, containertest.Busybox), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(images, "broken.tar"), []byte("no archive"), 0o600); err != nil {
		t.Fatal(err)
	}
	n := containertest.Attach(t, dir)
	kill := startProcess(t, dir)
	pod := n.RunPod(containertest.HostNetwork)
	stays := pod.Run("stays", "echo one; while [ ! -e /stop ]; do sleep 0.1; done; echo two; exit 7")
	ends := pod.Run("ends", "while [ ! -e /stop ]; do sleep 0.1; done; exit 9")
	containertest.Eventually(t, "the log", func() bool { return strings.Contains(pod.Log("stays"), "one") })
	n.Exec(ends, "touch", "/stop")
	containertest.Eventually(t, "the end", func() bool { return n.State(ends) == runtimeapi.ContainerState_CONTAINER_EXITED })
	leaves := pod.Run("leaves", "trap 'exit 5' USR1; while :; do sleep 0.1; done # "+dir)
	containertest.Eventually(t, "the last container", func() bool { return signal(t, dir, 0) == 1 })
	before := n.Status(stays)
	kill()
	signal(t, dir, syscall.SIGUSR1)
	containertest.Eventually(t, "the shim's note of an exit", func() bool {
		found, err := filepath.Glob(filepath.Join(n.Config.StateDir, "containerd", "*", "*", leaves, "exit.json"))
		return err == nil && len(found) == 1
	})

	kill = startProcess(t, dir)
	defer func() { n.RemovePods(); kill() }()
	after := n.Status(stays)
	if after.State != runtimeapi.ContainerState_CONTAINER_RUNNING || after.StartedAt != before.StartedAt {
		t.Errorf("after the kill: %v", after)
	}
	if s := n.Status(ends); s.ExitCode != 9 {
		t.Errorf("exit code of a container that ended before: %d", s.ExitCode)
	}
	if s := n.Status(leaves); s.ExitCode != 5 || s.Reason != "Error" || s.State != runtimeapi.ContainerState_CONTAINER_EXITED || s.FinishedAt < s.StartedAt || s.StartedAt == 0 {
		t.Errorf("a container that ended in between: %v", s)
	}
	n.Exec(stays, "touch", "/stop")
	containertest.Eventually(t, "the end", func() bool { return n.State(stays) == runtimeapi.ContainerState_CONTAINER_EXITED })
	if s := n.Status(stays); s.ExitCode != 7 {
		t.Errorf("exit code %d, want 7", s.ExitCode)
	}
	if log := pod.Log("stays"); log != "one\ntwo\n" {
		t.Errorf("log %q", log)
	}
}

// signal sends a signal to the shells whose script holds mark.
func signal(t *testing.T, mark string, s syscall.Signal) (found int) {
	t.Helper()
	list, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range list {
		line, err := os.ReadFile(file)
		if err != nil || !strings.Contains(string(line), "done # "+mark) {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		if err != nil {
			t.Fatal(err)
		}
		if err := syscall.Kill(pid, s); err != nil {
			t.Fatal(err)
		}
		found++
	}
	return found
}

func TestImagesAreImported(t *testing.T) {
	dir := containertest.Dir(t)
	n := containertest.Start(t, dir)
	socket := container.Socket(n.Config.StateDir)
	archive := containertest.Image(t, "tiny", ociimage.File{Path: "/hello", Content: []byte("hello\n")})
	names, err := container.Import(t.Context(), socket, bytes.NewReader(archive))
	if err != nil || len(names) != 1 || names[0] != "docker.io/library/tiny:latest" {
		t.Fatalf("imported %v: %v", names, err)
	}
	list, err := container.List(t.Context(), socket)
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, img := range list {
		found = append(found, img.Names...)
		if !strings.HasPrefix(img.ID, "sha256:") || img.Size == 0 {
			t.Errorf("listed %+v", img)
		}
	}
	if len(found) != 2 || found[0] != names[0] || !strings.HasPrefix(found[1], "proa.dev/pause:") {
		t.Errorf("listed %v", found)
	}
	for what, bad := range map[string]string{"nothing": "", "text": strings.Repeat("x", 2000), "cut off": string(archive[:len(archive)/2])} {
		if _, err := container.Import(t.Context(), socket, strings.NewReader(bad)); err == nil {
			t.Errorf("%s was imported", what)
		}
	}
	if _, err := container.List(t.Context(), socket+"x"); err == nil {
		t.Error("listed images of no runtime")
	}
	pod := n.RunPod(containertest.HostNetwork)
	pod.Run("c", "cat /hello", func(c *runtimeapi.ContainerConfig) { c.Image.Image = "tiny" })
	containertest.Eventually(t, "the log", func() bool { return pod.Log("c") == "hello\n" })
}
