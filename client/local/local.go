// Package local sees the cluster straight through an API server of the same
// process: no wire, no encoding, no second copy of any object.
//
// Reads and watches come from the store's cache, through the registry, so
// that they are authorized; of a kind that an informer follows, whose watch of
// all objects was, straight from the store. Writes pass the registry like any
// request.
//
// What is cheap elsewhere stays cheap: an informer keeps pointers to the
// store's own objects, and a cached read is at least as new as every event
// that any informer has delivered, since both have one source.
package local

import (
	"context"
	"errors"
	"log/slog"
	"sync"

	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/tools/record"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	ctrl "sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proa-dev/proa/apiserver/kinds"
	"github.com/proa-dev/proa/apiserver/registry"
	"github.com/proa-dev/proa/client"
	"github.com/proa-dev/proa/client/internal/recorder"
	"github.com/proa-dev/proa/store"
)

// Config says which API server and who asks.
type Config struct {
	Registry registry.Registry
	Store    *store.Store // the registry's
	Kinds    *kinds.Table
	Scheme   *runtime.Scheme
	User     user.Info
	// Host is the node that the components run on, for their events; empty
	// for those of the control plane.
	Host string
	// Manager is who writes, in managedFields, where a caller names no owner.
	Manager string
	// Only limits what informers see of a kind, by a field selector: a node
	// may watch its own pods and no others.
	Only   map[schema.GroupVersionKind]fields.Selector
	Logger *slog.Logger
}

// Validate says what is missing.
func (c Config) Validate() error {
	switch {
	case c.Registry == nil:
		return errors.New("local client: no registry")
	case c.Store == nil:
		return errors.New("local client: no store")
	case c.Kinds == nil:
		return errors.New("local client: no kinds")
	case c.Scheme == nil:
		return errors.New("local client: no scheme")
	case c.User == nil:
		return errors.New("local client: no user")
	case c.Logger == nil:
		return errors.New("local client: no logger")
	}
	return nil
}

type local struct {
	client   *localClient
	reader   *localClient
	cache    *informers
	recorder *recorder.Recorder
}

var (
	_ client.Cluster = (*local)(nil)
	_ cache.Cache    = (*informers)(nil)
)

// New returns the cluster as cfg.User sees it.
func New(cfg Config) (client.Cluster, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	a := &access{Config: cfg, mapper: &mapper{kinds: cfg.Kinds}}
	c := newInformers(a)
	l := &local{
		client: &localClient{access: a, cache: c},
		reader: &localClient{access: a},
		cache:  c,
	}
	c.reader = l.client
	l.recorder = recorder.New(l.client, cfg.Scheme, cfg.Host)
	return l, nil
}

// Client implements client.Cluster.
func (l *local) Client() ctrl.WithWatch { return l.client }

// Reader implements client.Cluster.
func (l *local) Reader() ctrl.Reader { return l.reader }

// Cache implements client.Cluster.
func (l *local) Cache() cache.Cache { return l.cache }

// Recorder implements client.Cluster.
func (l *local) Recorder(component string) record.EventRecorder { return l.recorder.For(component) }

// Start implements client.Cluster.
func (l *local) Start(ctx context.Context) error {
	var wg sync.WaitGroup
	wg.Go(func() { l.recorder.Run(ctx) })
	defer wg.Wait()
	return l.cache.Start(ctx)
}
