// Package endpoints is the controller of the legacy Endpoints kind: one object
// a Service with the addresses of its pods, at most a thousand.
package endpoints

import (
	"context"
	"maps"
	"net/netip"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	"k8s.io/endpointslice"
	endpointutil "k8s.io/endpointslice/util"

	"github.com/proa-dev/proa/controllers/internal/loop"
	podstate "github.com/proa-dev/proa/controllers/internal/pods"
	"github.com/proa-dev/proa/controllers/internal/selected"
)

// Name is the controller's name in logs and events.
const Name = "endpoint-controller"

const (
	workers = 5
	// managedByLabel tells clients which Endpoints are made from pods.
	managedByLabel = "endpoints.kubernetes.io/managed-by"
)

type controller struct {
	env      loop.Env
	events   record.EventRecorder
	triggers *endpointutil.TriggerTimeTracker
	// written are the versions that we wrote last, by name: an older one that
	// happens to be as wanted proves nothing.
	written sync.Map
}

// New makes the controller.
func New(env loop.Env) (loop.Loop, error) {
	env = env.Named(Name)
	c := &controller{env: env, events: env.Cluster.Recorder(Name), triggers: endpointutil.NewTriggerTimeTracker()}
	known := selected.Follow(env)
	return loop.New(env, Name, workers, c.reconcile,
		known.Changes(),
		known.Pods(),
		loop.Watch(env.Cluster, &corev1.Endpoints{}, loop.On[*corev1.Endpoints]{
			Created: func(_ context.Context, q loop.Queue, e *corev1.Endpoints) {
				// Left over from a Service that went while we were not looking.
				if e.Labels[managedByLabel] == Name {
					q.Add(loop.Key(e.Namespace, e.Name))
				}
			},
			Deleted: func(_ context.Context, q loop.Queue, e *corev1.Endpoints) { q.Add(loop.Key(e.Namespace, e.Name)) },
		}),
	)
}

func (c *controller) reconcile(ctx context.Context, key types.NamespacedName) (time.Duration, error) {
	api := c.env.Cluster.Client()
	svc := &corev1.Service{}
	err := api.Get(ctx, key, svc)
	if apierrors.IsNotFound(err) {
		c.triggers.DeleteService(key.Namespace, key.Name)
		c.written.Delete(key)
		return 0, c.remove(ctx, key)
	}
	if err != nil || svc.Spec.Type == corev1.ServiceTypeExternalName || svc.Spec.Selector == nil {
		return 0, err
	}
	pods, err := selected.Pods(ctx, api, svc)
	if err != nil {
		return 0, err
	}
	trigger := c.triggers.ComputeEndpointLastChangeTriggerTime(key.Namespace, svc, pods)

	current := &corev1.Endpoints{}
	err = api.Get(ctx, key, current)
	exists := err == nil
	if err != nil && !apierrors.IsNotFound(err) {
		return 0, err
	}
	if v, ok := c.written.Load(key); exists && ok && loop.Older(current.ResourceVersion, v.(string)) {
		return loop.StaleDelay, nil
	}
	want := desired(svc, pods, current)
	if exists && apiequality.Semantic.DeepEqual(current.Labels, want.Labels) &&
		current.Annotations[corev1.EndpointsOverCapacity] == want.Annotations[corev1.EndpointsOverCapacity] &&
		apiequality.Semantic.DeepEqual(current.Subsets, want.Subsets) {
		return 0, nil
	}
	if trigger.IsZero() {
		delete(want.Annotations, corev1.EndpointsLastChangeTriggerTime)
	} else {
		want.Annotations[corev1.EndpointsLastChangeTriggerTime] = trigger.UTC().Format(time.RFC3339Nano)
	}
	if err := c.write(ctx, svc, want, exists); err != nil {
		return 0, err
	}
	c.written.Store(key, want.ResourceVersion)
	return 0, nil
}

// remove deletes the Endpoints of a Service that is gone.
func (c *controller) remove(ctx context.Context, key types.NamespacedName) error {
	e := &corev1.Endpoints{}
	err := c.env.Cluster.Client().Get(ctx, key, e)
	if err == nil {
		err = c.env.Cluster.Client().Delete(ctx, e)
	}
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

func (c *controller) write(ctx context.Context, svc *corev1.Service, e *corev1.Endpoints, exists bool) error {
	if exists {
		err := c.env.Cluster.Client().Update(ctx, e)
		if err != nil && !apierrors.IsConflict(err) {
			c.events.Eventf(svc, corev1.EventTypeWarning, "FailedToUpdateEndpoint",
				"Failed to update endpoint %v/%v: %v", svc.Namespace, svc.Name, err)
		}
		return err
	}
	err := c.env.Cluster.Client().Create(ctx, e)
	switch {
	case podstate.NamespaceTerminating(err):
		return nil
	case err != nil && !apierrors.IsAlreadyExists(err):
		c.events.Eventf(svc, corev1.EventTypeWarning, "FailedToCreateEndpoint",
			"Failed to create endpoint for service %v/%v: %v", svc.Namespace, svc.Name, err)
	}
	return err
}

// desired makes the Endpoints of a Service, on top of those that exist.
func desired(svc *corev1.Service, pods []*corev1.Pod, current *corev1.Endpoints) *corev1.Endpoints {
	e := current.DeepCopy()
	e.Namespace, e.Name = svc.Namespace, svc.Name
	e.Labels = make(map[string]string, len(svc.Labels)+2)
	maps.Copy(e.Labels, svc.Labels)
	delete(e.Labels, corev1.IsHeadlessService)
	if svc.Spec.ClusterIP == "" || svc.Spec.ClusterIP == corev1.ClusterIPNone {
		e.Labels[corev1.IsHeadlessService] = ""
	}
	e.Labels[managedByLabel] = Name
	if e.Annotations == nil {
		e.Annotations = map[string]string{}
	}
	e.Subsets = subsets(svc, pods)
	delete(e.Annotations, corev1.EndpointsOverCapacity)
	if truncate(e.Subsets) {
		e.Annotations[corev1.EndpointsOverCapacity] = "truncated"
	}
	return e
}

func subsets(svc *corev1.Service, pods []*corev1.Pod) []corev1.EndpointSubset {
	p := newPacker()
	for _, pod := range pods {
		if !endpointutil.ShouldPodBeInEndpoints(pod, svc.Spec.PublishNotReadyAddresses) {
			continue
		}
		address, ok := addressOf(svc, pod)
		if !ok {
			continue
		}
		ready := svc.Spec.PublishNotReadyAddresses || podstate.Ready(pod)
		if len(svc.Spec.Ports) == 0 && svc.Spec.ClusterIP == corev1.ClusterIPNone {
			p.add(corev1.EndpointPort{}, false, address, ready)
			continue
		}
		for i := range svc.Spec.Ports {
			sp := &svc.Spec.Ports[i]
			number, err := endpointslice.FindPort(pod, sp)
			if err != nil {
				continue // the pod does not have that named port
			}
			p.add(corev1.EndpointPort{
				Name: sp.Name, Port: int32(number), Protocol: sp.Protocol, AppProtocol: sp.AppProtocol,
			}, true, address, ready)
		}
	}
	return p.subsets()
}

// addressOf returns the pod's address of the Service's first family.
func addressOf(svc *corev1.Service, pod *corev1.Pod) (corev1.EndpointAddress, bool) {
	var v6 bool
	if len(svc.Spec.IPFamilies) > 0 {
		v6 = svc.Spec.IPFamilies[0] == corev1.IPv6Protocol
	} else {
		ref := svc.Spec.ClusterIP
		if ref == "" || ref == corev1.ClusterIPNone {
			ref = pod.Status.PodIP
		}
		a, err := netip.ParseAddr(ref)
		v6 = err == nil && a.Is6()
	}
	for _, ip := range pod.Status.PodIPs {
		a, err := netip.ParseAddr(ip.IP)
		if err != nil || a.Is6() != v6 {
			continue
		}
		out := corev1.EndpointAddress{
			IP: a.String(),
			TargetRef: &corev1.ObjectReference{
				Kind: "Pod", Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID,
			},
		}
		if node := pod.Spec.NodeName; node != "" {
			out.NodeName = &node
		}
		if endpointutil.ShouldSetHostname(pod, svc) {
			out.Hostname = pod.Spec.Hostname
		}
		return out, true
	}
	return corev1.EndpointAddress{}, false
}
