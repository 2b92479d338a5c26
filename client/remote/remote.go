// Package remote sees the cluster over HTTPS, through controller-runtime's
// caches and clients.
package remote

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"

	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/record"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	ctrl "sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/cluster"

	"github.com/proa-dev/proa/client"
	"github.com/proa-dev/proa/client/internal/recorder"
)

// Config says where the API server is and who asks.
type Config struct {
	// REST is the address and the credentials. It is not changed.
	REST   *rest.Config
	Scheme *runtime.Scheme
	// Host is the node that the components run on, for their events; empty
	// for those of the control plane.
	Host string
	// Mapper knows the kinds; the server is asked for them when nil, and must
	// then be up.
	Mapper meta.RESTMapper
	// Cache narrows what is cached, by kind (a node's agent wants its own pods
	// only); it may be zero.
	Cache  cache.Options
	Logger *slog.Logger
}

type remote struct {
	cluster  cluster.Cluster
	client   ctrl.WithWatch
	recorder *recorder.Recorder
}

var _ client.Cluster = (*remote)(nil)

// New connects when first asked; with a Mapper the server need not be up yet.
func New(cfg Config) (client.Cluster, error) {
	switch {
	case cfg.REST == nil:
		return nil, errors.New("remote client: no REST config")
	case cfg.Scheme == nil:
		return nil, errors.New("remote client: no scheme")
	case cfg.Logger == nil:
		return nil, errors.New("remote client: no logger")
	}
	// ContentType stays empty: controller-runtime then takes protobuf for
	// the kinds that have it and JSON for custom resources.
	rc := rest.CopyConfig(cfg.REST)
	rc.QPS = -1 // the server knows better how much it can take
	var withWatch ctrl.WithWatch
	c, err := cluster.New(rc, func(o *cluster.Options) {
		o.Scheme = cfg.Scheme
		o.Cache = cfg.Cache
		if cfg.Mapper != nil {
			o.MapperProvider = func(*rest.Config, *http.Client) (meta.RESTMapper, error) { return cfg.Mapper, nil }
		}
		o.Logger = logr.FromSlogHandler(cfg.Logger.Handler())
		o.NewClient = func(rc *rest.Config, o ctrl.Options) (_ ctrl.Client, err error) {
			withWatch, err = ctrl.NewWithWatch(rc, o)
			return withWatch, err
		}
		o.Client.Cache = &ctrl.CacheOptions{Unstructured: true}
	})
	if err != nil {
		return nil, fmt.Errorf("remote client: %w", err)
	}
	return &remote{cluster: c, client: withWatch, recorder: recorder.New(withWatch, cfg.Scheme, cfg.Host)}, nil
}

// Client implements client.Cluster.
func (r *remote) Client() ctrl.WithWatch { return r.client }

// Reader implements client.Cluster.
func (r *remote) Reader() ctrl.Reader { return r.cluster.GetAPIReader() }

// Cache implements client.Cluster.
func (r *remote) Cache() cache.Cache { return r.cluster.GetCache() }

// Recorder implements client.Cluster.
func (r *remote) Recorder(component string) record.EventRecorder { return r.recorder.For(component) }

// Start implements client.Cluster.
func (r *remote) Start(ctx context.Context) error {
	var wg sync.WaitGroup
	wg.Go(func() { r.recorder.Run(ctx) })
	defer wg.Wait()
	return r.cluster.Start(ctx)
}
