package kubelet

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/proa-dev/proa/kubelet/cgroups"
)

// Cleanup removes what a kubelet that no longer runs left outside of its root
// directory: its pods' control groups, with all processes in them, and their
// logs. cfg needs RootDir, PodLogsDir, ContainerLogsDir and CgroupRoot.
func Cleanup(ctx context.Context, cfg Config) error {
	err := cgroups.Cleanup(ctx, cfg.CgroupRoot)
	pods, e := os.ReadDir(filepath.Join(cfg.RootDir, "pods"))
	if e != nil && !errors.Is(e, fs.ErrNotExist) {
		err = errors.Join(err, e)
	}
	uids := map[string]bool{}
	for _, p := range pods {
		uids[p.Name()] = true
	}
	// Log directories are named namespace_name_uid.
	logs, _ := filepath.Glob(filepath.Join(cfg.PodLogsDir, "*_*_*"))
	for _, dir := range logs {
		if uids[dir[strings.LastIndexByte(dir, '_')+1:]] {
			err = errors.Join(err, os.RemoveAll(dir))
		}
	}
	if cfg.ContainerLogsDir == "" {
		return err
	}
	links, _ := filepath.Glob(filepath.Join(cfg.ContainerLogsDir, "*.log"))
	for _, l := range links {
		to, e := os.Readlink(l)
		if e != nil || !strings.HasPrefix(to, cfg.PodLogsDir+"/") {
			continue
		}
		if _, e := os.Stat(l); errors.Is(e, fs.ErrNotExist) {
			err = errors.Join(err, os.Remove(l))
		}
	}
	return err
}
