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
	"strings"
	"syscall"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// Cluster is one server under test.
type Cluster struct {
	// Dir is its data directory.
	Dir string
	// Port is where the API listens.
	Port int

	bin   string
	cmd   *exec.Cmd
	ended chan error
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
	return &Cluster{Dir: dir, Port: 6443, bin: abs}, err
}

// Start runs `proa server` and returns once the API is ready.
func (c *Cluster) Start(ctx context.Context, flags ...string) error {
	log, err := os.OpenFile(c.logFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	args := append([]string{"server", "--data-dir", c.Dir, "--write-kubeconfig", c.Kubeconfig(), "--https-listen-port", fmt.Sprint(c.Port)}, flags...)
	c.cmd = exec.Command(filepath.Join(c.bin, "proa"), args...) //nolint:noctx // it outlives Start; Stop ends it
	c.cmd.Stdout, c.cmd.Stderr = log, log
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if err := c.cmd.Start(); err != nil {
		return err
	}
	ended := make(chan error, 1)
	cmd := c.cmd
	go func() { ended <- cmd.Wait() }()
	c.ended = ended
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

// Until waits for a condition. It fails early when the server ends.
func (c *Cluster) Until(ctx context.Context, limit time.Duration, ok func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case err := <-c.ended:
			c.ended <- err
			return fmt.Errorf("proa ended: %w\n%s", err, c.LastWords())
		case <-ctx.Done():
			return fmt.Errorf("not in %s\n%s", limit, c.LastWords())
		case <-tick.C:
		}
	}
	return nil
}

// Wait returns once the server ends, with its last words, or with the context.
func (c *Cluster) Wait(ctx context.Context) error {
	select {
	case err := <-c.ended:
		c.ended <- err
		return fmt.Errorf("proa ended: %w\n%s", err, c.LastWords())
	case <-ctx.Done():
		return nil
	}
}

func (c *Cluster) logFile() string { return filepath.Join(c.Dir, "proa.log") }

// LastWords is the end of the server's log.
func (c *Cluster) LastWords() string {
	b, err := os.ReadFile(c.logFile())
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	return strings.Join(lines[max(0, len(lines)-15):], "\n")
}

// Kubeconfig is the administrator's.
func (c *Cluster) Kubeconfig() string { return filepath.Join(c.Dir, "kubeconfig") }

// PID is the server's process.
func (c *Cluster) PID() int { return c.cmd.Process.Pid }

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

// Memory is the resident memory of the server, and its private part, in bytes.
func (c *Cluster) Memory() (rss, private int64, err error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", c.PID()))
	if err != nil {
		return 0, 0, err
	}
	for line := range strings.Lines(string(b)) {
		var name string
		var kb int64
		if n, _ := fmt.Sscanf(line, "%s %d kB", &name, &kb); n != 2 {
			continue
		}
		switch name {
		case "Rss:":
			rss = kb << 10
		case "Private_Clean:", "Private_Dirty:":
			private += kb << 10
		}
	}
	return rss, private, nil
}

// Stop ends the server as an operator would; containers stay.
func (c *Cluster) Stop() error { return c.end(syscall.SIGTERM) }

// Kill ends the server as a crash would.
func (c *Cluster) Kill() error { return c.end(syscall.SIGKILL) }

func (c *Cluster) end(sig syscall.Signal) error {
	if c.cmd == nil {
		return nil
	}
	if err := c.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	var err error
	select {
	case err = <-c.ended:
	case <-time.After(30 * time.Second):
		_ = c.cmd.Process.Kill()
		err = errors.Join(fmt.Errorf("proa did not end on %s in 30 s\n%s", sig, c.LastWords()), <-c.ended)
	}
	c.cmd = nil
	if err == nil || sig == syscall.SIGKILL {
		return nil
	}
	return fmt.Errorf("proa did not end cleanly: %w\n%s", err, c.LastWords())
}

// Remove stops everything and removes it from the machine.
func (c *Cluster) Remove(ctx context.Context) error {
	err := c.Stop()
	_, reset := c.Proa(ctx, nil, "reset", "--yes")
	return errors.Join(err, reset, os.RemoveAll(c.Dir))
}
