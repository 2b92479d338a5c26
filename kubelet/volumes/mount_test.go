package volumes_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
)

// What a pod has mounted by a subPath of a directory of the machine, with the
// file systems below it, is still there when the pod is not: also where the
// machine's mounts are shared, as systemd has it.
func TestSubPathLeavesTheMachinesMountsAlone(t *testing.T) {
	const marker = "PROA_TEST_MOUNTS"
	if os.Getenv(marker) == "" {
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
	machine := t.TempDir()
	must(unix.Mount("t", machine, "tmpfs", 0, ""))
	defer func() { must(unix.Unmount(machine, unix.MNT_DETACH)) }()
	must(unix.Mount("", machine, "", unix.MS_SHARED, ""))
	disk := filepath.Join(machine, "vol", "disk")
	must(os.MkdirAll(disk, 0o755))
	must(unix.Mount("t", disk, "tmpfs", 0, ""))
	must(os.WriteFile(disk+"/precious", []byte("x"), 0o600))

	w := newWorld(t)
	w.setUp(pod(corev1.Volume{Name: "v", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: machine}}}))
	got, err := w.SubPath(uid, "v", machine, "vol", "c", 0)
	must(err)
	w.wantFile(got+"/disk/precious", "x")
	if again, err := w.SubPath(uid, "v", machine, "vol", "c", 0); err != nil || again != got {
		t.Errorf("the container's next start gets %s (%v)", again, err)
	}
	w.wantFile(got+"/disk/precious", "x")
	must(w.TearDown(t.Context(), uid))
	w.wantFile(disk+"/precious", "x")
}
