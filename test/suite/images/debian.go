package images

import (
	"bytes"
	"context"
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/proa-dev/proa/internal/ociimage"
)

// packages are Debian's that the images take programs from.
var packages = []string{
	"bash", "bind9-dnsutils", "bind9-host", "curl", "iperf", "iproute2", "libc-bin",
	"netcat-openbsd", "nginx-light", "socat", "stress", "util-linux",
}

// debian is a tree of unpacked packages. Nothing in it was configured and none
// of it runs here: images take single programs out of it, with their libraries.
type debian struct {
	root      string
	libraries map[string]string // file name → path in the tree
}

// fetchDebian downloads the packages with all that they depend on, as into an
// empty system, and unpacks them under dir, once for each list of packages.
func fetchDebian(ctx context.Context, dir string) (*debian, error) {
	list := sha256.Sum256([]byte(strings.Join(packages, "\n")))
	dir = filepath.Join(dir, hex.EncodeToString(list[:6]))
	d := &debian{root: filepath.Join(dir, "root"), libraries: map[string]string{}}
	if _, err := os.Stat(d.root); err != nil {
		unpacked := filepath.Join(dir, "unpacked")
		if err := errors.Join(os.RemoveAll(unpacked), os.MkdirAll(filepath.Join(dir, "archives", "partial"), 0o755)); err != nil {
			return nil, err
		}
		if err := download(ctx, dir); err != nil {
			return nil, err
		}
		if err := unpack(ctx, filepath.Join(dir, "archives"), unpacked); err != nil {
			return nil, err
		}
		if err := os.Rename(unpacked, d.root); err != nil {
			return nil, err
		}
	}
	return d, filepath.WalkDir(d.root, func(path string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() && strings.Contains(e.Name(), ".so") {
			if _, dup := d.libraries[e.Name()]; !dup {
				d.libraries[e.Name()] = strings.TrimPrefix(path, d.root)
			}
		}
		return err
	})
}

func download(ctx context.Context, dir string) error {
	status := filepath.Join(dir, "status")
	if err := os.WriteFile(status, nil, 0o644); err != nil {
		return err
	}
	install := append([]string{
		"install", "-y", "-q", "--download-only", "--no-install-recommends",
		"-o", "Dir::State::status=" + status, "-o", "Dir::Cache::archives=" + filepath.Join(dir, "archives"), "-o", "Debug::NoLocking=1",
	}, packages...)
	if err := run(ctx, "apt-get", install...); err == nil {
		return nil
	}
	// The lists may be missing or name versions that are gone.
	if err := run(ctx, "apt-get", "update", "-q"); err != nil {
		return err
	}
	return run(ctx, "apt-get", install...)
}

func unpack(ctx context.Context, archives, root string) error {
	debs, err := filepath.Glob(filepath.Join(archives, "*.deb"))
	if err != nil {
		return err
	}
	for _, deb := range debs {
		if err := run(ctx, "dpkg-deb", "-x", deb, root); err != nil {
			return err
		}
	}
	return nil
}

func run(ctx context.Context, name string, args ...string) error {
	return runIn(ctx, "", name, args...)
}

func runIn(ctx context.Context, dir, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C")
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, args[0], err, bytes.TrimSpace(out))
	}
	return nil
}

// path is where a file of the tree is on this machine.
func (d *debian) path(name string) string { return filepath.Join(d.root, name) }

// programs gives the named programs with the libraries that they load. A name
// "/to=/from" puts a program elsewhere than the package does.
func (d *debian) programs(names ...string) ([]ociimage.File, error) {
	var files []ociimage.File
	seen := map[string]bool{}
	for _, name := range names {
		to, from, renamed := strings.Cut(name, "=")
		if !renamed {
			from = to
		}
		files = append(files, ociimage.File{Path: to, Source: d.path(from)})
		libraries, err := d.needs(d.path(from), seen)
		if err != nil {
			return nil, err
		}
		files = append(files, libraries...)
	}
	return files, nil
}

// needs gives the libraries and the loader of a program, and theirs.
func (d *debian) needs(file string, seen map[string]bool) ([]ociimage.File, error) {
	f, err := elf.Open(file)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	defer f.Close()
	needed, err := f.ImportedLibraries()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	var files []ociimage.File
	if s := f.Section(".interp"); s != nil {
		loader, err := s.Data()
		if err != nil {
			return nil, err
		}
		path := string(bytes.TrimRight(loader, "\x00"))
		if !seen[path] {
			seen[path] = true
			resolved, err := d.resolve(path)
			if err != nil {
				return nil, err
			}
			files = append(files, ociimage.File{Path: path, Source: resolved, Mode: 0o755})
		}
	}
	for _, library := range needed {
		if seen[library] || strings.HasPrefix(library, "ld-linux") {
			continue
		}
		seen[library] = true
		at, ok := d.libraries[library]
		if !ok {
			return nil, fmt.Errorf("%s needs %s, which no package has", file, library)
		}
		resolved, err := d.resolve(at)
		if err != nil {
			return nil, err
		}
		files = append(files, ociimage.File{Path: at, Source: resolved})
		more, err := d.needs(resolved, seen)
		if err != nil {
			return nil, err
		}
		files = append(files, more...)
	}
	return files, nil
}

// resolve follows links within the tree.
func (d *debian) resolve(name string) (string, error) {
	for range 8 {
		to, err := os.Readlink(d.path(name))
		if err != nil {
			_, err := os.Stat(d.path(name))
			return d.path(name), err
		}
		if !filepath.IsAbs(to) {
			to = filepath.Join(filepath.Dir(name), to)
		}
		name = to
	}
	return "", fmt.Errorf("%s: too many links", name)
}

// without leaves out files of a layer that a later one replaces elsewhere on
// the search path.
func without(files []ociimage.File, paths ...string) []ociimage.File {
	return slices.DeleteFunc(slices.Clone(files), func(f ociimage.File) bool { return slices.Contains(paths, f.Path) })
}
