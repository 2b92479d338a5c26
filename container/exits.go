package container

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// taskPlugin loads the shims of an earlier life.
const taskPlugin = "io.containerd.runtime.v2.task"

// recallExits notes how the containers ended that did so while nobody ran.
// Their shim has written it down, but containerd, which finds no process,
// takes such a task for one that never started, drops it with the note, and
// CRI then knows nothing but 255. So it must run before the shims are loaded.
func (r *Runtime) recallExits() error {
	bundles := filepath.Join(r.state("containerd"), taskPlugin, Namespace)
	notes, err := filepath.Glob(filepath.Join(bundles, "*", "exit.json"))
	if err != nil {
		return err
	}
	var errs []error
	for _, note := range notes {
		id := filepath.Base(filepath.Dir(note))
		status := filepath.Join(r.root(), "io.containerd.grpc.v1.cri", "containers", id, "status")
		if err := recallExit(note, status); err != nil {
			errs = append(errs, fmt.Errorf("exit of container %s: %w", id, err))
		}
	}
	return errors.Join(errs...)
}

// exitNote is what a shim notes.
type exitNote struct {
	Timestamp time.Time
	Status    int
}

// recallExit writes a shim's note into CRI's checkpoint of a container that it
// believes to run. Everything else there is left as it is. Sandboxes have no
// checkpoint, and need none.
func recallExit(note, status string) error {
	data, err := os.ReadFile(status)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	fields := map[string]json.RawMessage{}
	if err := json.Unmarshal(data, &fields); err != nil {
		return fmt.Errorf("%s: %w", status, err)
	}
	var known struct {
		Version               string
		StartedAt, FinishedAt int64
	}
	if err := json.Unmarshal(data, &known); err != nil {
		return fmt.Errorf("%s: %w", status, err)
	}
	if known.Version != "v1" || known.StartedAt == 0 || known.FinishedAt != 0 {
		return nil
	}
	if data, err = os.ReadFile(note); err != nil {
		return err
	}
	var exit exitNote
	if err := json.Unmarshal(data, &exit); err != nil {
		return fmt.Errorf("%s: %w", note, err)
	}
	if exit.Timestamp.IsZero() || exit.Status < 0 {
		return fmt.Errorf("%s: no exit: %s", note, data)
	}
	fields["Pid"] = json.RawMessage("0")
	fields["FinishedAt"] = fmt.Appendf(nil, "%d", exit.Timestamp.UnixNano())
	fields["ExitCode"] = fmt.Appendf(nil, "%d", exit.Status)
	if data, err = json.Marshal(fields); err != nil {
		return err
	}
	if err := os.WriteFile(status+".tmp", data, 0o600); err != nil {
		return err
	}
	return os.Rename(status+".tmp", status)
}
