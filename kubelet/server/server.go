// Package server is the node API: logs, commands in containers, port
// forwarding, statistics and health, over TLS, for the API server and for
// whoever the cluster's authorizer lets in.
package server

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proa-dev/proa/kubelet/cri"
	"github.com/proa-dev/proa/kubelet/metrics"
)

// Pods is what the server knows pods from.
type Pods interface {
	Pods() []*corev1.Pod
	Get(namespace, name string) *corev1.Pod
	// Container finds a container; ended is closed once it does not run.
	Container(pod *corev1.Pod, name string, previous bool) (c *cri.Container, ended <-chan struct{})
	// Sandbox is the id of the pod's running sandbox, or empty.
	Sandbox(pod *corev1.Pod) string
}

// Config is what a Server needs.
type Config struct {
	Listen     string
	TLS        *tls.Config
	NodeName   string
	Pods       Pods
	CRI        *cri.Client
	Stats      Stats
	Metrics    *metrics.Metrics
	PodLogsDir string
	// Client asks who somebody is and what they may do.
	Client  ctrl.Client
	Logger  *slog.Logger
	Clock   clock.Clock
	Healthy func() error
	// Configz is shown at /configz.
	Configz map[string]any
}

// Server is the node API.
type Server struct {
	cfg     Config
	reviews *reviews
	mux     *http.ServeMux
}

// New makes a server.
func New(cfg Config) *Server {
	s := &Server{cfg: cfg, reviews: newReviews(cfg.Client, cfg.NodeName, cfg.Clock), mux: http.NewServeMux()}
	s.routes()
	return s
}

func (s *Server) routes() {
	m := s.mux
	m.HandleFunc("GET /healthz", s.health)
	m.HandleFunc("GET /healthz/{check}", s.health)
	m.HandleFunc("GET /pods", s.pods)
	m.HandleFunc("GET /runningpods/", s.pods)
	m.HandleFunc("GET /configz", func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, s.cfg.Configz) })
	s.statistics()
	m.HandleFunc("GET /containerLogs/{namespace}/{pod}/{container}", s.containerLogs)
	m.HandleFunc("GET /logs/", s.nodeLogs)
	m.HandleFunc("POST /run/{namespace}/{pod}/{container}", s.run)
	for _, method := range []string{"GET", "POST"} {
		m.HandleFunc(method+" /exec/{namespace}/{pod}/{container}", s.exec)
		m.HandleFunc(method+" /exec/{namespace}/{pod}/{uid}/{container}", s.exec)
		m.HandleFunc(method+" /attach/{namespace}/{pod}/{container}", s.attach)
		m.HandleFunc(method+" /attach/{namespace}/{pod}/{uid}/{container}", s.attach)
		m.HandleFunc(method+" /portForward/{namespace}/{pod}", s.portForward)
		m.HandleFunc(method+" /portForward/{namespace}/{pod}/{uid}", s.portForward)
	}
}

// ServeHTTP answers whoever may ask.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	defer func() {
		if p := recover(); p != nil && p != http.ErrAbortHandler { //nolint:errorlint // a panic's value
			s.cfg.Logger.Error("node API request failed", "path", r.URL.Path, "panic", p)
			panic(http.ErrAbortHandler)
		}
	}()
	who, err := s.reviews.authenticate(r)
	if err != nil {
		s.cfg.Logger.Warn("node API: caller not identified", "err", err)
		http.Error(w, "Unauthorized", http.StatusUnauthorized)
		return
	}
	if who == nil {
		http.Error(w, "Unauthorized", http.StatusUnauthorized)
		return
	}
	if allowed, message := s.reviews.authorize(r, who); !allowed {
		http.Error(w, message, http.StatusForbidden)
		return
	}
	begin := s.cfg.Clock.Now()
	defer func() { s.count(r, begin) }()
	s.mux.ServeHTTP(w, r)
}

// Run serves until ctx ends.
func (s *Server) Run(ctx context.Context) error {
	config := s.cfg.TLS.Clone()
	if config.ClientAuth == tls.NoClientCert && config.ClientCAs != nil {
		config.ClientAuth = tls.VerifyClientCertIfGiven
	}
	if config.MinVersion == 0 {
		config.MinVersion = tls.VersionTLS12
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", s.cfg.Listen)
	if err != nil {
		return fmt.Errorf("listen for the node API: %w", err)
	}
	server := &http.Server{
		Handler: s, TLSConfig: config, ReadHeaderTimeout: 30 * time.Second, IdleTimeout: 90 * time.Second,
		BaseContext: func(net.Listener) context.Context { return ctx },
		ErrorLog:    slog.NewLogLogger(s.cfg.Logger.Handler(), slog.LevelDebug),
	}
	stop := context.AfterFunc(ctx, func() {
		// Streams last as long as users like: they are cut, not waited for.
		_ = server.Close()
	})
	defer stop()
	if err := server.ServeTLS(l, "", ""); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func writeJSON(w http.ResponseWriter, value any) {
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(value); err != nil {
		return // the caller is gone
	}
}

func (s *Server) health(w http.ResponseWriter, _ *http.Request) {
	if err := s.cfg.Healthy(); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	_, _ = w.Write([]byte("ok")) // the caller may be gone
}

func (s *Server) pods(w http.ResponseWriter, _ *http.Request) {
	list := corev1.PodList{}
	list.Kind, list.APIVersion = "PodList", "v1"
	for _, p := range s.cfg.Pods.Pods() {
		list.Items = append(list.Items, *p)
	}
	writeJSON(w, list)
}
