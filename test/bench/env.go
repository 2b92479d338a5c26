package main

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

// env is one Proa under measurement, in a data directory of its own.
type env struct {
	binary string
	dir    string
	port   int
	cmd    *exec.Cmd
	ended  chan error
	log    *os.File
}

func newEnv(binary string) (*env, error) {
	abs, err := filepath.Abs(binary)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("/var/lib", "proa-bench")
	return &env{binary: abs, dir: dir, port: 16443}, err
}

// start runs `proa server` and returns once it listens and is ready.
func (e *env) start(ctx context.Context, flags ...string) error {
	log, err := os.OpenFile(filepath.Join(e.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	e.log = log
	args := append([]string{"server", "--data-dir", e.dir, "--write-kubeconfig", e.kubeconfig(), "--https-listen-port", fmt.Sprint(e.port)}, flags...)
	e.cmd = exec.Command(e.binary, args...)
	e.cmd.Stdout, e.cmd.Stderr = log, log
	e.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if err := e.cmd.Start(); err != nil {
		return err
	}
	e.ended = make(chan error, 1)
	go func() { e.ended <- e.cmd.Wait() }()
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	return e.until(ctx, 30*time.Second, func() bool {
		resp, err := client.Get(fmt.Sprintf("https://127.0.0.1:%d/readyz", e.port))
		if err != nil {
			return false
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
}

// until waits for a condition, or for the server's unwanted end.
func (e *env) until(ctx context.Context, limit time.Duration, ok func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case err := <-e.ended:
			e.ended <- err
			return fmt.Errorf("proa ended: %w\n%s", err, e.lastWords())
		case <-ctx.Done():
			return fmt.Errorf("not in %s: %w\n%s", limit, ctx.Err(), e.lastWords())
		case <-tick.C:
		}
	}
	return nil
}

func (e *env) lastWords() string {
	b, _ := os.ReadFile(e.log.Name())
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	return strings.Join(lines[max(0, len(lines)-10):], "\n")
}

func (e *env) kubeconfig() string { return filepath.Join(e.dir, "kubeconfig") }

func (e *env) rest() (*rest.Config, error) {
	cfg, err := clientcmd.BuildConfigFromFlags("", e.kubeconfig())
	if err != nil {
		return nil, err
	}
	cfg.QPS, cfg.Burst = -1, 0
	cfg.ContentType = "application/vnd.kubernetes.protobuf"
	return cfg, nil
}

func (e *env) clientset() (*kubernetes.Clientset, error) {
	cfg, err := e.rest()
	if err != nil {
		return nil, err
	}
	return kubernetes.NewForConfig(cfg)
}

// proa runs a verb of the binary.
func (e *env) proa(stdin io.Reader, args ...string) error {
	cmd := exec.Command(e.binary, args...)
	cmd.Stdin = stdin
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("proa %s: %w: %s", args[0], err, out.String())
	}
	return nil
}

// memory is the resident memory of the server, and its private part, in bytes.
func (e *env) memory() (rss, private int64, err error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", e.cmd.Process.Pid))
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

func (e *env) stop() error {
	if e.cmd == nil {
		return nil
	}
	if err := e.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-e.ended:
	case <-time.After(30 * time.Second):
		_ = e.cmd.Process.Kill()
		<-e.ended
	}
	e.cmd = nil
	return e.log.Close()
}

// close stops the server and removes everything of it.
func (e *env) close() {
	if err := e.stop(); err != nil {
		fmt.Fprintln(os.Stderr, "bench: stop:", err)
	}
	if err := e.proa(nil, "reset", "--data-dir", e.dir, "--yes"); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
	}
	if err := os.RemoveAll(e.dir); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
	}
}
