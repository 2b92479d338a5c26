package isolate

import (
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Gateway is what every machine of a segment sends to what is not on it. It
// answers for itself and forwards nothing.
const Gateway = "192.0.2.1"

// Segment joins this machine with others: a switch in a network namespace of
// its own, to which this machine's eth0 and theirs are plugged.
type Segment struct{ inside, home netns.NsHandle }

// NewSegment plugs this machine into a new switch.
func NewSegment() (*Segment, error) {
	s := &Segment{}
	err := onOwnThread(unix.CLONE_NEWNET, func() (err error) {
		s.inside, err = netns.Get()
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("namespace of the switch: %w", err)
	}
	if s.home, err = netns.Get(); err != nil {
		return nil, err
	}
	h, err := netlink.NewHandleAt(s.inside)
	if err != nil {
		return nil, err
	}
	defer h.Close()
	bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "switch"}}
	if err := h.LinkAdd(bridge); err != nil {
		return nil, fmt.Errorf("switch: %w", err)
	}
	addr, err := netlink.ParseAddr(Gateway + "/24")
	if err != nil {
		return nil, err
	}
	if err := errors.Join(h.AddrAdd(bridge, addr), h.LinkSetUp(bridge)); err != nil {
		return nil, fmt.Errorf("switch: %w", err)
	}
	world, err := netlink.LinkByName("world")
	if err != nil {
		return nil, fmt.Errorf("the other end of eth0: %w", err)
	}
	return s, s.plug(h, world)
}

// plug brings a link's end to the switch.
func (s *Segment) plug(h *netlink.Handle, end netlink.Link) error {
	name := end.Attrs().Name
	if err := netlink.LinkSetNsFd(end, int(s.inside)); err != nil {
		return fmt.Errorf("plug %s in: %w", name, err)
	}
	bridge, err := h.LinkByName("switch")
	if err != nil {
		return err
	}
	if end, err = h.LinkByName(name); err != nil {
		return err
	}
	return errors.Join(h.LinkSetMaster(end, bridge), h.LinkSetUp(end))
}

// Outside runs fn as somebody on the segment who is none of its machines.
func (s *Segment) Outside(fn func() error) error {
	return onOwnThread(0, func() error {
		if err := netns.Set(s.inside); err != nil {
			return err
		}
		return fn()
	})
}

// Close unplugs this machine and removes the switch.
func (s *Segment) Close() error {
	h, err := netlink.NewHandleAt(s.inside)
	if err != nil {
		return err
	}
	defer h.Close()
	world, err := h.LinkByName("world")
	if err == nil {
		err = h.LinkSetNsFd(world, int(s.home))
	}
	if err == nil {
		if world, err = netlink.LinkByName("world"); err == nil {
			err = netlink.LinkSetUp(world)
		}
	}
	return errors.Join(err, s.inside.Close(), s.home.Close())
}

// Machine is another machine on a segment: network, mounts and host name of
// its own, the rest is this machine's.
type Machine struct {
	Name, Address string

	calls chan func()
}

// Machine makes one. Name has at most 12 characters.
func (s *Segment) Machine(name, address string) (*Machine, error) {
	m := &Machine{Name: name, Address: address, calls: make(chan func())}
	made := make(chan error)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with the machine
		made <- m.enter(s)
		for f := range m.calls {
			f()
		}
	}()
	if err := <-made; err != nil {
		close(m.calls)
		return nil, fmt.Errorf("machine %s: %w", name, err)
	}
	return m, nil
}

// enter takes the current thread to a new machine.
func (m *Machine) enter(s *Segment) error {
	if err := unix.Unshare(unix.CLONE_NEWNET | unix.CLONE_NEWNS | unix.CLONE_NEWUTS); err != nil {
		return fmt.Errorf("namespaces: %w", err)
	}
	if err := ownMounts(); err != nil {
		return err
	}
	// What nodes keep outside their data directory.
	for _, dir := range []string{"/run", "/var/log"} {
		if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=0755"); err != nil {
			return fmt.Errorf("mount %s: %w", dir, err)
		}
	}
	if err := unix.Sethostname([]byte(m.Name)); err != nil {
		return fmt.Errorf("host name: %w", err)
	}
	port := "to-" + m.Name
	if err := ownNetwork(m.Address, port); err != nil {
		return err
	}
	end, err := netlink.LinkByName(port)
	if err != nil {
		return err
	}
	h, err := netlink.NewHandleAt(s.inside)
	if err != nil {
		return err
	}
	defer h.Close()
	return s.plug(h, end)
}

// Do runs fn on the machine: what it starts runs there.
func (m *Machine) Do(fn func() error) error {
	done := make(chan error, 1)
	m.calls <- func() { done <- fn() }
	return <-done
}

// Close lets go of the machine; its namespaces end with what runs in them.
func (m *Machine) Close() { close(m.calls) }

// onOwnThread runs fn on a thread that ends with it, in new namespaces.
func onOwnThread(flags int, fn func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		if flags != 0 {
			if err := unix.Unshare(flags); err != nil {
				done <- os.NewSyscallError("unshare", err)
				return
			}
		}
		done <- fn()
	}()
	return <-done
}

// ownMounts parts the mounts of this namespace from the machine's: they are
// shared among the processes here, as mount propagation of pods needs.
func ownMounts() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""); err != nil {
		return fmt.Errorf("make mounts shared: %w", err)
	}
	return nil
}

// ownNetwork makes loopback, and eth0 with an address and a default route; its
// other end gets a name.
func ownNetwork(address, other string) error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return err
	}
	eth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "eth0"}, PeerName: other}
	if err := netlink.LinkAdd(eth); err != nil {
		return fmt.Errorf("eth0: %w", err)
	}
	end, err := netlink.LinkByName(other)
	if err != nil {
		return err
	}
	addr, err := netlink.ParseAddr(address + "/24")
	if err != nil {
		return err
	}
	return errors.Join(
		netlink.AddrAdd(eth, addr),
		netlink.LinkSetUp(eth),
		netlink.LinkSetUp(end),
		netlink.RouteAdd(&netlink.Route{LinkIndex: eth.Attrs().Index, Gw: net.ParseIP(Gateway)}),
	)
}
