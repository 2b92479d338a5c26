package volumes

import (
	"fmt"
	"io/fs"
	"os"
	"syscall"

	corev1 "k8s.io/api/core/v1"
)

const groupWrites = 0o660

// ownTree gives a group all that is in a volume, as upstream does: its files can
// be read and written by it, its directories entered, and new files inherit it.
// The content is the users' and may change meanwhile: nothing outside of the
// directory is ever reached.
func ownTree(path string, gid int, policy *corev1.PodFSGroupChangePolicy) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	want := fs.FileMode(groupWrites | 0o110)
	if s, ok := info.Sys().(*syscall.Stat_t); ok && policy != nil && *policy == corev1.FSGroupChangeOnRootMismatch &&
		int(s.Gid) == gid && info.Mode()&os.ModeSetgid != 0 && info.Mode().Perm()&want == want {
		return nil
	}
	root, err := os.OpenRoot(path)
	if err != nil {
		return err
	}
	defer root.Close()
	return fs.WalkDir(root.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		if err == nil {
			err = ownOne(root, name, d, gid)
		}
		if os.IsNotExist(err) && name != "." { // removed meanwhile
			return nil
		}
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		return nil
	})
}

func ownOne(root *os.Root, name string, d fs.DirEntry, gid int) error {
	if err := root.Lchown(name, -1, gid); err != nil {
		return err
	}
	info, err := d.Info()
	if err != nil || info.Mode()&os.ModeSymlink != 0 {
		return err
	}
	mode := info.Mode() | groupWrites
	if info.IsDir() {
		mode |= os.ModeSetgid | 0o110
	}
	return root.Chmod(name, mode.Perm()|mode&(os.ModeSetuid|os.ModeSetgid|os.ModeSticky))
}
