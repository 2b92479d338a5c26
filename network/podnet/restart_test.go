package podnet_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/proa-dev/proa/network/podnet"
)

func TestConfigIsValidated(t *testing.T) {
	ok := podnet.Config{DataDir: "/d", StateDir: "/s"}
	for what, change := range map[string]func(*podnet.Config){
		"no data directory":   func(c *podnet.Config) { c.DataDir = "" },
		"long link name":      func(c *podnet.Config) { c.Link = "toolongname" },
		"link name for shell": func(c *podnet.Config) { c.Link = "a;b" },
		"quote in socket":     func(c *podnet.Config) { c.StateDir = `/run/"x` },
		"long socket":         func(c *podnet.Config) { c.StateDir = "/" + strings.Repeat("x", 100) },
		"MTU":                 func(c *podnet.Config) { c.MTU = 5 },
		"no room":             func(c *podnet.Config) { c.PodCIDRs = prefixes("10.0.0.0/31") },
		"two of a family":     func(c *podnet.Config) { c.PodCIDRs = prefixes("10.0.0.0/24", "10.1.0.0/24") },
		"no prefix":           func(c *podnet.Config) { c.PodCIDRs = []netip.Prefix{{}} },
	} {
		c := ok
		change(&c)
		if _, err := podnet.New(c); err == nil {
			t.Errorf("%s was accepted", what)
		}
	}
}

func prefixes(list ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range list {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

// The pod CIDR comes late, the process is restarted: pods stay connected, keep
// their addresses and host ports, and leaks are freed.
func TestRestart(t *testing.T) {
	n := newNode(t)
	down := n.up()
	if _, err := n.call("ADD", "early", "/proc/self/ns/net", nil); err == nil {
		t.Error("there is a network without a pod CIDR")
	}
	if err := n.net.SetPodCIDRs(t.Context(), prefixes("10.42.5.0/29")); err != nil {
		t.Fatal(err)
	}
	nsA, nsB, nsC := n.netns("a"), n.netns("b"), n.netns("c")
	a := n.add("a", nsA, hostPort(18082, 8080))
	n.add("b", nsB, nil)
	answer(t, nsA)
	down()
	if _, err := n.call("DEL", "a", nsA, nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a network configuration without a server: %v", err)
	}
	if got := get("", a[0], 8080); got != "10.42.5.1" {
		t.Errorf("pod while the server is down: %q", got)
	}

	n.dropNetns(nsB)
	down = n.up()
	if left := sh(t, "ls %s/cni/pods", n.cfg.DataDir); left != "a.eth0.json\n" {
		t.Errorf("remembered: %s", left)
	}
	if got := get("", "127.0.0.1", 18082); got != "10.42.5.1" {
		t.Errorf("host port after a restart: %q", got)
	}
	// ADD again is the same pod; a new one does not get b's address at once.
	n.dropNetns(nsA)
	nsA = n.netns("a")
	if again := n.add("a", nsA, nil); again[0] != a[0] {
		t.Errorf("address %v, before %v", again, a)
	}
	if got := get("", "127.0.0.1", 18082); got == "10.42.5.1" {
		t.Error("a host port works that the pod does not have any more")
	}
	if c := n.add("c", nsC, nil); c[0] == "10.42.5.3" {
		t.Errorf("the address of a pod that is gone is used again at once")
	}
	n.del("c", nsC)
	n.add("c", nsC, hostPort(18083, 80))
	if out, err := n.call("ADD", "d", n.netns("d"), hostPort(18083, 80)); err == nil || !strings.Contains(out, "another pod has") {
		t.Errorf("the same host port twice: %v: %s", err, out)
	}
	if out := sh(t, "nft list map inet proa0-podnet hostports4"); !strings.Contains(out, "18083") {
		t.Errorf("the pod that had the host port has lost it:\n%s", out)
	}
	// A /29 has five addresses for pods.
	for i := range 3 {
		n.add(fmt.Sprint("more", i), n.netns(fmt.Sprint("more", i)), nil)
	}
	if out, err := n.call("ADD", "toomany", n.netns("toomany"), nil); err == nil || !strings.Contains(out, "no free address in the pod CIDR 10.42.5.0/29") {
		t.Errorf("ADD to a full network: %v: %s", err, out)
	}
	// What the runtime does not know goes.
	if out, err := n.call("GC", "", "", map[string]any{"cni.dev/valid-attachments": []any{map[string]string{"containerID": "a", "ifname": "eth0"}}}); err != nil {
		t.Fatalf("GC: %v: %s", err, out)
	}
	if left := sh(t, "ls %s/cni/pods", n.cfg.DataDir); left != "a.eth0.json\n" {
		t.Errorf("after GC: %s", left)
	}
	// Another pod CIDR moves the gateway.
	if err := n.net.SetPodCIDRs(t.Context(), prefixes("10.42.6.0/24")); err != nil {
		t.Fatal(err)
	}
	if out := sh(t, "ip addr show lo; ip route"); strings.Contains(out, "10.42.5.1") || !strings.Contains(out, "10.42.6.1") {
		t.Errorf("after a change of the pod CIDR:\n%s", out)
	}
	down()
	if err := podnet.Cleanup(context.Background(), n.cfg); err != nil {
		t.Fatal(err)
	}
	if out := sh(t, "ip -o link; ip addr; ip route; ip route show table local; nft list ruleset; ls -R %s", filepath.Join(n.cfg.DataDir, "cni")); strings.Contains(out, "10.42.") || strings.Contains(out, "proa0") {
		t.Errorf("Cleanup left:\n%s", out)
	}
}

func TestHostileCalls(t *testing.T) {
	n := newNode(t, "10.42.7.0/24")
	defer n.up()()
	ns := n.netns("a")
	for what, c := range map[string]struct {
		command, id, ns string
		extra           map[string]any
		want            string
	}{
		"path as container":   {"ADD", "../../x", ns, nil, "invalid characters"},
		"no container":        {"ADD", "", ns, nil, "missing"},
		"no namespace":        {"ADD", "a", "", nil, "CNI_NETNS is missing"},
		"wrong namespace":     {"ADD", "a", "/etc/passwd", nil, "link pair"},
		"unknown command":     {"EAT", "a", ns, nil, "unknown CNI_COMMAND"},
		"old version":         {"ADD", "a", ns, map[string]any{"cniVersion": "0.1.0"}, "not supported"},
		"wrong type":          {"ADD", "a", ns, map[string]any{"runtimeConfig": "x"}, "cannot read"},
		"host port":           {"ADD", "a", ns, hostPort(70000, 80), "out of range"},
		"CHECK of a stranger": {"CHECK", "nobody", ns, nil, "not connected"},
		"large configuration": {"ADD", "a", ns, map[string]any{"x": strings.Repeat("y", 5<<20)}, "too large"},
	} {
		if out, err := n.call(c.command, c.id, c.ns, c.extra); err == nil || !strings.Contains(out, c.want) {
			t.Errorf("%s: %v: %.300s", what, err, out)
		}
	}
	if left := sh(t, "ls %s/cni/pods; ip -o link | grep proa0- || true", n.cfg.DataDir); left != "" {
		t.Errorf("left behind: %s", left)
	}
}

// Another firewall that drops by default, as Docker sets it up, does not cut
// pods off, and gets its rules back.
func TestForwardPolicyDrop(t *testing.T) {
	sh(t, "nft 'add table ip filter; add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }'")
	t.Cleanup(func() { sh(t, "nft delete table ip filter") })
	n := newNode(t, "10.42.8.0/24")
	down := n.up()
	nsA, nsB := n.netns("a"), n.netns("b")
	n.add("a", nsA, nil)
	b := n.add("b", nsB, nil)
	if out, err := try("nsenter --net=%s busybox ping -c1 -W2 %s", nsA, b[0]); err != nil {
		t.Errorf("%v: %s\n%s", err, out, sh(t, "nft list ruleset"))
	}
	down()
	n.up()()
	if out := sh(t, "nft list chain ip filter FORWARD"); strings.Count(out, "accept") != 2 {
		t.Errorf("after two starts:\n%s", out)
	}
	if err := podnet.Cleanup(context.Background(), n.cfg); err != nil {
		t.Fatal(err)
	}
	if out := sh(t, "nft list chain ip filter FORWARD"); strings.Contains(out, "accept") {
		t.Errorf("after Cleanup:\n%s", out)
	}
}

func TestManyPodsAtOnce(t *testing.T) {
	n := newNode(t, "10.42.9.0/24")
	defer n.up()()
	const pods = 40
	var paths []string
	for i := range pods {
		paths = append(paths, n.netns(fmt.Sprint("p", i)))
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	seen := map[string]bool{}
	for i := range pods {
		wg.Go(func() {
			out, err := n.call("ADD", fmt.Sprint("p", i), paths[i], hostPort(20000+i, 80))
			mu.Lock()
			defer mu.Unlock()
			if _, addr, ok := strings.Cut(out, `"address":"`); err == nil && ok {
				addr, _, _ = strings.Cut(addr, `"`)
				seen[addr] = true
			} else {
				t.Errorf("ADD: %v: %s", err, out)
			}
		})
	}
	wg.Wait()
	if len(seen) != pods {
		t.Errorf("%d addresses for %d pods", len(seen), pods)
	}
	for i := range pods {
		wg.Go(func() {
			if out, err := n.call("DEL", fmt.Sprint("p", i), paths[i], nil); err != nil {
				t.Errorf("DEL: %v: %s", err, out)
			}
		})
	}
	wg.Wait()
	if left := sh(t, "ls %s/cni/pods; ip -o link | grep proa0- || true; nft list map inet proa0-podnet hostports4 | grep : || true", n.cfg.DataDir); strings.Contains(left, "20") {
		t.Errorf("left behind: %s", left)
	}
}
