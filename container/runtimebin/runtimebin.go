// Package runtimebin carries the helper programs of the container runtime and
// unpacks them: the containerd shim, runc, the pause process and the CNI
// client. They are embedded so that Proa is one file to install; they cannot be
// the Proa binary under other names, since containerd and its shim each fill
// the one plugin registry of a process.
package runtimebin

import (
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sync/errgroup"
)

// content holds bin/ as build.sh left it. README keeps the pattern valid in a
// tree where nothing has been built yet.
//
//go:embed bin
var content embed.FS

// ErrNotBuilt says that the helper programs were absent when this binary was compiled.
var ErrNotBuilt = errors.New("the helper programs (containerd-shim-runc-v2, runc, pause, proa-cni) are not in this binary: run `make build`")

// Paths are the absolute paths of the unpacked programs.
type Paths struct {
	// Dir holds all of them; it serves as a CNI plugin directory.
	Dir string
	// Shim is containerd-shim-runc-v2.
	Shim string
	// Runc is runc.
	Runc string
	// CNI is proa-cni.
	CNI string
}

// programs are the executables in bin/.
func programs() []string {
	return []string{"containerd-shim-runc-v2", "runc", "pause", "proa-cni"}
}

// Hash identifies the embedded programs.
func Hash() (string, error) {
	arch, err := content.ReadFile("bin/arch")
	if errors.Is(err, fs.ErrNotExist) {
		return "", ErrNotBuilt
	} else if err != nil {
		return "", err
	}
	if got := strings.TrimSpace(string(arch)); got != runtime.GOARCH {
		return "", fmt.Errorf("the embedded helper programs are for %s, this binary for %s: run `make build`", got, runtime.GOARCH)
	}
	hash, err := content.ReadFile("bin/hash")
	if err != nil {
		return "", err
	}
	return strings.TrimSpace(string(hash)), nil
}

// Pause returns the static pause executable, the content of the pause image.
func Pause() ([]byte, error) {
	if _, err := Hash(); err != nil {
		return nil, err
	}
	return content.ReadFile("bin/pause")
}

// Unpack puts the programs into root/<hash> unless they are there, and prunes
// the directories of other versions that no process runs from any more.
func Unpack(root string) (Paths, error) {
	paths, err := Locate(root)
	if err != nil {
		return Paths{}, err
	}
	root, hash := filepath.Split(paths.Dir)
	if _, err := os.Stat(paths.Dir); errors.Is(err, fs.ErrNotExist) {
		if err := unpackTo(root, paths.Dir); err != nil {
			return Paths{}, fmt.Errorf("unpack the helper programs: %w", err)
		}
	} else if err != nil {
		return Paths{}, err
	}
	if err := prune(root, hash); err != nil {
		return Paths{}, fmt.Errorf("prune old helper programs: %w", err)
	}
	return paths, nil
}

// Locate tells where Unpack puts the programs.
func Locate(root string) (Paths, error) {
	hash, err := Hash()
	if err != nil {
		return Paths{}, err
	}
	if root, err = filepath.Abs(root); err != nil {
		return Paths{}, err
	}
	dir := filepath.Join(root, hash)
	return Paths{
		Dir:  dir,
		Shim: filepath.Join(dir, "containerd-shim-runc-v2"),
		Runc: filepath.Join(dir, "runc"),
		CNI:  filepath.Join(dir, "proa-cni"),
	}, nil
}

// unpackTo writes beside dir and renames, so that dir is complete or absent.
func unpackTo(root, dir string) error {
	if err := os.MkdirAll(root, 0o755); err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(root, ".unpack-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	if err := os.Chmod(tmp, 0o755); err != nil {
		return err
	}
	// At once, since most of the time goes to waiting for the disk.
	var files errgroup.Group
	for _, name := range programs() {
		files.Go(func() error {
			f, err := content.Open("bin/" + name)
			if err != nil {
				return err
			}
			defer f.Close()
			return writeSynced(filepath.Join(tmp, name), f)
		})
	}
	if err := files.Wait(); err != nil {
		return err
	}
	if err := os.Rename(tmp, dir); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

// writeSynced makes the content durable before the rename that publishes it:
// after a power loss a complete directory must not hold empty programs.
func writeSynced(name string, data io.Reader) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, data)
	return errors.Join(err, f.Chmod(0o755), f.Sync(), f.Close())
}

// prune removes what earlier versions left. Shims outlive the Proa that started
// them and call their own runc for years, so a directory stays while any
// process runs an executable of it.
func prune(root, keep string) error {
	entries, err := os.ReadDir(root)
	if err != nil {
		return err
	}
	var old []string
	for _, e := range entries {
		if e.IsDir() && e.Name() != keep && (len(e.Name()) == len(keep) || strings.HasPrefix(e.Name(), ".unpack-")) {
			old = append(old, e.Name())
		}
	}
	if len(old) == 0 {
		return nil
	}
	used, err := executables()
	if err != nil {
		return err
	}
	var errs []error
	for _, name := range old {
		dir := filepath.Join(root, name)
		if !anyUnder(used, dir+"/") {
			errs = append(errs, os.RemoveAll(dir))
		}
	}
	return errors.Join(errs...)
}

// executables lists what the machine's processes run.
func executables() ([]string, error) {
	procs, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var list []string
	for _, p := range procs {
		if p.Name()[0] < '0' || p.Name()[0] > '9' {
			continue
		}
		// A process that ends meanwhile, or a kernel thread, has no link.
		if exe, err := os.Readlink(filepath.Join("/proc", p.Name(), "exe")); err == nil {
			list = append(list, exe)
		}
	}
	return list, nil
}

func anyUnder(paths []string, prefix string) bool {
	for _, p := range paths {
		if strings.HasPrefix(p, prefix) {
			return true
		}
	}
	return false
}
