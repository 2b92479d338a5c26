// Package servicelb gives Services of type LoadBalancer the addresses of the
// nodes, for clusters that have no load balancer: every node's Service proxy
// answers there at the Service's ports.
//
// All of it is one pure function of Services, nodes and endpoints (plan.go),
// since Services compete for ports: a change of any is looked at as a whole.
package servicelb

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proa-dev/proa/controllers/internal/loop"
)

// Name is the controller's name in logs.
const Name = "service-lb-controller"

// finalizer is upstream's: a Service with it waits for its load balancer to go.
const finalizer = "service.kubernetes.io/load-balancer-cleanup"

type controller struct {
	env      loop.Env
	off      bool
	recorder record.EventRecorder
	// told is what was said about a Service that has no address, so that it is
	// said once.
	told map[types.NamespacedName]string
}

// everything is the one key: Services are looked at together.
var everything = loop.Key("", "all")

// New makes the controller. When it is off it only takes back what it gave.
func New(env loop.Env, off bool) (loop.Loop, error) {
	env = env.Named(Name)
	c := &controller{env: env, off: off, recorder: env.Cluster.Recorder("service-controller"), told: map[types.NamespacedName]string{}}
	look := func(q loop.Queue, yes bool) {
		if yes {
			q.Add(everything)
		}
	}
	return loop.New(env, Name, 1, c.reconcile,
		loop.Watch(env.Cluster, &corev1.Service{}, loop.On[*corev1.Service]{
			Created: func(_ context.Context, q loop.Queue, s *corev1.Service) {
				look(q, concerned(s) || len(nodePorts(s)) > 0)
			},
			Updated: func(_ context.Context, q loop.Queue, old, s *corev1.Service) {
				look(q, concerned(s) || concerned(old) || !slices.Equal(nodePorts(old), nodePorts(s)))
			},
			Deleted: func(_ context.Context, q loop.Queue, s *corev1.Service) {
				look(q, concerned(s) || len(nodePorts(s)) > 0)
			},
		}),
		loop.Watch(env.Cluster, &corev1.Node{}, loop.On[*corev1.Node]{
			Created: func(_ context.Context, q loop.Queue, _ *corev1.Node) { look(q, true) },
			Updated: func(_ context.Context, q loop.Queue, old, n *corev1.Node) { look(q, differ(old, n)) },
			Deleted: func(_ context.Context, q loop.Queue, _ *corev1.Node) { look(q, true) },
		}),
		loop.Watch(env.Cluster, &discoveryv1.EndpointSlice{}, loop.On[*discoveryv1.EndpointSlice]{
			Created: func(ctx context.Context, q loop.Queue, s *discoveryv1.EndpointSlice) { look(q, c.matters(ctx, s)) },
			Updated: func(ctx context.Context, q loop.Queue, _, s *discoveryv1.EndpointSlice) { look(q, c.matters(ctx, s)) },
			Deleted: func(ctx context.Context, q loop.Queue, s *discoveryv1.EndpointSlice) { look(q, c.matters(ctx, s)) },
		}),
	)
}

// concerned says whether a Service has to do with load balancers.
func concerned(svc *corev1.Service) bool {
	return svc.Spec.Type == corev1.ServiceTypeLoadBalancer || slices.Contains(svc.Finalizers, finalizer)
}

// differ says whether a node changed in what addresses follow from. Nodes
// report all the time.
func differ(old, n *corev1.Node) bool {
	return included(old) != included(n) || ready(old) != ready(n) ||
		old.Status.DaemonEndpoints != n.Status.DaemonEndpoints || !reflect.DeepEqual(old.Status.Addresses, n.Status.Addresses)
}

// owner is the Service that a slice belongs to.
func owner(s *discoveryv1.EndpointSlice) types.NamespacedName {
	return types.NamespacedName{Namespace: s.Namespace, Name: s.Labels[discoveryv1.LabelServiceName]}
}

// matters says whether addresses follow from a slice.
func (c *controller) matters(ctx context.Context, s *discoveryv1.EndpointSlice) bool {
	key := owner(s)
	if key == apiServer || key.Name == "" {
		return key == apiServer
	}
	svc := &corev1.Service{}
	return c.env.Cluster.Client().Get(ctx, key, svc) == nil && keepsLocal(svc)
}

func keepsLocal(svc *corev1.Service) bool {
	return svc.Spec.Type == corev1.ServiceTypeLoadBalancer && svc.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
}

func (c *controller) reconcile(ctx context.Context, _ types.NamespacedName) (time.Duration, error) {
	state, err := c.state(ctx)
	if err != nil {
		return 0, err
	}
	var plan map[types.NamespacedName]Grant
	if !c.off {
		plan = Plan(state)
	}
	var errs []error
	for _, svc := range state.Services {
		if grant, ok := plan[keyOf(svc)]; ok {
			err = c.ensure(ctx, svc, grant)
		} else {
			err = c.release(ctx, svc, state.Nodes)
		}
		if client.IgnoreNotFound(err) != nil {
			errs = append(errs, fmt.Errorf("service %s: %w", keyOf(svc), err))
		}
	}
	maps.DeleteFunc(c.told, func(key types.NamespacedName, _ string) bool { _, ok := plan[key]; return !ok })
	if len(errs) == 1 {
		return 0, errs[0] // a conflict is told by its kind
	}
	return 0, errors.Join(errs...)
}

// state reads the Services that have to do with load balancers, and what their
// addresses follow from. All of it is shared with the cache.
func (c *controller) state(ctx context.Context) (State, error) {
	api := c.env.Cluster.Client()
	s := State{Slices: map[types.NamespacedName][]*discoveryv1.EndpointSlice{}, NodePorts: map[Port]types.NamespacedName{}}
	var services corev1.ServiceList
	if err := api.List(ctx, &services, client.UnsafeDisableDeepCopy); err != nil {
		return s, err
	}
	wantsSlices := map[types.NamespacedName]bool{apiServer: true}
	for i := range services.Items {
		svc := &services.Items[i]
		if concerned(svc) {
			s.Services = append(s.Services, svc)
			wantsSlices[keyOf(svc)] = keepsLocal(svc)
		}
		for _, p := range nodePorts(svc) {
			s.NodePorts[p] = keyOf(svc)
		}
	}
	if len(s.Services) == 0 {
		return s, nil
	}
	var nodes corev1.NodeList
	if err := api.List(ctx, &nodes, client.UnsafeDisableDeepCopy); err != nil {
		return s, err
	}
	for i := range nodes.Items {
		s.Nodes = append(s.Nodes, &nodes.Items[i])
	}
	var all discoveryv1.EndpointSliceList
	if err := api.List(ctx, &all, client.UnsafeDisableDeepCopy); err != nil {
		return s, err
	}
	for i := range all.Items {
		if key := owner(&all.Items[i]); wantsSlices[key] {
			s.Slices[key] = append(s.Slices[key], &all.Items[i])
		}
	}
	return s, nil
}

// ensure brings a Service to what it is to have.
func (c *controller) ensure(ctx context.Context, shared *corev1.Service, grant Grant) error {
	have := slices.SortedFunc(maps.Keys(held(shared)), netip.Addr.Compare)
	if len(grant.Addresses) == 0 {
		c.explain(shared, grant)
	} else {
		delete(c.told, keyOf(shared))
	}
	bare := !slices.Contains(shared.Finalizers, finalizer)
	if slices.Equal(have, grant.Addresses) && len(have) == len(shared.Status.LoadBalancer.Ingress) && (!bare || len(have) == 0) {
		return nil
	}
	svc, api := shared.DeepCopy(), c.env.Cluster.Client()
	if bare {
		c.recorder.Event(shared, corev1.EventTypeNormal, "EnsuringLoadBalancer", "Ensuring load balancer")
		svc.Finalizers = append(svc.Finalizers, finalizer)
		if err := api.Update(ctx, svc); err != nil {
			return err
		}
	}
	var ingress []corev1.LoadBalancerIngress
	for _, a := range grant.Addresses {
		// VIP: the proxy of every node answers for the address, so that
		// traffic from within the cluster takes no detour.
		ingress = append(ingress, corev1.LoadBalancerIngress{IP: a.String(), IPMode: ptr.To(corev1.LoadBalancerIPModeVIP)})
	}
	svc.Status.LoadBalancer.Ingress = ingress
	if err := api.Status().Update(ctx, svc); err != nil {
		return err
	}
	switch {
	case len(grant.Addresses) == 0:
	case len(have) == 0:
		c.recorder.Event(shared, corev1.EventTypeNormal, "EnsuredLoadBalancer", "Ensured load balancer")
	default:
		c.recorder.Event(shared, corev1.EventTypeNormal, "UpdatedLoadBalancer", "Updated load balancer with new hosts")
	}
	return nil
}

// explain says, once, why a Service has no address.
func (c *controller) explain(svc *corev1.Service, grant Grant) {
	reason, text := "UnAvailableLoadBalancer", "There are no available nodes for LoadBalancer"
	if grant.Taken != "" {
		reason, text = "SyncLoadBalancerFailed", "Error syncing load balancer: failed to ensure load balancer: "+grant.Taken
	}
	if c.told[keyOf(svc)] == text {
		return
	}
	c.told[keyOf(svc)] = text
	c.recorder.Event(svc, corev1.EventTypeWarning, reason, text)
}

// release takes the addresses from a Service that is to have none, and lets it
// go. What another controller gave stays.
func (c *controller) release(ctx context.Context, shared *corev1.Service, nodes []*corev1.Node) error {
	if !slices.Contains(shared.Finalizers, finalizer) || !ours(shared) || c.off && !onNodes(shared, nodes) {
		return nil
	}
	c.recorder.Event(shared, corev1.EventTypeNormal, "DeletingLoadBalancer", "Deleting load balancer")
	svc, api := shared.DeepCopy(), c.env.Cluster.Client()
	if len(svc.Status.LoadBalancer.Ingress) > 0 {
		svc.Status.LoadBalancer = corev1.LoadBalancerStatus{}
		if err := api.Status().Update(ctx, svc); err != nil {
			return err
		}
	}
	svc.Finalizers = slices.DeleteFunc(svc.Finalizers, func(f string) bool { return f == finalizer })
	if err := api.Update(ctx, svc); err != nil {
		return err
	}
	c.recorder.Event(shared, corev1.EventTypeNormal, "DeletedLoadBalancer", "Deleted load balancer")
	return nil
}

// onNodes says whether a Service has addresses of nodes alone: then we gave them.
func onNodes(svc *corev1.Service, nodes []*corev1.Node) bool {
	return len(svc.Status.LoadBalancer.Ingress) > 0 && !slices.ContainsFunc(svc.Status.LoadBalancer.Ingress, func(in corev1.LoadBalancerIngress) bool {
		return !slices.ContainsFunc(nodes, func(n *corev1.Node) bool {
			return slices.ContainsFunc(n.Status.Addresses, func(a corev1.NodeAddress) bool { return a.Address == in.IP })
		})
	})
}
