package cgroups

import (
	"context"
	"errors"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// Cleanup ends the processes in the groups below root and removes these
// groups: for a node that is taken down.
func Cleanup(ctx context.Context, root string) error {
	root = filepath.Clean("/" + root)
	if root == "/" {
		return errors.New("the machine's own cgroups are not removed")
	}
	hs, err := mounted()
	if err != nil {
		return err
	}
	for _, h := range hs {
		for {
			err := removeTree(filepath.Join(h.mount, root))
			if !errors.Is(err, unix.EBUSY) {
				if err != nil {
					return err
				}
				break
			}
			select {
			case <-ctx.Done():
				return errors.Join(ctx.Err(), err)
			case <-time.After(10 * time.Millisecond): // killed processes leave a moment later
			}
		}
	}
	return nil
}
