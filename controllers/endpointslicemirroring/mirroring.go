// Package endpointslicemirroring copies hand-made Endpoints, those of Services
// without a selector, into EndpointSlices, which is all that proxies read.
package endpointslicemirroring

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	"k8s.io/client-go/tools/record"
	endpointutil "k8s.io/endpointslice/util"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proa-dev/proa/controllers/internal/loop"
	"github.com/proa-dev/proa/controllers/internal/pods"
)

// Name is the controller's name in logs and events.
const Name = "endpoint-slice-mirroring-controller"

// managedBy marks this controller's slices; it leaves all others alone.
const managedBy = "endpointslicemirroring-controller.k8s.io"

const workers = 5

type controller struct {
	env    loop.Env
	events record.EventRecorder
	slices *endpointutil.EndpointSliceTracker
}

// New makes the controller.
func New(env loop.Env) (loop.Loop, error) {
	env = env.Named(Name)
	c := &controller{env: env, events: env.Cluster.Recorder(Name), slices: endpointutil.NewEndpointSliceTracker()}
	add := func(q loop.Queue, s *discoveryv1.EndpointSlice) {
		if name := s.Labels[discoveryv1.LabelServiceName]; name != "" {
			q.Add(loop.Key(s.Namespace, name))
		}
	}
	return loop.New(env, Name, workers, c.reconcile,
		loop.Self(env.Cluster, &corev1.Endpoints{}),
		loop.Self(env.Cluster, &corev1.Service{}),
		loop.Watch(env.Cluster, &discoveryv1.EndpointSlice{}, loop.On[*discoveryv1.EndpointSlice]{
			Created: func(_ context.Context, q loop.Queue, s *discoveryv1.EndpointSlice) {
				if ours(s) && c.slices.ShouldSync(s) {
					add(q, s)
				}
			},
			Updated: func(_ context.Context, q loop.Queue, old, s *discoveryv1.EndpointSlice) {
				if ours(old) != ours(s) || (ours(s) && c.slices.ShouldSync(s)) {
					add(q, s)
				}
			},
			Deleted: func(_ context.Context, q loop.Queue, s *discoveryv1.EndpointSlice) {
				if ours(s) && c.slices.Has(s) && !c.slices.HandleDeletion(s) {
					add(q, s)
				}
			},
		}),
	)
}

func ours(s *discoveryv1.EndpointSlice) bool {
	return s.Labels[discoveryv1.LabelManagedBy] == managedBy
}

func (c *controller) reconcile(ctx context.Context, key types.NamespacedName) (time.Duration, error) {
	read := c.env.Cluster.Client()
	var list discoveryv1.EndpointSliceList
	err := read.List(ctx, &list, client.InNamespace(key.Namespace), client.UnsafeDisableDeepCopy,
		client.MatchingLabels{discoveryv1.LabelServiceName: key.Name, discoveryv1.LabelManagedBy: managedBy})
	if err != nil {
		return 0, fmt.Errorf("list endpoint slices: %w", err)
	}
	have := make([]*discoveryv1.EndpointSlice, len(list.Items))
	for i := range list.Items {
		have[i] = &list.Items[i]
	}
	source, err := c.source(ctx, key)
	if err != nil {
		return 0, err
	}
	if source == nil {
		err := c.delete(ctx, have)
		c.slices.DeleteService(key.Namespace, key.Name)
		return 0, err
	}
	if c.slices.StaleSlices(&corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: key.Namespace, Name: key.Name}}, have) {
		return loop.StaleDelay, nil
	}
	want, invalid, skipped := mirror(source)
	if invalid > 0 {
		c.events.Eventf(source, corev1.EventTypeWarning, "InvalidIPAddress",
			"Skipped %d invalid IP addresses when mirroring to EndpointSlices", invalid)
	}
	if skipped > 0 {
		c.events.Eventf(source, corev1.EventTypeWarning, "TooManyAddressesToMirror",
			"A max of %d addresses can be mirrored to EndpointSlices per Endpoints subset. %d addresses were skipped", perSubset, skipped)
	}
	return 0, c.apply(ctx, source, want, have)
}

// source returns the Endpoints of a name if they are to be mirrored.
func (c *controller) source(ctx context.Context, key types.NamespacedName) (*corev1.Endpoints, error) {
	e, svc := &corev1.Endpoints{}, &corev1.Service{}
	if err := c.env.Cluster.Client().Get(ctx, key, e); err != nil {
		return nil, client.IgnoreNotFound(err)
	}
	_, elects := e.Annotations[resourcelock.LeaderElectionRecordAnnotationKey]
	if elects || e.DeletionTimestamp != nil || e.Labels[discoveryv1.LabelSkipMirror] == "true" {
		return nil, nil
	}
	if err := c.env.Cluster.Client().Get(ctx, key, svc); err != nil {
		return nil, client.IgnoreNotFound(err)
	}
	if svc.Spec.Selector != nil {
		return nil, nil // the EndpointSlice controller sees to it
	}
	return e, nil
}

// apply makes the slices those that are wanted. One whose ports or family are
// wanted no more serves as a place for one that is new.
func (c *controller) apply(ctx context.Context, e *corev1.Endpoints, want, have []*discoveryv1.EndpointSlice) error {
	have = slices.Clone(have)
	var fresh []*discoveryv1.EndpointSlice
	for _, w := range want {
		i := slices.IndexFunc(have, func(h *discoveryv1.EndpointSlice) bool { return samePlace(h, w) })
		if i < 0 {
			fresh = append(fresh, w)
			continue
		}
		h := have[i]
		have = slices.Delete(have, i, i+1)
		if sameContent(h, w) {
			continue
		}
		if err := c.update(ctx, h, w); err != nil {
			return err
		}
	}
	for _, w := range fresh {
		i := slices.IndexFunc(have, func(h *discoveryv1.EndpointSlice) bool {
			return h.AddressType == w.AddressType && metav1.IsControlledBy(h, e)
		})
		if i >= 0 {
			h := have[i]
			have = slices.Delete(have, i, i+1)
			if err := c.update(ctx, h, w); err != nil {
				return err
			}
			continue
		}
		err := c.env.Cluster.Client().Create(ctx, w)
		if pods.NamespaceTerminating(err) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("failed to create EndpointSlice for Endpoints %s/%s: %w", e.Namespace, e.Name, err)
		}
		c.slices.Update(w)
	}
	return c.delete(ctx, have)
}

func (c *controller) update(ctx context.Context, have, want *discoveryv1.EndpointSlice) error {
	want.Name, want.GenerateName, want.ResourceVersion = have.Name, "", have.ResourceVersion
	if err := c.env.Cluster.Client().Update(ctx, want); err != nil {
		return fmt.Errorf("failed to update %s EndpointSlice: %w", have.Name, err)
	}
	c.slices.Update(want)
	return nil
}

func (c *controller) delete(ctx context.Context, old []*discoveryv1.EndpointSlice) error {
	var errs []error
	for _, s := range old {
		err := c.env.Cluster.Client().Delete(ctx, &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Namespace: s.Namespace, Name: s.Name}})
		if err != nil && !apierrors.IsNotFound(err) {
			errs = append(errs, fmt.Errorf("failed to delete %s EndpointSlice: %w", s.Name, err))
			continue
		}
		c.slices.ExpectDeletion(s)
	}
	return errors.Join(errs...)
}
