package volumes

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
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

// checkHostPath makes sure that a path is what the pod takes it for, and makes
// what may be made.
func checkHostPath(path string, kind corev1.HostPathType) error {
	is, err := typeOf(path)
	absent := errors.Is(err, fs.ErrNotExist)
	want := kind
	var name string
	switch kind {
	case corev1.HostPathUnset:
		return nil
	case corev1.HostPathDirectoryOrCreate, corev1.HostPathDirectory:
		if absent && kind == corev1.HostPathDirectoryOrCreate {
			return os.MkdirAll(path, 0o755)
		}
		want, name = corev1.HostPathDirectory, "directory"
	case corev1.HostPathFileOrCreate, corev1.HostPathFile:
		if absent && kind == corev1.HostPathFileOrCreate {
			f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
			if err != nil {
				return err
			}
			return f.Close()
		}
		want, name = corev1.HostPathFile, "file"
	case corev1.HostPathSocket:
		name = "socket file"
	case corev1.HostPathCharDev:
		name = "character device"
	case corev1.HostPathBlockDev:
		name = "block device"
	default:
		return fmt.Errorf("%s is an invalid volume type", kind)
	}
	if absent {
		err = fmt.Errorf("path %q does not exist", path)
	}
	switch {
	case err != nil:
		return fmt.Errorf("hostPath type check failed, %s is not a %s, unable to determine its type: %w", path, name, err)
	case is != want:
		return fmt.Errorf("hostPath type check failed: %s is not a %s, it's a %s", path, name, is)
	}
	return nil
}

// typeOf says what a path leads to.
func typeOf(path string) (corev1.HostPathType, error) {
	info, err := os.Stat(path)
	if err != nil {
		return "", err
	}
	switch mode := info.Mode(); {
	case mode.IsDir():
		return corev1.HostPathDirectory, nil
	case mode.IsRegular():
		return corev1.HostPathFile, nil
	case mode&os.ModeSocket != 0:
		return corev1.HostPathSocket, nil
	case mode&os.ModeCharDevice != 0:
		return corev1.HostPathCharDev, nil
	case mode&os.ModeDevice != 0:
		return corev1.HostPathBlockDev, nil
	}
	return "", errors.New("only recognise file, directory, socket, block device and character device")
}
