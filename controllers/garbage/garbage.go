// Package garbage deletes objects whose owners are gone.
//
// # Terms
//
// A dependent names its owners in metadata.ownerReferences. An owner is solid
// when it exists, dangling when it does not, and waiting when it is being
// deleted in the foreground, which ends when its blocking dependents are gone.
// A dependent with a solid owner stays and loses its other references; one
// without is deleted. An owner deleted with the orphan finalizer has its
// dependents set free first.
//
// The graph tells what to look at; every decision is made on what the API
// server says at that moment, and every write is bound to the UID and the
// version it was decided on.
package garbage

import (
	"context"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	toolscache "k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/lru"
	"sigs.k8s.io/controller-runtime/pkg/cache"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/controllers/internal/loop"
)

// Name is the controller's name in logs and events.
const Name = "garbage-collector-controller"

const (
	workers = 20
	// recheck is when to look again at what cannot be decided: an owner of a
	// kind that is not served, or one that the watches have not shown.
	recheck = 30 * time.Second
	// refresh is how often kinds that came or went are looked for.
	refresh = 5 * time.Second
	// patience is how long work waits at the start for kinds that cannot be read.
	patience = time.Minute
	// absentOwners bounds the memory of owners known to be gone.
	absentOwners = 500
)

type controller struct {
	env    loop.Env
	events record.EventRecorder
	graph  *graph
	absent *lru.Cache // of ownerKey

	list func() []*api.Kind
	mu   sync.Mutex
	// kinds are those that are served, by every version; current those of which
	// objects are collected.
	kinds   map[schema.GroupVersionKind]*api.Kind
	current map[schema.GroupResource]*api.Kind
}

// ownerKey names an owner as one namespace sees it.
type ownerKey struct {
	namespace string
	uid       types.UID
	name      string
	kind      schema.GroupVersionKind
}

// New makes the controller; kinds returns every kind there is at the moment.
func New(env loop.Env, kinds func() []*api.Kind) (loop.Loop, error) {
	env = env.Named(Name)
	c := &controller{
		env: env, events: env.Cluster.Recorder(Name), graph: newGraph(),
		absent: lru.New(absentOwners), list: kinds,
	}
	return loop.New(env, Name, workers, c.reconcile,
		&watches{controller: c, ready: make(chan struct{}), watched: map[schema.GroupVersionResource]*api.Kind{}})
}

// served brings the map of kinds up to date and returns those whose objects
// can be collected, one for each storage.
func (c *controller) served() map[schema.GroupVersionResource]*api.Kind {
	all := c.list()
	byKind := make(map[schema.GroupVersionKind]*api.Kind, len(all))
	for _, k := range all {
		byKind[k.GVK] = k
	}
	stored, current := map[schema.GroupVersionResource]*api.Kind{}, map[schema.GroupResource]*api.Kind{}
	for _, k := range loop.Stored(all) {
		if !ignored(k) && loop.Serves(k, "delete") && loop.Serves(k, "list") && loop.Serves(k, "watch") {
			stored[k.GVR()], current[k.GR()] = k, k
		}
	}
	c.mu.Lock()
	c.kinds, c.current = byKind, current
	c.mu.Unlock()
	return stored
}

// ignored are events: many, and nobody's.
func ignored(k *api.Kind) bool {
	return k.Resource == "events" && (k.GVK.Group == corev1.GroupName || k.GVK.Group == eventsv1.GroupName)
}

// now is the version in which a kind's objects are stored now, which may be
// another one than they were seen in; nil when none is served.
func (c *controller) now(k *api.Kind) *api.Kind {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.current[k.GR()]
}

func (c *controller) kind(gvk schema.GroupVersionKind) *api.Kind {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.kinds[gvk]
}

// watches feeds the graph from every kind, and the graph feeds the queue.
type watches struct {
	*controller
	ready chan struct{} // closed when the first handlers are added
	sync  []toolscache.DoneChecker
	// watched are the kinds with a handler; only the goroutine of Start uses it.
	watched map[schema.GroupVersionResource]*api.Kind
}

// Start adds the handlers in the background: reading a kind takes time.
func (w *watches) Start(ctx context.Context, q loop.Queue) error {
	w.graph.queue = func(uid types.UID) { q.Add(loop.Key("", string(uid))) }
	go func() {
		for gvr, k := range w.served() {
			synced, err := w.watch(ctx, k)
			if err != nil { // it may have gone since
				w.env.Logger.Error("kind is not collected yet", "err", err)
				continue
			}
			w.watched[gvr] = k
			w.sync = append(w.sync, synced)
		}
		close(w.ready)
		w.follow(ctx)
	}()
	return nil
}

// follow takes up kinds that come, and drops those that go.
func (w *watches) follow(ctx context.Context) {
	ticker := w.env.Clock.NewTicker(refresh)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C():
		}
		served := w.served()
		for gvr, k := range served {
			if w.watched[gvr] != nil {
				continue
			}
			if _, err := w.watch(ctx, k); err != nil {
				w.env.Logger.Error("kind is not collected yet", "err", err)
				continue
			}
			w.watched[gvr] = k
		}
		for gvr, k := range w.watched {
			if served[gvr] != nil {
				continue
			}
			if err := w.env.Cluster.Cache().RemoveInformer(ctx, empty(k)); err != nil {
				w.env.Logger.Error("stopping a watch", "kind", k.GVK, "err", err)
			}
			delete(w.watched, gvr)
			if w.now(k) == nil {
				w.graph.drop(k.GR())
			}
		}
	}
}

func (w *watches) watch(ctx context.Context, k *api.Kind) (toolscache.DoneChecker, error) {
	informer, err := w.env.Cluster.Cache().GetInformer(ctx, empty(k), cache.BlockUntilSynced(false))
	if err != nil {
		return nil, fmt.Errorf("watch %s: %w", k.GR(), err)
	}
	observe := func(o any) {
		if m, err := meta.Accessor(o); err == nil {
			w.graph.observe(nodeOf(k, m))
		}
	}
	reg, err := informer.AddEventHandler(toolscache.ResourceEventHandlerFuncs{
		AddFunc:    observe,
		UpdateFunc: func(_, o any) { observe(o) },
		DeleteFunc: func(o any) {
			if gone, ok := o.(toolscache.DeletedFinalStateUnknown); ok {
				o = gone.Obj
			}
			if m, err := meta.Accessor(o); err == nil {
				w.graph.forget(m.GetUID())
			}
		},
	})
	if err != nil {
		return nil, fmt.Errorf("watch %s: %w", k.GR(), err)
	}
	return reg.HasSyncedChecker(), nil
}

// empty makes an object of a kind, custom ones included.
func empty(k *api.Kind) api.Object {
	o := k.New()
	o.GetObjectKind().SetGroupVersionKind(k.GVK)
	return o
}

// WaitForSync makes the loop wait for the whole graph, if not for ever: one
// kind that cannot be read must not keep all others from being collected.
func (w *watches) WaitForSync(ctx context.Context) error {
	select {
	case <-w.ready:
	case <-ctx.Done():
		return ctx.Err()
	}
	limited, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if !toolscache.WaitFor(limited, "", w.sync...) {
		if ctx.Err() != nil {
			return fmt.Errorf("garbage collector: %w", context.Cause(ctx))
		}
		w.env.Logger.Warn("not every kind has been read, collecting all the same")
	}
	return nil
}

// reportMisplaced tells of a reference that leads out of its namespace.
func (c *controller) reportMisplaced(n *node, ref metav1.OwnerReference) {
	on := &corev1.ObjectReference{
		APIVersion: n.kind.GVK.GroupVersion().String(), Kind: n.kind.GVK.Kind,
		Namespace: n.namespace, Name: n.name, UID: n.uid,
	}
	c.events.Eventf(on, corev1.EventTypeWarning, "OwnerRefInvalidNamespace",
		"ownerRef [%s/%s, namespace: %s, name: %s, uid: %s] does not exist in namespace %q",
		ref.APIVersion, ref.Kind, n.namespace, ref.Name, ref.UID, n.namespace)
}
