// Package store keeps every object in etcd, in this process or outside of it,
// and holds a watch cache over it: each object decoded once, immutable, with
// its encodings made at most once.
//
// # Terms
//
// An Entry is one object at one revision. A Snapshot is all entries of one
// resource at one revision, a copy-on-write tree. The log of a resource is
// the window of its latest events; a Watcher is a cursor in that log. The
// feed is the one watch on etcd that fills all caches.
//
// # The life of a write
//
//	Create ─ encode ─ txn ─────────────────────────────┐
//	            │ (pending)                            ├─ Entry
//	            └──── etcd watch ─ feed ─ cache, log ──┘
//
// The writer leaves its object in "pending". Whichever of the writer and the
// feed learns the revision first makes the Entry, the other one takes it, so
// nothing is decoded that was just encoded.
//
// # Reads
//
// No object is ever read from etcd but when a cache loads. The feed carries
// the revision up to which all caches are complete; a consistent read asks
// for etcd's current revision and waits until the feed has reached it.
//
// # Layout
//
// Keys and values are upstream's: /registry/<StoragePath>/[namespace/]name,
// and the k8s\0 protobuf envelope (JSON for unstructured kinds).
// metadata.resourceVersion is never stored; it is the key's modification
// revision in etcd.
package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/proa-dev/proa/api"
)

// root is the prefix of all keys, as upstream has it by default.
const root = "/registry/"

// Config says where etcd is.
type Config struct {
	// DataDir holds the etcd member of this process (<data-dir>/etcd). Used
	// when Endpoints is empty.
	DataDir string
	// Quota bounds its file in bytes; 0 means 8 GiB. Space is made before it
	// is reached; where that is impossible, writes fail.
	Quota int64
	// Endpoints are an outside etcd's client URLs, with the files of its TLS.
	Endpoints                 []string
	CAFile, CertFile, KeyFile string

	Scheme *runtime.Scheme
	// Lookup finds the kind of an object that is stored in another version
	// than it would be today (another server wrote it); its Storage converts.
	// Nil, or a nil result, leaves such objects unreadable.
	Lookup func(schema.GroupVersionKind) *api.Kind
	Logger *slog.Logger
}

// Validate says what is missing.
func (c Config) Validate() error {
	switch {
	case c.DataDir == "" && len(c.Endpoints) == 0:
		return errors.New("store: neither a data directory nor etcd endpoints are given")
	case c.Logger == nil:
		return errors.New("store: no logger")
	case (c.CertFile == "") != (c.KeyFile == ""):
		return errors.New("store: a client certificate needs its key and the other way round")
	}
	return nil
}

// maxWrites bounds the writes under way. etcd keeps 128 responses for a watch
// that is busy; one more, and it tells the watch what happened only on a round
// that it makes ten times a second, while everybody waits. More than this many
// at a time gain nothing: each of etcd's batches has its share already.
const maxWrites = 64

// Store is the storage of a whole API server. Safe for concurrent use.
type Store struct {
	cfg    Config
	log    *slog.Logger
	etcd   *etcd
	feed   *feed
	leases *leases

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu    sync.Mutex // guards changes of table
	table atomic.Pointer[table]
	space chan struct{} // asks upkeep to look at the space now
	// writes are those under way, until the feed has brought them.
	writes chan struct{}

	forgotten atomic.Int64 // lists of before this revision have expired
}

// table finds resources; it is replaced, never changed.
type table struct {
	byPath map[string]*Resource
	byGR   map[schema.GroupResource]*Resource
}

// Open starts (or connects to) etcd and returns when it serves. ctx bounds
// the start alone; Close ends what it started.
func Open(ctx context.Context, cfg Config) (*Store, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	e, err := openEtcd(ctx, cfg)
	if err != nil {
		return nil, err
	}
	rev, err := e.currentRevision(ctx)
	if err != nil {
		e.close()
		return nil, fmt.Errorf("store: read the revision of etcd: %w", err)
	}
	s := &Store{
		cfg:    cfg,
		log:    cfg.Logger,
		etcd:   e,
		feed:   newFeed(rev),
		leases: &leases{grant: e.grantLease},
		space:  make(chan struct{}, 1),
		writes: make(chan struct{}, maxWrites),
	}
	s.table.Store(&table{byPath: map[string]*Resource{}, byGR: map[schema.GroupResource]*Resource{}})
	s.ctx, s.cancel = context.WithCancel(context.WithoutCancel(ctx))
	s.wg.Go(s.runFeed)
	s.wg.Go(s.runUpkeep)
	return s, nil
}

// Close stops the caches, then etcd. Acknowledged writes are on disk.
func (s *Store) Close() error {
	s.mu.Lock()
	s.cancel()
	s.mu.Unlock()
	s.wg.Wait()
	for _, r := range s.table.Load().byPath {
		r.log.close()
		r.verify()
	}
	return s.etcd.close()
}

// Healthy returns nil when a linearizable read of etcd succeeds.
func (s *Store) Healthy(ctx context.Context) error {
	if err := s.ctx.Err(); err != nil {
		return errClosed
	}
	_, err := s.etcd.readRevision(ctx)
	return err
}

var errClosed = errors.New("store: closed")

// loadTimeout is how long Resource waits for a new cache; readers that have a
// context wait on in theirs.
const loadTimeout = 30 * time.Second

// Resource returns the storage of k's StoragePath, starting its cache at the
// first call, which takes as long as the objects take to be read. k must be
// the stored version.
func (s *Store) Resource(k *api.Kind) *Resource {
	if r := s.table.Load().byPath[k.StoragePath]; r != nil {
		return r
	}
	s.mu.Lock()
	t := s.table.Load()
	r := t.byPath[k.StoragePath]
	if r == nil {
		r = newResource(s, k)
		next := &table{byPath: maps.Clone(t.byPath), byGR: maps.Clone(t.byGR)}
		next.byPath[k.StoragePath] = r
		next.byGR[k.GR()] = r
		// From here on the feed sends events, which wait for the load.
		s.table.Store(next)
		if s.ctx.Err() == nil {
			s.wg.Go(func() { r.load(s.ctx) })
		}
	}
	s.mu.Unlock()

	ctx, cancel := context.WithTimeout(s.ctx, loadTimeout)
	defer cancel()
	if err := r.awaitLoad(ctx); err != nil {
		s.log.Warn("cache is still loading", "resource", k.StoragePath, "err", err)
	}
	return r
}

// Replace makes k the kind by which what is stored at its StoragePath is read,
// and reads all of it again. Watches end; whoever holds the resource goes on with
// the new one.
func (s *Store) Replace(k *api.Kind) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.table.Load()
	old := t.byPath[k.StoragePath]
	if old == nil {
		return // the first call of Resource starts it
	}
	r := newResource(s, k)
	next := &table{byPath: maps.Clone(t.byPath), byGR: maps.Clone(t.byGR)}
	next.byPath[k.StoragePath] = r
	for gr, other := range next.byGR {
		if other == old {
			delete(next.byGR, gr)
		}
	}
	next.byGR[k.GR()] = r
	s.table.Store(next)
	if s.ctx.Err() == nil {
		s.wg.Go(func() { r.load(s.ctx) })
	}
	old.next.Store(r)
	old.cancel()
	old.log.close()
}

// Forget drops the cache of k's StoragePath and ends its watches: for kinds
// that are no longer served. Stored objects stay.
func (s *Store) Forget(k *api.Kind) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.table.Load()
	r := t.byPath[k.StoragePath]
	if r == nil {
		return
	}
	next := &table{byPath: maps.Clone(t.byPath), byGR: maps.Clone(t.byGR)}
	delete(next.byPath, k.StoragePath)
	for gr, other := range next.byGR {
		if other == r {
			delete(next.byGR, gr)
		}
	}
	s.table.Store(next)
	r.cancel()
	r.log.close()
}

// Get and List read the cache of a resource that was started, as it is now,
// without waiting: for authorization, admission and other readers in the API
// server. Results are immutable. A missing object is (nil, false).
func (s *Store) Get(gr schema.GroupResource, namespace, name string) (api.Object, bool) {
	r := s.table.Load().byGR[gr]
	if r == nil {
		return nil, false
	}
	key := name
	if namespace != "" {
		key = namespace + "/" + name
	}
	if e := r.Cached(key); e != nil {
		return e.Object, true
	}
	return nil, false
}

// List returns all objects of a resource, of one namespace if it is not
// empty, in key order.
func (s *Store) List(gr schema.GroupResource, namespace string) []api.Object {
	r := s.table.Load().byGR[gr]
	if r == nil {
		return nil
	}
	prefix := ""
	if namespace != "" {
		prefix = namespace + "/"
	}
	snap := r.current()
	var out []api.Object
	if prefix == "" {
		out = make([]api.Object, 0, snap.Len())
	}
	snap.Ascend(prefix, "", func(e *Entry) bool {
		out = append(out, e.Object)
		return true
	})
	return out
}

// Current is the state of a resource as the cache has it now; nil when it was not
// started, or is still loading.
func (s *Store) Current(gr schema.GroupResource) *Snapshot {
	r := s.table.Load().byGR[gr]
	if r == nil {
		return nil
	}
	r.mu.RLock()
	loading := r.loading
	r.mu.RUnlock()
	if loading {
		return nil
	}
	return r.current()
}

// Revision is the revision of the latest change of a resource that the cache
// has seen: what was derived from the resource stays valid while it is equal.
func (s *Store) Revision(gr schema.GroupResource) int64 {
	if r := s.table.Load().byGR[gr]; r != nil {
		return r.Revision()
	}
	return 0
}

// find returns the resource that an etcd key belongs to, and the key in it.
// Storage paths have one to three segments.
func (t *table) find(key string) (*Resource, string) {
	rest, ok := strings.CutPrefix(key, root)
	if !ok {
		return nil, ""
	}
	for i, segments := 0, 0; segments < 3; segments++ {
		n := strings.IndexByte(rest[i:], '/')
		if n < 0 {
			return nil, ""
		}
		i += n
		if r := t.byPath[rest[:i]]; r != nil {
			return r, rest[i+1:]
		}
		i++
	}
	return nil, ""
}
