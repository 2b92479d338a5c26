// Package containertest runs a real container runtime for tests: a Runtime on
// scratch directories, an image with busybox, and short ways to make pods.
//
// It needs root, since containers do.
package containertest

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/proa-dev/proa/container"
	"github.com/proa-dev/proa/internal/ociimage"
)

// Busybox is the name of the image that Image builds by default.
const Busybox = "proa.dev/test/busybox:1"

// Deadline bounds every single step of a test.
const Deadline = 60 * time.Second

// Node is a running Runtime with its CRI clients.
type Node struct {
	Runtime *container.Runtime
	Config  container.Config
	// RPC and Images speak CRI over the runtime's socket.
	RPC    runtimeapi.RuntimeServiceClient
	Images runtimeapi.ImageServiceClient

	t    testing.TB
	conn *grpc.ClientConn
	stop func() error
	next int
}

// Dir makes a scratch directory with a short path, since sockets live in it,
// and removes it with all mounts below at the end of the test.
func Dir(t testing.TB) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("containers need root: namespaces, mounts and cgroups")
	}
	dir, err := os.MkdirTemp("/tmp", "proa")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		unmountBelow(t, dir)
		removeCgroups(t, cgroupOf(dir))
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("scratch directory: %v", err)
		}
	})
	return dir
}

// cgroupOf is the parent of all cgroups of a test.
func cgroupOf(dir string) string { return "/" + filepath.Base(dir) + "-test" }

// removeCgroups removes a group from every hierarchy; the runtime leaves the
// parents that it made on the way.
func removeCgroups(t testing.TB, name string) {
	for _, pattern := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/*"} {
		groups, err := filepath.Glob(pattern + name)
		if err != nil {
			t.Error(err)
		}
		for _, g := range groups {
			if err := os.Remove(g); err != nil {
				t.Errorf("cgroup: %v", err)
			}
		}
	}
}

// Mounts lists the mount points under dir.
func Mounts(t testing.TB, dir string) []string {
	t.Helper()
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for line := range strings.Lines(string(data)) {
		if f := strings.Fields(line); len(f) > 4 && strings.HasPrefix(f[4], dir+"/") {
			list = append(list, f[4])
		}
	}
	return list
}

func unmountBelow(t testing.TB, dir string) {
	mounts := Mounts(t, dir)
	for i := len(mounts) - 1; i >= 0; i-- {
		if err := unix.Unmount(mounts[i], unix.MNT_DETACH); err != nil {
			t.Errorf("unmount %s: %v", mounts[i], err)
		}
	}
}

// Start runs a Runtime until the test ends; pods that remain are removed.
func Start(t testing.TB, dir string, adjust ...func(*container.Config)) *Node {
	t.Helper()
	cfg := container.Config{
		DataDir:  filepath.Join(dir, "data"),
		StateDir: filepath.Join(dir, "run"),
		Logger:   slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelInfo})),
	}
	for _, f := range adjust {
		f(&cfg)
	}
	n := &Node{t: t, Config: cfg}
	n.Up()
	t.Cleanup(func() {
		if n.stop == nil {
			n.Up()
		}
		n.RemovePods()
		n.Down()
	})
	return n
}

// Attach gives a Node for a Runtime on dir that the test runs itself.
func Attach(t testing.TB, dir string) *Node {
	t.Helper()
	n := &Node{t: t, Config: container.Config{DataDir: filepath.Join(dir, "data"), StateDir: filepath.Join(dir, "run")}}
	n.conn, n.RPC, n.Images = Dial(t, "unix://"+container.Socket(n.Config.StateDir))
	t.Cleanup(func() { _ = n.conn.Close() })
	return n
}

// Up starts the Runtime, again after Down.
func (n *Node) Up() {
	n.t.Helper()
	rt, err := container.New(n.Config)
	if err != nil {
		n.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ready, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- rt.Run(ctx, func() { close(ready) }) }()
	select {
	case <-ready:
	case err := <-done:
		n.t.Fatalf("runtime ended: %v", err)
	case <-time.After(Deadline):
		n.t.Fatal("runtime is not ready")
	}
	n.Runtime = rt
	n.stop = func() error { cancel(); return <-done }
	n.conn, n.RPC, n.Images = Dial(n.t, rt.Endpoint())
}

// Down stops the Runtime and leaves containers running.
func (n *Node) Down() {
	n.t.Helper()
	if n.stop == nil {
		return
	}
	if err := n.conn.Close(); err != nil {
		n.t.Error(err)
	}
	if err := n.stop(); err != nil {
		n.t.Errorf("runtime: %v", err)
	}
	n.stop = nil
}

// Dial makes CRI clients for an endpoint.
func Dial(t testing.TB, endpoint string) (*grpc.ClientConn, runtimeapi.RuntimeServiceClient, runtimeapi.ImageServiceClient) {
	t.Helper()
	conn, err := grpc.NewClient(endpoint, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.WaitForReady(true)))
	if err != nil {
		t.Fatal(err)
	}
	return conn, runtimeapi.NewRuntimeServiceClient(conn), runtimeapi.NewImageServiceClient(conn)
}

// Image builds a busybox image; files are laid over it.
func Image(t testing.TB, name string, files ...ociimage.File) []byte {
	t.Helper()
	binary, err := exec.LookPath("busybox")
	if err != nil {
		t.Fatal("the package busybox-static is missing")
	}
	base, err := ociimage.Busybox(t.Context(), binary)
	if err != nil {
		t.Fatal(err)
	}
	spec := ociimage.Spec{
		Names:  []string{name},
		Layers: [][]ociimage.File{base},
		Cmd:    []string{"/bin/sh"},
		Env:    []string{"PATH=/bin:/sbin:/usr/bin:/usr/sbin"},
	}
	if len(files) > 0 {
		spec.Layers = append(spec.Layers, files)
	}
	var buf bytes.Buffer
	if err := ociimage.Build(&buf, spec); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// Import imports an image archive and gives its names.
func (n *Node) Import(archive []byte) []string {
	n.t.Helper()
	ctx, cancel := n.ctx()
	defer cancel()
	names, err := n.Runtime.ImportImage(ctx, bytes.NewReader(archive))
	if err != nil {
		n.t.Fatal(err)
	}
	return names
}

func (n *Node) ctx() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), Deadline)
}

// Pod is a sandbox and its configuration.
type Pod struct {
	ID     string
	Config *runtimeapi.PodSandboxConfig
	n      *Node
}

// RunPod starts a sandbox; adjust changes its configuration first.
func (n *Node) RunPod(adjust ...func(*runtimeapi.PodSandboxConfig)) *Pod {
	n.t.Helper()
	p := n.Prepare(adjust...)
	p.Start()
	return p
}

// Prepare gives a pod that is not started yet.
func (n *Node) Prepare(adjust ...func(*runtimeapi.PodSandboxConfig)) *Pod {
	n.t.Helper()
	n.next++
	name := fmt.Sprintf("pod%d", n.next)
	c := &runtimeapi.PodSandboxConfig{
		Metadata:     &runtimeapi.PodSandboxMetadata{Name: name, Namespace: "default", Uid: fmt.Sprintf("%s-%d", name, os.Getpid())},
		Hostname:     name,
		LogDirectory: filepath.Join(filepath.Dir(n.Config.DataDir), "logs", name),
		Linux: &runtimeapi.LinuxPodSandboxConfig{
			CgroupParent:    cgroupOf(filepath.Dir(n.Config.DataDir)),
			SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{NamespaceOptions: &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_CONTAINER}},
		},
	}
	for _, f := range adjust {
		f(c)
	}
	if err := os.MkdirAll(c.LogDirectory, 0o755); err != nil {
		n.t.Fatal(err)
	}
	return &Pod{Config: c, n: n}
}

// Start runs the pod's sandbox.
func (p *Pod) Start() {
	p.n.t.Helper()
	ctx, cancel := p.n.ctx()
	defer cancel()
	resp, err := p.n.RPC.RunPodSandbox(ctx, &runtimeapi.RunPodSandboxRequest{Config: p.Config})
	if err != nil {
		p.n.t.Errorf("RunPodSandbox: %v", err)
		return
	}
	p.ID = resp.PodSandboxId
}

// HostNetwork puts a pod into the network of the machine.
func HostNetwork(c *runtimeapi.PodSandboxConfig) {
	c.Linux.SecurityContext.NamespaceOptions.Network = runtimeapi.NamespaceMode_NODE
	c.Hostname = ""
}

// IP is the pod's address.
func (p *Pod) IP() string {
	p.n.t.Helper()
	ctx, cancel := p.n.ctx()
	defer cancel()
	resp, err := p.n.RPC.PodSandboxStatus(ctx, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: p.ID})
	if err != nil {
		p.n.t.Fatalf("PodSandboxStatus: %v", err)
	}
	return resp.GetStatus().GetNetwork().GetIp()
}

// Run starts a container with a shell command in the pod, from Busybox.
func (p *Pod) Run(name, script string, adjust ...func(*runtimeapi.ContainerConfig)) string {
	p.n.t.Helper()
	c := &runtimeapi.ContainerConfig{
		Metadata: &runtimeapi.ContainerMetadata{Name: name},
		Image:    &runtimeapi.ImageSpec{Image: Busybox},
		Command:  []string{"/bin/sh", "-c", script},
		LogPath:  name + ".log",
		Linux:    &runtimeapi.LinuxContainerConfig{Resources: &runtimeapi.LinuxContainerResources{}, SecurityContext: &runtimeapi.LinuxContainerSecurityContext{}},
	}
	for _, f := range adjust {
		f(c)
	}
	ctx, cancel := p.n.ctx()
	defer cancel()
	made, err := p.n.RPC.CreateContainer(ctx, &runtimeapi.CreateContainerRequest{PodSandboxId: p.ID, Config: c, SandboxConfig: p.Config})
	if err != nil {
		p.n.t.Fatalf("CreateContainer: %v", err)
	}
	if _, err := p.n.RPC.StartContainer(ctx, &runtimeapi.StartContainerRequest{ContainerId: made.ContainerId}); err != nil {
		p.n.t.Fatalf("StartContainer: %v", err)
	}
	return made.ContainerId
}

// Log is what a container has written so far, without CRI's prefixes.
func (p *Pod) Log(name string) string {
	p.n.t.Helper()
	data, err := os.ReadFile(filepath.Join(p.Config.LogDirectory, name+".log"))
	if err != nil {
		p.n.t.Fatal(err)
	}
	var b strings.Builder
	for line := range strings.Lines(string(data)) {
		if parts := strings.SplitN(line, " ", 4); len(parts) == 4 {
			b.WriteString(parts[3])
		}
	}
	return b.String()
}

// Exec runs a command in a container.
func (n *Node) Exec(container string, command ...string) (stdout string, code int32) {
	n.t.Helper()
	ctx, cancel := n.ctx()
	defer cancel()
	resp, err := n.RPC.ExecSync(ctx, &runtimeapi.ExecSyncRequest{ContainerId: container, Cmd: command, Timeout: 30})
	if err != nil {
		n.t.Fatalf("ExecSync %q: %v", command, err)
	}
	return string(resp.Stdout) + string(resp.Stderr), resp.ExitCode
}

// State is that of a container.
func (n *Node) State(container string) runtimeapi.ContainerState {
	n.t.Helper()
	return n.Status(container).GetState()
}

// Status is that of a container.
func (n *Node) Status(container string) *runtimeapi.ContainerStatus {
	n.t.Helper()
	ctx, cancel := n.ctx()
	defer cancel()
	resp, err := n.RPC.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: container})
	if err != nil {
		n.t.Fatalf("ContainerStatus: %v", err)
	}
	return resp.GetStatus()
}

// Remove stops and removes the pod.
func (p *Pod) Remove() {
	p.n.t.Helper()
	ctx, cancel := p.n.ctx()
	defer cancel()
	if _, err := p.n.RPC.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: p.ID}); err != nil {
		p.n.t.Errorf("StopPodSandbox: %v", err)
	}
	if _, err := p.n.RPC.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: p.ID}); err != nil {
		p.n.t.Errorf("RemovePodSandbox: %v", err)
	}
}

// RemovePods removes every pod.
func (n *Node) RemovePods() {
	n.t.Helper()
	ctx, cancel := n.ctx()
	defer cancel()
	list, err := n.RPC.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{})
	if err != nil {
		n.t.Errorf("ListPodSandbox: %v", err)
		return
	}
	for _, item := range list.Items {
		(&Pod{ID: item.Id, n: n}).Remove()
	}
}

// Eventually waits until the condition holds.
func Eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	deadline := time.After(Deadline)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("waited in vain: %s", what)
		}
	}
}
