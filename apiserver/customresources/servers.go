package customresources

import (
	"context"
	"time"

	coordv1 "k8s.io/api/coordination/v1"
	"k8s.io/apiextensions-apiserver/pkg/apihelpers"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/proa-dev/proa/apiserver/registry"
)

// Where there are several API servers, a definition is served before it is
// established, for as long as the others may need to see it: a client that waits
// for the condition may ask any of them next.
const (
	installing = "Installing"
	settleTime = 3 * time.Second
)

// identities are the leases of API servers.
const identities = "apiserver.kubernetes.io/identity"

// settle puts off that d, which gets its names, is established. was is the
// condition before. It returns true while others may not serve it.
func (s *Server) settle(ctx context.Context, d *definition, was apiextensionsv1.CustomResourceDefinitionCondition) bool {
	if was.Status == apiextensionsv1.ConditionTrue || !apihelpers.IsCRDConditionTrue(d, apiextensionsv1.Established) {
		return false
	}
	next := apiextensionsv1.CustomResourceDefinitionCondition{
		Type: apiextensionsv1.Established, Status: apiextensionsv1.ConditionFalse, Reason: installing, Message: "the initial names have been accepted",
	}
	if was.Reason == installing {
		if time.Since(was.LastTransitionTime.Time) >= settleTime {
			return false
		}
	} else if !s.others(ctx) {
		return false
	}
	instead(d, was, next)
	return true
}

// others says whether there are more API servers than this one.
func (s *Server) others(ctx context.Context) bool {
	k := s.cfg.Kinds.Set().ByResource(coordv1.SchemeGroupVersion.WithResource("leases"))
	if k == nil {
		return false
	}
	t := registry.Target{Kind: k, Namespace: metav1.NamespaceSystem}
	l, err := s.cfg.Registry.List(ctx, t, &metav1.ListOptions{LabelSelector: identities})
	if err != nil {
		s.cfg.Logger.Warn("count the API servers", "error", err)
		return false
	}
	alive := 0
	for _, e := range l.Entries {
		lease, ok := e.Object.(*coordv1.Lease)
		if !ok || lease.Spec.RenewTime == nil || lease.Spec.LeaseDurationSeconds == nil {
			continue
		}
		if time.Since(lease.Spec.RenewTime.Time) < time.Duration(*lease.Spec.LeaseDurationSeconds)*time.Second {
			alive++
		}
	}
	return alive > 1
}

// isServed says whether requests for the objects of d are answered.
func isServed(d *definition) bool {
	c := apihelpers.FindCRDCondition(d, apiextensionsv1.Established)
	return c != nil && (c.Status == apiextensionsv1.ConditionTrue || c.Reason == installing)
}
