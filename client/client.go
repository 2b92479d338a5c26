// Package client is how every component sees the cluster: through
// controller-runtime's interfaces, over HTTPS (client/remote) or straight into
// an API server of the same process (client/local). A component cannot tell
// which, and has no other way in: a local write passes authorization,
// admission and validation like any other.
//
// Objects that come from a cache (informer handlers, lists with
// UnsafeDisableDeepCopy) are shared and must never be mutated.
package client

import (
	"context"

	"k8s.io/client-go/tools/record"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	ctrl "sigs.k8s.io/controller-runtime/pkg/client"
)

// Cluster is one component's view of the cluster, under that component's
// identity. Safe for concurrent use.
type Cluster interface {
	// Client reads from the cache and writes to the API server. Watch serves
	// who may see single objects only (field selector metadata.name), as a
	// node does with Secrets: it must not need an informer for the kind.
	Client() ctrl.WithWatch
	// Reader reads from the API server: as new as every acknowledged write.
	Reader() ctrl.Reader
	// Cache gives informers and indexes.
	Cache() cache.Cache
	// Recorder writes events (core/v1) with the named source component;
	// repeated ones are counted, a flood is bounded.
	Recorder(component string) record.EventRecorder
	// Start runs the caches until ctx ends.
	Start(ctx context.Context) error
}
