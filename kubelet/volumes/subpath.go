package volumes

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/types"
)

// SubPath bind-mounts a path below a volume to a place that no container can
// change, and returns that place. The volume's content is the users' and may
// hold symbolic links that change at any moment: the kernel resolves the path
// beneath the volume, in one step, and the mount is made from the open file.
func (m *Manager) SubPath(uid types.UID, volume, root, sub, container string, index int) (string, error) {
	if filepath.IsAbs(sub) {
		return "", fmt.Errorf("error SubPath `%s` must not be an absolute path", sub)
	}
	for _, part := range strings.Split(sub, "/") {
		if part == ".." {
			return "", fmt.Errorf("unable to provision SubPath `%s`: must not contain '..'", sub)
		}
	}
	target := filepath.Join(m.PodDir(uid), "volume-subpaths", volume, container, strconv.Itoa(index))
	// A mount that an earlier attempt left may show what was there then.
	if err := unmountBelow(target); err != nil {
		return "", err
	}
	fd, err := openBeneath(root, sub)
	if err != nil {
		return "", fmt.Errorf("subpath %q of volume %q: %w", sub, volume, err)
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return "", err
	}
	if err := os.MkdirAll(filepath.Dir(target), 0o750); err != nil {
		return "", err
	}
	if err := os.RemoveAll(target); err != nil {
		return "", err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		err = os.Mkdir(target, 0o750)
	} else {
		err = os.WriteFile(target, nil, 0o640)
	}
	if err != nil {
		return "", err
	}
	if err := unix.Mount("/proc/self/fd/"+strconv.Itoa(fd), target, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return "", fmt.Errorf("bind subpath %q of volume %q: %w", sub, volume, err)
	}
	return target, nil
}

// maxRead is the largest file that is read for a pod.
const maxRead = 1 << 20

// ReadFile reads a file of a volume that is set up. It may be of a container's
// making: nothing outside of the volume is reached, and nothing waited for.
func (m *Manager) ReadFile(uid types.UID, volume, path string) ([]byte, error) {
	v, ok := m.Ready(uid)[volume]
	if !ok || v.Path == "" {
		return nil, errors.New("there is no such volume")
	}
	root, err := os.OpenRoot(v.Path)
	if err != nil {
		return nil, errors.New("the volume cannot be read")
	}
	defer root.Close()
	f, err := root.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() || info.Size() > maxRead {
		return nil, fmt.Errorf("no regular file of at most %d bytes", maxRead)
	}
	return io.ReadAll(io.LimitReader(f, maxRead))
}

// openBeneath opens sub below root, making directories that are missing.
func openBeneath(root, sub string) (int, error) {
	dir, err := unix.Open(root, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	defer unix.Close(dir)
	how := &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS}
	sub = filepath.Clean(sub)
	fd, err := unix.Openat2(dir, sub, how)
	if !errors.Is(err, unix.ENOENT) {
		return fd, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(dir, &st); err != nil {
		return -1, err
	}
	parts := strings.Split(sub, "/")
	for i := range parts {
		parent, err := unix.Openat2(dir, filepath.Join(append([]string{"."}, parts[:i]...)...), how)
		if err != nil {
			return -1, err
		}
		err = unix.Mkdirat(parent, parts[i], st.Mode&0o7777)
		if err == nil {
			err = settle(parent, parts[i], st)
		} else if errors.Is(err, unix.EEXIST) {
			err = nil
		}
		unix.Close(parent)
		if err != nil {
			return -1, err
		}
	}
	return unix.Openat2(dir, sub, how)
}

// settle gives a directory that was just made its volume's mode, which the
// umask may have cut, and its group where that is handed down.
func settle(parent int, name string, volume unix.Stat_t) error {
	fd, err := unix.Openat(parent, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if volume.Mode&unix.S_ISGID != 0 {
		if err := unix.Fchown(fd, -1, int(volume.Gid)); err != nil {
			return err
		}
	}
	return unix.Fchmod(fd, volume.Mode&0o7777)
}
