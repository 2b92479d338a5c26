// Package nodes drives a cluster of two nodes, each a machine of its own on one
// segment: what crosses from one to the other, and what happens when one goes.
package nodes

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/proa-dev/proa/internal/ociimage"
	"github.com/proa-dev/proa/test/cluster"
	"github.com/proa-dev/proa/test/isolate"
)

const (
	busybox = "proa.dev/nodes/busybox:1"
	first   = isolate.Host
	second  = "node-2"
)

// The cluster of all parts of the test.
var (
	shared *cluster.Cluster
	agent  *cluster.Agent
)

func TestMain(m *testing.M) {
	flag.Parse()
	isolate.Enter()
	os.Exit(run(m))
}

func run(m *testing.M) int {
	ctx := context.Background()
	var err error
	if shared, err = cluster.New("../../bin"); err != nil {
		fmt.Fprintln(os.Stderr, "nodes:", err)
		return 2
	}
	code := 2
	if err = prepare(ctx); err == nil {
		code = m.Run()
	}
	if code != 0 {
		fmt.Fprintln(os.Stderr, "the server's last words:\n"+shared.LastWords())
		if agent != nil {
			fmt.Fprintln(os.Stderr, "the agent's:\n"+agent.LastWords())
		}
	}
	if cleanup := shared.Remove(ctx); err == nil {
		err = cleanup
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "nodes:", err)
		return 2
	}
	return code
}

func prepare(ctx context.Context) error {
	if err := shared.Start(ctx); err != nil {
		return err
	}
	var err error
	if agent, err = shared.Agent(ctx, second, "--node-label", "test=second"); err != nil {
		return err
	}
	path, err := exec.LookPath("busybox")
	if err != nil {
		return err
	}
	files, err := ociimage.Busybox(ctx, path)
	if err != nil {
		return err
	}
	var archive bytes.Buffer
	if err := ociimage.Build(&archive, ociimage.Spec{
		Names: []string{busybox}, Layers: [][]ociimage.File{files}, Cmd: []string{"sh"}, Env: []string{"PATH=/bin"},
	}); err != nil {
		return err
	}
	if _, err := shared.Proa(ctx, bytes.NewReader(archive.Bytes()), "image", "import", "-"); err != nil {
		return err
	}
	_, err = agent.Proa(ctx, &archive, "image", "import", "-")
	return err
}

// TestTwoNodes is the life of a second node, in order.
func TestTwoNodes(t *testing.T) {
	for _, part := range []struct {
		name string
		run  func(*testing.T)
	}{
		{"traffic", traffic},
		{"volumes", volumes},
		{"node API", nodeAPI},
		{"tokens", tokens},
		{"agent restarts", agentRestarts},
		{"server restarts", serverRestarts},
		{"direct routes", directRoutes},
		{"node lost", nodeLost},
		{"node removed", nodeRemoved},
	} {
		if !t.Run(part.name, part.run) {
			return // what follows needs it
		}
	}
}

// kubectl runs kubectl; its failure is the test's.
func kubectl(t *testing.T, args ...string) string {
	t.Helper()
	out, err := shared.Kubectl(t.Context(), nil, args...)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(out)
}

func apply(t *testing.T, manifest string) {
	t.Helper()
	if _, err := shared.Kubectl(t.Context(), strings.NewReader(manifest), "apply", "-f", "-"); err != nil {
		t.Fatal(err)
	}
}

// until waits for a condition.
func until(t *testing.T, what string, limit time.Duration, ok func() (string, bool)) {
	t.Helper()
	var last string
	var ready time.Time
	err := shared.Until(t.Context(), limit, func() bool {
		if time.Now().Before(ready) { // each look runs programs
			return false
		}
		ready = time.Now().Add(100 * time.Millisecond)
		var done bool
		last, done = ok()
		return done
	})
	if err != nil {
		t.Fatalf("%s: %v; at last: %s", what, err, last)
	}
}

// shell runs a command in a pod.
func shell(t *testing.T, pod, script string) (string, error) {
	t.Helper()
	out, err := shared.Kubectl(t.Context(), nil, "exec", pod, "--", "sh", "-c", script)
	return strings.TrimSpace(out), err
}

// eventually runs a command in a pod until its output is as it ought to be.
func eventually(t *testing.T, pod, script string, ok func(out string) bool) {
	t.Helper()
	until(t, pod+" runs "+script, time.Minute, func() (string, bool) {
		out, err := shell(t, pod, script)
		return fmt.Sprintf("%q, %v", out, err), err == nil && ok(out)
	})
}

func is(want string) func(string) bool { return func(out string) bool { return out == want } }

func node(t *testing.T, name string) *corev1.Node {
	t.Helper()
	c, err := shared.Client()
	if err != nil {
		t.Fatal(err)
	}
	n, err := c.CoreV1().Nodes().Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func ready(n *corev1.Node) corev1.ConditionStatus {
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.Status
		}
	}
	return ""
}
