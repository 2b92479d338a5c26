package apiserver

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/kube-openapi/pkg/validation/spec"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/apiserver/admission"
	"github.com/proa-dev/proa/apiserver/aggregation"
	"github.com/proa-dev/proa/apiserver/codec"
	"github.com/proa-dev/proa/apiserver/customresources"
	"github.com/proa-dev/proa/apiserver/discovery"
	"github.com/proa-dev/proa/apiserver/handlers"
	"github.com/proa-dev/proa/apiserver/health"
	"github.com/proa-dev/proa/apiserver/kinds"
	"github.com/proa-dev/proa/apiserver/live"
	"github.com/proa-dev/proa/apiserver/openapi"
	"github.com/proa-dev/proa/apiserver/registry"
	"github.com/proa-dev/proa/apiserver/typeschema"
	"github.com/proa-dev/proa/apiserver/webhookclient"
	"github.com/proa-dev/proa/store"
)

// Config is what a Server is made of.
type Config struct {
	Store  *store.Store
	Kinds  []*api.Kind
	Scheme *runtime.Scheme
	// Types tells how the fields of Kinds merge; nil: the server reads the
	// schema itself.
	Types managedfields.TypeConverter

	Authenticator authenticator.Request
	Authorizer    authorizer.UnconditionalAuthorizer
	Admission     admission.Chain
	// Virtual answers creates of kinds that are never stored.
	Virtual map[schema.GroupVersionKind]registry.VirtualFunc
	// Components are the parts of the control plane that ComponentStatuses
	// tell of.
	Components []health.Check
	// Token issues service account tokens; nil: the subresource is not served.
	Token registry.TokenFunc
	// Hooks take part in writes of their resource.
	Hooks map[schema.GroupResource]registry.Hook
	// Kubelet is the transport by which nodes are reached, with the client
	// certificate for them; nil: logs, exec and proxies are not served. It
	// must be an *http.Transport for requests that upgrade.
	Kubelet http.RoundTripper
	// Webhooks calls those that convert custom resources; nil: definitions that
	// need them are not served.
	Webhooks *webhookclient.Client
	// FrontProxy is the certificate by which extension API servers know this
	// server; nil: there are none.
	FrontProxy func(*tls.CertificateRequestInfo) (*tls.Certificate, error)
	// Paths are served beside the API ("/openid/v1/jwks"), with and without a
	// slash at their end, after authorization.
	Paths map[string]http.Handler
	// Ready are checks of /readyz beyond those of the server itself.
	Ready []health.Check

	// TLS serves; it must have a certificate. NextProtos is filled in.
	TLS *tls.Config
	// MaxReads and MaxWrites bound requests in flight; 0 means 400 and 200.
	MaxReads, MaxWrites int
	// Metrics registers metrics and gathers them for /metrics; nil: none.
	Metrics *prometheus.Registry
	// OtherMetrics are shown at /metrics too: those of libraries.
	OtherMetrics []prometheus.Gatherer
	Logger       *slog.Logger
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// Server is an API server.
type Server struct {
	cfg       Config
	kinds     *kinds.Table
	types     managedfields.TypeConverter
	registry  *registry.Core
	resources *handlers.Handler
	remote    *aggregation.Server // nil: everything is served here
	discovery *discovery.Handler
	codec     *codec.Codec
	infos     request.RequestInfoFactory
	reads     *limiter
	writes    *limiter
	metrics   *metrics
	fixed     map[string]http.Handler // by exact path
	trees     []tree                  // by prefix
	stopping  atomic.Bool
}

type tree struct {
	prefix  string
	handler http.Handler
}

// New returns a server that does not listen yet.
func New(cfg Config) (_ *Server, err error) {
	switch {
	case cfg.Scheme == nil:
		return nil, errors.New("apiserver: no scheme")
	case cfg.Authenticator == nil:
		return nil, errors.New("apiserver: no authenticator")
	case cfg.Logger == nil:
		return nil, errors.New("apiserver: no logger")
	}
	if cfg.MaxReads == 0 {
		cfg.MaxReads = 400
	}
	if cfg.MaxWrites == 0 {
		cfg.MaxWrites = 200
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Types == nil {
		cfg.Types = typeschema.Converter(cfg.Scheme)
	}
	s := &Server{
		cfg: cfg, kinds: kinds.New(cfg.Kinds), codec: codec.New(cfg.Scheme),
		types: cfg.Types,
		infos: request.RequestInfoFactory{APIPrefixes: sets.NewString("api", "apis"), GrouplessAPIPrefixes: sets.NewString("api")},
		reads: newLimiter(cfg.MaxReads), writes: newLimiter(cfg.MaxWrites),
	}
	if s.metrics, err = newMetrics(cfg.Metrics); err != nil {
		return nil, fmt.Errorf("apiserver: register metrics: %w", err)
	}
	if cfg.Metrics != nil {
		if cfg.Admission, err = admission.Measured(cfg.Admission, cfg.Metrics); err != nil {
			return nil, fmt.Errorf("apiserver: register metrics: %w", err)
		}
		if err := cfg.Metrics.Register(newInventory(s)); err != nil {
			return nil, fmt.Errorf("apiserver: register metrics: %w", err)
		}
	}
	computed, err := s.computed()
	if err != nil {
		return nil, err
	}
	s.registry, err = registry.New(registry.Config{
		Store: cfg.Store, Kinds: s.kinds, Authorizer: cfg.Authorizer, Admission: cfg.Admission,
		Virtual: cfg.Virtual, Token: cfg.Token, Now: cfg.Now, Computed: computed,
		Types: s.types, Hooks: cfg.Hooks,
		Report: func(err error) { cfg.Logger.Error("registry", "error", err) },
	})
	if err != nil {
		return nil, err
	}
	hc := handlers.Config{Registry: s.registry, Kinds: s.kinds, Codec: s.codec, Now: cfg.Now}
	if err := s.connect(&hc); err != nil {
		return nil, err
	}
	s.resources = handlers.New(hc)
	if cfg.FrontProxy != nil {
		if s.remote, err = aggregation.New(aggregation.Config{
			Store: cfg.Store, Kinds: s.kinds, Registry: s.registry, Source: live.New(cfg.Store, cfg.Kinds),
			Identity: cfg.FrontProxy, Metrics: cfg.Metrics, Logger: cfg.Logger,
		}); err != nil {
			return nil, err
		}
	}
	s.discovery = discovery.New(s.kinds, s.codec, s.remote.View)
	return s, s.routes()
}

// Registry is the same API without HTTP, for clients in this process.
func (s *Server) Registry() registry.Registry { return s.registry }

// Kinds is the table of what is served.
func (s *Server) Kinds() *kinds.Table { return s.kinds }

// Schema is the OpenAPI schema of a kind, without references; nil: the kind is
// not served.
func (s *Server) Schema(gvk schema.GroupVersionKind) (*spec.Schema, error) {
	return openapi.Whole(s.kinds.Set(), s.types, gvk)
}

// ServeCustomResources keeps serving what CustomResourceDefinitions define until
// ctx ends. ready is called when those that are there are served.
func (s *Server) ServeCustomResources(ctx context.Context, ready func()) error {
	custom, err := customresources.New(customresources.Config{
		Store: s.cfg.Store, Kinds: s.kinds, Registry: s.registry, Types: s.types, Logger: s.cfg.Logger, Webhooks: s.cfg.Webhooks,
	})
	if err != nil {
		return err
	}
	return custom.Run(ctx, ready)
}

// ServeAggregated keeps leading requests on to the servers that APIServices name
// until ctx ends. ready is called when those that are there are known.
func (s *Server) ServeAggregated(ctx context.Context, ready func()) error {
	if s.remote == nil {
		ready()
		<-ctx.Done()
		return nil
	}
	return s.remote.Run(ctx, ready)
}

const (
	headerTimeout = 32 * time.Second
	idleTimeout   = 2 * time.Minute
	// drain is how long requests in flight may take to end at shutdown.
	drain = 10 * time.Second
	// maxStreams bounds requests in flight of one HTTP/2 connection.
	maxStreams = 1000
)

// Serve answers requests on ln until ctx ends, then ends watches, lets other
// requests finish, and returns.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error {
	if s.cfg.TLS == nil {
		return errors.New("apiserver: no TLS configuration")
	}
	srv := &http.Server{
		Handler: s, TLSConfig: s.cfg.TLS.Clone(),
		ReadHeaderTimeout: headerTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: 1 << 20,
		HTTP2:       &http.HTTP2Config{MaxConcurrentStreams: maxStreams},
		ErrorLog:    log.New(&logWriter{s.cfg.Logger}, "", 0),
		BaseContext: func(net.Listener) context.Context { return context.WithoutCancel(ctx) },
	}
	if err := serveHTTP2(srv); err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() { done <- srv.ServeTLS(ln, "", "") }()
	select {
	case err := <-done:
		return fmt.Errorf("serve: %w", err)
	case <-ctx.Done():
	}
	s.stopping.Store(true)
	s.resources.StopWatches()
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), drain)
	defer cancel()
	if err := srv.Shutdown(end); err != nil {
		_ = srv.Close() // ends what did not want to end
	}
	if err := <-done; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve: %w", err)
	}
	return nil
}

// logWriter takes the lines of net/http, which are about clients that broke
// the protocol.
type logWriter struct{ logger *slog.Logger }

var _ io.Writer = (*logWriter)(nil)

// Write implements io.Writer.
func (w *logWriter) Write(p []byte) (int, error) {
	w.logger.Debug("http", "message", string(p))
	return len(p), nil
}
