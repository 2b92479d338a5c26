// Package isolate runs a test program as on a machine of its own: in new
// network and mount namespaces, with a host name, a default route and loopback.
// What it leaves in them ends with it, and a Proa that runs on this machine
// does not meet it. Cgroups are the machine's. Further machines may join it on
// one segment: see Segment.
package isolate

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"
)

// marker tells the second run of the program from the first.
const marker = "PROA_TEST_ISOLATED"

// Address is what the machine is reached at in its namespace.
const Address = "192.0.2.10"

// Host is the machine's name there.
const Host = "node-1"

// Enter runs this program again in namespaces of its own and exits with that
// run's status. In the second run it prepares them and returns.
func Enter() {
	if os.Getenv(marker) != "" {
		if err := prepare(); err != nil {
			fmt.Fprintln(os.Stderr, "isolate:", err)
			os.Exit(2)
		}
		return
	}
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "these tests run containers and need root")
		os.Exit(2)
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...) //nolint:noctx // it runs as long as this process
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(os.Environ(), marker+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS | unix.CLONE_NEWUTS,
		Pdeathsig:  syscall.SIGTERM,
	}
	if err := cmd.Start(); err != nil {
		fmt.Fprintln(os.Stderr, "isolate:", err)
		os.Exit(2)
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		for s := range signals {
			_ = cmd.Process.Signal(s)
		}
	}()
	err := cmd.Wait()
	var exit *exec.ExitError
	switch {
	case err == nil:
		os.Exit(0)
	case errors.As(err, &exit):
		os.Exit(exit.ExitCode())
	default:
		fmt.Fprintln(os.Stderr, "isolate:", err)
		os.Exit(2)
	}
}

func prepare() error {
	if err := ownMounts(); err != nil {
		return err
	}
	if err := unix.Sethostname([]byte(Host)); err != nil {
		return fmt.Errorf("host name: %w", err)
	}
	return ownNetwork(Address, "world")
}
