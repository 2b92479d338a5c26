package certificates

import (
	"context"
	"crypto/x509"
	"fmt"
	"log/slog"
	"strings"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proa-dev/proa/api/certificates"
	"github.com/proa-dev/proa/controllers/internal/loop"
	"github.com/proa-dev/proa/internal/certs"
)

type approver struct {
	env      loop.Env
	reserved certs.Names
}

func newApprover(env loop.Env, reserved certs.Names) (loop.Loop, error) {
	a := &approver{env: env, reserved: reserved}
	return loop.New(env, "csrapproving", 5, a.reconcile, loop.Self(env.Cluster, &certificatesv1.CertificateSigningRequest{}))
}

func (a *approver) reconcile(ctx context.Context, key types.NamespacedName) (time.Duration, error) {
	c := &certificatesv1.CertificateSigningRequest{}
	if err := a.env.Cluster.Client().Get(ctx, key, c); err != nil {
		return 0, client.IgnoreNotFound(err)
	}
	_, approved := condition(c, certificatesv1.CertificateApproved)
	_, denied := condition(c, certificatesv1.CertificateDenied)
	if approved || denied || len(c.Status.Certificate) > 0 {
		return 0, nil
	}
	request, err := certificates.ParseRequest(c.Spec.Request)
	if err != nil {
		a.env.Logger.Warn("certificate request not understood", "request", c.Name, "error", err)
		return 0, nil //nolint:nilerr // no attempt to come reads it better
	}
	switch c.Spec.SignerName {
	case certificatesv1.KubeAPIServerClientKubeletSignerName:
		return a.client(ctx, c, request)
	case certificatesv1.KubeletServingSignerName:
		return a.serving(ctx, c, request)
	}
	return 0, nil
}

// client decides on a node's client certificate.
func (a *approver) client(ctx context.Context, c *certificatesv1.CertificateSigningRequest, r *x509.CertificateRequest) (time.Duration, error) {
	if ok := nodeClient(r, c.Spec.Usages) == nil; !ok {
		return 0, nil // for a person to decide
	}
	if c.Spec.Username == r.Subject.CommonName {
		ok, err := a.may(ctx, c, "selfnodeclient")
		if err != nil {
			return 0, err
		}
		if ok {
			return 0, a.approve(ctx, c, "Auto approving self kubelet client certificate after SubjectAccessReview.")
		}
	}
	ok, err := a.may(ctx, c, "nodeclient")
	if err != nil || !ok {
		return 0, err
	}
	name := strings.TrimPrefix(r.Subject.CommonName, nodePrefix)
	if alive, err := a.alive(ctx, name); err != nil || alive {
		if alive {
			a.env.Logger.Warn("a node of that name is alive: its certificate is not given to another one without a person's approval", "request", c.Name, "node", name)
		}
		return again(a.env.Clock.Since(c.CreationTimestamp.Time)), err
	}
	return 0, a.approve(ctx, c, "Auto approving kubelet client certificate after SubjectAccessReview.")
}

// alive says whether a node is Ready: who holds a token alone must not take
// its place.
func (a *approver) alive(ctx context.Context, name string) (bool, error) {
	node := &corev1.Node{}
	if err := a.env.Cluster.Reader().Get(ctx, types.NamespacedName{Name: name}, node); err != nil {
		return false, client.IgnoreNotFound(err)
	}
	for _, cond := range node.Status.Conditions {
		if cond.Type == corev1.NodeReady {
			return cond.Status == corev1.ConditionTrue, nil
		}
	}
	return false, nil
}

// serving decides on a node's serving certificate. The node's addresses may be
// about to be written, so that a refusal is looked at again.
func (a *approver) serving(ctx context.Context, c *certificatesv1.CertificateSigningRequest, r *x509.CertificateRequest) (time.Duration, error) {
	if ok := nodeServing(r, c.Spec.Usages) == nil; !ok || c.Spec.Username != r.Subject.CommonName {
		return 0, nil
	}
	nodes := &corev1.NodeList{}
	if err := a.env.Cluster.Reader().List(ctx, nodes); err != nil {
		return 0, err
	}
	if err := servingNames(r, nodes.Items, a.reserved); err != nil {
		age, level := a.env.Clock.Since(c.CreationTimestamp.Time), slog.LevelDebug
		if age > settles {
			level = slog.LevelWarn
		}
		after := again(age)
		a.env.Logger.Log(ctx, level, "serving certificate not approved", "request", c.Name, "reason", err, "again", after)
		return after, nil //nolint:nilerr // told, and looked at again
	}
	return 0, a.approve(ctx, c, "Auto approving kubelet serving certificate: every name in it is the node's.")
}

// settles is when a new node has long told its addresses.
const settles = 10 * time.Second

// again is how long to wait with a request of some age: the older, the longer.
func again(age time.Duration) time.Duration {
	return min(max(age/2, 200*time.Millisecond), 5*time.Minute)
}

// servingNames says which name in a request is not the requesting node's own.
func servingNames(r *x509.CertificateRequest, nodes []corev1.Node, reserved certs.Names) error {
	name := strings.TrimPrefix(r.Subject.CommonName, nodePrefix)
	for _, dns := range r.DNSNames {
		if dns != name {
			return fmt.Errorf("%q is not the node's name", dns)
		}
		for _, taken := range reserved.DNS {
			if strings.EqualFold(dns, taken) {
				return fmt.Errorf("%q is a name of the API server", dns)
			}
		}
	}
	holders := map[string][]string{}
	for _, n := range nodes {
		for _, addr := range n.Status.Addresses {
			if addr.Type == corev1.NodeInternalIP || addr.Type == corev1.NodeExternalIP {
				holders[addr.Address] = append(holders[addr.Address], n.Name)
			}
		}
	}
	for _, ip := range r.IPAddresses {
		who := holders[ip.String()]
		if len(who) != 1 || who[0] != name {
			return fmt.Errorf("%s is not the node's address, or not its alone: nodes %q have it", ip, who)
		}
		for _, taken := range reserved.IPs {
			if taken.Equal(ip) {
				return fmt.Errorf("%s is an address of the API server", ip)
			}
		}
	}
	return nil
}

// may asks whether the requester has the right to create a subresource of
// requests, upstream's way to allow automatic approval.
func (a *approver) may(ctx context.Context, c *certificatesv1.CertificateSigningRequest, subresource string) (bool, error) {
	review := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
		User: c.Spec.Username, UID: c.Spec.UID, Groups: c.Spec.Groups,
		ResourceAttributes: &authorizationv1.ResourceAttributes{
			Group: certificatesv1.GroupName, Version: "*", Resource: "certificatesigningrequests", Subresource: subresource, Verb: "create",
		},
	}}
	for k, v := range c.Spec.Extra {
		if review.Spec.Extra == nil {
			review.Spec.Extra = map[string]authorizationv1.ExtraValue{}
		}
		review.Spec.Extra[k] = authorizationv1.ExtraValue(v)
	}
	if err := a.env.Cluster.Client().Create(ctx, review); err != nil {
		return false, err
	}
	return review.Status.Allowed, nil
}

func (a *approver) approve(ctx context.Context, c *certificatesv1.CertificateSigningRequest, message string) error {
	c = c.DeepCopy()
	c.Status.Conditions = append(c.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{
		Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue, Reason: "AutoApproved", Message: message,
	})
	return client.IgnoreNotFound(a.env.Cluster.Client().SubResource("approval").Update(ctx, c))
}
