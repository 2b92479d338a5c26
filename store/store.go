// Package store keeps every object in etcd, in this process or outside of it,
// and holds a watch cache over it: each object decoded once, immutable, with
// its encodings made at most once.
//
// # Terms
//
// An Entry is one object at one revision. A Snapshot is all entries of one
// resource at one revision, a copy-on-write tree. The log of a resource is
// the window of its latest events; a Watcher is a cursor in that log.
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
	"log/slog"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/proa-dev/proa/api"
)

// Config says where etcd is.
type Config struct {
	// DataDir holds the etcd member of this process (<data-dir>/etcd). Used
	// when Endpoints is empty.
	DataDir string
	// Endpoints are an outside etcd's client URLs, with the files of its TLS.
	Endpoints                 []string
	CAFile, CertFile, KeyFile string

	Scheme *runtime.Scheme
	Logger *slog.Logger
}

// Store is the storage of a whole API server. Safe for concurrent use.
type Store struct{}

// Open starts (or connects to) etcd and returns when it serves. ctx bounds
// the start alone; Close ends what it started.
func Open(ctx context.Context, cfg Config) (*Store, error) { panic("unwritten") }

// Close stops the caches, then etcd. Acknowledged writes are on disk.
func (s *Store) Close() error { panic("unwritten") }

// Healthy returns nil when a linearizable read of etcd succeeds.
func (s *Store) Healthy(ctx context.Context) error { panic("unwritten") }

// Resource returns the storage of k's StoragePath, starting its cache at the
// first call. k must be the stored version.
func (s *Store) Resource(k *api.Kind) *Resource { panic("unwritten") }

// Get and List read the cache of a resource that was started, as it is now,
// without waiting: for authorization, admission and other readers in the API
// server. Results are immutable. A missing object is (nil, false).
func (s *Store) Get(gr schema.GroupResource, namespace, name string) (api.Object, bool) {
	panic("unwritten")
}

// List returns all objects of a resource, of one namespace if it is not
// empty, in key order.
func (s *Store) List(gr schema.GroupResource, namespace string) []api.Object { panic("unwritten") }

// Revision is the revision of the latest change of a resource that the cache
// has seen: what was derived from the resource stays valid while it is equal.
func (s *Store) Revision(gr schema.GroupResource) int64 { panic("unwritten") }

// Entry is one object at one revision. Immutable, but for encodings that are
// made when first asked for.
type Entry struct {
	// Key is "namespace/name", or "name" for cluster-scoped resources.
	Key      string
	Object   api.Object // resourceVersion set, TypeMeta set; never mutate
	Revision int64
}

// JSON returns the object in the stored version, as one line without a
// trailing newline, made at most once.
func (e *Entry) JSON() []byte { panic("unwritten") }

// Protobuf returns the object in the stored version as the k8s\0 envelope
// with resourceVersion set, made at most once; nil for kinds without a
// protobuf form.
func (e *Entry) Protobuf() []byte { panic("unwritten") }

// Resource is the storage of one resource: writes go to etcd, reads come
// from the watch cache.
type Resource struct{}

// Create stores obj under key (see Entry). It sets nothing in obj but keeps
// it: the caller hands it over. An existing key is an AlreadyExists status
// error. ttl is in seconds, 0 for none (Events have one).
func (r *Resource) Create(ctx context.Context, key string, obj api.Object, ttl int64) (*Entry, error) {
	panic("unwritten")
}

// Update replaces old by obj when old is still the latest revision, else it
// returns ErrChanged; the caller reads again and decides. An object equal to
// old is not written: old itself is returned.
func (r *Resource) Update(ctx context.Context, old *Entry, obj api.Object) (*Entry, error) {
	panic("unwritten")
}

// Delete removes old when it is still the latest revision, else it returns
// ErrChanged. The entry returned carries the deletion's revision.
func (r *Resource) Delete(ctx context.Context, old *Entry) (*Entry, error) { panic("unwritten") }

// ErrChanged says that an object was written by somebody else meanwhile.
type changedError struct{}

func (changedError) Error() string { return "the object has been modified" }

// ErrChanged is returned by Update and Delete.
var ErrChanged error = changedError{}

// Latest returns the newest entry of key, at least as new as every write that
// was acknowledged before the call. Nil, nil where there is none.
func (r *Resource) Latest(ctx context.Context, key string) (*Entry, error) { panic("unwritten") }

// Cached returns what the cache has now, without waiting.
func (r *Resource) Cached(key string) *Entry { panic("unwritten") }

// Match says at which revision a list is to be read
// (resourceVersionMatch of the API).
type Match int

// The three ways to read.
const (
	MatchLatest   Match = iota // as new as every acknowledged write
	MatchNotOlder              // any revision from rev on; 0: whatever the cache has
	MatchExact                 // exactly rev: 410 Expired when it is gone
)

// Snapshot returns the resource at a revision. A revision in the future is
// waited for a few seconds, then it is a "Too large resource version" timeout
// status error; one that is gone is a 410 status error with reason Expired.
func (r *Resource) Snapshot(ctx context.Context, m Match, rev int64) (*Snapshot, error) {
	panic("unwritten")
}

// Snapshot is a resource at one revision; holding it is cheap.
type Snapshot struct {
	// Revision is what a list made of it reports as its resourceVersion.
	Revision int64
}

// Get returns the entry of key, or nil.
func (s *Snapshot) Get(key string) *Entry { panic("unwritten") }

// Ascend calls fn for the entries whose keys start with prefix ("namespace/",
// "" for all) in key order, from the first key that is >= from, until fn
// returns false.
func (s *Snapshot) Ascend(prefix, from string, fn func(*Entry) bool) { panic("unwritten") }

// Len is the number of entries.
func (s *Snapshot) Len() int { panic("unwritten") }

// WatchOptions selects events.
type WatchOptions struct {
	// Since is the revision after which events are wanted. Gone from the log
	// means a 410 status error with reason Expired ("too old resource
	// version: 5 (100)"), from Watch or as the last event. Zero: the current
	// state first, as ADDED events, then what follows.
	Since int64
	// Prefix limits the keys: "", "namespace/"; Key is one exact key.
	Prefix, Key string
	// Match, if not nil, selects objects (labels, fields). An object that
	// begins to match is ADDED, one that ceases to is DELETED.
	Match func(api.Object) bool
	// Initial sends the current state first even when Since is set, ended by
	// a bookmark annotated k8s.io/initial-events-end (sendInitialEvents).
	Initial bool
	// Bookmarks asks for a Bookmark event about once a minute and before a
	// watch ends.
	Bookmarks bool
}

// Event is one change. For Deleted, Entry is the last state with the
// deletion's revision. For Bookmark, Entry is nil and Revision counts.
type Event struct {
	Type     watch.EventType
	Entry    *Entry
	Revision int64
	// InitialEnd marks the bookmark that ends the initial state.
	InitialEnd bool
	// Err is set for Error events.
	Err error
}

// Watch opens a cursor. Nothing is buffered for it but the resource's log,
// which all watchers share: one that falls behind its window ends with a 410.
func (r *Resource) Watch(opts WatchOptions) (*Watcher, error) { panic("unwritten") }

// Watcher is a cursor in the log. Not safe for concurrent use, except Stop.
type Watcher struct{}

// Next waits for events and returns all there are, at least one, appended to
// buf[:0]. It returns ctx's error when that ends first, and io.EOF after an
// Error event or when the store closes.
func (w *Watcher) Next(ctx context.Context, buf []Event) ([]Event, error) { panic("unwritten") }

// Stop wakes Next, which then returns io.EOF.
func (w *Watcher) Stop() { panic("unwritten") }
