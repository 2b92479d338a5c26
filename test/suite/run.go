package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/proa-dev/proa/test/cluster"
	"github.com/proa-dev/proa/test/isolate"
	"github.com/proa-dev/proa/test/suite/registry"
)

// mirror is where the registry of the tests' images listens.
const mirror = isolate.Address + ":5000"

// run starts a cluster, runs the chosen tests and tells what they came to.
func (o *options) run(ctx context.Context, tests []string) error {
	if err := os.MkdirAll(filepath.Join(o.state, "logs"), 0o755); err != nil {
		return err
	}
	if err := claim(o.state); err != nil {
		return err
	}
	known, err := openResults(filepath.Join(o.state, "results.json"))
	if err != nil {
		return err
	}
	chosen, err := choose(tests, known.all(), o.focus, o.skip, o.rerun)
	if err != nil {
		return err
	}
	commit, err := exec.CommandContext(ctx, "git", "rev-parse", "--short", "HEAD").Output()
	if err != nil {
		return fmt.Errorf("git: %w", err)
	}
	rec := &recorder{results: known, commit: strings.TrimSpace(string(commit)), chosen: map[string]bool{}, out: os.Stdout}
	for _, name := range chosen {
		rec.chosen[name] = true
	}
	before := time.Now()
	if err := o.session(ctx, chosen, rec); err != nil {
		return err
	}
	if err := o.report(tests, known); err != nil {
		return err
	}
	return summary(chosen, known.all(), time.Since(before))
}

// session is a cluster's life.
func (o *options) session(ctx context.Context, chosen []string, rec *recorder) (err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	archives, err := os.ReadFile(filepath.Join(o.state, imagesFile))
	if err != nil {
		return fmt.Errorf("%w: run `suite images` first", err)
	}
	images, err := registry.Open(string(archives))
	if err != nil {
		return err
	}
	stop, err := serve(ctx, mirror, images)
	if err != nil {
		return err
	}
	defer stop()
	c, err := cluster.New(o.bin)
	if err != nil {
		return err
	}
	nodes := map[string]string{isolate.Host: c.Dir}
	defer func() {
		err = errors.Join(err, o.keepLogs(nodes), c.Remove(context.WithoutCancel(ctx)))
	}()
	if err := useMirror(c.Dir); err != nil {
		return err
	}
	if err := c.Start(ctx); err != nil {
		return err
	}
	for i := 2; i <= o.nodes; i++ {
		a, err := c.Agent(ctx, fmt.Sprintf("node-%d", i))
		if err != nil {
			return err
		}
		nodes[a.Name] = a.Dir
		if err := useMirror(a.Dir); err != nil {
			return err
		}
	}
	go func() {
		if err := c.Wait(ctx); err != nil {
			cancel(err)
		}
	}()
	err = o.ginkgo(ctx, c, chosen, rec)
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}

// useMirror tells a node's containerd, which looks at each pull, to pull
// everything from the registry of the tests.
func useMirror(dataDir string) error {
	dir := filepath.Join(dataDir, "registries", "_default")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	text := fmt.Sprintf("server = \"http://%[1]s\"\n[host.\"http://%[1]s\"]\ncapabilities = [\"pull\", \"resolve\"]\n", mirror)
	return os.WriteFile(filepath.Join(dir, "hosts.toml"), []byte(text), 0o644)
}

// keepLogs copies what Proa logged on each node.
func (o *options) keepLogs(nodes map[string]string) error {
	var errs []error
	for name, dir := range nodes {
		data, err := os.ReadFile(filepath.Join(dir, "proa.log"))
		if err == nil {
			err = os.WriteFile(filepath.Join(o.state, "logs", name+".log"), data, 0o644)
		}
		if !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// ginkgo runs the suite's processes. Serial tests come last, by themselves:
// upstream marks them for ginkgo.
func (o *options) ginkgo(ctx context.Context, c *cluster.Cluster, chosen []string, rec *recorder) error {
	logs, err := filepath.Abs(filepath.Join(o.state, "logs"))
	if err != nil {
		return err
	}
	kubectl, err := filepath.Abs(filepath.Join(o.bin, "kubectl"))
	if err != nil {
		return err
	}
	log, err := os.Create(filepath.Join(logs, "suite.log"))
	if err != nil {
		return err
	}
	defer log.Close()
	report := filepath.Join(logs, "report.json")
	if err := os.Remove(report); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	cmd := exec.CommandContext(ctx, filepath.Join(o.programs, "ginkgo"),
		fmt.Sprintf("--procs=%d", o.procs), "--no-color", "-v", "--timeout=24h", "--output-interceptor-mode=none",
		"--focus="+pattern(chosen), "--json-report=report.json", "--output-dir="+logs,
		filepath.Join(o.programs, "e2e.test"), "--",
		"--provider=skeleton", "--kubeconfig="+c.Kubeconfig(), "--kubectl-path="+kubectl,
		"--kubelet-root-dir="+filepath.Join(c.Dir, "kubelet"), "--disable-log-dump", "--e2e-output-dir="+logs)
	cmd.Env = append(os.Environ(), "HOME="+c.Dir, "KUBECONFIG="+c.Kubeconfig(), "PATH="+filepath.Dir(kubectl)+":"+os.Getenv("PATH"))
	cmd.Stdout, cmd.Stderr = io.MultiWriter(log, rec), log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGINT) }
	cmd.WaitDelay = time.Minute
	ended := cmd.Run()
	if cmd.Process != nil {
		// Processes of the suite that outlived their parent.
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	}
	if err := rec.readReport(report); err != nil {
		return errors.Join(err, ended, fmt.Errorf("see %s", log.Name()))
	}
	return nil
}

// serve runs a handler until stop is called.
func serve(ctx context.Context, address string, h http.Handler) (stop func(), err error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	server := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(l)
	}()
	return func() {
		server.Close()
		<-done
	}, nil
}

// summary prints the table of these tests; its error says that some failed.
func summary(tests []string, known map[string]result, took time.Duration) error {
	fmt.Printf("\n%s\n", tableText(tests, known))
	bad := 0
	for _, name := range tests {
		if r, ok := known[name]; !ok || r.State != passed {
			fmt.Printf("%s: %s\n", map[bool]string{true: r.State, false: "not run"}[ok], name)
			bad++
		}
	}
	fmt.Printf("%d tests in %s\n", len(tests), took.Round(time.Second))
	if bad > 0 {
		return fmt.Errorf("%d of %d tests did not pass", bad, len(tests))
	}
	return nil
}
