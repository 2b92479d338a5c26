package container

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"strings"
	"syscall"

	"github.com/containerd/fifo"
	"github.com/containerd/ttrpc"
	"github.com/sirupsen/logrus"
	bbolt "go.etcd.io/bbolt/errors"
	"google.golang.org/grpc/status"
)

// bridge carries containerd's log, which goes to logrus's one standard logger,
// into ours, and turns its fatal errors into errors: a library must not end the
// process.
type bridge struct {
	ctx context.Context // of the Runtime: a hook is not handed the caller's
	log *slog.Logger
}

// bridgeLogs installs the bridge. fatal is called on errors after which
// containerd cannot go on.
func bridgeLogs(ctx context.Context, log *slog.Logger, fatal func()) {
	std := logrus.StandardLogger()
	std.SetOutput(io.Discard)
	std.SetLevel(logrus.WarnLevel)
	std.ExitFunc = func(int) { fatal() }
	std.ReplaceHooks(logrus.LevelHooks{})
	std.AddHook(bridge{ctx, log})
}

// Levels implements logrus.Hook.
func (bridge) Levels() []logrus.Level { return logrus.AllLevels }

// Fire implements logrus.Hook.
func (b bridge) Fire(e *logrus.Entry) error {
	level := slog.LevelDebug
	switch {
	case expected(e):
	case e.Level <= logrus.ErrorLevel:
		level = slog.LevelError
	case e.Level == logrus.WarnLevel:
		level = slog.LevelWarn
	}
	if !b.log.Enabled(b.ctx, level) {
		return nil
	}
	r := slog.NewRecord(e.Time, level, e.Message, 0)
	r.Add(attrs(e.Data)...)
	return b.log.Handler().Handle(b.ctx, r)
}

func attrs(fields logrus.Fields) []any {
	list := make([]any, 0, len(fields))
	for k, v := range fields {
		list = append(list, slog.Any(k, v))
	}
	return list
}

// expected tells messages that containerd finds alarming and that belong to
// the normal course here: the pod network comes up after the runtime, few file
// systems know fs-verity, and garbage collection may be cut off by the end. An
// error that is a gRPC status went to the caller, who decides what it means.
// A stream ends by one side closing it, an answer may come after the one who
// asked has gone, and a process may have ended before its terminal gets a size
// or it is measured.
func expected(e *logrus.Entry) bool {
	if err, ok := e.Data[logrus.ErrorKey].(error); ok {
		if _, answered := err.(interface{ GRPCStatus() *status.Status }); answered || errors.Is(err, bbolt.ErrDatabaseNotOpen) {
			return true
		}
		for _, end := range []error{fifo.ErrReadClosed, fifo.ErrWriteClosed, net.ErrClosed, ttrpc.ErrClosed, syscall.EPIPE, syscall.ECONNRESET} {
			if errors.Is(err, end) {
				return true
			}
		}
	}
	return strings.HasPrefix(e.Message, "failed to load cni during init") ||
		strings.HasPrefix(e.Message, "Failed to resize process") ||
		strings.HasPrefix(e.Message, "collecting metrics for ") ||
		e.Message == "ttrpc: received message on inactive stream" ||
		strings.HasPrefix(e.Message, "failed to reload cni configuration after receiving fs change event") ||
		strings.HasPrefix(e.Message, "failed check for fsverity support")
}
