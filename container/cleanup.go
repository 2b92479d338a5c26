package container

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Cleanup ends the shims of a runtime that no longer runs, with whatever runs
// below them, and unmounts everything below its directories. The directories
// themselves stay.
func Cleanup(ctx context.Context, cfg Config) error {
	if err := cfg.Validate(); err != nil {
		return err
	}
	if c, err := (&net.Dialer{}).DialContext(ctx, "unix", Socket(cfg.StateDir)); err == nil {
		c.Close()
		return errors.New("Proa still runs from this data directory: stop it first") //nolint:staticcheck // a name
	}
	if err := killFrom(ctx, real(filepath.Join(cfg.DataDir, "bin"))+"/"); err != nil {
		return err
	}
	return errors.Join(unmountBelow(cfg.StateDir), unmountBelow(cfg.DataDir), os.RemoveAll(shimSocketDir(cfg.StateDir)))
}

// real is a path as the kernel names it, without symbolic links.
func real(path string) string {
	if p, err := filepath.EvalSymlinks(path); err == nil {
		return p
	}
	return path
}

// killFrom ends every process that runs a program below dir, their children
// first: a container's processes have its shim as ancestor.
func killFrom(ctx context.Context, dir string) error {
	for {
		parents, ours := map[int]int{}, []int{}
		entries, err := os.ReadDir("/proc")
		if err != nil {
			return err
		}
		for _, e := range entries {
			pid, err := strconv.Atoi(e.Name())
			if err != nil {
				continue
			}
			if exe, err := os.Readlink(filepath.Join("/proc", e.Name(), "exe")); err == nil && strings.HasPrefix(exe, dir) {
				ours = append(ours, pid)
			}
			if parent, err := parentOf(pid); err == nil {
				parents[pid] = parent
			}
		}
		if len(ours) == 0 {
			return nil
		}
		for pid := range parents {
			if descends(parents, pid, ours) {
				if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
					return fmt.Errorf("end process %d: %w", pid, err)
				}
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(10 * time.Millisecond): // the kernel takes a moment to end them
		}
	}
}

// descends says whether pid is one of roots or below one.
func descends(parents map[int]int, pid int, roots []int) bool {
	for pid > 1 {
		if slices.Contains(roots, pid) {
			return true
		}
		pid = parents[pid]
	}
	return false
}

func parentOf(pid int) (int, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// The name, in parentheses, may hold anything.
	rest := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	if len(rest) < 2 {
		return 0, fmt.Errorf("process %d: no parent", pid)
	}
	return strconv.Atoi(rest[1])
}

// unmountBelow takes away the mounts below dir, the latest first. That all are
// gone is checked: whoever removes dir then would remove what is mounted there,
// which may be a directory of the machine. Each is cut off from its peers first:
// what is unmounted below a bind mount would go from the machine as well.
func unmountBelow(dir string) error {
	points, err := mountsBelow(real(dir))
	if err != nil {
		return err
	}
	slices.Reverse(points)
	var errs []error
	for _, p := range points {
		if err := unix.Mount("", p, "", unix.MS_PRIVATE, ""); err != nil && !errors.Is(err, unix.EINVAL) {
			errs = append(errs, fmt.Errorf("make mount %s private: %w", p, err))
		}
	}
	if len(errs) > 0 {
		return errors.Join(errs...)
	}
	for _, p := range points {
		if err := unix.Unmount(p, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
			errs = append(errs, fmt.Errorf("unmount %s: %w", p, err))
		}
	}
	if points, err = mountsBelow(real(dir)); err == nil && len(points) > 0 && len(errs) == 0 {
		err = fmt.Errorf("%s is still mounted", points[0])
	}
	return errors.Join(append(errs, err)...)
}

// mountsBelow lists the mounts below dir, the latest last.
func mountsBelow(dir string) ([]string, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var points []string
	sc := bufio.NewScanner(f)
	for sc.Scan() {
		if fields := strings.Fields(sc.Text()); len(fields) > 4 && strings.HasPrefix(unescape(fields[4]), dir+"/") {
			points = append(points, unescape(fields[4]))
		}
	}
	return points, sc.Err()
}

// unescape reads the octal escapes of mountinfo.
func unescape(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}
