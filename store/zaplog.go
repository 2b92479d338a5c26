package store

import (
	"context"
	"log/slog"

	"go.uber.org/zap/zapcore"
)

// logCore hands etcd's log on. Its chatter at level info is of interest only
// to who debugs etcd.
type logCore struct {
	handler slog.Handler
}

func newLogCore(l *slog.Logger) zapcore.Core {
	return logCore{l.With("source", "etcd").Handler()}
}

func slogLevel(l zapcore.Level) slog.Level {
	switch {
	case l <= zapcore.InfoLevel:
		return slog.LevelDebug
	case l == zapcore.WarnLevel:
		return slog.LevelWarn
	}
	return slog.LevelError
}

// Enabled implements zapcore.Core.
func (c logCore) Enabled(l zapcore.Level) bool {
	return c.handler.Enabled(context.TODO(), slogLevel(l))
}

// With implements zapcore.Core.
func (c logCore) With(fields []zapcore.Field) zapcore.Core {
	return logCore{c.handler.WithAttrs(attrs(fields))}
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
	r := slog.NewRecord(e.Time, slogLevel(e.Level), e.Message, 0)
	r.AddAttrs(attrs(fields)...)
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

// panicHook is what happens after a fatal message: zap would end the process,
// which is not a library's to do while it starts.
type panicHook struct{}

// OnWrite implements zapcore.CheckWriteHook.
func (panicHook) OnWrite(e *zapcore.CheckedEntry, _ []zapcore.Field) {
	panic("etcd: " + e.Message)
}
