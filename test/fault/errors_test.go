package fault

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/proa-dev/proa/test/cluster"
)

// What keeps Proa from starting is said in one clear line, with exit code 1.
func TestClearErrors(t *testing.T) {
	nobody := &syscall.Credential{Uid: 65534, Gid: 65534}
	file := func(t *testing.T, path, content string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name    string
		prepare func(t *testing.T, dir string)
		flags   []string
		as      *syscall.Credential
		want    []string
	}{
		{name: "port in use", prepare: func(t *testing.T, _ string) {
			l, err := net.Listen("tcp", ":6443")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = l.Close() })
		}, want: []string{"6443", "address already in use", "--https-listen-port"}},
		{name: "kubelet's port in use", prepare: func(t *testing.T, _ string) {
			l, err := net.Listen("tcp", ":10250")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = l.Close() })
		}, want: []string{"10250", "address already in use"}},
		{name: "no root", as: nobody, want: []string{"a node needs root", "--disable-agent"}},
		{name: "unwritable", as: nobody, flags: []string{"--disable-agent"}, want: []string{"DIR", "permission denied"}},
		{name: "a file", prepare: func(t *testing.T, dir string) {
			if err := os.Remove(dir); err != nil {
				t.Fatal(err)
			}
			file(t, dir, "")
		}, want: []string{"DIR", "not a directory"}},
		{name: "foreign", prepare: func(t *testing.T, dir string) {
			file(t, filepath.Join(dir, "holidays", "beach.jpg"), "")
		}, want: []string{"DIR", "holidays", "--data-dir"}},
		{name: "corrupt CA", prepare: func(t *testing.T, dir string) {
			file(t, filepath.Join(dir, "tls", "ca.crt"), "no certificate")
			file(t, filepath.Join(dir, "tls", "ca.key"), "no key")
		}, want: []string{"DIR/tls/ca", "damaged"}},
		{name: "corrupt database", prepare: func(t *testing.T, dir string) {
			file(t, filepath.Join(dir, "etcd", "member", "snap", "db"), strings.Repeat("no database ", 10000))
		}, want: []string{"DIR/etcd"}},
		{name: "corrupt log of the database", prepare: func(t *testing.T, dir string) {
			file(t, filepath.Join(dir, "etcd", "member", "wal", "0000000000000000-0000000000000000.wal"), strings.Repeat("no log ", 10000))
		}, want: []string{"DIR/etcd"}},
		{name: "flags", flags: []string{"--cluster-cidr=nonsense", "--https-listen-port=0"}, want: []string{`--cluster-cidr: "nonsense" is not a network`, "--https-listen-port: 0 is not a port"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir, err := os.MkdirTemp("/var/lib", "proa-test-")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = os.RemoveAll(dir) })
			if c.prepare != nil {
				c.prepare(t, dir)
			}
			wantRefused(t, dir, c.as, c.flags, c.want)
			if out, err := exec.Command(filepath.Join(bin, "proa"), "reset", "--yes", "--data-dir", dir).CombinedOutput(); err != nil && c.name != "foreign" && c.name != "a file" {
				t.Errorf("reset: %v: %s", err, out)
			}
		})
	}
}

// wantRefused starts a server that must not come up.
func wantRefused(t *testing.T, dir string, as *syscall.Credential, flags, want []string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, program(t), append([]string{"server", "--data-dir", dir, "--write-kubeconfig", filepath.Join(dir, "kubeconfig")}, flags...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: as, Pdeathsig: syscall.SIGKILL}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 1 {
		t.Errorf("%v, want exit code 1", err)
	}
	text := strings.ReplaceAll(out.String(), dir, "DIR")
	if strings.Contains(text, "goroutine ") || strings.Contains(text, "panic") {
		t.Errorf("a panic:\n%s", text)
	}
	lines := strings.Split(strings.TrimSpace(text), "\n")
	for _, w := range want {
		if !strings.Contains(text[strings.LastIndex(text, "proa: ")+1:], w) {
			t.Errorf("the last words do not say %q:\n%s", w, strings.Join(lines[max(0, len(lines)-8):], "\n"))
		}
	}
}

// Two servers do not share a data directory, and none loses it while it runs.
func TestOneServerADirectory(t *testing.T) {
	c, err := cluster.New(bin)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Remove(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	if err := c.Start(t.Context(), "--disable-agent"); err != nil {
		t.Fatal(err)
	}
	wantRefused(t, c.Dir, nil, []string{"--disable-agent", "--https-listen-port=7443"}, []string{"DIR", "in use by another process"})
	if out, err := c.Proa(t.Context(), nil, "reset", "--yes"); err == nil || !strings.Contains(err.Error(), "in use by another process") {
		t.Errorf("a server that runs without a node was reset: %s, %v", out, err)
	}
	if _, err := c.Kubectl(t.Context(), nil, "create", "namespace", "still-there"); err != nil {
		t.Error(err)
	}
}

// reset removes a directory whole, so it does so only where Proa has run.
func TestResetLeavesOthersFilesAlone(t *testing.T) {
	dir := t.TempDir()
	letter := filepath.Join(dir, "letter.txt")
	for _, name := range []string{letter, filepath.Join(dir, "images", "beach.tar")} {
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, args := range [][]string{{"--data-dir", dir}, {"--data-dir="}} {
		cmd := exec.CommandContext(t.Context(), program(t), append([]string{"reset", "--yes"}, args...)...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err == nil {
			t.Errorf("%q was reset: %s", args, out)
		}
	}
	if _, err := os.Stat(letter); err != nil {
		t.Error(err)
	}
}

// What leads to the cluster goes with it, and nothing that leads to another.
// A data directory that is a file system of its own stays, empty.
func TestResetRemovesItsKubeconfig(t *testing.T) {
	dir, configs := t.TempDir(), t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	write := func(file, content string) {
		t.Helper()
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o700), os.WriteFile(file, []byte(content), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	for name, left := range map[string]bool{"ours": false, "another": true} {
		write(filepath.Join(dir, "tls", "ca.crt"), "ours")
		file := filepath.Join(configs, name)
		write(file, fmt.Sprintf(`{"clusters":[{"name":"proa","cluster":{"certificate-authority-data":%q}}]}`, base64.StdEncoding.EncodeToString([]byte(name))))
		if out, err := exec.CommandContext(t.Context(), program(t), "reset", "--yes", "--data-dir", dir, "--write-kubeconfig", file).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		if _, err := os.Stat(file); (err == nil) != left {
			t.Errorf("%s: %v", file, err)
		}
		if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
			t.Errorf("%v are left in the data directory: %v", entries, err)
		}
	}
}

// A verb that does not exist is an error at every level, not a page of help.
func TestUnknownVerbs(t *testing.T) {
	for _, args := range [][]string{{"serve"}, {"token", "creat"}, {"image", "push"}} {
		out, err := exec.CommandContext(t.Context(), program(t), args...).CombinedOutput()
		var exit *exec.ExitError
		if !errors.As(err, &exit) || !strings.Contains(string(out), "unknown command") {
			t.Errorf("proa %s: %v: %s", strings.Join(args, " "), err, out)
		}
	}
}

func program(t *testing.T) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join(bin, "proa"))
	if err != nil {
		t.Fatal(err)
	}
	return path
}
