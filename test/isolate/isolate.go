// Package isolate runs a test program as on a machine of its own: in new
// network and mount namespaces, with a host name, a default route and loopback.
// What it leaves in them ends with it, and a Proa that runs on this machine
// does not meet it. Cgroups are the machine's.
package isolate

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"github.com/vishvananda/netlink"
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
	// Mounts made here are shared among the processes here (mount propagation
	// of pods needs that) and never reach the machine.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""); err != nil {
		return fmt.Errorf("make mounts shared: %w", err)
	}
	if err := unix.Sethostname([]byte(Host)); err != nil {
		return fmt.Errorf("host name: %w", err)
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return err
	}
	eth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "eth0"}, PeerName: "world"}
	if err := netlink.LinkAdd(eth); err != nil {
		return fmt.Errorf("eth0: %w", err)
	}
	world, err := netlink.LinkByName("world")
	if err != nil {
		return err
	}
	addr, err := netlink.ParseAddr(Address + "/24")
	if err != nil {
		return err
	}
	return errors.Join(
		netlink.AddrAdd(eth, addr),
		netlink.LinkSetUp(eth),
		netlink.LinkSetUp(world),
		netlink.RouteAdd(&netlink.Route{LinkIndex: eth.Attrs().Index, Gw: net.ParseIP("192.0.2.1")}),
	)
}
