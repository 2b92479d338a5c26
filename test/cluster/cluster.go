// Package cluster starts a real Proa for tests: the binary that `make build`
// made, in a data directory of its own.
package cluster

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/proa-dev/proa/test/isolate"
)

// Cluster is one server under test.
type Cluster struct {
	// Dir is its data directory.
	Dir string
	// Port is where the API listens.
	Port int

	bin string
	process
	agents  []*Agent
	segment *isolate.Segment // from the first agent on
}

// New makes the data directory. bin holds proa and kubectl.
func New(bin string) (*Cluster, error) {
	abs, err := filepath.Abs(bin)
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(filepath.Join(abs, "proa")); err != nil {
		return nil, fmt.Errorf("%w: run `make build` first", err)
	}
	dir, err := os.MkdirTemp("/var/lib", "proa-test-")
	return &Cluster{Dir: dir, Port: 6443, bin: abs, process: process{log: filepath.Join(dir, "proa.log")}}, err
}

// roomy keeps a machine's nearly full disk from evicting the tests' pods.
const roomy = "--eviction-hard=memory.available<100Mi,nodefs.available<1%,imagefs.available<1%"

// withRoom adds roomy to a node's flags that do not say it themselves.
func withRoom(flags []string) []string {
	if slices.ContainsFunc(flags, func(f string) bool { return strings.HasPrefix(f, "--eviction-hard") }) {
		return flags
	}
	return append([]string{roomy}, flags...)
}

// Start runs `proa server` and returns once the API is ready.
func (c *Cluster) Start(ctx context.Context, flags ...string) error {
	args := append([]string{"server", "--data-dir", c.Dir, "--write-kubeconfig", c.Kubeconfig(), "--https-listen-port", fmt.Sprint(c.Port)}, withRoom(flags)...)
	if err := c.start(nil, filepath.Join(c.bin, "proa"), args...); err != nil {
		return err
	}
	probe := &http.Client{Timeout: time.Second, Transport: &http.Transport{
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true,
	}}
	return c.Until(ctx, 30*time.Second, func() bool {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("https://127.0.0.1:%d/readyz", c.Port), nil)
		if err != nil {
			return false
		}
		resp, err := probe.Do(req)
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		_, err = io.Copy(io.Discard, resp.Body)
		return err == nil && resp.StatusCode == http.StatusOK
	})
}

// Kubeconfig is the administrator's.
func (c *Cluster) Kubeconfig() string { return filepath.Join(c.Dir, "kubeconfig") }

// REST is a configuration without a rate limit of its own.
func (c *Cluster) REST() (*rest.Config, error) {
	cfg, err := clientcmd.BuildConfigFromFlags("", c.Kubeconfig())
	if err != nil {
		return nil, err
	}
	cfg.QPS = -1
	return cfg, nil
}

// Client is an administrator's client-go client, which speaks protobuf.
func (c *Cluster) Client() (*kubernetes.Clientset, error) {
	cfg, err := c.REST()
	if err != nil {
		return nil, err
	}
	cfg.ContentType = "application/vnd.kubernetes.protobuf"
	return kubernetes.NewForConfig(cfg)
}

// Kubectl runs kubectl as the administrator and returns what it printed; the
// error holds its complaint.
func (c *Cluster) Kubectl(ctx context.Context, stdin io.Reader, args ...string) (string, error) {
	return c.run(ctx, stdin, "kubectl", append([]string{"--kubeconfig", c.Kubeconfig()}, args...)...)
}

// KubectlCommand is a kubectl to start: one that follows, or wants a terminal.
func (c *Cluster) KubectlCommand(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, filepath.Join(c.bin, "kubectl"), append([]string{"--kubeconfig", c.Kubeconfig()}, args...)...)
	cmd.Env = append(os.Environ(), "HOME="+c.Dir)
	return cmd
}

// Proa runs a verb of the binary against this data directory.
func (c *Cluster) Proa(ctx context.Context, stdin io.Reader, args ...string) (string, error) {
	return c.run(ctx, stdin, "proa", append(args, "--data-dir", c.Dir)...)
}

// Token runs a verb of `proa token` as the administrator.
func (c *Cluster) Token(ctx context.Context, args ...string) (string, error) {
	return c.run(ctx, nil, "proa", append([]string{"token", "--kubeconfig", c.Kubeconfig()}, args...)...)
}

// Program is the path of one of the binaries.
func (c *Cluster) Program(name string) string { return filepath.Join(c.bin, name) }

func (c *Cluster) run(ctx context.Context, stdin io.Reader, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, filepath.Join(c.bin, name), args...)
	cmd.Env = append(os.Environ(), "HOME="+c.Dir)
	cmd.Stdin = stdin
	var out, complaint bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaint
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(complaint.String()))
	}
	return out.String(), nil
}

// Remove stops everything and removes it from the machine.
func (c *Cluster) Remove(ctx context.Context) error {
	var errs []error
	for _, a := range c.agents {
		errs = append(errs, a.Remove(ctx))
	}
	errs = append(errs, c.Stop())
	_, reset := c.Proa(ctx, nil, "reset", "--yes")
	errs = append(errs, reset, os.RemoveAll(c.Dir))
	if c.segment != nil {
		errs = append(errs, c.segment.Close())
		c.segment = nil
	}
	return errors.Join(errs...)
}
