package runtimebin_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/proa-dev/proa/container/runtimebin"
)

func TestUnpack(t *testing.T) {
	root := filepath.Join(t.TempDir(), "bin")
	paths, err := runtimebin.Unpack(root)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{paths.Shim, paths.Runc, paths.CNI, filepath.Join(paths.Dir, "pause")} {
		info, err := os.Stat(p)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o755 {
			t.Errorf("%s: mode %v", p, info.Mode())
		}
	}
	if out, err := exec.Command(paths.Runc, "--version").CombinedOutput(); err != nil {
		t.Errorf("runc does not run: %v: %s", err, out)
	}
	again, err := runtimebin.Unpack(root)
	if err != nil || again != paths {
		t.Errorf("unpacked again: %v, %v", again, err)
	}
}

// What earlier versions left goes, but not from under a process that runs it.
func TestUnpackPrunes(t *testing.T) {
	root := filepath.Join(t.TempDir(), "bin")
	inUse, unused, foreign := filepath.Join(root, "0123456789abcdef"), filepath.Join(root, "fedcba9876543210"), filepath.Join(root, "mine")
	for _, dir := range []string{inUse, unused, foreign} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	pause, err := runtimebin.Pause()
	if err != nil {
		t.Fatal(err)
	}
	shim := filepath.Join(inUse, "shim")
	if err := os.WriteFile(shim, pause, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(shim)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	if _, err := runtimebin.Unpack(root); err != nil {
		t.Fatal(err)
	}
	for dir, want := range map[string]bool{inUse: true, unused: false, foreign: true} {
		if _, err := os.Stat(dir); (err == nil) != want {
			t.Errorf("%s: %v, want it to stay: %v", dir, err, want)
		}
	}
}

// As process 1 of its namespace pause gets only the signals it asks for.
func TestPauseEnds(t *testing.T) {
	pause, err := runtimebin.Pause()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "pause")
	if err := os.WriteFile(file, pause, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(file)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID}
	if err := cmd.Start(); err != nil {
		t.Fatalf("a PID namespace needs root: %v", err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	deadline := time.After(10 * time.Second)
	// A signal before pause listens is lost.
	for tick := time.NewTicker(5 * time.Millisecond); ; {
		select {
		case <-tick.C:
			_ = cmd.Process.Signal(syscall.SIGTERM)
		case err := <-done:
			if err != nil {
				t.Errorf("pause: %v", err)
			}
			return
		case <-deadline:
			_ = cmd.Process.Kill()
			t.Fatal("pause does not end")
		}
	}
}

// The runtime puts no profile around pause: it must do so itself.
func TestPauseConfinesItself(t *testing.T) {
	pause, err := runtimebin.Pause()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "pause")
	if err := os.WriteFile(file, pause, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(file)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	var text []byte
	deadline := time.After(10 * time.Second)
	for tick := time.NewTicker(2 * time.Millisecond); ; {
		if text, err = os.ReadFile(fmt.Sprintf("/proc/%d/status", cmd.Process.Pid)); err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(text, []byte("\nSeccomp:\t2\n")) {
			break
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("pause runs without a filter:\n%s", text)
		}
	}
	if !bytes.Contains(text, []byte("\nNoNewPrivs:\t1\n")) {
		t.Errorf("pause may gain privileges:\n%s", text)
	}
}
