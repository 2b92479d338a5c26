package volumes

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// file is one file of a volume.
type file struct {
	data []byte
	mode int32
	uid  *int64
}

// payload is the files of a volume by relative path.
type payload struct {
	files   map[string]file
	refresh time.Time
}

// files is a volume of small files made from API objects. They are written
// below a directory named after the time, which the symbolic link ..data names;
// one rename of the link changes all files at once for every reader:
//
//	key      -> ..data/key
//	..data   -> ..2026_11_21_00_00_00.123456789
//	..2026_11_21_00_00_00.123456789/key
type files struct {
	name string
	is   func(v *corev1.Volume) bool
	make func(ctx context.Context, req Request) (payload, error)
}

func (f *files) Name() string                   { return f.name }
func (f *files) Supports(v *corev1.Volume) bool { return f.is(v) }

func (f *files) SetUp(ctx context.Context, req Request) (Volume, error) {
	p, err := f.make(ctx, req)
	if err != nil {
		return Volume{}, err
	}
	if f.name != "kubernetes.io/configmap" { // the others may hold secrets, which must not reach a disk
		if _, err := mountTmpfs(req.Dir, "mode=1777"); err != nil {
			return Volume{}, err
		}
	} else if err := os.MkdirAll(req.Dir, 0o777); err != nil {
		return Volume{}, err
	}
	w := writer{dir: req.Dir, group: fsGroup(req.Pod)}
	if err := w.write(p.files); err != nil {
		return Volume{}, err
	}
	return Volume{Path: req.Dir, ReadOnly: true, Refresh: p.refresh}, nil
}

func (f *files) TearDown(_ context.Context, dir string) error { return removeMounted(dir) }

const (
	dataLink = "..data"
	tempLink = "..data_tmp"
)

type writer struct {
	dir   string
	group *int64
}

// write brings the directory to the wanted files, atomically for readers, and
// does nothing when it has them already.
func (w writer) write(want map[string]file) error {
	for path := range want {
		if err := checkPath(path); err != nil {
			return err
		}
	}
	link := filepath.Join(w.dir, dataLink)
	old, err := os.Readlink(link)
	if err != nil && !os.IsNotExist(err) {
		return err
	}
	if old != "" && w.same(old, want) {
		return w.tidy(old, want) // which a crash may have cut short
	}
	if old == "" { // the first time
		if err := w.own(w.dir, 0o777|os.ModeSticky, nil); err != nil {
			return err
		}
	}
	fresh, err := os.MkdirTemp(w.dir, time.Now().UTC().Format("..2006_01_02_15_04_05."))
	if err != nil {
		return err
	}
	if err := w.fill(fresh, want); err != nil {
		_ = os.RemoveAll(fresh)
		return err
	}
	temp := filepath.Join(w.dir, tempLink)
	_ = os.Remove(temp)
	if err := os.Symlink(filepath.Base(fresh), temp); err != nil {
		return err
	}
	if err := os.Rename(temp, link); err != nil {
		return err
	}
	return w.tidy(filepath.Base(fresh), want)
}

func checkPath(path string) error {
	if path == "" || filepath.IsAbs(path) || strings.HasPrefix(path, "..") || filepath.Clean(path) != path {
		return fmt.Errorf("invalid path: %q must be relative and must not contain or start with '..'", path)
	}
	for _, part := range strings.Split(path, "/") {
		if part == ".." {
			return fmt.Errorf("invalid path: %q must not contain '..'", path)
		}
	}
	return nil
}

// same compares the files on the disk with those wanted.
func (w writer) same(old string, want map[string]file) bool {
	root := filepath.Join(w.dir, old)
	found := 0
	err := filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		f, ok := want[rel]
		if !ok {
			return os.ErrExist
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if !bytes.Equal(data, f.data) || info.Mode().Perm() != w.mode(f.mode).Perm() {
			return os.ErrExist
		}
		found++
		return nil
	})
	return err == nil && found == len(want)
}

// mode widens a file's mode so that the volume's group may read it.
func (w writer) mode(m int32) os.FileMode {
	mode := os.FileMode(m) & os.ModePerm
	if w.group != nil {
		mode |= 0o440
	}
	return mode
}

func (w writer) own(path string, mode os.FileMode, uid *int64) error {
	owner, group := -1, -1
	if uid != nil {
		owner = int(*uid)
	}
	if w.group != nil {
		group = int(*w.group)
		if info, err := os.Stat(path); err == nil && info.IsDir() {
			mode |= os.ModeSetgid | 0o550
		}
	}
	if owner >= 0 || group >= 0 {
		if err := os.Lchown(path, owner, group); err != nil {
			return err
		}
	}
	return os.Chmod(path, mode) // after chown, which clears set-id bits
}

func (w writer) fill(root string, want map[string]file) error {
	if err := w.own(root, 0o755, nil); err != nil {
		return err
	}
	for path, f := range want {
		full := filepath.Join(root, path)
		for dir := filepath.Dir(path); dir != "."; dir = filepath.Dir(dir) {
			if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
				return err
			}
			if err := w.own(filepath.Join(root, dir), 0o755, nil); err != nil {
				return err
			}
		}
		if err := os.WriteFile(full, f.data, 0o600); err != nil {
			return err
		}
		if err := w.own(full, w.mode(f.mode), f.uid); err != nil {
			return err
		}
	}
	return nil
}

// tidy makes the links that users see and removes stale ones and old data.
func (w writer) tidy(current string, want map[string]file) error {
	top := map[string]bool{}
	for path := range want {
		name, _, _ := strings.Cut(path, "/")
		top[name] = true
	}
	for name := range top {
		link := filepath.Join(w.dir, name)
		if _, err := os.Readlink(link); err == nil {
			continue
		}
		if err := os.Symlink(filepath.Join(dataLink, name), link); err != nil && !os.IsExist(err) {
			return err
		}
	}
	entries, err := os.ReadDir(w.dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		name := e.Name()
		if top[name] || name == current || name == dataLink {
			continue
		}
		if err := os.RemoveAll(filepath.Join(w.dir, name)); err != nil {
			return err
		}
	}
	return nil
}
