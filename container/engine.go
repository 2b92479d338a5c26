package container

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/defaults"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/timeout"
	"github.com/containerd/containerd/v2/plugins"
	"github.com/containerd/containerd/v2/version"
	"github.com/containerd/platforms"
	"github.com/containerd/plugin"
	"github.com/containerd/plugin/registry"
	"github.com/containerd/ttrpc"
	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// engine is containerd with its plugins loaded and its two servers: gRPC for
// CRI and tools, ttrpc for the events of shims.
type engine struct {
	log     *slog.Logger
	loaded  []*plugin.Plugin
	ready   sync.WaitGroup
	grpc    *grpc.Server
	ttrpc   *ttrpc.Server
	client  *containerd.Client
	images  runtimeapi.ImageServiceServer
	failed  chan error
	serving sync.WaitGroup
}

// boltTimeout bounds the wait for the lock on the metadata database, which
// another Proa with the same data directory would hold for good.
const boltTimeout = 10 * time.Second

// load starts the plugins in order of their dependencies.
func (r *Runtime) load(ctx context.Context, settings map[string]table) (*engine, error) {
	e := &engine{log: r.cfg.Logger, failed: make(chan error, 4)}
	bridgeLogs(ctx, r.cfg.Logger, func() { e.fail(errors.New("containerd reported a fatal error")) })
	// Without its linker flags containerd does not quite know its own version.
	version.Version = strings.TrimSuffix(version.Version, "+unknown")
	timeout.Set("io.containerd.timeout.bolt.open", boltTimeout)

	root, state := r.root(), r.state("containerd")
	for dir, mode := range map[string]fs.FileMode{root: 0o700, state: 0o711, r.cfg.CNIConfDir: 0o755, r.cfg.RegistriesDir: 0o755} {
		if err := os.MkdirAll(dir, mode); err != nil {
			return nil, err
		}
	}
	if err := mount.SetTempMountLocation(filepath.Join(root, "tmpmounts")); err != nil {
		return nil, err
	}
	if _, err := mount.CleanupTempMounts(0); err != nil {
		r.cfg.Logger.Warn("old temporary mounts remain", "error", err)
	}

	ctx = namespaces.WithNamespace(ctx, Namespace)
	set := plugin.NewPluginSet()
	for _, reg := range registry.Graph(func(*plugin.Registration) bool { return false }) {
		if reg.URI() == taskPlugin {
			if err := r.recallExits(); err != nil {
				r.cfg.Logger.Warn("how some containers ended is not known", "error", err)
			}
		}
		if err := e.loadOne(ctx, reg, set, settings[reg.URI()], map[string]string{
			plugins.PropertyRootDir:      filepath.Join(root, reg.URI()),
			plugins.PropertyStateDir:     filepath.Join(state, reg.URI()),
			plugins.PropertyGRPCAddress:  r.socket,
			plugins.PropertyTTRPCAddress: r.socket + ".ttrpc",
		}); err != nil {
			return nil, errors.Join(err, e.close())
		}
	}
	if err := e.connect(ctx, set); err != nil {
		return nil, errors.Join(err, e.close())
	}
	return e, nil
}

func (e *engine) loadOne(ctx context.Context, reg plugin.Registration, set *plugin.Set, t table, props map[string]string) error {
	ic := plugin.NewContext(ctx, set, props)
	ic.RegisterReadiness = func() func() {
		e.ready.Add(1)
		return sync.OnceFunc(e.ready.Done)
	}
	if reg.Config != nil {
		if t != nil {
			if err := decode(reg.Config, t); err != nil {
				return fmt.Errorf("containerd plugin %s: %w", reg.URI(), err)
			}
		}
		ic.Config = reg.Config
	}
	begin := time.Now()
	p := reg.Init(ic)
	if err := set.Add(p); err != nil {
		return err
	}
	if _, err := p.Instance(); plugin.IsSkipPlugin(err) {
		return nil
	} else if err != nil {
		return fmt.Errorf("containerd plugin %s: %w", reg.URI(), err)
	}
	e.loaded = append(e.loaded, p)
	e.log.Debug("containerd plugin loaded", "plugin", reg.URI(), "after", time.Since(begin))
	return nil
}

// connect gives the loaded plugins their servers, and us a client.
func (e *engine) connect(ctx context.Context, set *plugin.Set) (err error) {
	e.client, err = containerd.New("",
		containerd.WithDefaultNamespace(Namespace),
		containerd.WithDefaultPlatform(platforms.Default()),
		containerd.WithInMemoryServices(plugin.NewContext(ctx, set, nil)))
	if err != nil {
		return err
	}
	e.grpc = grpc.NewServer(
		grpc.ChainUnaryInterceptor(passNamespace, leavePauseAlone),
		grpc.StreamInterceptor(passNamespaceStream),
		grpc.MaxRecvMsgSize(defaults.DefaultMaxRecvMsgSize),
		grpc.MaxSendMsgSize(defaults.DefaultMaxSendMsgSize))
	e.ttrpc, err = ttrpc.NewServer(ttrpc.WithServerHandshaker(ttrpc.UnixSocketRequireSameUser()))
	if err != nil {
		return err
	}
	for _, p := range e.loaded {
		if p.Registration.Type != plugins.GRPCPlugin && p.Registration.Type != plugins.TTRPCPlugin {
			continue
		}
		instance, err := p.Instance()
		if err != nil {
			return err
		}
		if s, ok := instance.(interface{ Register(*grpc.Server) error }); ok {
			if err := s.Register(e.grpc); err != nil {
				return fmt.Errorf("serve %s: %w", p.Registration.URI(), err)
			}
		}
		if s, ok := instance.(interface{ RegisterTTRPC(*ttrpc.Server) error }); ok {
			if err := s.RegisterTTRPC(e.ttrpc); err != nil {
				return fmt.Errorf("serve %s: %w", p.Registration.URI(), err)
			}
		}
		if s, ok := instance.(runtimeapi.ImageServiceServer); ok {
			e.images = s
		}
	}
	if e.images == nil {
		return errors.New("containerd was built without CRI")
	}
	return nil
}

// fail ends the Runtime with err. The first few count, the rest repeat them.
func (e *engine) fail(err error) {
	select {
	case e.failed <- err:
	default:
	}
}

// serve listens on a socket that root alone may use.
func (e *engine) serve(ctx context.Context, path string, accept func(net.Listener) error) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o711); err != nil {
		return err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "unix", path)
	if err != nil {
		return err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return errors.Join(err, l.Close())
	}
	e.serving.Go(func() {
		if err := accept(l); err != nil && !errors.Is(err, ttrpc.ErrServerClosed) && !errors.Is(err, grpc.ErrServerStopped) {
			e.fail(fmt.Errorf("serve %s: %w", path, err))
		}
	})
	return nil
}

// close ends the servers, then the plugins in reverse order. Containers and
// their shims run on.
func (e *engine) close() error {
	var errs []error
	if e.grpc != nil {
		e.grpc.Stop()
	}
	if e.ttrpc != nil {
		errs = append(errs, e.ttrpc.Close())
	}
	e.serving.Wait()
	for _, p := range slices.Backward(e.loaded) {
		instance, err := p.Instance()
		if err != nil {
			continue
		}
		if c, ok := instance.(io.Closer); ok {
			if err := c.Close(); err != nil {
				errs = append(errs, fmt.Errorf("close %s: %w", p.Registration.URI(), err))
			}
		}
	}
	return errors.Join(errs...)
}

// passNamespace makes the caller's namespace that of calls made on its behalf.
func passNamespace(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
	return handle(withNamespace(ctx), req)
}

// leavePauseAlone asks for no seccomp profile around a sandbox's own process,
// since pause confines itself, and more strictly. runc would spend half of a
// sandbox's start on compiling the default profile.
func leavePauseAlone(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
	if run, ok := req.(*runtimeapi.RunPodSandboxRequest); ok {
		if security := run.GetConfig().GetLinux().GetSecurityContext(); security != nil {
			security.Seccomp = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Unconfined}
		}
	}
	return handle(ctx, req)
}

func passNamespaceStream(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, handle grpc.StreamHandler) error {
	return handle(srv, namespacedStream{ss, withNamespace(ss.Context())})
}

func withNamespace(ctx context.Context) context.Context {
	if ns, ok := namespaces.Namespace(ctx); ok {
		return namespaces.WithNamespace(ctx, ns)
	}
	return ctx
}

type namespacedStream struct {
	grpc.ServerStream
	ctx context.Context
}

// Context implements grpc.ServerStream.
func (s namespacedStream) Context() context.Context { return s.ctx }

// ttrpcAccept serves shims until the server is closed, not until ctx ends: they
// may tell of containers that end while the plugins close.
func ttrpcAccept(ctx context.Context, e *engine) func(net.Listener) error {
	return func(l net.Listener) error { return e.ttrpc.Serve(context.WithoutCancel(ctx), l) }
}
