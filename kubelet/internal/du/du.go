// Package du adds up what trees of files take. The files are pods': there may be
// any number of them, and they may change while one looks.
package du

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// Size is what a tree of files takes.
type Size struct{ Bytes, Inodes uint64 }

// chunk is how many names are read at once: a directory of millions must not be
// in memory as a whole.
const chunk = 256

// Measure adds up path and what is below it on the same file system. Files that
// have several names count once. What goes meanwhile does not count; an error
// comes with what was counted until then.
func Measure(ctx context.Context, path string) (Size, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return Size{}, err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return Size{}, errors.ErrUnsupported
	}
	m := &measurement{ctx: ctx, device: st.Dev, names: map[uint64]uint64{}}
	m.count(info, st)
	if info.IsDir() {
		err = m.directory(path)
	}
	return m.total, err
}

type measurement struct {
	ctx    context.Context
	device uint64
	total  Size
	// names is how many names of a file are still to come.
	names map[uint64]uint64
}

// directory adds what is in a directory, which must not have become a link.
func (m *measurement) directory(path string) error {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_DIRECTORY|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return m.ctx.Err() // it went
	}
	defer f.Close()
	for {
		if err := m.ctx.Err(); err != nil {
			return err
		}
		entries, err := f.ReadDir(chunk)
		for _, e := range entries {
			if err := m.entry(path, e); err != nil {
				return err
			}
		}
		if err != nil {
			if !errors.Is(err, io.EOF) {
				return m.ctx.Err() // likewise
			}
			return nil
		}
	}
}

func (m *measurement) entry(dir string, e fs.DirEntry) error {
	info, err := e.Info()
	if err != nil {
		return nil //nolint:nilerr // likewise
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || st.Dev != m.device || !m.count(info, st) || !info.IsDir() {
		return nil
	}
	return m.directory(filepath.Join(dir, e.Name()))
}

// count adds one file; false for one that is counted already.
func (m *measurement) count(info fs.FileInfo, st *syscall.Stat_t) bool {
	if links := uint64(st.Nlink); links > 1 && !info.IsDir() { //nolint:unconvert // a uint32 on some machines
		left, seen := m.names[st.Ino]
		switch {
		case !seen:
			m.names[st.Ino] = links - 1
		case left <= 1:
			delete(m.names, st.Ino)
			return false
		default:
			m.names[st.Ino] = left - 1
			return false
		}
	}
	m.total.Bytes += uint64(max(st.Blocks, 0)) * 512
	m.total.Inodes++
	return true
}
