// Command suite runs upstream's end-to-end suite, the conformance tests of it,
// against a Proa that it starts, and keeps what every test came to. The suite's
// programs are those of the module test/conformance.
//
//	suite images   makes the images that the tests want
//	suite run      runs tests
//	suite report   writes docs/conformance.md from what is known
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/proa-dev/proa/test/isolate"
	"github.com/proa-dev/proa/test/suite/images"
)

// options are the flags.
type options struct {
	programs, upstream, cache string
	bin, state, docs, reasons string
	focus, skip, rerun        string
	procs, nodes              int
}

func main() {
	var o options
	f := flag.NewFlagSet("suite", flag.ExitOnError)
	f.StringVar(&o.programs, "programs", "/var/cache/proa-conformance/bin", "folder of upstream's programs")
	f.StringVar(&o.upstream, "upstream", "", "source tree of k8s.io/kubernetes")
	f.StringVar(&o.cache, "cache", "/var/cache/proa-conformance", "folder of what is made once a machine")
	f.StringVar(&o.bin, "bin", "bin", "folder of proa and kubectl")
	f.StringVar(&o.state, "state", "bin/conformance", "folder of results and logs")
	f.StringVar(&o.docs, "docs", "docs/conformance.md", "the table to write")
	f.StringVar(&o.reasons, "reasons", "test/conformance/reasons.yaml", "why tests fail")
	f.StringVar(&o.focus, "focus", "", "regexp of the tests to run")
	f.StringVar(&o.skip, "skip", "", "regexp of tests to leave out")
	f.StringVar(&o.rerun, "rerun", "", `"failed" or "all": run tests again`)
	f.IntVar(&o.procs, "procs", 4, "tests at a time")
	f.IntVar(&o.nodes, "nodes", 2, "nodes of the cluster")
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: suite images|run|report [flags]")
		os.Exit(2)
	}
	verb := os.Args[1]
	_ = f.Parse(os.Args[2:]) // it exits on an error
	if verb == "run" {
		isolate.Enter()
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := o.do(ctx, verb)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "conformance:", err)
		os.Exit(1)
	}
}

func (o *options) do(ctx context.Context, verb string) error {
	tests, err := readTests(filepath.Join(o.upstream, "test/conformance/testdata/conformance.yaml"))
	if err != nil {
		return err
	}
	switch verb {
	case "images":
		return o.images(ctx)
	case "run":
		return o.run(ctx, tests)
	case "report":
		known, err := openResults(filepath.Join(o.state, "results.json"))
		if err != nil {
			return err
		}
		return o.report(tests, known)
	}
	return fmt.Errorf("no verb %q", verb)
}

// imagesFile names the folder of the images.
const imagesFile = "images"

// images builds them and names those of upstream's list that it does not know.
func (o *options) images(ctx context.Context) error {
	pause, err := filepath.Abs("container/runtimebin/bin/pause")
	if err != nil {
		return err
	}
	dir, built, err := images.Build(ctx, images.Config{Cache: o.cache, Programs: o.programs, Upstream: o.upstream, Pause: pause})
	if err != nil {
		return fmt.Errorf("images: %w", err)
	}
	wanted, err := listImages(ctx, filepath.Join(o.programs, "e2e.test"))
	if err != nil {
		return err
	}
	return errors.Join(os.MkdirAll(o.state, 0o755), os.WriteFile(filepath.Join(o.state, imagesFile), []byte(dir), 0o644), writeMissing(filepath.Join(o.state, "images-not-built"), wanted, built))
}
