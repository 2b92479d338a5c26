package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"

	"go.uber.org/zap/zapcore"
)

// logCore hands etcd's log on. Up to level warn it is of interest only to who
// debugs etcd: a single member warns of its own defaults at every start. While
// it stops, it calls every closed listener an error.
type logCore struct {
	handler  slog.Handler
	stopping *atomic.Bool
}

// firstStart is what etcd complains of in every empty directory.
const firstStart = "failed to update storage version"

func newLogCore(l *slog.Logger, stopping *atomic.Bool) zapcore.Core {
	return logCore{l.With("source", "etcd").Handler(), stopping}
}

func (c logCore) level(l zapcore.Level) slog.Level {
	switch {
	case l <= zapcore.WarnLevel, l == zapcore.ErrorLevel && c.stopping.Load():
		return slog.LevelDebug
	case l == zapcore.ErrorLevel:
		return slog.LevelWarn
	}
	return slog.LevelError
}

// Enabled implements zapcore.Core.
func (c logCore) Enabled(l zapcore.Level) bool {
	return c.handler.Enabled(context.TODO(), c.level(l))
}

// With implements zapcore.Core.
func (c logCore) With(fields []zapcore.Field) zapcore.Core {
	return logCore{c.handler.WithAttrs(attrs(fields)), c.stopping}
}

// Check implements zapcore.Core.
func (c logCore) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.Enabled(e.Level) {
		return ce.AddCore(e, c)
	}
	return ce
}

// Write implements zapcore.Core.
func (c logCore) Write(e zapcore.Entry, fields []zapcore.Field) error {
	r := slog.NewRecord(e.Time, c.level(e.Level), e.Message, 0)
	r.AddAttrs(attrs(fields)...)
	if e.Message == firstStart {
		r.Level = slog.LevelDebug
		if !c.handler.Enabled(context.TODO(), r.Level) {
			return nil
		}
	}
	return c.handler.Handle(context.TODO(), r)
}

// Sync implements zapcore.Core.
func (logCore) Sync() error { return nil }

func attrs(fields []zapcore.Field) []slog.Attr {
	m := zapcore.NewMapObjectEncoder()
	out := make([]slog.Attr, 0, len(fields))
	for _, f := range fields {
		f.AddTo(m)
		if v, ok := m.Fields[f.Key]; ok {
			out = append(out, slog.Any(f.Key, v))
		}
	}
	return out
}

// fatalHook is what happens after a fatal message: zap would end the process,
// which is not a library's to do while it starts. Cleaning up, etcd may panic
// once more, so the first text is kept.
type fatalHook struct {
	text *atomic.Pointer[string]
}

func newFatalHook() fatalHook { return fatalHook{&atomic.Pointer[string]{}} }

// OnWrite implements zapcore.CheckWriteHook.
func (h fatalHook) OnWrite(e *zapcore.CheckedEntry, fields []zapcore.Field) {
	text := e.Message
	for _, a := range attrs(fields) {
		text += fmt.Sprintf(", %s: %v", a.Key, a.Value)
	}
	h.text.CompareAndSwap(nil, &text)
	panic("etcd: " + text)
}

// explain names the reason of a panic.
func (h fatalHook) explain(p any) error {
	if text := h.text.Load(); text != nil {
		return errors.New(*text)
	}
	return fmt.Errorf("its files are damaged (%v): restore a snapshot of etcd, or remove the folder to begin with an empty cluster", p)
}
