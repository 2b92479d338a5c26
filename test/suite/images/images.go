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
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

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

// Dir is where the archives are.
func (c Config) Dir() string { return filepath.Join(c.Cache, "images") }

// Build makes what is missing and returns the names of all images.
func Build(ctx context.Context, cfg Config) ([]string, error) {
	d, err := fetchDebian(ctx, filepath.Join(cfg.Cache, "debian"))
	if err != nil {
		return nil, err
	}
	b := builder{Config: cfg, debian: d}
	busybox, err := buildBusybox(ctx, filepath.Join(cfg.Cache, "busybox"))
	if err != nil {
		return nil, err
	}
	if b.userland, err = ociimage.Busybox(ctx, busybox); err != nil {
		return nil, err
	}
	specs, err := b.specs()
	if err != nil {
		return nil, err
	}
	stamp, err := b.stamp()
	if err != nil {
		return nil, err
	}
	var names []string
	for _, spec := range specs {
		names = append(names, spec.Names...)
	}
	at := filepath.Join(cfg.Dir(), "stamp")
	if have, err := os.ReadFile(at); err == nil && string(have) == stamp {
		return names, nil
	}
	if err := os.RemoveAll(cfg.Dir()); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(cfg.Dir(), 0o755); err != nil {
		return nil, err
	}
	for _, spec := range specs {
		if err := b.write(spec); err != nil {
			return nil, err
		}
	}
	return names, os.WriteFile(at, []byte(stamp), 0o644)
}

type builder struct {
	Config
	debian   *debian
	userland []ociimage.File
}

func (b *builder) write(spec ociimage.Spec) error {
	name := strings.NewReplacer("/", "_", ":", "_").Replace(spec.Names[0]) + ".tar"
	f, err := os.Create(filepath.Join(b.Dir(), name))
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
