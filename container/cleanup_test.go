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
	precious := filepath.Join(base, "host", "precious")
	must(os.MkdirAll(filepath.Dir(precious), 0o755))
	must(os.WriteFile(precious, []byte("x"), 0o600))
	must(os.Mkdir(filepath.Join(base, "real place"), 0o755))
	must(os.Symlink("real place", filepath.Join(base, "link")))
	data := filepath.Join(base, "link", "data")
	volume := filepath.Join(data, "kubelet", "pods", "u", "volume-subpaths", "v")
	must(os.MkdirAll(volume, 0o755))
	must(unix.Mount(filepath.Dir(precious), volume, "", unix.MS_BIND, ""))

	must(container.Cleanup(t.Context(), container.Config{DataDir: data, StateDir: filepath.Join(base, "run")}))
	must(os.RemoveAll(data))
	if _, err := os.Stat(precious); err != nil {
		t.Fatalf("the machine's file is gone: %v", err)
	}
}
