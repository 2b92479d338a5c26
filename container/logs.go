package container

import (
	"io"
	"log/slog"
	"strings"

	"github.com/sirupsen/logrus"
)

// bridge carries containerd's log, which goes to logrus's one standard logger,
// into ours, and turns its fatal errors into errors: a library must not end the
// process.
type bridge struct {
	log *slog.Logger
}

// bridgeLogs installs the bridge. fatal is called on errors after which
// containerd cannot go on.
func bridgeLogs(log *slog.Logger, fatal func()) {
	std := logrus.StandardLogger()
	std.SetOutput(io.Discard)
	std.SetLevel(logrus.WarnLevel)
	std.ExitFunc = func(int) { fatal() }
	std.ReplaceHooks(logrus.LevelHooks{})
	std.AddHook(bridge{log})
}

// Levels implements logrus.Hook.
func (bridge) Levels() []logrus.Level { return logrus.AllLevels }

// Fire implements logrus.Hook.
func (b bridge) Fire(e *logrus.Entry) error {
	level := slog.LevelDebug
	switch {
	case expected(e.Message):
	case e.Level <= logrus.ErrorLevel:
		level = slog.LevelError
	case e.Level == logrus.WarnLevel:
		level = slog.LevelWarn
	}
	ctx := e.Context
	if ctx == nil {
		b.log.Log(nil, level, e.Message, attrs(e.Data)...) //nolint:staticcheck // slog allows a nil context
		return nil
	}
	b.log.Log(ctx, level, e.Message, attrs(e.Data)...)
	return nil
}

func attrs(fields logrus.Fields) []any {
	list := make([]any, 0, len(fields))
	for k, v := range fields {
		list = append(list, slog.Any(k, v))
	}
	return list
}

// expected tells messages that containerd finds alarming and that belong to
// the normal course here: the pod network comes up after the runtime, and few
// file systems know fs-verity.
func expected(msg string) bool {
	return strings.HasPrefix(msg, "failed to load cni during init") ||
		strings.HasPrefix(msg, "failed to reload cni configuration after receiving fs change event") ||
		strings.HasPrefix(msg, "failed check for fsverity support")
}
