package probes

import (
	"syscall"

	"golang.org/x/sys/unix"
)

func lingerZero(_, _ string, c syscall.RawConn) error {
	var err error
	controlErr := c.Control(func(fd uintptr) {
		err = unix.SetsockoptLinger(int(fd), unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1, Linger: 1})
	})
	if controlErr != nil {
		return controlErr
	}
	return err
}
