// Command bench measures Proa, each figure beside a yardstick of the same run
// on the same machine: a bare Go HTTP/2 server, a raw in-process etcd
// transaction, a bare `runc run`. An absolute time means nothing.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"regexp"
	"text/tabwriter"

	"github.com/proa-dev/proa/test/cluster"
	"github.com/proa-dev/proa/test/isolate"
)

// figure is one line of the table.
type figure struct {
	work      string
	value     string
	yardstick string
	ratio     string // value to yardstick
	limit     string // what is asked for
	good      bool
}

// bench is one group of figures; it stands alone and cleans up after itself.
type bench struct {
	name string
	run  func(ctx context.Context, e *cluster.Cluster) ([]figure, error)
}

var benches = []bench{
	{"start", benchStart},
	{"pods", benchPods},
	{"api", benchAPI},
	{"watch", benchWatch},
	{"schedule-deployment", benchScheduling(workloads[0])},
	{"schedule-plain", benchScheduling(workloads[1])},
	{"schedule-spread", benchScheduling(workloads[2])},
	{"schedule-apart", benchScheduling(workloads[3])},
	{"schedule-preempt", benchPreemption},
}

func main() {
	if len(os.Args) == 3 {
		if serve, ok := yardsticks[os.Args[1]]; ok {
			if err := serve(os.Args[2]); err != nil {
				fmt.Fprintln(os.Stderr, "bench:", err)
				os.Exit(1)
			}
			return
		}
	}
	isolate.Enter()
	only := flag.String("run", "", "run the groups whose names match this `regexp`: start, pods, api, watch, schedule")
	bin := flag.String("bin", "bin", "the `folder` of the binaries to measure")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	ok, err := run(ctx, *bin, *only)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(2)
	}
	if !ok {
		os.Exit(1)
	}
}

func run(ctx context.Context, bin, only string) (bool, error) {
	match, err := regexp.Compile(only)
	if err != nil {
		return false, err
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "WORK\tMEASURED\tYARDSTICK\tRATIO\tASKED FOR\t")
	all := true
	for _, b := range benches {
		if !match.MatchString(b.name) {
			continue
		}
		e, err := cluster.New(bin)
		if err != nil {
			return false, err
		}
		figures, err := b.run(ctx, e)
		if err = errors.Join(err, e.Remove(context.WithoutCancel(ctx))); err != nil {
			return false, fmt.Errorf("%s: %w", b.name, err)
		}
		for _, f := range figures {
			verdict := ""
			if !f.good {
				verdict, all = "missed", false
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", f.work, f.value, f.yardstick, f.ratio, f.limit, verdict)
		}
		if err := w.Flush(); err != nil {
			return false, err
		}
	}
	return all, nil
}
