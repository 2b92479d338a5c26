package podnet_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/proa-dev/proa/container/runtimebin"
	"github.com/proa-dev/proa/network/podnet"
)

// TestMain runs the tests in a network namespace of their own: the node of the
// tests is not this machine.
func TestMain(m *testing.M) {
	if os.Getenv("PODNET_TEST_NODE") != "" {
		os.Exit(m.Run())
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), "PODNET_TEST_NODE=1")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS, Unshareflags: syscall.CLONE_NEWNS}
	if err := cmd.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "in a network namespace (needs root):", err)
		os.Exit(1)
	}
}

// node is a Network under test, called as the runtime calls it.
type node struct {
	t   *testing.T
	cfg podnet.Config
	net *podnet.Network
	bin runtimebin.Paths
}

func newNode(t *testing.T, cidrs ...string) *node {
	t.Helper()
	sh(t, "ip link set lo up")
	dir, err := os.MkdirTemp("/tmp", "proa")
	if err != nil {
		t.Fatal(err)
	}
	n := &node{t: t, cfg: podnet.Config{
		DataDir:      filepath.Join(dir, "data"),
		StateDir:     filepath.Join(dir, "run"),
		ClusterCIDRs: []netip.Prefix{netip.MustParsePrefix("10.42.0.0/16")},
		Logger:       slog.New(slog.NewTextHandler(t.Output(), nil)),
	}}
	for _, c := range cidrs {
		n.cfg.PodCIDRs = append(n.cfg.PodCIDRs, netip.MustParsePrefix(c))
	}
	if n.bin, err = runtimebin.Unpack(filepath.Join(dir, "bin")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := podnet.Cleanup(context.Background(), n.cfg); err != nil {
			t.Errorf("cleanup: %v", err)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return n
}

// up starts the network and gives a function that stops it.
func (n *node) up() (down func()) {
	n.t.Helper()
	pn, err := podnet.New(n.cfg)
	if err != nil {
		n.t.Fatal(err)
	}
	n.net = pn
	ctx, cancel := context.WithCancel(context.Background())
	ready, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- pn.Run(ctx, func() { close(ready) }) }()
	select {
	case <-ready:
	case err := <-done:
		cancel()
		n.t.Fatal(err)
	}
	return func() {
		cancel()
		if err := <-done; err != nil {
			n.t.Error(err)
		}
	}
}

// netns makes a network namespace at a path, until the test ends.
func (n *node) netns(name string) string {
	n.t.Helper()
	path := filepath.Join(n.cfg.StateDir, "ns-"+name)
	if err := os.MkdirAll(n.cfg.StateDir, 0o755); err != nil {
		n.t.Fatal(err)
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		n.t.Fatal(err)
	}
	made := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread is spoilt and ends
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			made <- err
			return
		}
		made <- unix.Mount(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()), path, "", unix.MS_BIND, "")
	}()
	if err := <-made; err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { n.dropNetns(path) })
	sh(n.t, "nsenter --net=%s ip link set lo up", path)
	return path
}

func (n *node) dropNetns(path string) {
	if err := unix.Unmount(path, unix.MNT_DETACH); err != nil && err != unix.EINVAL && err != unix.ENOENT {
		n.t.Error(err)
	}
	_ = os.Remove(path)
}

// call execs proa-cni with the network's own configuration.
func (n *node) call(command, id, netns string, extra map[string]any) (string, error) {
	n.t.Helper()
	file := filepath.Join(n.cfg.DataDir, "cni", "net.d", "10-proa0.conflist")
	data, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	var list struct {
		CNIVersion, Name string
		Plugins          []map[string]any
	}
	if err := json.Unmarshal(data, &list); err != nil {
		n.t.Fatal(err)
	}
	conf := list.Plugins[0]
	conf["cniVersion"], conf["name"] = list.CNIVersion, list.Name
	for k, v := range extra {
		conf[k] = v
	}
	stdin, err := json.Marshal(conf)
	if err != nil {
		n.t.Fatal(err)
	}
	cmd := exec.Command(n.bin.CNI)
	cmd.Stdin = bytes.NewReader(stdin)
	cmd.Env = []string{"CNI_COMMAND=" + command, "CNI_CONTAINERID=" + id, "CNI_NETNS=" + netns, "CNI_IFNAME=eth0", "CNI_PATH=/", "PATH=/"}
	out, err := cmd.Output()
	return string(out), err
}

// add connects a pod and gives its addresses.
func (n *node) add(id, netns string, extra map[string]any) []string {
	n.t.Helper()
	begin := time.Now()
	out, err := n.call("ADD", id, netns, extra)
	if err != nil {
		n.t.Fatalf("ADD: %v: %s", err, out)
	}
	n.t.Logf("ADD %s in %v", id, time.Since(begin))
	var res struct {
		IPs []struct{ Address string }
	}
	if err := json.Unmarshal([]byte(out), &res); err != nil {
		n.t.Fatalf("ADD: %v: %s", err, out)
	}
	var list []string
	for _, ip := range res.IPs {
		list = append(list, netip.MustParsePrefix(ip.Address).Addr().String())
	}
	return list
}

func (n *node) del(id, netns string) {
	n.t.Helper()
	begin := time.Now()
	if out, err := n.call("DEL", id, netns, nil); err != nil {
		n.t.Fatalf("DEL: %v: %s", err, out)
	}
	n.t.Logf("DEL %s in %v", id, time.Since(begin))
}

func hostPort(port, target int) map[string]any {
	return map[string]any{"runtimeConfig": map[string]any{"portMappings": []any{
		map[string]any{"hostPort": port, "containerPort": target, "protocol": "tcp"},
	}}}
}

func try(format string, args ...any) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, "sh", "-c", fmt.Sprintf(format, args...)).CombinedOutput()
	return string(out), err
}

func sh(t *testing.T, format string, args ...any) string {
	t.Helper()
	out, err := try(format, args...)
	if err != nil {
		t.Fatalf("%s: %v: %s", fmt.Sprintf(format, args...), err, out)
	}
	return out
}

// inside runs f in a network namespace, in that of the node if it is empty.
// Sockets that f opens stay there.
func inside(netns string, f func() error) error {
	if netns == "" {
		return f()
	}
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // the thread ends with the goroutine
		fd, err := unix.Open(netns, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err == nil {
			err = unix.Setns(fd, unix.CLONE_NEWNET)
			_ = unix.Close(fd)
		}
		if err == nil {
			err = f()
		}
		done <- err
	}()
	return <-done
}

// answer tells each TCP client in a namespace the address it came from.
func answer(t *testing.T, netns string) {
	t.Helper()
	var l net.Listener
	err := inside(netns, func() (err error) {
		l, err = net.Listen("tcp4", "0.0.0.0:8080")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			host, _, _ := net.SplitHostPort(conn.RemoteAddr().String())
			_, _ = io.WriteString(conn, host)
			_ = conn.Close()
		}
	}()
}

// get connects from a namespace and gives the answer, or the error.
func get(netns, addr string, port int) string {
	var conn net.Conn
	err := inside(netns, func() (err error) {
		conn, err = net.DialTimeout("tcp4", fmt.Sprintf("%s:%d", addr, port), 2*time.Second)
		return err
	})
	if err != nil {
		return err.Error()
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(2 * time.Second))
	data, err := io.ReadAll(conn)
	if err != nil {
		return err.Error()
	}
	return string(data)
}

func TestPodsAreConnected(t *testing.T) {
	n := newNode(t, "10.42.3.0/24", "fd00:42::/120")
	defer n.up()()
	// The world outside: a namespace that knows the node and no pods.
	outside := n.netns("outside")
	sh(t, "ip link add up0 mtu 1400 type veth peer name eth0 netns %s", outside)
	t.Cleanup(func() { sh(t, "ip link del up0") })
	sh(t, "ip addr add 192.0.2.1/24 dev up0 && ip link set up0 up && nsenter --net=%s sh -c 'ip addr add 192.0.2.9/24 dev eth0 && ip link set eth0 up'", outside)
	sh(t, "ip route add default via 192.0.2.9")

	nsA, nsB := n.netns("a"), n.netns("b")
	a, b := n.add("a", nsA, nil), n.add("b", nsB, hostPort(18080, 8080))
	if a[0] != "10.42.3.2" || b[0] != "10.42.3.3" || len(a) != 2 || a[1] != "fd00:42::2" {
		t.Fatalf("addresses %v, %v", a, b)
	}
	for what, cmd := range map[string]string{
		"pod to pod":        fmt.Sprintf("nsenter --net=%s busybox ping -c1 -W2 %s", nsA, b[0]),
		"pod to pod, IPv6":  fmt.Sprintf("nsenter --net=%s busybox ping -6 -c1 -W2 %s", nsA, b[1]),
		"node to pod":       "busybox ping -c1 -W2 " + a[0],
		"node to pod, IPv6": "busybox ping -6 -c1 -W2 " + a[1],
		"pod to gateway":    fmt.Sprintf("nsenter --net=%s busybox ping -c1 -W2 10.42.3.1", nsA),
		"pod to node":       fmt.Sprintf("nsenter --net=%s busybox ping -c1 -W2 192.0.2.1", nsA),
		"pod to outside":    fmt.Sprintf("nsenter --net=%s busybox ping -c1 -W2 192.0.2.9", nsA),
	} {
		if out, err := try("%s", cmd); err != nil {
			t.Errorf("%s: %v\n%s", what, err, out)
		}
	}
	answer(t, nsB)
	answer(t, outside)
	for _, c := range []struct {
		what, from, to string
		port           int
		want           string
	}{
		{"pod to pod", nsA, b[0], 8080, a[0]},
		{"node to pod", "", b[0], 8080, "10.42.3.1"},
		{"pod to outside, masqueraded", nsA, "192.0.2.9", 8080, "192.0.2.1"},
		{"host port from outside", outside, "192.0.2.1", 18080, "192.0.2.9"},
		{"host port from the node", "", "192.0.2.1", 18080, "192.0.2.1"},
		{"host port by loopback", "", "127.0.0.1", 18080, "10.42.3.1"},
		{"host port from another pod", nsA, "192.0.2.1", 18080, a[0]},
		{"host port from the same pod", nsB, "192.0.2.1", 18080, "10.42.3.1"},
	} {
		if got := get(c.from, c.to, c.port); got != c.want {
			t.Errorf("%s: %q, want %q", c.what, got, c.want)
		}
	}
	if t.Failed() {
		t.Log(sh(t, "nft list ruleset; ip route; ip addr"))
	}
	if out, err := try("nsenter --net=%s sh -c 'ip addr add 10.42.3.77/32 dev eth0; busybox ping -c1 -W1 -I 10.42.3.77 10.42.3.1'", nsA); err == nil {
		t.Errorf("a pod can use an address that is not its own: %s", out)
	}
	if mtu := sh(t, "nsenter --net=%s ip link show eth0", nsA); !strings.Contains(mtu, "mtu 1400") {
		t.Errorf("MTU: %s", mtu)
	}
	if out, err := n.call("CHECK", "a", nsA, map[string]any{"prevResult": map[string]any{"cniVersion": "1.0.0"}}); err != nil {
		t.Errorf("CHECK: %v: %s", err, out)
	}
	n.del("b", nsB)
	if got := get(outside, "192.0.2.1", 18080); got == "192.0.2.9" {
		t.Error("host port works after the pod is gone")
	}
	n.del("b", nsB)
	n.del("a", "")
}

// A pod must not send packets to a node's end of the tunnel, which would take
// them for those of another node.
func TestPodsStayOutOfTheTunnel(t *testing.T) {
	const tunnel, other = 8472, 8473
	n := newNode(t, "10.42.9.0/24")
	outside := n.netns("outside")
	sh(t, "ip link add up0 type veth peer name eth0 netns %s", outside)
	t.Cleanup(func() { sh(t, "ip link del up0") })
	sh(t, "ip addr add 192.0.2.1/24 dev up0 && ip link set up0 up && nsenter --net=%s sh -c 'ip addr add 192.0.2.9/24 dev eth0 && ip link set eth0 up && ip route add 10.42.0.0/16 via 192.0.2.1'", outside)
	n.cfg.Between, n.cfg.Node, n.cfg.Address = podnet.VXLAN, "node", netip.MustParseAddr("192.0.2.1")
	defer n.up()()
	nsA, nsB := n.netns("a"), n.netns("b")
	n.add("a", nsA, nil)
	b := n.add("b", nsB, nil)

	// check sends to both ports. The second is always reached, after the first: so
	// nobody has to wait long for what does not come.
	check := func(what, from, at, addr string, want bool) {
		t.Helper()
		got := make(chan int, 2)
		for _, port := range []int{tunnel, other} {
			var c net.PacketConn
			if err := inside(at, func() (err error) { c, err = net.ListenPacket("udp4", fmt.Sprintf("0.0.0.0:%d", port)); return err }); err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			go func() {
				if _, _, err := c.ReadFrom(make([]byte, 10)); err == nil {
					got <- port
				}
			}()
		}
		for _, port := range []int{tunnel, other} {
			err := inside(from, func() error {
				c, err := net.Dial("udp4", net.JoinHostPort(addr, strconv.Itoa(port)))
				if err != nil {
					return err
				}
				defer c.Close()
				_, err = c.Write([]byte("x"))
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		patience := 5 * time.Second
		for reached := map[int]bool{}; ; {
			select {
			case port := <-got:
				if reached[port] = true; port == other && !want {
					patience = 100 * time.Millisecond
				}
			case <-time.After(patience):
				if reached[tunnel] != want || !reached[other] {
					t.Errorf("%s: ports %v are reached, want %d: %v", what, reached, tunnel, want)
				}
				return
			}
			if reached[tunnel] && reached[other] && want {
				return
			}
		}
	}
	check("a pod to its node", nsA, "", "192.0.2.1", false)
	check("a pod to its node's gateway address", nsA, "", "10.42.9.1", false)
	check("a pod to another node", nsA, outside, "192.0.2.9", false)
	check("a pod to a pod", nsA, nsB, b[0], true)
	check("another node to this one", outside, "", "192.0.2.1", true)
	sh(t, "nsenter --net=%s ip addr add 10.42.7.7/32 dev lo", outside)
	sh(t, "nsenter --net=%s ip route replace 192.0.2.0/24 dev eth0 src 10.42.7.7", outside)
	check("a pod of another node to this one", outside, "", "192.0.2.1", false)
}
