package volumes

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
)

// emptyDir is scratch space that lives as long as its pod.
type emptyDir struct{}

func (*emptyDir) Name() string                   { return "kubernetes.io/empty-dir" }
func (*emptyDir) Supports(v *corev1.Volume) bool { return v.EmptyDir != nil }

func (*emptyDir) SetUp(_ context.Context, req Request) (Volume, error) {
	// The marker says that ownership was set, which must not be done again
	// over what containers have changed since.
	ready := filepath.Join(filepath.Dir(filepath.Dir(filepath.Dir(req.Dir))), "plugins", "kubernetes.io~empty-dir", req.Volume.Name, "ready")
	_, err := os.Stat(ready)
	fresh := os.IsNotExist(err)
	source := req.Volume.EmptyDir
	switch medium := source.Medium; {
	case medium == corev1.StorageMediumMemory:
		options := "mode=0777"
		if size := memorySize(req); size > 0 {
			options = fmt.Sprintf("%s,size=%d", options, size)
		}
		made, err := mountTmpfs(req.Dir, options)
		if err != nil {
			return Volume{}, err
		}
		fresh = fresh || made // the marker outlives a restart of the machine
	case medium == corev1.StorageMediumHugePages || strings.HasPrefix(string(medium), string(corev1.StorageMediumHugePagesPrefix)):
		if err := mountHugepages(req.Dir, string(medium), req.Pod); err != nil {
			return Volume{}, err
		}
	default:
		if err := os.MkdirAll(req.Dir, 0o777); err != nil {
			return Volume{}, err
		}
	}
	if !fresh {
		return Volume{Path: req.Dir}, nil
	}
	if err := os.Chmod(req.Dir, 0o777); err != nil { // the umask may have cut it
		return Volume{}, err
	}
	if gid := fsGroup(req.Pod); gid != nil {
		if err := os.Chown(req.Dir, -1, int(*gid)); err != nil {
			return Volume{}, err
		}
		if err := os.Chmod(req.Dir, 0o777|os.ModeSetgid); err != nil {
			return Volume{}, err
		}
	}
	if err := os.MkdirAll(filepath.Dir(ready), 0o750); err != nil {
		return Volume{}, err
	}
	return Volume{Path: req.Dir}, os.WriteFile(ready, nil, 0o640)
}

func (*emptyDir) TearDown(_ context.Context, dir string) error { return removeMounted(dir) }

// memorySize bounds a memory volume by its own limit, the pod's and the node's.
func memorySize(req Request) int64 {
	size := req.Fields.Allocatable.Memory().Value()
	lower := func(v int64) {
		if v > 0 && (size == 0 || v < size) {
			size = v
		}
	}
	var limits int64
	for i := range req.Pod.Spec.Containers {
		limit := req.Pod.Spec.Containers[i].Resources.Limits.Memory().Value()
		if limit == 0 {
			limits = 0
			break
		}
		limits += limit
	}
	lower(limits)
	if r := req.Pod.Spec.Resources; r != nil {
		lower(r.Limits.Memory().Value())
	}
	if l := req.Volume.EmptyDir.SizeLimit; l != nil {
		lower(l.Value())
	}
	return size
}

func mountHugepages(dir, medium string, pod *corev1.Pod) error {
	size := strings.TrimPrefix(medium, string(corev1.StorageMediumHugePagesPrefix))
	if medium == string(corev1.StorageMediumHugePages) {
		size = ""
		for i := range pod.Spec.Containers {
			for name := range pod.Spec.Containers[i].Resources.Limits {
				if s, ok := strings.CutPrefix(string(name), corev1.ResourceHugePagesPrefix); ok {
					size = s
				}
			}
		}
	}
	if size == "" {
		return fmt.Errorf("the pod requests no huge pages")
	}
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return err
	}
	if there, err := isMountPoint(dir); err != nil || there {
		return err
	}
	if err := unix.Mount("nodev", dir, "hugetlbfs", 0, "pagesize="+strings.TrimSuffix(size, "i")); err != nil {
		return fmt.Errorf("mount hugetlbfs at %s: %w", dir, err)
	}
	return nil
}
