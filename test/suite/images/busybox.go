package images

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
)

// sources is where apt looks for busybox's.
const sources = "deb-src http://deb.debian.org/debian bookworm main\n"

// notStandalone makes the shell look for programs in the file system first, as
// everywhere but in Debian.
var notStandalone = regexp.MustCompile(`(?m)^CONFIG_FEATURE_SH_STANDALONE=y$`)

// buildBusybox builds it, once, from Debian's source without Debian's patches:
// by one of these the shell hides variables from its children whose names are
// no identifiers, and tests set such ones.
func buildBusybox(ctx context.Context, dir string) (string, error) {
	binary := filepath.Join(dir, "busybox")
	if _, err := os.Stat(binary); err == nil {
		return binary, nil
	}
	work := filepath.Join(dir, "source")
	if err := errors.Join(os.RemoveAll(work), os.MkdirAll(filepath.Join(dir, "lists", "partial"), 0o755), os.MkdirAll(work, 0o755)); err != nil {
		return "", err
	}
	list := filepath.Join(dir, "sources.list")
	if err := os.WriteFile(list, []byte(sources), 0o644); err != nil {
		return "", err
	}
	apt := func(args ...string) error {
		return runIn(ctx, work, "apt-get", append([]string{
			"-q", "-o", "Dir::Etc::sourcelist=" + list, "-o", "Dir::Etc::sourceparts=-", "-o", "Dir::State::lists=" + filepath.Join(dir, "lists"),
			"-o", "Dir::Cache::pkgcache=", "-o", "Dir::Cache::srcpkgcache=", "-o", "Debug::NoLocking=1", "-o", "APT::Sandbox::User=root",
		}, args...)...)
	}
	if err := errors.Join(apt("update"), apt("source", "--download-only", "busybox")); err != nil {
		return "", err
	}
	for _, pattern := range []string{"busybox_*.orig.tar.*", "busybox_*.debian.tar.*"} {
		archive, err := only(filepath.Join(work, pattern))
		if err != nil {
			return "", err
		}
		if err := runIn(ctx, work, "tar", "-xf", archive); err != nil {
			return "", err
		}
	}
	tree, err := only(filepath.Join(work, "busybox-*"))
	if err != nil {
		return "", err
	}
	config, err := os.ReadFile(filepath.Join(work, "debian", "config", "pkg", "static"))
	if err != nil {
		return "", err
	}
	config = notStandalone.ReplaceAllLiteral(config, []byte("# CONFIG_FEATURE_SH_STANDALONE is not set"))
	if err := os.WriteFile(filepath.Join(tree, ".config"), config, 0o644); err != nil {
		return "", err
	}
	if err := runIn(ctx, tree, "sh", "-c", "yes '' | make -s oldconfig >/dev/null && nice -n 10 make -s -j2 busybox"); err != nil {
		return "", err
	}
	return binary, os.Rename(filepath.Join(tree, "busybox"), binary)
}

// only gives the one file that matches.
func only(pattern string) (string, error) {
	found, err := filepath.Glob(pattern)
	if err == nil && len(found) != 1 {
		err = fmt.Errorf("%d files match %s", len(found), pattern)
	}
	if err != nil {
		return "", err
	}
	return found[0], nil
}
