// Package bootstrap makes what every cluster has from its first second: the
// system's namespaces, priority classes, the default policy, and the Service
// by which pods reach the API server. All of it is reconciled again at every
// start, and the Service's endpoints while the server runs.
package bootstrap

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proa-dev/proa/apiserver/authz"
)

// Config says what is made. Client must act as a member of system:masters,
// and Reader read as new as every acknowledged write.
type Config struct {
	Client ctrl.Client
	Reader ctrl.Reader
	// ServiceIP is the address of the Service kubernetes: the first of the
	// service network.
	ServiceIP netip.Addr
	// ServiceCIDR is what Services take their addresses from; no ServiceCIDR is
	// made when it is invalid.
	ServiceCIDR netip.Prefix
	// ClientCA and FrontProxyCA (PEM) are published to extension API servers,
	// with the common names of front proxies.
	ClientCA, FrontProxyCA []byte
	FrontProxyNames        []string
	// Server is the URL by which nodes reach the API server, published with
	// its authority; Settings is what all nodes must agree on. Neither is
	// published when empty.
	Server   string
	Settings map[string]string
}

// Run makes what is missing and returns when all of it is there.
func Run(ctx context.Context, cfg Config) error {
	if cfg.Client == nil || cfg.Reader == nil || !cfg.ServiceIP.IsValid() {
		return errors.New("bootstrap: Client, Reader and ServiceIP are required")
	}
	if err := ensureClass(ctx, cfg); err != nil {
		return err
	}
	// Namespaces come next: nothing can be made in one that is missing.
	group, groupCtx := errgroup.WithContext(ctx)
	for _, name := range []string{metav1.NamespaceDefault, metav1.NamespaceSystem, metav1.NamespacePublic, corev1.NamespaceNodeLease} {
		group.Go(func() error {
			return ensure(groupCtx, cfg.Client, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}})
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	group, groupCtx = errgroup.WithContext(ctx)
	group.Go(func() error { return authz.Bootstrap(groupCtx, cfg.Client) })
	for _, class := range priorityClasses() {
		group.Go(func() error { return ensure(groupCtx, cfg.Client, class) })
	}
	group.Go(func() error { return ensureFlows(groupCtx, cfg) })
	group.Go(func() error { return ensureRange(groupCtx, cfg) })
	group.Go(func() error { return ensureService(groupCtx, cfg) })
	if len(cfg.ClientCA) > 0 {
		group.Go(func() error { return ensureTrust(groupCtx, cfg) })
	}
	if cfg.Server != "" {
		group.Go(func() error { return ensureClusterInfo(groupCtx, cfg) })
	}
	if len(cfg.Settings) > 0 {
		group.Go(func() error {
			return ensureData(groupCtx, cfg, metav1.NamespaceSystem, authz.ClusterSettings, cfg.Settings)
		})
	}
	return group.Wait()
}

// ensure creates obj unless it exists.
func ensure(ctx context.Context, c ctrl.Client, obj ctrl.Object) error {
	if err := c.Create(ctx, obj); err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("make %T %s: %w", obj, obj.GetName(), err)
	}
	return nil
}

func priorityClasses() []*schedulingv1.PriorityClass {
	class := func(name string, value int32, description string) *schedulingv1.PriorityClass {
		return &schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Value: value, Description: description}
	}
	return []*schedulingv1.PriorityClass{
		class("system-node-critical", 2000001000, "Used for system critical pods that must not be moved from their current node."),
		class("system-cluster-critical", 2000000000, "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary."),
	}
}
