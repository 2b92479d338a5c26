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
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	toolscache "k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/lru"

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
	// absentOwners bounds the memory of owners known to be gone.
	absentOwners = 500
)

type controller struct {
	env    loop.Env
	events record.EventRecorder
	graph  *graph
	kinds  map[schema.GroupVersionKind]*api.Kind
	stored []*api.Kind
	absent *lru.Cache // of ownerKey
}

// ownerKey names an owner as one namespace sees it.
type ownerKey struct {
	namespace string
	uid       types.UID
	name      string
	kind      schema.GroupVersionKind
}

// New makes the controller over the given kinds.
func New(env loop.Env, kinds []*api.Kind) (loop.Loop, error) {
	env = env.Named(Name)
	c := &controller{
		env: env, events: env.Cluster.Recorder(Name), graph: newGraph(),
		kinds: map[schema.GroupVersionKind]*api.Kind{}, absent: lru.New(absentOwners),
	}
	c.graph.misplaced = c.reportMisplaced
	for _, k := range kinds {
		c.kinds[k.GVK] = k
	}
	for _, k := range loop.Stored(kinds) {
		if k.Resource != "events" && loop.Serves(k, "delete") && loop.Serves(k, "list") && loop.Serves(k, "watch") {
			c.stored = append(c.stored, k)
		}
	}
	return loop.New(env, Name, workers, c.reconcile, &watches{controller: c, ready: make(chan struct{})})
}

// watches feeds the graph from every kind, and the graph feeds the queue.
type watches struct {
	*controller
	ready chan struct{} // closed when all handlers are added
	err   error
	sync  []toolscache.InformerSynced
}

// Start adds the handlers in the background: a cache may block until it has
// read a kind.
func (w *watches) Start(ctx context.Context, q loop.Queue) error {
	w.graph.queue = func(uid types.UID) { q.Add(loop.Key("", string(uid))) }
	go func() {
		defer close(w.ready)
		for _, k := range w.stored {
			if w.err = w.watch(ctx, k); w.err != nil {
				return
			}
		}
	}()
	return nil
}

func (w *watches) watch(ctx context.Context, k *api.Kind) error {
	o := k.New()
	o.GetObjectKind().SetGroupVersionKind(k.GVK)
	informer, err := w.env.Cluster.Cache().GetInformer(ctx, o)
	if err != nil {
		return fmt.Errorf("watch %s: %w", k.GR(), err)
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
		return fmt.Errorf("watch %s: %w", k.GR(), err)
	}
	w.sync = append(w.sync, reg.HasSynced)
	return nil
}

// WaitForSync makes the loop wait for the whole graph.
func (w *watches) WaitForSync(ctx context.Context) error {
	select {
	case <-w.ready:
	case <-ctx.Done():
		return ctx.Err()
	}
	if w.err != nil {
		return w.err
	}
	if !toolscache.WaitForCacheSync(ctx.Done(), w.sync...) {
		return fmt.Errorf("garbage collector: %w", context.Cause(ctx))
	}
	return nil
}

// reportMisplaced tells that a reference leads out of its namespace: names are
// looked up next to the dependent, so the owner counts as gone.
func (c *controller) reportMisplaced(n node, ref metav1.OwnerReference) {
	on := &corev1.ObjectReference{
		APIVersion: n.kind.GVK.GroupVersion().String(), Kind: n.kind.GVK.Kind,
		Namespace: n.namespace, Name: n.name, UID: n.uid,
	}
	c.events.Eventf(on, corev1.EventTypeWarning, "OwnerRefInvalidNamespace",
		"ownerRef [%s/%s, namespace: %s, name: %s, uid: %s] does not exist in namespace %q",
		ref.APIVersion, ref.Kind, n.namespace, ref.Name, ref.UID, n.namespace)
}
