package proxy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// healthServers answer on the healthCheckNodePort of Services whose external
// traffic stays on the node: 200 where this node has a ready endpoint, else 503.
// A load balancer asks them.
type healthServers struct {
	logger *slog.Logger
	mu     sync.Mutex
	list   map[types.NamespacedName]*healthServer
}

type healthServer struct {
	port  int32
	key   types.NamespacedName
	local atomic.Int64
	http  *http.Server
}

func newHealthServers(logger *slog.Logger) *healthServers {
	return &healthServers{logger: logger, list: map[types.NamespacedName]*healthServer{}}
}

// set makes the answer for one Service agree with its fronts.
func (h *healthServers) set(ctx context.Context, key types.NamespacedName, svc *corev1.Service, list []front) {
	var port int32
	if svc != nil && svc.Spec.Type == corev1.ServiceTypeLoadBalancer && svc.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal {
		port = svc.Spec.HealthCheckNodePort
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	s := h.list[key]
	if s != nil && s.port != port {
		s.http.Close()
		delete(h.list, key)
		s = nil
	}
	if port == 0 {
		return
	}
	if s == nil {
		s = &healthServer{port: port, key: key}
		if err := s.listen(ctx, h.logger); err != nil {
			h.logger.Error("health check port of a Service", "service", key, "error", err)
			return
		}
		h.list[key] = s
	}
	local := map[string]bool{}
	for _, f := range list {
		for _, e := range f.healthy { // who terminates still serves, but a load balancer must look elsewhere
			local[e.addr.String()] = true
		}
	}
	s.local.Store(int64(len(local)))
}

func (s *healthServer) listen(ctx context.Context, logger *slog.Logger) error {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", fmt.Sprintf(":%d", s.port))
	if err != nil {
		return err
	}
	s.http = &http.Server{Handler: s, ReadHeaderTimeout: 5 * time.Second}
	go func() {
		if err := s.http.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			logger.Error("health check port of a Service", "service", s.key, "error", err)
		}
	}()
	return nil
}

// ServeHTTP answers in the form of upstream's kube-proxy.
func (s *healthServer) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	n := s.local.Load()
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("X-Load-Balancing-Endpoint-Weight", strconv.FormatInt(n, 10))
	if n == 0 {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	_ = json.NewEncoder(w).Encode(map[string]any{
		"service":             map[string]string{"namespace": s.key.Namespace, "name": s.key.Name},
		"localEndpoints":      n,
		"serviceProxyHealthy": true,
	})
}

func (h *healthServers) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for key, s := range h.list {
		s.http.Close()
		delete(h.list, key)
	}
}
