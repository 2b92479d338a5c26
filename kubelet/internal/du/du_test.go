package du_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/proa-dev/proa/kubelet/internal/du"
)

func do(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestMeasure(t *testing.T) {
	dir := t.TempDir()
	do(t, os.MkdirAll(filepath.Join(dir, "a", "b"), 0o755))
	file := filepath.Join(dir, "a", "b", "file")
	do(t, os.WriteFile(file, make([]byte, 64<<10), 0o600))
	do(t, os.Link(file, filepath.Join(dir, "same")))
	do(t, os.Link(file, filepath.Join(dir, "a", "same")))
	do(t, os.Symlink("/", filepath.Join(dir, "root")))
	got, err := du.Measure(t.Context(), dir)
	if err != nil || got.Inodes != 5 || got.Bytes < 64<<10 || got.Bytes >= 128<<10 {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err := du.Measure(t.Context(), file); err != nil || got.Inodes != 1 {
		t.Errorf("one file: %+v, %v", got, err)
	}
	if _, err := du.Measure(t.Context(), filepath.Join(dir, "nothing")); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := du.Measure(ctx, dir); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// A directory is read in parts.
func TestMany(t *testing.T) {
	dir := t.TempDir()
	const files = 1000
	for i := range files {
		do(t, os.Mkdir(filepath.Join(dir, fmt.Sprint(i)), 0o755))
	}
	if got, err := du.Measure(t.Context(), dir); err != nil || got.Inodes != files+1 {
		t.Errorf("%+v, %v", got, err)
	}
}
