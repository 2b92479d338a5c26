package container

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// endOrphans ends the shims that nobody can reach any more: those whose bundle
// is gone, with what runs below them. A crash between the start of a shim and the note of its address
// leaves one, since containerd then drops the bundle and not the process.
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
	exe, err := os.Readlink(filepath.Join(proc, "exe"))
	if err != nil || !strings.HasPrefix(exe, filepath.Dir(r.bin.Dir)+"/") || !strings.Contains(filepath.Base(exe), "shim") {
		return false
	}
	cwd, err := os.Readlink(filepath.Join(proc, "cwd"))
	if err != nil {
		return false
	}
	dir, deleted := strings.CutSuffix(cwd, " (deleted)")
	return deleted && strings.HasPrefix(dir, r.state("containerd")+"/")
}
