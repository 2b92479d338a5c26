// Package aggregation serves what other servers implement. It follows the
// APIService objects, keeps one for each group and version that this server
// serves itself, and leads requests for the others on to the Services that they
// name.
//
//	                 ┌ no Service ──────> served here
//	APIService ──────┤
//	                 └ a Service ──> backend: looks whether it answers, tells so in
//	                                 the status, asks it what it serves
//
// Only an APIService whose status says Available gets requests: all API servers
// of a cluster decide alike. What backends serve is published as a View, of which
// discovery and the OpenAPI documents are made.
package aggregation

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/endpoints/request"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	"k8s.io/kube-aggregator/pkg/apis/apiregistration/v1/helper"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/apiserver/apiservices"
	"github.com/proa-dev/proa/apiserver/connect"
	"github.com/proa-dev/proa/apiserver/kinds"
	"github.com/proa-dev/proa/apiserver/registry"
	"github.com/proa-dev/proa/store"
)

type apiService = apiregistrationv1.APIService

// Config is what a Server is made of.
type Config struct {
	Store *store.Store
	// Kinds is the table of what is served here; when New is called it has the
	// built-in kinds alone.
	Kinds    *kinds.Table
	Registry *registry.Core
	// Source reads Services and EndpointSlices.
	Source connect.Source
	// Identity is the certificate by which other servers know this one, and
	// believe whom it names as the user.
	Identity func(*tls.CertificateRequestInfo) (*tls.Certificate, error)
	// Metrics registers metrics; nil: none.
	Metrics *prometheus.Registry
	Logger  *slog.Logger
}

// Server leads requests on to other servers. Safe for concurrent use.
type Server struct {
	cfg       Config
	endpoints connect.Services
	services  *api.Kind // APIServices
	customs   *api.Kind // CustomResourceDefinitions; nil: there are none
	slices    *api.Kind
	core      *api.Kind // Services
	builtin   []schema.GroupVersion
	metrics   *metrics
	// looks bounds how many backends are looked at at a time.
	looks chan struct{}

	routes atomic.Pointer[routes] // nil while nothing is led on
	view   atomic.Pointer[apiservices.View]

	ready atomic.Bool

	mu       sync.Mutex // guards what is below
	present  []*apiService
	backends map[string]*backend // by the name of the APIService

	// Of Run alone: which APIServices there were at the start, and which of
	// them are as they should be at a start.
	atStart, settled map[string]bool
}

// routes is where requests for a group and version go.
type routes struct {
	to map[schema.GroupVersion]*route
	// ctx ends when streams have to.
	ctx context.Context
}

type route struct {
	*backend
	available bool
}

// maxLooks bounds how many backends are looked at at a time: each may take as
// long as the slowest server that somebody registered.
const maxLooks = 16

// New returns a server that leads nothing on yet; nil where no APIServices are
// served.
func New(cfg Config) (*Server, error) {
	switch {
	case cfg.Store == nil, cfg.Kinds == nil, cfg.Registry == nil, cfg.Source == nil:
		return nil, errors.New("aggregation: Store, Kinds, Registry and Source are required")
	case cfg.Identity == nil:
		return nil, errors.New("aggregation: no certificate for other servers")
	case cfg.Logger == nil:
		return nil, errors.New("aggregation: no logger")
	}
	set := cfg.Kinds.Set()
	s := &Server{
		cfg: cfg, endpoints: connect.Services{Source: cfg.Source},
		services: set.ByResource(apiregistrationv1.SchemeGroupVersion.WithResource("apiservices")),
		customs:  set.ByResource(apiextensionsv1.SchemeGroupVersion.WithResource("customresourcedefinitions")),
		slices:   set.ByResource(schema.GroupVersionResource{Group: "discovery.k8s.io", Version: "v1", Resource: "endpointslices"}),
		core:     set.ByResource(schema.GroupVersionResource{Version: "v1", Resource: "services"}),
		looks:    make(chan struct{}, maxLooks), backends: map[string]*backend{}, settled: map[string]bool{},
	}
	if s.services == nil || s.slices == nil || s.core == nil {
		return nil, nil
	}
	s.metrics = newMetrics(s)
	if cfg.Metrics != nil {
		if err := cfg.Metrics.Register(s.metrics); err != nil {
			return nil, fmt.Errorf("aggregation: %w", err)
		}
	}
	for _, g := range set.Groups {
		for _, v := range g.Versions {
			s.builtin = append(s.builtin, schema.GroupVersion{Group: g.Name, Version: v})
		}
	}
	return s, nil
}

// View is what the APIServices say now. A nil server has a nil one.
func (s *Server) View() *apiservices.View {
	if s == nil {
		return nil
	}
	return s.view.Load()
}

// Ready is a check of /readyz: until it succeeds, what other servers serve looks
// as if it did not exist.
func (s *Server) Ready(context.Context) error {
	if !s.ready.Load() {
		return errors.New("not finished")
	}
	return nil
}

// retry is how long what failed rests.
const retry = time.Second

// Run follows the APIServices until ctx ends. ready is called when those that
// are there are known.
func (s *Server) Run(ctx context.Context, ready func()) error {
	// Its own writes are the server's, not those of whoever asked.
	ctx = request.WithUser(ctx, &user.DefaultInfo{Name: "system:apiserver", Groups: []string{user.SystemPrivilegedGroup, user.AllAuthenticated}})
	var group sync.WaitGroup
	defer group.Wait()
	bell := make(chan struct{}, 1)
	for _, k := range []*api.Kind{s.services, s.customs} {
		if k != nil {
			group.Go(func() { s.ring(ctx, k, store.WatchOptions{}, bell) })
		}
	}
	for first := true; ctx.Err() == nil; {
		services, customs, err := s.read(ctx)
		again := err != nil
		if err == nil {
			s.follow(ctx, &group, services)
			if first {
				s.remember(services)
				s.ready.Store(true)
				ready()
				first = false
			}
			again = s.register(ctx, services, customs)
		} else if ctx.Err() == nil {
			s.cfg.Logger.Warn("read the APIServices", "error", err)
		}
		wait(ctx, bell, again, retry)
	}
	return nil
}

// wait returns when the bell rings or, if limited, after a while.
func wait(ctx context.Context, bell <-chan struct{}, limited bool, limit time.Duration) {
	var end <-chan time.Time
	if limited {
		t := time.NewTimer(limit)
		defer t.Stop()
		end = t.C
	}
	select {
	case <-bell:
	case <-end:
	case <-ctx.Done():
	}
}

// ring rings the bell whenever an object that opts select changes.
func (s *Server) ring(ctx context.Context, k *api.Kind, opts store.WatchOptions, bell chan<- struct{}) {
	var buf []store.Event
	for ctx.Err() == nil {
		w, err := s.cfg.Store.Resource(k).Watch(opts)
		for err == nil {
			if buf, err = w.Next(ctx, buf); err == nil {
				select {
				case bell <- struct{}{}:
				default: // it has not been heard yet
				}
			}
		}
		if w != nil {
			w.Stop()
		}
		wait(ctx, nil, true, retry) // watches end for good reasons: begin anew
	}
}

// read returns the APIServices and the definitions of custom resources. The
// definitions are read last: who registered an APIService for one on another
// server had seen it.
func (s *Server) read(ctx context.Context) ([]*apiService, []*apiextensionsv1.CustomResourceDefinition, error) {
	services, err := list[*apiService](ctx, s.cfg.Store.Resource(s.services))
	if err != nil || s.customs == nil {
		return services, nil, err
	}
	customs, err := list[*apiextensionsv1.CustomResourceDefinition](ctx, s.cfg.Store.Resource(s.customs))
	return services, customs, err
}

func list[T api.Object](ctx context.Context, r *store.Resource) ([]T, error) {
	snap, err := r.Snapshot(ctx, store.MatchLatest, 0)
	if err != nil {
		return nil, err
	}
	var out []T
	snap.Ascend("", "", func(e *store.Entry) bool {
		if o, ok := e.Object.(T); ok {
			out = append(out, o)
		}
		return true
	})
	return out, nil
}

// follow makes the backends and routes those that the APIServices name.
func (s *Server) follow(ctx context.Context, group *sync.WaitGroup, services []*apiService) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.present = services
	next := &routes{to: map[schema.GroupVersion]*route{}, ctx: ctx}
	here := map[string]bool{}
	for _, svc := range services {
		if svc.Spec.Service == nil || svc.Spec.Group == apiregistrationv1.GroupName {
			continue // who led this group elsewhere could never undo it
		}
		here[svc.Name] = true
		at := targetOf(svc)
		b := s.backends[svc.Name]
		if b == nil || b.target != at {
			old := b
			b = s.open(svc.Name, at)
			if old != nil {
				old.stop()
				if old.gv == at.gv { // until it is asked, under a new certificate say, it is believed to serve the same
					b.known.Store(old.known.Load())
				}
			}
			own, cancel := context.WithCancel(ctx)
			b.cancel = cancel
			s.backends[svc.Name] = b
			group.Go(func() { b.run(own, group) })
		} else {
			b.compare(svc)
		}
		next.to[at.gv] = &route{backend: b, available: helper.IsAPIServiceConditionTrue(svc, apiregistrationv1.Available)}
	}
	for name, b := range s.backends {
		if !here[name] {
			b.stop()
			delete(s.backends, name)
			s.metrics.forget(name)
		}
	}
	if len(next.to) == 0 {
		next = nil // so that requests for what is served here cost one comparison
	}
	s.routes.Store(next)
	s.publish()
}

// learned publishes what a backend has found out.
func (s *Server) learned() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.publish()
}

// publish makes the view anew, if it has changed. s.mu is held.
func (s *Server) publish() {
	all := make(map[schema.GroupVersion]apiservices.Service, len(s.present))
	for _, svc := range s.present {
		one := apiservices.Service{Priority: apiservices.Priority{Group: svc.Spec.GroupPriorityMinimum, Version: svc.Spec.VersionPriority}}
		if b := s.backends[svc.Name]; b != nil && svc.Spec.Service != nil {
			one.Remote = b.known.Load()
		}
		all[groupVersion(svc)] = one
	}
	if next := apiservices.New(all); !next.Equal(s.view.Load()) {
		s.view.Store(next)
	}
}

func groupVersion(svc *apiService) schema.GroupVersion {
	return schema.GroupVersion{Group: svc.Spec.Group, Version: svc.Spec.Version}
}
