// Package images builds the container images that upstream's end-to-end suite
// asks for, under the names it asks for, from upstream's own programs and
// Debian's packages.
package images

import (
	"bytes"
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/proa-dev/proa/internal/ociimage"
)

//go:embed *.go
var source embed.FS

// Config says where things are.
type Config struct {
	// Cache is the machine's folder for what is made once.
	Cache string
	// Programs holds upstream's programs, built static.
	Programs string
	// Upstream is the source tree of k8s.io/kubernetes, for data files.
	Upstream string
	// Pause is the program that does nothing.
	Pause string
}

// Build makes what is missing and returns the folder of the archives and the
// names of all images. Several states of the source share a cache: each has a
// folder of its own, and one builds at a time.
func Build(ctx context.Context, cfg Config) (dir string, names []string, err error) {
	unlock, err := lock(filepath.Join(cfg.Cache, "lock"))
	if err != nil {
		return "", nil, err
	}
	defer unlock()
	d, err := fetchDebian(ctx, filepath.Join(cfg.Cache, "debian"))
	if err != nil {
		return "", nil, err
	}
	busybox, err := buildBusybox(ctx, filepath.Join(cfg.Cache, "busybox"))
	if err != nil {
		return "", nil, err
	}
	b := builder{Config: cfg, debian: d}
	if b.userland, err = ociimage.Busybox(ctx, busybox); err != nil {
		return "", nil, err
	}
	specs, err := b.specs()
	if err != nil {
		return "", nil, err
	}
	for _, spec := range specs {
		names = append(names, spec.Names...)
	}
	stamp, err := b.stamp()
	if err != nil {
		return "", nil, err
	}
	all := filepath.Join(cfg.Cache, "images")
	dir = filepath.Join(all, stamp[:12])
	if _, err := os.Stat(dir); err == nil {
		now := time.Now()
		return dir, names, os.Chtimes(dir, now, now)
	}
	if err := prune(all); err != nil {
		return "", nil, err
	}
	unfinished := filepath.Join(all, "unfinished")
	if err := errors.Join(os.RemoveAll(unfinished), os.MkdirAll(unfinished, 0o755)); err != nil {
		return "", nil, err
	}
	for _, spec := range specs {
		if err := write(unfinished, spec); err != nil {
			return "", nil, err
		}
	}
	return dir, names, os.Rename(unfinished, dir)
}

// lock waits until no other process builds. The lock ends with the process.
func lock(file string) (unlock func(), err error) {
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(file, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", file, err)
	}
	return func() { f.Close() }, nil
}

// prune removes images that nobody has used for a day.
func prune(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	for _, e := range entries {
		if info, err := e.Info(); err == nil && time.Since(info.ModTime()) > 24*time.Hour {
			if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

type builder struct {
	Config
	debian   *debian
	userland []ociimage.File
}

func write(dir string, spec ociimage.Spec) error {
	name := strings.NewReplacer("/", "_", ":", "_").Replace(spec.Names[0]) + ".tar"
	f, err := os.Create(filepath.Join(dir, name))
	if err != nil {
		return err
	}
	if err := ociimage.Build(f, spec); err != nil {
		f.Close()
		return fmt.Errorf("%s: %w", spec.Names[0], err)
	}
	return f.Close()
}

// stamp names the state of everything that images are made from.
func (b *builder) stamp() (string, error) {
	h := sha256.New()
	err := fs.WalkDir(source, ".", func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		text, err := source.ReadFile(path)
		h.Write(text)
		return err
	})
	if err != nil {
		return "", err
	}
	programs, err := os.ReadDir(b.Programs)
	if err != nil {
		return "", err
	}
	for _, p := range programs {
		if p.Name() == "e2e.test" || p.Name() == "ginkgo" {
			continue
		}
		info, err := p.Info()
		if err != nil {
			return "", err
		}
		fmt.Fprintln(h, p.Name(), info.Size(), info.ModTime().UnixNano())
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

func (b *builder) program(to, name string) ociimage.File {
	return ociimage.File{Path: to, Source: filepath.Join(b.Programs, name), Mode: 0o755}
}

func (b *builder) data(to, path string) ociimage.File {
	return ociimage.File{Path: to, Source: filepath.Join(b.Upstream, "test/images", path), Mode: 0o644}
}

// accounts replaces the userland's files of users and groups.
func (b *builder) accounts(passwd, group string) []ociimage.File {
	files := without(b.userland, "/etc/passwd", "/etc/group")
	for _, f := range b.userland {
		switch f.Path {
		case "/etc/passwd":
			f.Content = append(bytes.Clone(f.Content), passwd...)
			files = append(files, f)
		case "/etc/group":
			f.Content = append(bytes.Clone(f.Content), group...)
			files = append(files, f)
		}
	}
	return files
}
