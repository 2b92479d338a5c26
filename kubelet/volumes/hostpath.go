package volumes

import (
	"context"
	"fmt"
	"os"

	corev1 "k8s.io/api/core/v1"
)

// hostPath is a path of the node itself.
type hostPath struct{}

func (*hostPath) Name() string                   { return "kubernetes.io/host-path" }
func (*hostPath) Supports(v *corev1.Volume) bool { return v.HostPath != nil }

func (*hostPath) SetUp(_ context.Context, req Request) (Volume, error) {
	source := req.Volume.HostPath
	if source.Type != nil {
		if err := checkHostPath(source.Path, *source.Type); err != nil {
			return Volume{}, err
		}
	}
	return Volume{Path: source.Path}, nil
}

// TearDown leaves the path alone: it is not ours.
func (*hostPath) TearDown(context.Context, string) error { return nil }

func checkHostPath(path string, kind corev1.HostPathType) error {
	info, err := os.Stat(path)
	if err != nil && !os.IsNotExist(err) {
		return err
	}
	absent := err != nil
	wrong := func(what string) error { return fmt.Errorf("hostPath type check failed: %s is not %s", path, what) }
	switch kind {
	case corev1.HostPathUnset:
		return nil
	case corev1.HostPathDirectoryOrCreate:
		if absent {
			return os.MkdirAll(path, 0o755)
		}
		if !info.IsDir() {
			return wrong("a directory")
		}
	case corev1.HostPathFileOrCreate:
		if absent {
			f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
			if err != nil {
				return err
			}
			return f.Close()
		}
		if info.IsDir() {
			return wrong("a file")
		}
	case corev1.HostPathDirectory:
		if absent || !info.IsDir() {
			return wrong("a directory")
		}
	case corev1.HostPathFile:
		if absent || !info.Mode().IsRegular() {
			return wrong("a file")
		}
	case corev1.HostPathSocket:
		if absent || info.Mode()&os.ModeSocket == 0 {
			return wrong("a socket file")
		}
	case corev1.HostPathCharDev:
		if absent || info.Mode()&os.ModeCharDevice == 0 {
			return wrong("a character device")
		}
	case corev1.HostPathBlockDev:
		if absent || info.Mode()&os.ModeDevice == 0 || info.Mode()&os.ModeCharDevice != 0 {
			return wrong("a block device")
		}
	default:
		return fmt.Errorf("%s is an invalid volume type", kind)
	}
	return nil
}
