package container_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/proa-dev/proa/container/containertest"
	"github.com/proa-dev/proa/container/runtimebin"
)

// BenchmarkPod starts pods of one container. Its yardstick is BenchmarkRunc:
// the same process by a bare `runc run`.
func BenchmarkPod(b *testing.B) {
	n := containertest.Start(b, containertest.Dir(b))
	n.Import(containertest.Image(b, containertest.Busybox))
	n.RunPod(containertest.HostNetwork).Run("warm", "exec sleep 1000")
	for b.Loop() {
		pod := n.RunPod(containertest.HostNetwork)
		pod.Run("c", "exec sleep 1000")
		b.StopTimer()
		pod.Remove()
		b.StartTimer()
	}
}

// BenchmarkRunc runs a process that ends at once in a container of runc.
func BenchmarkRunc(b *testing.B) {
	dir := containertest.Dir(b)
	bin, err := runtimebin.Unpack(filepath.Join(dir, "bin"))
	if err != nil {
		b.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(dir, "rootfs", "bin"), 0o755); err != nil {
		b.Fatal(err)
	}
	run := func(name string, args ...string) {
		cmd := exec.Command(name, args...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			b.Fatalf("%s: %v: %s", name, err, out)
		}
	}
	run("cp", "/bin/busybox", "rootfs/bin/true")
	run(bin.Runc, "spec")
	data, err := os.ReadFile(filepath.Join(dir, "config.json"))
	if err != nil {
		b.Fatal(err)
	}
	var spec map[string]any
	if err := json.Unmarshal(data, &spec); err != nil {
		b.Fatal(err)
	}
	process := spec["process"].(map[string]any)
	process["args"], process["terminal"] = []string{"/bin/true"}, false
	if data, err = json.Marshal(spec); err != nil {
		b.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "config.json"), data, 0o600); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		run(bin.Runc, "--root", filepath.Join(dir, "runc"), "run", filepath.Base(dir))
	}
}
