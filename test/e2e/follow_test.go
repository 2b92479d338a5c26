package e2e

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// follower is a kubectl that runs while the test looks at what it prints.
type follower struct {
	cmd *exec.Cmd

	mu  sync.Mutex
	out bytes.Buffer
}

func (f *follower) Write(b []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.out.Write(b)
}

func (f *follower) String() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.out.String()
}

// follow starts kubectl in the namespace; it ends with the test.
func (e *env) follow(stdin io.Reader, args ...string) *follower {
	e.t.Helper()
	f := &follower{cmd: e.command(args...)}
	f.cmd.WaitDelay = time.Second // a standard input that never ends
	f.cmd.Stdin, f.cmd.Stdout, f.cmd.Stderr = stdin, f, f
	if err := f.cmd.Start(); err != nil {
		e.t.Fatal(err)
	}
	e.t.Cleanup(func() {
		_ = f.cmd.Process.Kill()
		_ = f.cmd.Wait() // killed, or ended by itself: its output has been judged
	})
	return f
}

// command is kubectl in the namespace.
func (e *env) command(args ...string) *exec.Cmd {
	cmd := shared.KubectlCommand(context.WithoutCancel(e.t.Context()), append([]string{"-n", e.namespace}, args...)...)
	cmd.Env = append(cmd.Env, e.environ...)
	return cmd
}

// prints waits until a follower has printed something.
func (e *env) prints(f *follower, want string) {
	e.t.Helper()
	e.until(fmt.Sprintf("%v prints %q", f.cmd.Args, want), func() bool { return strings.Contains(f.String(), want) })
}

// terminal runs kubectl on a pseudo-terminal of its own, types what it is
// given and returns what was on the screen, and the exit code.
func (e *env) terminal(typed string, args ...string) (string, int) {
	e.t.Helper()
	master, slave := openTerminal(e.t)
	defer master.Close()
	cmd := e.command(args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		e.t.Fatal(err)
	}
	slave.Close()
	if _, err := master.WriteString(typed); err != nil {
		e.t.Fatal(err)
	}
	screen, _ := io.ReadAll(master) // ends with EIO when the last user of the other side is gone
	_ = cmd.Wait()                  // the exit code is the caller's to judge
	return string(screen), cmd.ProcessState.ExitCode()
}

func openTerminal(t *testing.T) (master, slave *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetWinsize(int(master.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: 81}); err != nil {
		t.Fatal(err)
	}
	slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	return master, slave
}

// has fails the test where a text lacks something.
func has(t *testing.T, what, text string, wants ...string) {
	t.Helper()
	for _, want := range wants {
		if !strings.Contains(text, want) {
			t.Errorf("%s lacks %q:\n%s", what, want, text)
		}
	}
}

// fails runs kubectl, which must fail and say why.
func (e *env) fails(why string, args ...string) {
	e.t.Helper()
	out, err := e.try(args...)
	if err == nil {
		e.t.Errorf("kubectl %v works and prints %q, want %q", args, out, why)
	} else if !strings.Contains(err.Error(), why) {
		e.t.Errorf("kubectl %v: %v, want %q", args, err, why)
	}
}
