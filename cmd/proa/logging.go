package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"syscall"

	"github.com/go-logr/logr"
	"github.com/gorilla/websocket"
	"k8s.io/klog/v2"
	ctrllog "sigs.k8s.io/controller-runtime/pkg/log"
)

// newLogger makes the process's logger and hands it to the libraries that log
// through one of their own.
func newLogger(verbose bool) *slog.Logger {
	level := slog.LevelInfo
	if verbose {
		level = slog.LevelDebug
	}
	logger := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
	libraries := logr.FromSlogHandler(library{logger.Handler()})
	ctrllog.SetLogger(libraries)
	klog.SetLogger(libraries)
	return logger
}

// library lowers what libraries call information to what those who debug
// want to know.
type library struct{ slog.Handler }

func lowered(level slog.Level) slog.Level {
	if level < slog.LevelWarn {
		return min(level, slog.LevelDebug)
	}
	return level
}

// Enabled implements slog.Handler.
func (l library) Enabled(ctx context.Context, level slog.Level) bool {
	return l.Handler.Enabled(ctx, lowered(level))
}

// badQuery is what a library calls an error of a request that names a limit
// such as "x": anybody could fill the log with it.
const badQuery = "Couldn't parse request"

// Handle implements slog.Handler.
func (l library) Handle(ctx context.Context, r slog.Record) error {
	r.Level = lowered(r.Level)
	if r.Message == badQuery || told(r) {
		r.Level = slog.LevelDebug
	}
	if !l.Handler.Enabled(ctx, r.Level) {
		return nil
	}
	return l.Handler.Handle(ctx, r)
}

// told says whether nothing but a request suffers from what a record tells, and
// whoever made it knows: a connection has ended, as one side closes a stream
// when it has seen enough, or a command cannot be run in a container.
func told(r slog.Record) bool {
	found := false
	r.Attrs(func(a slog.Attr) bool {
		err, ok := a.Value.Any().(error)
		if !ok {
			return true
		}
		for _, end := range []error{net.ErrClosed, io.EOF, io.ErrUnexpectedEOF, io.ErrClosedPipe, syscall.EPIPE, syscall.ECONNRESET} {
			found = found || errors.Is(err, end)
		}
		var closed *websocket.CloseError
		found = found || errors.As(err, &closed)
		// The runtime's streaming server hands these on as text alone.
		for _, answer := range []string{"error executing command in container: ", "error attaching to container: ", "error forwarding port "} {
			found = found || strings.HasPrefix(err.Error(), answer)
		}
		return !found
	})
	return found
}

// WithAttrs implements slog.Handler.
func (l library) WithAttrs(attrs []slog.Attr) slog.Handler {
	return library{l.Handler.WithAttrs(attrs)}
}

// WithGroup implements slog.Handler.
func (l library) WithGroup(name string) slog.Handler { return library{l.Handler.WithGroup(name)} }
