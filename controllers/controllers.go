// Package controllers is the list of all controllers: the loops that bring the
// cluster's state to what its objects ask for. Each has a folder of its own
// and knows nothing of the others; they meet in the objects alone.
package controllers

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"
	"k8s.io/kube-openapi/pkg/validation/spec"
	"k8s.io/utils/clock"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/client"
	"github.com/proa-dev/proa/controllers/bootstrap"
	"github.com/proa-dev/proa/controllers/certificates"
	"github.com/proa-dev/proa/controllers/clusterroleaggregation"
	"github.com/proa-dev/proa/controllers/cronjob"
	"github.com/proa-dev/proa/controllers/daemonset"
	"github.com/proa-dev/proa/controllers/deployment"
	"github.com/proa-dev/proa/controllers/devicetainteviction"
	"github.com/proa-dev/proa/controllers/disruption"
	"github.com/proa-dev/proa/controllers/endpoints"
	"github.com/proa-dev/proa/controllers/endpointslice"
	"github.com/proa-dev/proa/controllers/endpointslicemirroring"
	"github.com/proa-dev/proa/controllers/ephemeralvolume"
	"github.com/proa-dev/proa/controllers/flowschema"
	"github.com/proa-dev/proa/controllers/garbage"
	"github.com/proa-dev/proa/controllers/horizontalpodautoscaler"
	"github.com/proa-dev/proa/controllers/internal/index"
	"github.com/proa-dev/proa/controllers/internal/loop"
	"github.com/proa-dev/proa/controllers/job"
	"github.com/proa-dev/proa/controllers/legacytoken"
	"github.com/proa-dev/proa/controllers/localpath"
	"github.com/proa-dev/proa/controllers/namespace"
	"github.com/proa-dev/proa/controllers/nodeipam"
	"github.com/proa-dev/proa/controllers/nodelifecycle"
	"github.com/proa-dev/proa/controllers/persistentvolume"
	"github.com/proa-dev/proa/controllers/podgc"
	"github.com/proa-dev/proa/controllers/policystatus"
	"github.com/proa-dev/proa/controllers/replicaset"
	"github.com/proa-dev/proa/controllers/replication"
	"github.com/proa-dev/proa/controllers/resourceclaim"
	"github.com/proa-dev/proa/controllers/resourcequota"
	"github.com/proa-dev/proa/controllers/rootca"
	"github.com/proa-dev/proa/controllers/serviceaccount"
	"github.com/proa-dev/proa/controllers/serviceaccounttoken"
	"github.com/proa-dev/proa/controllers/servicecidr"
	"github.com/proa-dev/proa/controllers/servicelb"
	"github.com/proa-dev/proa/controllers/statefulset"
	"github.com/proa-dev/proa/controllers/tainteviction"
	"github.com/proa-dev/proa/controllers/ttlafterfinished"
	"github.com/proa-dev/proa/controllers/volumeprotection"
)

// Config is what the controllers cannot read from the cluster.
type Config struct {
	Logger *slog.Logger
	// Clock is the time of day; nil is the real one.
	Clock clock.WithTicker
	// Kinds returns every kind that is served, custom ones included.
	Kinds func() []*api.Kind
	// Schema returns a kind's OpenAPI schema without references, nil for none.
	Schema func(schema.GroupVersionKind) (*spec.Schema, error)
	// NodeLifecycle and PodGC are times and limits; zero means the defaults.
	NodeLifecycle nodelifecycle.Config
	PodGC         podgc.Config
	// RootCA is the certificate authority of the API server, in PEM.
	RootCA []byte
	// Tokens makes the tokens that Secrets hold.
	Tokens serviceaccounttoken.Issuer
	// MetricsAPI is the API over HTTP, which alone leads to other servers: where
	// autoscalers read metrics, and what they have in a namespace that ends is
	// deleted.
	MetricsAPI *rest.Config
	// PodCIDR holds the pods of all nodes.
	PodCIDR netip.Prefix
	// ServiceCIDR is what Services take their addresses from, unless ServiceCIDRs
	// say otherwise.
	ServiceCIDR netip.Prefix
	// NoServiceLB leaves Services of type LoadBalancer to somebody else.
	NoServiceLB bool
	// Certificates says who signs certificate requests, and how.
	Certificates certificates.Config
}

// Validate says what is missing.
func (c *Config) Validate() error {
	switch {
	case c.Logger == nil:
		return errors.New("controllers: no logger")
	case c.Kinds == nil || c.Schema == nil:
		return errors.New("controllers: no kinds, or no schemas of them")
	case len(c.RootCA) == 0:
		return errors.New("controllers: no root CA")
	case c.Tokens == nil:
		return errors.New("controllers: no issuer of tokens")
	case c.MetricsAPI == nil:
		return errors.New("controllers: no API of metrics")
	case !c.PodCIDR.IsValid():
		return errors.New("controllers: no pod network")
	case !c.ServiceCIDR.IsValid():
		return errors.New("controllers: no addresses of Services")
	}
	return nil
}

// Controllers are all controllers of one process.
type Controllers struct {
	cluster client.Cluster
	cfg     Config
	metrics horizontalpodautoscaler.Metrics
	// counts are what this run's controllers count; nil while none runs.
	counts atomic.Pointer[prometheus.Registry]
}

// All prepares every controller. It must be called before the cluster's caches
// start: it adds their indexes.
func All(ctx context.Context, cluster client.Cluster, cfg Config) (*Controllers, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if cfg.Clock == nil {
		cfg.Clock = clock.RealClock{}
	}
	if err := index.Install(ctx, cluster.Cache()); err != nil {
		return nil, err
	}
	metrics, err := horizontalpodautoscaler.NewMetrics(cfg.MetricsAPI, cluster.Client().RESTMapper())
	if err != nil {
		return nil, err
	}
	return &Controllers{cluster: cluster, cfg: cfg, metrics: metrics}, nil
}

// loops makes every controller anew: each is made for one run.
func (c *Controllers) loops(cluster client.Cluster, metrics prometheus.Registerer) ([]loop.Loop, error) {
	cfg := &c.cfg
	env := loop.Env{Cluster: cluster, Logger: cfg.Logger, Clock: cfg.Clock, Metrics: metrics}
	var loops []loop.Loop
	for _, newLoop := range []func() (loop.Loop, error){
		func() (loop.Loop, error) { return deployment.New(env) },
		func() (loop.Loop, error) { return replicaset.New(env) },
		func() (loop.Loop, error) { return replication.New(env) },
		func() (loop.Loop, error) { return statefulset.New(env) },
		func() (loop.Loop, error) { return job.New(env) },
		func() (loop.Loop, error) { return cronjob.New(env) },
		func() (loop.Loop, error) { return ttlafterfinished.New(env) },
		func() (loop.Loop, error) {
			return horizontalpodautoscaler.New(env, horizontalpodautoscaler.Config{Metrics: c.metrics})
		},
		func() (loop.Loop, error) { return daemonset.New(env) },
		func() (loop.Loop, error) { return disruption.New(env, cfg.Kinds) },
		func() (loop.Loop, error) { return endpointslice.New(env) },
		func() (loop.Loop, error) { return endpointslicemirroring.New(env) },
		func() (loop.Loop, error) { return endpoints.New(env) },
		func() (loop.Loop, error) { return garbage.New(env, cfg.Kinds) },
		func() (loop.Loop, error) { return nodelifecycle.New(env, cfg.NodeLifecycle) },
		func() (loop.Loop, error) { return tainteviction.New(env) },
		func() (loop.Loop, error) { return devicetainteviction.New(env) },
		func() (loop.Loop, error) { return podgc.New(env, cfg.PodGC) },
		func() (loop.Loop, error) { return namespace.New(env, cfg.Kinds, cfg.MetricsAPI) },
		func() (loop.Loop, error) { return resourceclaim.New(env) },
		func() (loop.Loop, error) { return resourcequota.New(env, cfg.Kinds) },
		func() (loop.Loop, error) { return persistentvolume.New(env) },
		func() (loop.Loop, error) { return volumeprotection.New(env) },
		func() (loop.Loop, error) { return ephemeralvolume.New(env) },
		func() (loop.Loop, error) { return localpath.New(env) },
		func() (loop.Loop, error) { return nodeipam.New(env, cfg.PodCIDR) },
		func() (loop.Loop, error) {
			return policystatus.New(env, policystatus.Config{Kinds: cfg.Kinds, Schema: cfg.Schema})
		},
		func() (loop.Loop, error) { return flowschema.New(env) },
		func() (loop.Loop, error) { return servicecidr.New(env, cfg.ServiceCIDR) },
		func() (loop.Loop, error) { return servicelb.New(env, cfg.NoServiceLB) },
		func() (loop.Loop, error) { return serviceaccount.New(env) },
		func() (loop.Loop, error) { return serviceaccounttoken.New(env, cfg.Tokens, cfg.RootCA) },
		func() (loop.Loop, error) { return legacytoken.New(env) },
		func() (loop.Loop, error) { return rootca.New(env, cfg.RootCA) },
		func() (loop.Loop, error) { return clusterroleaggregation.New(env) },
		func() (loop.Loop, error) { return certificates.New(env, cfg.Certificates) },
		func() (loop.Loop, error) { return bootstrap.New(env) },
	} {
		l, err := newLoop()
		if err != nil {
			return nil, err
		}
		loops = append(loops, l)
	}
	return loops, nil
}

// Run starts every controller and works until ctx ends, or one of them fails.
// The cluster's caches must be running or about to. Only one process of a
// cluster may run it at a time; once it has returned it may be run again.
func (c *Controllers) Run(ctx context.Context) (err error) {
	term := newTerm(c.cluster)
	defer func() { err = errors.Join(err, term.cache.end()) }()
	counts := prometheus.NewRegistry()
	loops, err := c.loops(term, counts)
	if err != nil {
		return err
	}
	running := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "running_managed_controllers",
		Help: "Indicates where instances of a controller are currently running"}, []string{"name", "manager"})
	if err := counts.Register(running); err != nil {
		return err
	}
	c.counts.Store(counts)
	defer c.counts.Store(nil)
	g, ctx := errgroup.WithContext(ctx)
	for _, l := range loops {
		g.Go(func() error {
			runs := running.WithLabelValues(l.Name, "kube-controller-manager")
			runs.Set(1)
			defer runs.Set(0)
			err := l.Run(ctx)
			if ctx.Err() != nil {
				return nil //nolint:nilerr // asked to stop
			}
			if err == nil {
				err = errors.New("ended early")
			}
			return fmt.Errorf("controller %s: %w", l.Name, err)
		})
	}
	c.cfg.Logger.Debug("controllers started", "count", len(loops))
	return g.Wait()
}

// Gather tells what the controllers have counted since they were last started,
// while they run here.
func (c *Controllers) Gather() ([]*dto.MetricFamily, error) {
	if r := c.counts.Load(); r != nil {
		return r.Gather()
	}
	return nil, nil
}
