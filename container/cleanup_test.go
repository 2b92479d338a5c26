package container_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/proa-dev/proa/container"
)

// What pods have mounted of the machine survives the removal of the data
// directory, also where that is reached through a link and has a space in its
// name, so that the kernel calls it something else.
func TestCleanupUnmountsWhatIsTheMachines(t *testing.T) {
	const marker = "PROA_TEST_MOUNTS"
	if os.Getenv(marker) == "" {
		if os.Geteuid() != 0 {
			t.Skip("only root may mount")
		}
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$")
		cmd.Env = append(os.Environ(), marker+"=1")
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS}
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""))
	base := t.TempDir()
	must(os.Mkdir(filepath.Join(base, "host"), 0o755))
	must(os.Mkdir(filepath.Join(base, "real place"), 0o755))
	must(os.Symlink("real place", filepath.Join(base, "link")))
	data := filepath.Join(base, "link", "data")
	volume := filepath.Join(data, "kubelet", "pods", "u", "volume-subpaths", "v")
	must(os.MkdirAll(volume, 0o755))
	// Mounts of a machine are shared, as systemd has it, and may hold others.
	must(unix.Mount("t", filepath.Join(base, "host"), "tmpfs", 0, ""))
	defer func() { must(unix.Unmount(filepath.Join(base, "host"), unix.MNT_DETACH)) }()
	must(unix.Mount("", filepath.Join(base, "host"), "", unix.MS_SHARED, ""))
	must(os.Mkdir(filepath.Join(base, "host", "disk"), 0o755))
	must(unix.Mount("t", filepath.Join(base, "host", "disk"), "tmpfs", 0, ""))
	precious := filepath.Join(base, "host", "disk", "precious")
	must(os.WriteFile(precious, []byte("x"), 0o600))
	must(unix.Mount(filepath.Join(base, "host"), volume, "", unix.MS_BIND|unix.MS_REC, ""))

	must(container.Cleanup(t.Context(), container.Config{DataDir: data, StateDir: filepath.Join(base, "run")}))
	must(os.RemoveAll(data))
	if _, err := os.Stat(precious); err != nil {
		t.Fatalf("the machine's file is gone: %v", err)
	}
}
