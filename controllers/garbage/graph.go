package garbage

import (
	"slices"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/proa-dev/proa/api"
)

// graph is who owns whom, as far as the watches have told. Edges are kept by
// UID and exist before the owner is seen, so the order of events between kinds
// does not matter. Safe for concurrent use.
type graph struct {
	mu    sync.Mutex
	nodes map[types.UID]*node
	// dependents are edges from owners, seen or not.
	dependents map[types.UID]map[types.UID]struct{}
	// queue takes what must be looked at. It must not call back.
	queue func(types.UID)
}

// node is one object. Values handed out are copies; owners is never mutated.
type node struct {
	kind            *api.Kind
	namespace, name string
	uid             types.UID
	owners          []metav1.OwnerReference
	// deleting: a deletion timestamp was seen. foreground, orphan: with the
	// finalizer of that policy.
	deleting, foreground, orphan bool
}

func newGraph() *graph {
	return &graph{nodes: map[types.UID]*node{}, dependents: map[types.UID]map[types.UID]struct{}{}}
}

func nodeOf(k *api.Kind, o metav1.Object) *node {
	n := &node{
		kind: k, namespace: o.GetNamespace(), name: o.GetName(), uid: o.GetUID(),
		owners: o.GetOwnerReferences(), deleting: o.GetDeletionTimestamp() != nil,
	}
	if n.deleting {
		n.foreground = slices.Contains(o.GetFinalizers(), metav1.FinalizerDeleteDependents)
		n.orphan = slices.Contains(o.GetFinalizers(), metav1.FinalizerOrphanDependents)
	}
	return n
}

func (n *node) same(o *node) bool {
	return n.deleting == o.deleting && n.foreground == o.foreground && n.orphan == o.orphan &&
		slices.EqualFunc(n.owners, o.owners, func(a, b metav1.OwnerReference) bool { return a.UID == b.UID && blocks(a) == blocks(b) })
}

// observe takes in an object as it is now.
func (g *graph) observe(n *node) {
	g.mu.Lock()
	defer g.mu.Unlock()
	old := g.nodes[n.uid]
	if old == nil {
		old = &node{}
	} else if old.same(n) {
		return // most changes are of a status
	}
	g.nodes[n.uid] = n
	g.relink(old, n)

	if n.foreground && !old.foreground {
		for d := range g.dependents[n.uid] {
			g.queue(d)
		}
		g.queue(n.uid)
	}
	if n.orphan && !old.orphan {
		g.queue(n.uid)
	}
}

// relink changes edges from old owners to new ones.
func (g *graph) relink(old, n *node) {
	before := make(map[types.UID]metav1.OwnerReference, len(old.owners))
	for _, ref := range old.owners {
		before[ref.UID] = ref
	}
	check := false
	for _, ref := range n.owners {
		was, known := before[ref.UID]
		delete(before, ref.UID)
		if known {
			if blocks(was) && !blocks(ref) {
				g.queueIfWaiting(ref.UID)
			}
			continue
		}
		if g.dependents[ref.UID] == nil {
			g.dependents[ref.UID] = map[types.UID]struct{}{}
		}
		g.dependents[ref.UID][n.uid] = struct{}{}
		owner := g.nodes[ref.UID]
		switch {
		case owner == nil:
			check = true // not seen yet, or gone for ever
		case owner.foreground, !owner.reachable(n), !owner.meant(ref):
			check = true
		}
	}
	for uid := range before {
		g.unlink(uid, n.uid)
		g.queueIfWaiting(uid)
	}
	if check {
		g.queue(n.uid)
	}
}

// reachable reports whether n can have the node as an owner: names are looked
// up next to the dependent, or in the cluster.
func (owner *node) reachable(n *node) bool {
	return owner.namespace == "" || owner.namespace == n.namespace
}

// meant reports whether a reference says what the node is. One that has the UID
// alone right leads to nothing.
func (owner *node) meant(ref metav1.OwnerReference) bool {
	gv, err := schema.ParseGroupVersion(ref.APIVersion)
	return err == nil && gv.Group == owner.kind.GVK.Group && ref.Kind == owner.kind.GVK.Kind && ref.Name == owner.name
}

func blocks(ref metav1.OwnerReference) bool {
	return ref.BlockOwnerDeletion != nil && *ref.BlockOwnerDeletion
}

func (g *graph) unlink(owner, dependent types.UID) {
	delete(g.dependents[owner], dependent)
	if len(g.dependents[owner]) == 0 {
		delete(g.dependents, owner)
	}
}

// queueIfWaiting queues an owner that waits for its dependents to go.
func (g *graph) queueIfWaiting(owner types.UID) {
	if o := g.nodes[owner]; o != nil && o.foreground {
		g.queue(owner)
	}
}

// forget takes in that an object is gone.
func (g *graph) forget(uid types.UID) {
	g.mu.Lock()
	defer g.mu.Unlock()
	n := g.nodes[uid]
	if n == nil {
		return
	}
	delete(g.nodes, uid)
	for _, ref := range n.owners {
		g.unlink(ref.UID, uid)
		g.queueIfWaiting(ref.UID)
	}
	for d := range g.dependents[uid] {
		g.queue(d)
	}
}

// drop forgets the objects of a resource that is served no longer: what the
// watch did not live to tell.
func (g *graph) drop(gr schema.GroupResource) {
	g.mu.Lock()
	var gone []types.UID
	for uid, n := range g.nodes {
		if n.kind.GR() == gr {
			gone = append(gone, uid)
		}
	}
	g.mu.Unlock()
	for _, uid := range gone {
		g.forget(uid)
	}
}

// get returns an object.
func (g *graph) get(uid types.UID) (node, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	n := g.nodes[uid]
	if n == nil {
		return node{}, false
	}
	return *n, true
}

// dependentsOf returns the objects that name uid as an owner.
func (g *graph) dependentsOf(uid types.UID) []node {
	g.mu.Lock()
	defer g.mu.Unlock()
	out := make([]node, 0, len(g.dependents[uid]))
	for d := range g.dependents[uid] {
		if n := g.nodes[d]; n != nil {
			out = append(out, *n)
		}
	}
	return out
}

// blocking returns the dependents that uid's foreground deletion waits for.
func (g *graph) blocking(uid types.UID) []node {
	return slices.DeleteFunc(g.dependentsOf(uid), func(d node) bool {
		return !slices.ContainsFunc(d.owners, func(ref metav1.OwnerReference) bool { return ref.UID == uid && blocks(ref) })
	})
}
