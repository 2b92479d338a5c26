package endpointslice

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/proa-dev/proa/controllers/internal/loop"
)

// allNodes is the one key of the nodes' loop.
var allNodes = loop.Key("", "nodes")

// watchNodes queues it whenever the spread of nodes over zones may change.
func (c *controller) watchNodes() source.Source {
	add := func(_ context.Context, q loop.Queue, _ *corev1.Node) { q.Add(allNodes) }
	return loop.Watch(c.env.Cluster, &corev1.Node{}, loop.On[*corev1.Node]{
		Created: add,
		Deleted: add,
		Updated: func(_ context.Context, q loop.Queue, old, n *corev1.Node) {
			if ready(old) != ready(n) || old.Labels[corev1.LabelTopologyZone] != n.Labels[corev1.LabelTopologyZone] {
				q.Add(allNodes)
			}
		},
	})
}

func ready(n *corev1.Node) bool {
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// reconcileNodes tells the topology cache of all nodes and looks again at the
// Services whose zones became too uneven by it.
func (c *controller) reconcileNodes(ctx context.Context, _ types.NamespacedName) (time.Duration, error) {
	var list corev1.NodeList
	if err := c.env.Cluster.Client().List(ctx, &list, client.UnsafeDisableDeepCopy); err != nil {
		return 0, fmt.Errorf("list nodes: %w", err)
	}
	nodes := make([]*corev1.Node, len(list.Items))
	for i := range list.Items {
		nodes[i] = &list.Items[i]
	}
	c.topology.SetNodes(c.log, nodes)
	c.zoned.Store(true)
	for _, key := range c.topology.GetOverloadedServices() {
		ns, name, err := cache.SplitMetaNamespaceKey(key)
		if err != nil {
			continue
		}
		svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name}}
		select {
		case c.again <- event.GenericEvent{Object: svc}:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
	return 0, nil
}
