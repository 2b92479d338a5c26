package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/proa-dev/proa/test/isolate"
)

// firstAgent is the last part of the first agent's address.
const firstAgent = 11

// Agent is a further node, on a machine of its own.
type Agent struct {
	process
	*isolate.Machine
	// Dir is its data directory.
	Dir string

	cluster *Cluster
	flags   []string
	joined  bool
}

// Agent makes a machine beside this one, joins it to the cluster as a node and
// returns once that is Ready. The program must run under isolate.Enter, and the
// server listen at isolate.Address. Name has at most 12 characters.
func (c *Cluster) Agent(ctx context.Context, name string, flags ...string) (*Agent, error) {
	if c.segment == nil {
		s, err := isolate.NewSegment()
		if err != nil {
			return nil, err
		}
		c.segment = s
	}
	m, err := c.segment.Machine(name, fmt.Sprintf("192.0.2.%d", firstAgent+len(c.agents)))
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("/var/lib", "proa-test-"+name+"-")
	if err != nil {
		m.Close()
		return nil, err
	}
	a := &Agent{process: process{log: filepath.Join(dir, "proa.log")}, Machine: m, Dir: dir, cluster: c}
	a.flags = flags
	c.agents = append(c.agents, a)
	return a, a.Start(ctx)
}

// Start runs `proa agent`, with a token the first time and the same flags each
// time, and returns once the node is Ready.
func (a *Agent) Start(ctx context.Context) error {
	args := append([]string{"agent", "--data-dir", a.Dir, "--node-name", a.Name, "--server", fmt.Sprintf("https://%s:%d", isolate.Address, a.cluster.Port)}, withRoom(a.flags)...)
	if !a.joined {
		token, err := a.cluster.Token(ctx, "create")
		if err != nil {
			return err
		}
		args = append(args, "--token", strings.TrimSpace(token))
	}
	if err := a.start(a.Do, filepath.Join(a.cluster.bin, "proa"), args...); err != nil {
		return err
	}
	if err := a.Until(ctx, time.Minute, func() bool { return a.said(up) && a.ready(ctx) }); err != nil {
		return fmt.Errorf("node %s is not Ready: %w", a.Name, err)
	}
	a.joined = true
	return nil
}

// up is what an agent says when all of it runs.
const up = `msg="Proa is up"`

func (a *Agent) ready(ctx context.Context) bool {
	client, err := a.cluster.Client()
	if err != nil {
		return false
	}
	node, err := client.CoreV1().Nodes().Get(ctx, a.Name, metav1.GetOptions{})
	if err != nil {
		return false
	}
	for _, c := range node.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// Proa runs a verb of the binary on the agent's machine, against its data directory.
func (a *Agent) Proa(ctx context.Context, stdin io.Reader, args ...string) (string, error) {
	return a.Run(ctx, stdin, filepath.Join(a.cluster.bin, "proa"), append(args, "--data-dir", a.Dir)...)
}

// Run runs a program on the agent's machine and returns what it printed; the
// error holds its complaint.
func (a *Agent) Run(ctx context.Context, stdin io.Reader, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), "HOME="+a.Dir)
	cmd.Stdin = stdin
	var out, complaint bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaint
	err := a.Do(cmd.Start)
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		return out.String(), fmt.Errorf("%s %s on %s: %w: %s", name, strings.Join(args, " "), a.Name, err, strings.TrimSpace(complaint.String()))
	}
	return out.String(), nil
}

// Outside runs fn as somebody on the nodes' segment who is none of them.
func (c *Cluster) Outside(fn func() error) error {
	if c.segment == nil {
		return errors.New("there is no segment before the first agent")
	}
	return c.segment.Outside(fn)
}

// Remove stops the agent's pods and removes its machine with everything on it.
// The Node object stays: deleting it is an administrator's.
func (a *Agent) Remove(ctx context.Context) error {
	if a.Machine == nil {
		return nil
	}
	err := a.Stop()
	_, reset := a.Proa(ctx, nil, "reset", "--yes")
	a.Close()
	a.Machine = nil
	return errors.Join(err, reset, os.RemoveAll(a.Dir))
}
