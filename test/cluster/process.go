package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// process is a proa that runs, with its log.
type process struct {
	log   string
	begin int64 // of this run, in the log
	cmd   *exec.Cmd
	ended chan error
}

// start runs a program with its output in the log. It outlives the call. on
// runs a function on the thread that the program shall be a child of; nil is a
// thread of its own. A program ends with that thread: none that may end sooner
// will do.
func (p *process) start(on func(func() error) error, name string, args ...string) error {
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	info, err := log.Stat()
	if err != nil {
		return err
	}
	p.begin = info.Size()
	cmd := exec.Command(name, args...) //nolint:noctx // Stop ends it
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	started, ended := make(chan error, 1), make(chan error, 1)
	go func() {
		if on == nil {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			on = func(f func() error) error { return f() }
		}
		err := on(cmd.Start)
		started <- err
		if err == nil {
			ended <- cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		return err
	}
	p.cmd, p.ended = cmd, ended
	return nil
}

// Until waits for a condition. It fails early when the process ends.
func (p *process) Until(ctx context.Context, limit time.Duration, ok func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case err := <-p.ended:
			p.ended <- err
			return fmt.Errorf("proa ended: %w\n%s", err, p.LastWords())
		case <-ctx.Done():
			return fmt.Errorf("not in %s\n%s", limit, p.LastWords())
		case <-tick.C:
		}
	}
	return nil
}

// Wait returns once the process ends, with its last words, or with the context.
func (p *process) Wait(ctx context.Context) error {
	select {
	case err := <-p.ended:
		p.ended <- err
		return fmt.Errorf("proa ended: %w\n%s", err, p.LastWords())
	case <-ctx.Done():
		return nil
	}
}

// said looks for text in what this run has logged.
func (p *process) said(text string) bool {
	b, err := os.ReadFile(p.log)
	return err == nil && int64(len(b)) > p.begin && strings.Contains(string(b[p.begin:]), text)
}

// LastWords is the end of its log.
func (p *process) LastWords() string {
	b, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	return strings.Join(lines[max(0, len(lines)-15):], "\n")
}

// PID is its process.
func (p *process) PID() int { return p.cmd.Process.Pid }

// Memory is the resident memory of the process, and its private part, in bytes.
func (p *process) Memory() (rss, private int64, err error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", p.PID()))
	if err != nil {
		return 0, 0, err
	}
	for line := range strings.Lines(string(b)) {
		var name string
		var kb int64
		if n, _ := fmt.Sscanf(line, "%s %d kB", &name, &kb); n != 2 {
			continue
		}
		switch name {
		case "Rss:":
			rss = kb << 10
		case "Private_Clean:", "Private_Dirty:":
			private += kb << 10
		}
	}
	return rss, private, nil
}

// Stop ends it as an operator would; containers stay.
func (p *process) Stop() error { return p.end(syscall.SIGTERM) }

// Kill ends it as a crash would.
func (p *process) Kill() error { return p.end(syscall.SIGKILL) }

func (p *process) end(sig syscall.Signal) error {
	if p.cmd == nil {
		return nil
	}
	if err := p.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	var err error
	select {
	case err = <-p.ended:
	case <-time.After(30 * time.Second):
		_ = p.cmd.Process.Kill()
		err = errors.Join(fmt.Errorf("proa did not end on %s in 30 s\n%s", sig, p.LastWords()), <-p.ended)
	}
	p.cmd = nil
	if err == nil || sig == syscall.SIGKILL {
		return nil
	}
	return fmt.Errorf("proa did not end cleanly: %w\n%s", err, p.LastWords())
}
