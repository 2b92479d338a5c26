// Package servicecidr keeps the ranges of cluster addresses: it says that they
// are ready, keeps those that addresses in use belong to from being deleted,
// and makes the cluster's own again when that is gone.
package servicecidr

import (
	"context"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proa-dev/proa/controllers/internal/loop"
)

// Name is the controller's name in logs and events.
const Name = "service-cidr-controller"

const (
	// own is the range that the servers are started with.
	own       = "kubernetes"
	finalizer = "networking.k8s.io/service-cidr-finalizer"
	// grace lets every API server learn of a deletion, so that none hands out
	// an address of a range that is gone.
	grace = 10 * time.Second
)

type controller struct {
	env      loop.Env
	cidr     netip.Prefix
	recorder record.EventRecorder
	told     bool // that the cluster's own range is another one
}

// New makes the controller; cidr is the range that the servers are started with.
func New(env loop.Env, cidr netip.Prefix) (loop.Loop, error) {
	env = env.Named(Name)
	c := &controller{env: env, cidr: cidr, recorder: env.Cluster.Recorder(Name)}
	touched := func(ctx context.Context, q loop.Queue, ip *networkingv1.IPAddress) {
		if a, err := netip.ParseAddr(ip.Name); err == nil && ip.Labels[networkingv1.LabelManagedBy] == allocator {
			c.each(ctx, q, func(o *networkingv1.ServiceCIDR) bool { return o.DeletionTimestamp != nil && gives(o, a) })
		}
	}
	changed := func(ctx context.Context, q loop.Queue, s *networkingv1.ServiceCIDR) {
		q.Add(loop.Key("", s.Name))
		// A range may wait for another one that takes over its addresses.
		c.each(ctx, q, func(o *networkingv1.ServiceCIDR) bool { return o.DeletionTimestamp != nil && overlap(o, s) })
	}
	return loop.New(env, Name, 1, c.reconcile,
		loop.Once(loop.Key("", own)),
		loop.Watch(env.Cluster, &networkingv1.ServiceCIDR{}, loop.On[*networkingv1.ServiceCIDR]{
			Created: changed,
			Updated: func(ctx context.Context, q loop.Queue, _, s *networkingv1.ServiceCIDR) { changed(ctx, q, s) },
			Deleted: changed,
		}),
		loop.Watch(env.Cluster, &networkingv1.IPAddress{}, loop.On[*networkingv1.IPAddress]{Created: touched, Deleted: touched}),
	)
}

// each queues the ranges that match.
func (c *controller) each(ctx context.Context, q loop.Queue, match func(*networkingv1.ServiceCIDR) bool) {
	var list networkingv1.ServiceCIDRList
	if err := c.env.Cluster.Client().List(ctx, &list, client.UnsafeDisableDeepCopy); err != nil {
		c.env.Logger.Error("list ServiceCIDRs", "err", err)
		return
	}
	for i := range list.Items {
		if match(&list.Items[i]) {
			q.Add(loop.Key("", list.Items[i].Name))
		}
	}
}

func (c *controller) reconcile(ctx context.Context, key types.NamespacedName) (time.Duration, error) {
	api := c.env.Cluster.Client()
	s := &networkingv1.ServiceCIDR{}
	err := api.Get(ctx, key, s)
	switch {
	case apierrors.IsNotFound(err) && key.Name == own:
		return 0, c.makeOwn(ctx)
	case err != nil:
		return 0, client.IgnoreNotFound(err)
	case s.DeletionTimestamp != nil:
		after, err := c.release(ctx, s)
		return after, client.IgnoreNotFound(err)
	}
	if !slices.Contains(s.Finalizers, finalizer) {
		s.Finalizers = append(s.Finalizers, finalizer)
		if err := api.Update(ctx, s); err != nil {
			return 0, client.IgnoreNotFound(err)
		}
	}
	return 0, client.IgnoreNotFound(c.ready(ctx, s))
}

func (c *controller) makeOwn(ctx context.Context) error {
	err := c.env.Cluster.Client().Create(ctx, &networkingv1.ServiceCIDR{
		ObjectMeta: metav1.ObjectMeta{Name: own},
		Spec:       networkingv1.ServiceCIDRSpec{CIDRs: []string{c.cidr.String()}},
	})
	return client.IgnoreAlreadyExists(err)
}

// ready says that the range is in use. When the cluster's own is not what this
// server was started with, a person has to decide, and is told once.
func (c *controller) ready(ctx context.Context, s *networkingv1.ServiceCIDR) error {
	if s.Name == own && !slices.Contains(s.Spec.CIDRs, c.cidr.String()) && !c.told {
		c.told = true
		c.recorder.Eventf(s, corev1.EventTypeWarning, "KubernetesDefaultServiceCIDRInconsistent",
			"The default ServiceCIDR %v does not match the controller flag configurations %s", s.Spec.CIDRs, []string{c.cidr.String()})
	}
	return c.say(ctx, s, metav1.Condition{
		Type: networkingv1.ServiceCIDRConditionReady, Status: metav1.ConditionTrue, Message: "Kubernetes Service CIDR is ready",
	})
}

// release lets a range go that no address needs, and says so of one that some do.
func (c *controller) release(ctx context.Context, s *networkingv1.ServiceCIDR) (time.Duration, error) {
	if !slices.Contains(s.Finalizers, finalizer) {
		return 0, nil
	}
	api := c.env.Cluster.Client()
	used, err := needs(ctx, api, s, client.UnsafeDisableDeepCopy)
	if err != nil {
		return 0, err
	}
	if used == "" {
		if wait := grace - c.env.Clock.Since(s.DeletionTimestamp.Time); wait > 0 {
			return wait, nil
		}
		// The cache may lack an address that was given out a moment ago.
		if used, err = needs(ctx, c.env.Cluster.Reader(), s); err != nil {
			return 0, err
		}
	}
	if used != "" {
		c.env.Logger.Info("a ServiceCIDR is still needed", "serviceCIDR", s.Name, "address", used)
		return 0, c.say(ctx, s, metav1.Condition{
			Type: networkingv1.ServiceCIDRConditionReady, Status: metav1.ConditionFalse, Reason: networkingv1.ServiceCIDRReasonTerminating,
			Message: "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR",
		})
	}
	s.Finalizers = slices.DeleteFunc(s.Finalizers, func(f string) bool { return f == finalizer })
	return 0, api.Update(ctx, s)
}

// needs returns an address that needs the range, "" for none.
func needs(ctx context.Context, r client.Reader, s *networkingv1.ServiceCIDR, opts ...client.ListOption) (string, error) {
	var all networkingv1.ServiceCIDRList
	if err := r.List(ctx, &all, opts...); err != nil {
		return "", err
	}
	var ips networkingv1.IPAddressList
	if err := r.List(ctx, &ips, opts...); err != nil {
		return "", err
	}
	return orphans(s, all.Items, ips.Items), nil
}

// say writes a condition that is new.
func (c *controller) say(ctx context.Context, s *networkingv1.ServiceCIDR, want metav1.Condition) error {
	have := meta.FindStatusCondition(s.Status.Conditions, want.Type)
	if have != nil && have.Status == want.Status && have.Reason == want.Reason && have.Message == want.Message {
		return nil
	}
	want.LastTransitionTime = metav1.NewTime(c.env.Clock.Now())
	meta.SetStatusCondition(&s.Status.Conditions, want)
	return c.env.Cluster.Client().Status().Update(ctx, s)
}
