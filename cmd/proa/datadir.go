package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// dataFolders are what Proa keeps in its data directory.
func dataFolders() []string {
	return []string{"agent", "bin", "cni", "containerd", "etcd", "images", "kubelet", "manifests", "registries", "run", "storage", "tls"}
}

// absolute is the path that --data-dir names. Without a name it would be the
// folder that one happens to stand in.
func absolute(dataDir string) (string, error) {
	if dataDir == "" {
		return "", errors.New("--data-dir: it is empty")
	}
	return filepath.Abs(dataDir)
}

// openDataDir makes the data directory, and refuses one that another program
// has filled: `proa reset` removes it whole. Files alone may be there, such as
// a log, and folders that an administrator may prepare. It is this process's
// until what is returned is closed.
func openDataDir(dir string) (io.Closer, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("--data-dir: %w", err)
	}
	other, err := foreign(dir)
	if err != nil {
		return nil, fmt.Errorf("--data-dir: %w", err)
	}
	if other != "" {
		return nil, fmt.Errorf("%s holds the folder %q, which is not Proa's: choose a new or empty folder by --data-dir", dir, other)
	}
	held, err := hold(dir)
	if err != nil {
		return nil, fmt.Errorf("--data-dir: %w", err)
	}
	return held, nil
}

// hold locks a directory. The lock ends with the process, however that ends.
func hold(dir string) (*os.File, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("%s is in use by another process", dir)
		}
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	return f, nil
}

// foreign names a folder in dir that is not Proa's, if dir was never Proa's.
func foreign(dir string) (string, error) {
	for _, made := range []string{"tls", "etcd", "agent"} { // what every start makes first, of a server or an agent
		if _, err := os.Stat(filepath.Join(dir, made)); err == nil {
			return "", nil
		}
	}
	entries, err := entriesOf(dir)
	for _, e := range entries {
		if e.IsDir() && e.Name() != "lost+found" && !slices.Contains(dataFolders(), e.Name()) {
			return e.Name(), nil
		}
	}
	return "", err
}

// unused names something in dir if no Proa ever ran from it: files alone, and
// folders that were prepared, are somebody's.
func unused(dir string) (string, error) {
	entries, err := entriesOf(dir)
	if err != nil || len(entries) == 0 {
		return "", err
	}
	for _, e := range entries {
		if e.IsDir() && slices.Contains([]string{"agent", "cni", "containerd", "etcd", "kubelet", "run", "tls"}, e.Name()) {
			return "", nil
		}
	}
	return entries[0].Name(), nil
}

func entriesOf(dir string) ([]fs.DirEntry, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return entries, err
}
