package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// What a test came to.
const (
	passed  = "passed"
	failed  = "failed"
	skipped = "skipped"
)

// result is the newest that is known of a test.
type result struct {
	State   string    `json:"state"`
	Seconds float64   `json:"seconds,omitempty"`
	Message string    `json:"message,omitempty"`
	Commit  string    `json:"commit"`
	At      time.Time `json:"at"`
}

// results are kept in a file that is whole after every change.
type results struct {
	file string

	mu    sync.Mutex
	known map[string]result
}

// claim makes a folder of results this process's, until it ends.
func claim(dir string) error {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return err
	}
	fd, err := unix.Dup(int(f.Fd())) // stays open when f is collected
	if err == nil {
		unix.CloseOnExec(fd)
		err = unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB)
	}
	if err != nil {
		return fmt.Errorf("another run uses %s: %w", dir, errors.Join(err, f.Close()))
	}
	return f.Close()
}

func openResults(file string) (*results, error) {
	r := &results{file: file, known: map[string]result{}}
	data, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return r, nil
	} else if err != nil {
		return nil, err
	}
	return r, json.Unmarshal(data, &r.known)
}

// all is a copy.
func (r *results) all() map[string]result {
	r.mu.Lock()
	defer r.mu.Unlock()
	return maps.Clone(r.known)
}

func (r *results) put(changes map[string]result) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	maps.Copy(r.known, changes)
	data, err := json.MarshalIndent(r.known, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(r.file+".new", data, 0o644); err != nil {
		return err
	}
	return os.Rename(r.file+".new", r.file)
}
