package podnet_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/proa-dev/proa/container"
	"github.com/proa-dev/proa/container/containertest"
)

// TestContainersAreConnected runs real pods: the runtime execs proa-cni itself.
func TestContainersAreConnected(t *testing.T) {
	dir := containertest.Dir(t)
	n := newNode(t, "10.42.4.0/24")
	n.cfg.DataDir, n.cfg.StateDir = dir+"/data", dir+"/run"
	t.Cleanup(n.up())
	rt := containertest.Start(t, dir, func(c *container.Config) { c.Logger = n.cfg.Logger })
	rt.Import(containertest.Image(t, containertest.Busybox))

	containertest.Eventually(t, "NetworkReady", func() bool {
		resp, err := rt.RPC.Status(t.Context(), &runtimeapi.StatusRequest{})
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range resp.Status.Conditions {
			if c.Type == runtimeapi.NetworkReady {
				return c.Status
			}
		}
		return false
	})
	server := rt.RunPod(func(c *runtimeapi.PodSandboxConfig) {
		c.PortMappings = []*runtimeapi.PortMapping{{HostPort: 18081, ContainerPort: 8080}}
	})
	server.Run("web", "mkdir /www; echo hi > /www/index.html; exec httpd -f -p 8080 -h /www")
	client := rt.RunPod()
	shell := client.Run("shell", "exec sleep 1000")
	fetch := func(addr string) string {
		// Not wget: a static glibc crashes in it for want of nsswitch.
		out, _ := rt.Exec(shell, "sh", "-c", "printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 3 "+addr)
		return strings.TrimSpace(out[strings.LastIndex(out, "\n\r\n")+1:])
	}
	containertest.Eventually(t, "the server", func() bool { return fetch(server.IP()+" 8080") == "hi" })
	if got := fetch("10.42.4.1 18081"); got != "hi" {
		t.Errorf("host port: %q", got)
	}
	out, _ := rt.Exec(shell, "sh", "-c", "ip -4 addr show eth0; ip route; cat /etc/resolv.conf >/dev/null; ping -c1 -W2 127.0.0.1")
	if !strings.Contains(out, client.IP()+"/32") || !strings.Contains(out, "default via 10.42.4.1") || !strings.Contains(out, "1 packets received") {
		t.Errorf("inside the pod:\n%s", out)
	}
	// Many at once get each its own address.
	var pods []*containertest.Pod
	for range 8 {
		pods = append(pods, rt.Prepare())
	}
	var wg sync.WaitGroup
	for _, p := range pods {
		wg.Go(p.Start)
	}
	wg.Wait()
	seen := map[string]bool{server.IP(): true, client.IP(): true}
	for _, p := range pods {
		seen[p.IP()] = true
	}
	if len(seen) != len(pods)+2 {
		t.Errorf("addresses: %v", seen)
	}
	rt.RemovePods()
	links := sh(t, "ip -o link; ip route")
	if strings.Contains(links, "proa0-") {
		t.Errorf("links or routes remain:\n%s", links)
	}
	if left := sh(t, "ls %s/cni/pods", n.cfg.DataDir); left != "" {
		t.Errorf("addresses remain: %s", left)
	}
	if left := fmt.Sprint(containertest.Mounts(t, dir)); left != "[]" {
		t.Errorf("mounts remain: %s", left)
	}
}
