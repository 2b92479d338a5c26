// Package container runs containerd inside this process and serves the
// Container Runtime Interface on a socket of its own.
//
// Containers belong to their shims, small processes beside this one, so that
// they outlive a restart: the next Runtime on the same directories finds them.
//
//	kubelet ─CRI→ socket ─→ CRI plugin ─→ metadata, snapshots, content
//	                             └→ shim per pod ─→ runc ─→ containers
//	                                   └─events by ttrpc→ event exchange
package container

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"

	"github.com/proa-dev/proa/container/runtimebin"
)

// Namespace is containerd's name for what belongs to Kubernetes.
const Namespace = "k8s.io"

// Config says where the runtime keeps its things.
type Config struct {
	// DataDir is Proa's data directory: /var/lib/proa.
	DataDir string
	// StateDir holds what does not survive a reboot: /run/proa.
	StateDir string
	// CNIConfDir is where the network configuration appears;
	// <DataDir>/cni/net.d when empty.
	CNIConfDir string
	// CNIBinDir holds the CNI plugins; Proa's own when empty.
	CNIBinDir string
	// RegistriesDir holds <host>/hosts.toml for registries and their mirrors;
	// <DataDir>/registries when empty.
	RegistriesDir string
	// Snapshotter is "overlayfs" or "native"; the best that works when empty.
	Snapshotter string
	// Logger gets containerd's warnings and errors.
	Logger *slog.Logger
}

// Validate fills what may be empty and rejects what cannot work.
func (c *Config) Validate() error {
	if c.DataDir == "" || c.StateDir == "" {
		return errors.New("container: DataDir and StateDir must be set")
	}
	for _, dir := range []*string{&c.DataDir, &c.StateDir} {
		abs, err := filepath.Abs(*dir)
		if err != nil {
			return err
		}
		*dir = abs
	}
	if c.DataDir == c.StateDir {
		return errors.New("container: DataDir and StateDir must differ")
	}
	switch c.Snapshotter {
	case "", "overlayfs", "native":
	default:
		return fmt.Errorf("container: unknown snapshotter %q: overlayfs or native", c.Snapshotter)
	}
	if c.CNIConfDir == "" {
		c.CNIConfDir = filepath.Join(c.DataDir, "cni", "net.d")
	}
	if c.RegistriesDir == "" {
		c.RegistriesDir = filepath.Join(c.DataDir, "registries")
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return nil
}

// Runtime is containerd in this process. A process has one at a time, since
// containerd's plugins are registered per process.
type Runtime struct {
	cfg           Config
	bin           runtimebin.Paths
	pause         []byte
	pauseImage    string
	socket        string
	shimSocketDir string
	cniBinDir     string
	// running is nil before Run is ready and after it has ended.
	running atomic.Pointer[engine]
}

// maxUnixPath is the longest path of a socket, less what containerd appends.
const maxUnixPath = 100

// New prepares a Runtime; Run unpacks the helper programs and starts it.
func New(cfg Config) (*Runtime, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	bin, err := runtimebin.Locate(filepath.Join(cfg.DataDir, "bin"))
	if err != nil {
		return nil, fmt.Errorf("container: %w", err)
	}
	pause, err := runtimebin.Pause()
	if err != nil {
		return nil, fmt.Errorf("container: %w", err)
	}
	sum := sha256.Sum256(pause)
	r := &Runtime{
		cfg:           cfg,
		bin:           bin,
		pause:         pause,
		pauseImage:    "proa.dev/pause:" + hex.EncodeToString(sum[:6]),
		socket:        Socket(cfg.StateDir),
		shimSocketDir: shimSocketDir(cfg.StateDir),
		cniBinDir:     cfg.CNIBinDir,
	}
	if r.cniBinDir == "" {
		r.cniBinDir = bin.Dir
	}
	if len(r.socket) > maxUnixPath {
		return nil, fmt.Errorf("container: the state directory %s is too long for a socket", cfg.StateDir)
	}
	return r, nil
}

// Socket is the path of the runtime's socket under a state directory.
func Socket(stateDir string) string { return filepath.Join(stateDir, "containerd.sock") }

// shimSocketDir stays short: the kernel allows 108 bytes for a socket's path
// and a shim's socket is named by a SHA-256.
func shimSocketDir(stateDir string) string {
	if dir := filepath.Join(stateDir, "s"); len(dir) <= 42 {
		return dir
	}
	sum := sha256.Sum256([]byte(stateDir))
	return "/run/proa-" + hex.EncodeToString(sum[:6])
}

// Endpoint is the address of the CRI socket: unix:///run/proa/containerd.sock.
func (r *Runtime) Endpoint() string { return "unix://" + r.socket }

// CNIBinDir is where the runtime looks for CNI plugins.
func (r *Runtime) CNIBinDir() string { return r.cniBinDir }

// CNIConfDir is where the runtime looks for the network configuration.
func (r *Runtime) CNIConfDir() string { return r.cfg.CNIConfDir }

func (r *Runtime) root() string             { return filepath.Join(r.cfg.DataDir, "containerd") }
func (r *Runtime) state(name string) string { return filepath.Join(r.cfg.StateDir, name) }

// Run serves until ctx ends. It calls ready once CRI answers and the images
// under <DataDir>/images are there. Containers run on after it.
func (r *Runtime) Run(ctx context.Context, ready func()) error {
	if err := os.MkdirAll(r.root(), 0o700); err != nil {
		return fmt.Errorf("container: %w", err)
	}
	if _, err := runtimebin.Unpack(filepath.Dir(r.bin.Dir)); err != nil {
		return fmt.Errorf("container: %w", err)
	}
	// containerd finds the shim, and the shim runc, by PATH. Ours go first: a
	// distribution's may be of any age.
	if err := prependPath(r.bin.Dir); err != nil {
		return fmt.Errorf("container: %w", err)
	}
	if err := r.endLaunchers(ctx); err != nil {
		r.cfg.Logger.Warn("helpers of an earlier life remain", "error", err)
	}
	// Plugins keep the context they are loaded with and still need it while
	// they close, so it must not end before.
	e, err := r.load(context.WithoutCancel(ctx), r.settings(detect(r.root(), r.cfg.Snapshotter, r.cfg.Logger)))
	if err != nil {
		return fmt.Errorf("container: %w", err)
	}
	err = r.run(ctx, e, ready)
	return errors.Join(err, e.close())
}

func (r *Runtime) run(ctx context.Context, e *engine, ready func()) error {
	// First the events: shims of an earlier life may be waiting to tell.
	if err := e.serve(ctx, r.socket+".ttrpc", ttrpcAccept(ctx, e)); err != nil {
		return err
	}
	recovered := make(chan struct{})
	go func() {
		e.ready.Wait()
		close(recovered)
	}()
	select {
	case <-recovered:
	case err := <-e.failed:
		return err
	case <-ctx.Done():
		return nil
	}
	r.tidy(ctx, e)
	if err := r.ensurePause(ctx, e); err != nil {
		return fmt.Errorf("pause image: %w", err)
	}
	r.importDir(ctx, e)
	if err := e.serve(ctx, r.socket, e.grpc.Serve); err != nil {
		return err
	}
	r.running.Store(e)
	defer r.running.Store(nil)
	ready()
	select {
	case err := <-e.failed:
		return err
	case <-ctx.Done():
		return nil
	}
}

// tidy removes what a crash left of an earlier life and containerd's own
// recovery does not look for. It must not run while pods are made.
func (r *Runtime) tidy(ctx context.Context, e *engine) {
	for _, step := range []struct {
		what string
		do   func() error
	}{
		{"bundles", r.dropBundles},
		{"shims", r.endOrphans},
		{"containers", func() error { return r.dropContainers(ctx) }},
		{"sockets of shims", r.dropSockets},
		{"network namespaces", func() error { return r.dropNetworks(ctx, e) }},
		{"leases", func() error { return r.dropLeases(ctx, e) }},
	} {
		if err := step.do(); err != nil {
			r.cfg.Logger.Warn(step.what+" of an earlier life remain", "error", err)
		}
	}
}

func prependPath(dir string) error {
	path := os.Getenv("PATH")
	if first, _, _ := strings.Cut(path, ":"); first == dir {
		return nil
	}
	return os.Setenv("PATH", dir+":"+path)
}
