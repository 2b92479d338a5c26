// Package endpointslice is the EndpointSlice controller: it lists the pods that
// each Service selects, a hundred to a slice. What goes into which slice is
// decided by k8s.io/endpointslice.
package endpointslice

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	"k8s.io/endpointslice"
	"k8s.io/endpointslice/topologycache"
	endpointutil "k8s.io/endpointslice/util"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/proa-dev/proa/controllers/internal/loop"
	"github.com/proa-dev/proa/controllers/internal/selected"
)

// Name is the controller's name in logs and events.
const Name = "endpoint-slice-controller"

// managedBy marks this controller's slices; it leaves all others alone.
const managedBy = "endpointslice-controller.k8s.io"

const (
	workers      = 5
	maxEndpoints = 100
)

type controller struct {
	env      loop.Env
	log      logr.Logger
	events   record.EventRecorder
	slices   *endpointutil.EndpointSliceTracker
	triggers *endpointutil.TriggerTimeTracker
	topology *topologycache.TopologyCache
	// zoned says that topology knows the nodes. Before, it would take all hints
	// away, and nothing would bring them back.
	zoned atomic.Bool
	// again carries Services whose topology hints must be made anew.
	again chan event.GenericEvent
}

// New makes the controller.
func New(env loop.Env) (loop.Loop, error) {
	env = env.Named(Name)
	c := &controller{
		env: env, log: logr.FromSlogHandler(env.Logger.Handler()),
		events:   env.Cluster.Recorder(Name),
		slices:   endpointutil.NewEndpointSliceTracker(),
		triggers: endpointutil.NewTriggerTimeTracker(),
		topology: topologycache.NewTopologyCache(),
		again:    make(chan event.GenericEvent),
	}
	known := selected.Follow(env)
	services, err := loop.New(env, Name, workers, c.reconcile,
		known.Changes(),
		known.Pods(),
		loop.Watch(env.Cluster, &discoveryv1.EndpointSlice{}, loop.On[*discoveryv1.EndpointSlice]{
			Created: c.sliceCreated, Updated: c.sliceUpdated, Deleted: c.sliceDeleted,
		}),
		source.Channel(c.again, &handler.EnqueueRequestForObject{}),
	)
	if err != nil {
		return loop.Loop{}, err
	}
	nodes, err := loop.New(env, Name+"-topology", 1, c.reconcileNodes, c.watchNodes(), loop.Once(allNodes))
	return loop.Join(Name, services, nodes), err
}

func (c *controller) reconcile(ctx context.Context, key types.NamespacedName) (time.Duration, error) {
	read := c.env.Cluster.Client()
	svc := &corev1.Service{}
	if err := read.Get(ctx, key, svc); err != nil {
		if apierrors.IsNotFound(err) {
			// The slices go by their owner reference.
			c.triggers.DeleteService(key.Namespace, key.Name)
			c.slices.DeleteService(key.Namespace, key.Name)
			return 0, nil
		}
		return 0, err
	}
	if svc.Spec.Type == corev1.ServiceTypeExternalName || svc.Spec.Selector == nil {
		return 0, nil
	}
	if !c.zoned.Load() {
		return loop.StaleDelay, nil
	}
	pods, err := selected.Pods(ctx, read, svc)
	if err != nil {
		return 0, err
	}
	slices, err := c.slicesOf(ctx, svc)
	if err != nil {
		return 0, err
	}
	if c.slices.StaleSlices(svc, slices) {
		return loop.StaleDelay, nil
	}
	trigger := c.triggers.ComputeEndpointLastChangeTriggerTime(key.Namespace, svc, pods)
	api := &sliceAPI{ctx: ctx, client: read}
	r := endpointslice.NewReconciler(api, nodes{ctx: ctx, reader: read}, maxEndpoints, c.slices, c.topology, c.events,
		managedBy, endpointslice.WithPreferSameTrafficDistributionEnabled(true))
	err = r.Reconcile(c.log, svc, pods, slices, trigger)
	switch {
	case err == nil:
		return 0, nil
	case api.conflict.Load():
		return loop.StaleDelay, nil
	}
	c.events.Eventf(svc, corev1.EventTypeWarning, "FailedToUpdateEndpointSlices",
		"Error updating Endpoint Slices for Service %s/%s: %v", key.Namespace, key.Name, err)
	return 0, err
}

// slicesOf returns our slices of a Service, without those being deleted: they
// are no place to put anything.
func (c *controller) slicesOf(ctx context.Context, svc *corev1.Service) ([]*discoveryv1.EndpointSlice, error) {
	var list discoveryv1.EndpointSliceList
	err := c.env.Cluster.Client().List(ctx, &list, client.InNamespace(svc.Namespace), client.UnsafeDisableDeepCopy,
		client.MatchingLabels{discoveryv1.LabelServiceName: svc.Name, discoveryv1.LabelManagedBy: managedBy})
	if err != nil {
		return nil, fmt.Errorf("list endpoint slices: %w", err)
	}
	var out []*discoveryv1.EndpointSlice
	for i := range list.Items {
		if list.Items[i].DeletionTimestamp == nil {
			out = append(out, &list.Items[i])
		}
	}
	return out, nil
}

func ours(s *discoveryv1.EndpointSlice) bool {
	return s.Labels[discoveryv1.LabelManagedBy] == managedBy
}

func addService(q loop.Queue, s *discoveryv1.EndpointSlice) {
	if name := s.Labels[discoveryv1.LabelServiceName]; name != "" {
		q.Add(loop.Key(s.Namespace, name))
	}
}

// Changes that we made ourselves are known to the tracker and call for nothing.
func (c *controller) sliceCreated(_ context.Context, q loop.Queue, s *discoveryv1.EndpointSlice) {
	if ours(s) && c.slices.ShouldSync(s) {
		addService(q, s)
	}
}

func (c *controller) sliceUpdated(_ context.Context, q loop.Queue, old, s *discoveryv1.EndpointSlice) {
	if old.Labels[discoveryv1.LabelServiceName] != s.Labels[discoveryv1.LabelServiceName] {
		addService(q, old)
		addService(q, s)
		return
	}
	if ours(old) != ours(s) || (ours(s) && c.slices.ShouldSync(s)) {
		addService(q, s)
	}
}

func (c *controller) sliceDeleted(_ context.Context, q loop.Queue, s *discoveryv1.EndpointSlice) {
	if ours(s) && c.slices.Has(s) && !c.slices.HandleDeletion(s) {
		addService(q, s)
	}
}
