// Command shim is containerd's shim for runc, as build.sh builds it. One runs
// beside the containers of each pod, so that they outlive Proa.
//
// It differs from containerd's own in when it collects garbage. That one keeps
// its heap small from the first moment, and spends a quarter of a pod's start
// on collecting what it has just begun to use. And it ends in silence.
package main

import (
	"context"
	"errors"
	"runtime/debug"
	"time"

	bootapi "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	"github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2/manager"
	_ "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2/task/plugin"
	"github.com/containerd/containerd/v2/pkg/shim"
	"github.com/containerd/containerd/v2/pkg/shutdown"
	"github.com/containerd/containerd/v2/plugins"
	"github.com/containerd/plugin"
	"github.com/containerd/plugin/registry"
	"github.com/sirupsen/logrus"
)

const (
	// startTime is how long a pod's start takes at most, as a rule. What the
	// heap grew by in it goes back to the kernel within containerd's 30 s.
	startTime = 10 * time.Second
	// startPercent lets the heap grow to 16 MB before it is collected.
	startPercent = 400
)

func main() {
	// shim.RunShim sets the collector up first and loads plugins then.
	registry.Register(&plugin.Registration{
		Type: plugins.InternalPlugin,
		ID:   "collect-later",
		InitFn: func(*plugin.InitContext) (any, error) {
			usual := debug.SetGCPercent(startPercent)
			time.AfterFunc(startTime, func() { debug.SetGCPercent(usual) })
			// Its log is set up by now.
			std := logrus.StandardLogger()
			std.SetFormatter(quiet{std.Formatter})
			return struct{}{}, nil
		},
	})
	shim.RunShim(context.Background(), launcher{manager.NewShimManager("io.containerd.runc.v2")})
}

// quiet leaves out what the watch for lack of memory says at the end of every
// shim, on machines with control groups of version 1: that it ends.
type quiet struct{ logrus.Formatter }

// Format implements logrus.Formatter.
func (q quiet) Format(e *logrus.Entry) ([]byte, error) {
	if err, ok := e.Data[logrus.ErrorKey].(error); ok && e.Message == "cgroups: epoll wait" && errors.Is(err, shutdown.ErrShutdown) {
		return nil, nil
	}
	return q.Formatter.Format(e)
}

// launcher is the process that starts a shim and ends.
type launcher struct{ shim.Shim }

// Start implements shim.Shim. There is no time to collect anything.
func (l launcher) Start(ctx context.Context, p *bootapi.BootstrapParams) (*bootapi.BootstrapResult, error) {
	debug.SetGCPercent(-1)
	return l.Shim.Start(ctx, p)
}
