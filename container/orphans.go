package container

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// dropBundles removes the bundles that containerd had begun to remove: it
// renames one to a hidden name first, and never looks at those again.
func (r *Runtime) dropBundles() error {
	var errs []error
	for _, root := range []string{r.state("containerd"), r.root()} {
		hidden, err := filepath.Glob(filepath.Join(root, taskPlugin, Namespace, ".*"))
		errs = append(errs, err)
		for _, dir := range hidden {
			errs = append(errs, unmountBelow(dir), os.RemoveAll(dir))
		}
	}
	return errors.Join(errs...)
}

// launcherPeriod is how often to look whether launchers have ended, and
// launcherLimit how long they have: one does its work in some 50 ms.
const (
	launcherPeriod = 5 * time.Millisecond
	launcherLimit  = 10 * time.Second
)

// endLaunchers ends the helpers that an earlier life was about to start shims
// by: such a shim would come up behind endOrphans's back. Those that clean up
// after a shim are let finish. It must run before the first helper of this life.
func (r *Runtime) endLaunchers(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, launcherLimit)
	defer cancel()
	for {
		left := 0
		processes, err := filepath.Glob("/proc/[0-9]*")
		if err != nil {
			return err
		}
		for _, proc := range processes {
			if !r.isShim(proc) {
				continue
			}
			line, err := os.ReadFile(filepath.Join(proc, "cmdline"))
			if err != nil {
				continue
			}
			args := bytes.Split(bytes.TrimSuffix(line, []byte{0}), []byte{0})
			verb := string(args[len(args)-1])
			if verb != "start" && verb != "delete" {
				continue
			}
			left++
			pid, err := strconv.Atoi(filepath.Base(proc))
			if err != nil || verb != "start" {
				continue
			}
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
				return fmt.Errorf("end process %d: %w", pid, err)
			}
		}
		if left == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%d helpers do not end: %w", left, ctx.Err())
		case <-time.After(launcherPeriod):
		}
	}
}

// isShim says whether a process, given by its directory in /proc, runs our shim.
func (r *Runtime) isShim(proc string) bool {
	exe, err := os.Readlink(filepath.Join(proc, "exe"))
	return err == nil && strings.HasPrefix(exe, real(filepath.Dir(r.bin.Dir))+"/") && strings.Contains(filepath.Base(exe), "shim")
}

// dropContainers removes what runc has of containers whose bundle is gone: a
// crash while runc makes one leaves its directory behind, with or without a
// process that waits to be started.
func (r *Runtime) dropContainers(ctx context.Context) error {
	root := filepath.Join(r.state("runc"), Namespace)
	entries, err := os.ReadDir(root)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	var errs []error
	for _, e := range entries {
		if exists(filepath.Join(r.state("containerd"), taskPlugin, Namespace, e.Name())) {
			continue
		}
		ctx, cancel := context.WithTimeout(ctx, launcherLimit)
		out, err := exec.CommandContext(ctx, r.bin.Runc, "--root", root, "delete", "--force", e.Name()).CombinedOutput()
		cancel()
		// Without a state file runc knows nothing of it, and says so.
		r.cfg.Logger.Info("a container that a crash left is removed", "container", e.Name(), "output", string(bytes.TrimSpace(out)), "error", err)
		errs = append(errs, os.RemoveAll(filepath.Join(root, e.Name())))
	}
	return errors.Join(errs...)
}

// endOrphans ends the shims that nobody can reach any more: those whose bundle
// is gone, with what runs below them. A crash between the start of a shim and
// the note of its address leaves one, since containerd then drops the bundle
// and not the process.
func (r *Runtime) endOrphans() error {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return err
	}
	parents, orphans := map[int]int{}, []int{}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if parent, err := parentOf(pid); err == nil {
			parents[pid] = parent
		}
		if r.isOrphan(filepath.Join("/proc", e.Name())) {
			orphans = append(orphans, pid)
		}
	}
	if len(orphans) == 0 {
		return nil
	}
	r.cfg.Logger.Info("ending shims that a crash left", "processes", orphans)
	var errs []error
	for pid := range parents {
		if !descends(parents, pid, orphans) {
			continue
		}
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			errs = append(errs, fmt.Errorf("end process %d: %w", pid, err))
		}
	}
	return errors.Join(errs...)
}

// isOrphan says whether a process is a shim of ours without a bundle, which
// is a shim's working directory.
func (r *Runtime) isOrphan(proc string) bool {
	if !r.isShim(proc) {
		return false
	}
	cwd, err := os.Readlink(filepath.Join(proc, "cwd"))
	if err != nil {
		return false
	}
	dir, deleted := strings.CutSuffix(cwd, " (deleted)")
	return deleted && strings.HasPrefix(dir, real(r.state("containerd"))+"/")
}

// dropNetworks removes the network namespaces that no sandbox has: a crash
// between the making of one and the note of its sandbox leaves it mounted. It
// must not run while sandboxes are made.
func (r *Runtime) dropNetworks(ctx context.Context, e *engine) error {
	dir := r.state("containerd/io.containerd.grpc.v1.cri/netns")
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) || len(entries) == 0 {
		return nil
	}
	if err != nil {
		return err
	}
	ctx = namespaces.WithNamespace(ctx, Namespace)
	records, err := e.records(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, entry := range entries {
		// CRI's own types are internal; but whatever refers to a namespace
		// holds its path, whose last part is a random name.
		if slices.ContainsFunc(records, func(b []byte) bool { return bytes.Contains(b, []byte(entry.Name())) }) {
			continue
		}
		path := filepath.Join(dir, entry.Name())
		if err := unix.Unmount(path, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
			errs = append(errs, fmt.Errorf("unmount %s: %w", path, err))
			continue
		}
		errs = append(errs, os.Remove(path))
	}
	return errors.Join(errs...)
}

// dropSockets removes the sockets of shims that are no more: one that is killed
// leaves its own.
func (r *Runtime) dropSockets() error {
	sockets, err := os.ReadDir(r.shimSocketDir)
	if errors.Is(err, fs.ErrNotExist) || len(sockets) == 0 {
		return nil
	}
	if err != nil {
		return err
	}
	// A bundle notes its shim's address; pods' containers share their sandbox's.
	notes, err := filepath.Glob(filepath.Join(r.state("containerd"), taskPlugin, Namespace, "*", "bootstrap.json"))
	if err != nil {
		return err
	}
	var used []byte
	for _, note := range notes {
		data, err := os.ReadFile(note)
		if err != nil {
			return err
		}
		used = append(used, data...)
	}
	var errs []error
	for _, s := range sockets {
		if !bytes.Contains(used, []byte(s.Name())) {
			errs = append(errs, os.Remove(filepath.Join(r.shimSocketDir, s.Name())))
		}
	}
	return errors.Join(errs...)
}

// dropLeases removes the leases that no sandbox has: CRI makes a sandbox's,
// under its ID, before the sandbox itself. Those of pulls and imports have
// other names, and an end of their own.
func (r *Runtime) dropLeases(ctx context.Context, e *engine) error {
	ctx = namespaces.WithNamespace(ctx, Namespace)
	list, err := e.client.LeasesService().List(ctx)
	if err != nil {
		return fmt.Errorf("list leases: %w", err)
	}
	var errs []error
	for _, lease := range list {
		if id, err := hex.DecodeString(lease.ID); err != nil || len(id) != sha256.Size {
			continue
		}
		if _, err := e.client.SandboxStore().Get(ctx, lease.ID); errdefs.IsNotFound(err) {
			errs = append(errs, e.client.LeasesService().Delete(ctx, lease))
		}
	}
	return errors.Join(errs...)
}

// records is what is noted of all sandboxes and containers.
func (e *engine) records(ctx context.Context) ([][]byte, error) {
	var all [][]byte
	sandboxes, err := e.client.SandboxStore().List(ctx)
	if err != nil {
		return nil, fmt.Errorf("list sandboxes: %w", err)
	}
	for _, s := range sandboxes {
		if s.Spec != nil {
			all = append(all, s.Spec.GetValue())
		}
		for _, x := range s.Extensions {
			all = append(all, x.GetValue())
		}
	}
	containers, err := e.client.ContainerService().List(ctx)
	if err != nil {
		return nil, fmt.Errorf("list containers: %w", err)
	}
	for _, c := range containers {
		if c.Spec != nil {
			all = append(all, c.Spec.GetValue())
		}
		for _, x := range c.Extensions {
			all = append(all, x.GetValue())
		}
	}
	return all, nil
}
