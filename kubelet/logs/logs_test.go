package logs_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/proa-dev/proa/kubelet/logs"
)

func line(i int) string {
	return fmt.Sprintf("2026-01-01T00:00:%02d.000000000Z stdout F line %d\n", i, i)
}

func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "0.log")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestRead(t *testing.T) {
	text := line(1) + line(2) + "2026-01-01T00:00:03Z stderr F err\n" + "2026-01-01T00:00:04Z stdout P par\n2026-01-01T00:00:04Z stdout F tial\n" + "garbage\n"
	for _, c := range []struct {
		name string
		o    logs.Options
		want string
	}{
		{"all", logs.Options{Tail: -1, Bytes: -1}, "line 1\nline 2\nerr\npartial\n"},
		{"tail", logs.Options{Tail: 4, Bytes: -1}, "err\npartial\n"},
		{"tail of more than there is", logs.Options{Tail: 100, Bytes: -1}, "line 1\nline 2\nerr\npartial\n"},
		{"tail of none", logs.Options{Tail: 0, Bytes: -1}, ""},
		{"bytes", logs.Options{Tail: -1, Bytes: 9}, "line 1\nli"},
		{"since", logs.Options{Tail: -1, Bytes: -1, Since: time.Date(2026, 1, 1, 0, 0, 3, 0, time.UTC)}, "err\npartial\n"},
		{"timestamps", logs.Options{Tail: -1, Bytes: 38, Timestamps: true}, "2026-01-01T00:00:01.000000000Z line 1\n"},
		{"timestamps of parts", logs.Options{Tail: 4, Bytes: -1, Timestamps: true}, "2026-01-01T00:00:03.000000000Z err\n2026-01-01T00:00:04.000000000Z partial\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var out bytes.Buffer
			c.o.Stdout, c.o.Stderr = &out, &out
			if err := logs.Read(t.Context(), write(t, text), c.o); err != nil {
				t.Fatal(err)
			}
			if out.String() != c.want {
				t.Errorf("got %q, want %q", out.String(), c.want)
			}
		})
	}
}

// heard passes on what is written, so that a test can wait for it.
type heard struct {
	mu   sync.Mutex
	text strings.Builder
	news chan struct{}
}

func (h *heard) Write(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.text.Write(p)
	select {
	case h.news <- struct{}{}:
	default:
	}
	return len(p), nil
}

func (h *heard) await(t *testing.T, want string) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	for {
		h.mu.Lock()
		got := h.text.String()
		h.mu.Unlock()
		if got == want {
			return
		}
		select {
		case <-h.news:
		case <-deadline:
			t.Fatalf("heard %q, want %q", got, want)
		}
	}
}

func TestFollowThroughRotationToTheEnd(t *testing.T) {
	path := write(t, line(1))
	out := &heard{news: make(chan struct{}, 1)}
	ended := make(chan struct{})
	done := make(chan error, 1)
	go func() {
		done <- logs.Read(context.Background(), path, logs.Options{Tail: -1, Bytes: -1, Ended: ended, Stdout: out})
	}()
	out.await(t, "line 1\n")
	addTo := func(path, text string) {
		f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.WriteString(text); err != nil {
			t.Fatal(err)
		}
	}
	add := func(text string) { addTo(path, text) }
	add(line(2)[:20])
	add(line(2)[20:])
	out.await(t, "line 1\nline 2\n")
	aside := path + ".20260101-000000"
	if err := os.Rename(path, aside); err != nil {
		t.Fatal(err)
	}
	// The runtime makes the new file, and then leaves the old one.
	addTo(path, "")
	addTo(aside, line(3))
	out.await(t, "line 1\nline 2\nline 3\n")
	addTo(aside, line(4))
	addTo(path, line(5))
	out.await(t, "line 1\nline 2\nline 3\nline 4\nline 5\n")
	add(line(6))
	close(ended)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	out.await(t, "line 1\nline 2\nline 3\nline 4\nline 5\nline 6\n")
}

func TestRotate(t *testing.T) {
	path := write(t, strings.Repeat("x", logs.MaxSize))
	for _, old := range []string{"20260101-000001.gz", "20260101-000002.gz", "20260101-000003.gz", "20260101-000004"} {
		if err := os.WriteFile(path+"."+old, []byte("old"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	reopened := false
	if err := logs.Rotate(path, func() error { reopened = true; return os.WriteFile(path, nil, 0o600) }); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(path + "*")
	if err != nil {
		t.Fatal(err)
	}
	if !reopened || len(files) != logs.MaxFiles {
		t.Errorf("reopened %v, files %v", reopened, files)
	}
	if _, err := os.Stat(path + ".20260101-000004.gz"); err != nil {
		t.Errorf("an old log was not compressed: %v", err)
	}
}
