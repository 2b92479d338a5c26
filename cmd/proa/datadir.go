package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// dataFolders are what Proa keeps in its data directory.
func dataFolders() []string {
	return []string{"agent", "bin", "cni", "containerd", "etcd", "images", "kubelet", "manifests", "registries", "run", "storage", "tls"}
}

// checkDataDir makes the data directory, and refuses one that another program
// has filled: `proa reset` removes it whole. Files alone may be there, such as
// a log, and folders that an administrator may prepare.
func checkDataDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("--data-dir: %w", err)
	}
	other, err := foreign(dir)
	if err != nil {
		return fmt.Errorf("--data-dir: %w", err)
	}
	if other != "" {
		return fmt.Errorf("%s holds the folder %q, which is not Proa's: choose a new or empty folder by --data-dir", dir, other)
	}
	return nil
}

// foreign names a folder in dir that is not Proa's, if dir was never Proa's.
func foreign(dir string) (string, error) {
	for _, made := range []string{"tls", "etcd", "agent"} { // what every start makes first, of a server or an agent
		if _, err := os.Stat(filepath.Join(dir, made)); err == nil {
			return "", nil
		}
	}
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	for _, e := range entries {
		if e.IsDir() && e.Name() != "lost+found" && !slices.Contains(dataFolders(), e.Name()) {
			return e.Name(), nil
		}
	}
	return "", nil
}
