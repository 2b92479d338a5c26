package apiserver

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"runtime"
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apiserver/pkg/endpoints/request"

	"github.com/proa-dev/proa/apiserver/authn"
	"github.com/proa-dev/proa/apiserver/connect"
	"github.com/proa-dev/proa/apiserver/handlers"
	"github.com/proa-dev/proa/apiserver/health"
	"github.com/proa-dev/proa/apiserver/kinds"
	"github.com/proa-dev/proa/apiserver/live"
	"github.com/proa-dev/proa/apiserver/openapi"
)

// connect makes the way to the nodes, if there is one.
func (s *Server) connect(hc *handlers.Config) error {
	if s.cfg.Kubelet == nil {
		return nil
	}
	p, err := connect.New(connect.Config{
		Source: live.New(s.cfg.Store, s.cfg.Kinds), Transport: s.cfg.Kubelet, Registry: s.registry, Authorizer: s.cfg.Authorizer, Logger: s.cfg.Logger,
		Fail: func(w http.ResponseWriter, r *http.Request, err error) { handlers.WriteError(w, r, s.codec, err) },
	})
	if err != nil {
		return err
	}
	hc.Connect = p
	return nil
}

// routes lists what is served beside resources and discovery.
func (s *Server) routes() error {
	store := health.Check{Name: "etcd", Run: s.cfg.Store.Healthy}
	alive := []health.Check{health.Ping(), store}
	ready := append(slices.Clone(alive), s.cfg.Ready...)
	if s.remote != nil {
		ready = append(ready, health.Check{Name: "poststarthook/apiservice-discovery-controller", Run: s.remote.Ready})
	}
	ready = append(ready, health.Check{Name: "shutdown", Run: func(context.Context) error {
		if s.stopping.Load() {
			return errors.New("process is shutting down")
		}
		return nil
	}})
	docs := openapi.New(s.kinds, s.types, s.remote.View, s.cfg.Paths[authn.KeysPath] != nil)
	s.fixed = map[string]http.Handler{
		"/":           http.HandlerFunc(s.index),
		"/version":    version(),
		"/version/":   version(), // as the OpenAPI documents have it
		"/openapi/v2": docs,
		"/openapi/v3": docs,
	}
	for path, h := range s.cfg.Paths {
		s.fixed[path] = h
		s.fixed[strings.TrimSuffix(path, "/")+"/"] = h
	}
	if s.cfg.Metrics != nil {
		s.fixed["/metrics"] = promhttp.HandlerFor(append(prometheus.Gatherers{s.cfg.Metrics}, s.cfg.OtherMetrics...), promhttp.HandlerOpts{})
	}
	s.trees = []tree{{"/openapi/v3/", docs}}
	for path, checks := range map[string][]health.Check{"/healthz": alive, "/livez": alive, "/readyz": ready} {
		h := &health.Handler{Path: path, Checks: checks, Observe: func(check string, err error) { s.metrics.check(path, check, err) }}
		s.fixed[path] = h
		s.trees = append(s.trees, tree{path + "/", h})
	}
	return nil
}

func version() http.Handler {
	info := kinds.Version()
	info.GoVersion, info.Compiler, info.Platform = runtime.Version(), runtime.Compiler, runtime.GOOS+"/"+runtime.GOARCH
	body, err := json.MarshalIndent(info, "", "  ")
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(body) // the client has gone if this fails
	})
}

// index lists the paths that are served.
func (s *Server) index(w http.ResponseWriter, r *http.Request) {
	paths := []string{"/api", "/apis"}
	for _, g := range s.remote.View().Groups(s.kinds.Set()) {
		base := "/apis/" + g.Name
		if g.Name == "" {
			base = "/api"
		} else {
			paths = append(paths, base)
		}
		for _, v := range g.Versions {
			paths = append(paths, base+"/"+v)
		}
	}
	for p := range s.fixed {
		if !strings.HasSuffix(p, "/") {
			paths = append(paths, p)
		}
	}
	slices.Sort(paths)
	body, err := json.MarshalIndent(map[string][]string{"paths": paths}, "", "  ")
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(body) // the client has gone if this fails
}

// route hands an authorized request to what answers it.
func (s *Server) route(w http.ResponseWriter, r *http.Request, info *request.RequestInfo) {
	if s.remote.Serve(w, r, info) {
		return
	}
	if info.IsResourceRequest {
		s.resources.Serve(w, r, info)
		return
	}
	if h, ok := s.fixed[r.URL.Path]; ok {
		h.ServeHTTP(w, r)
		return
	}
	for _, t := range s.trees {
		if strings.HasPrefix(r.URL.Path, t.prefix) {
			t.handler.ServeHTTP(w, r)
			return
		}
	}
	served, err := s.discovery.Serve(w, r)
	if err != nil {
		handlers.WriteError(w, r, s.codec, err)
		return
	}
	if !served {
		http.Error(w, "404 page not found", http.StatusNotFound)
	}
}

// internalError is what clients see of a fault of the server.
func internalError(err error) error { return apierrors.NewInternalError(err) }
