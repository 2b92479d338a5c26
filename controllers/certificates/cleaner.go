package certificates

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proa-dev/proa/controllers/internal/loop"
)

// How long requests stay, as upstream has it.
const (
	decidedStays = time.Hour
	pendingStays = 24 * time.Hour
)

type cleaner struct{ env loop.Env }

func newCleaner(env loop.Env) (loop.Loop, error) {
	c := &cleaner{env}
	return loop.New(env, "csrcleaner", 1, c.reconcile, loop.Self(env.Cluster, &certificatesv1.CertificateSigningRequest{}))
}

// reconcile removes a request whose time is over, or comes back when it is.
func (c *cleaner) reconcile(ctx context.Context, key types.NamespacedName) (time.Duration, error) {
	r := &certificatesv1.CertificateSigningRequest{}
	if err := c.env.Cluster.Client().Get(ctx, key, r); err != nil {
		return 0, client.IgnoreNotFound(err)
	}
	end := ends(r)
	if end.IsZero() {
		return 0, nil
	}
	if left := end.Sub(c.env.Clock.Now()); left > 0 {
		return left, nil
	}
	c.env.Logger.Info("certificate request removed: its time is over", "request", r.Name)
	return 0, client.IgnoreNotFound(c.env.Cluster.Client().Delete(ctx, r, client.Preconditions{UID: &r.UID}))
}

// ends is when a request is of no more use; zero is never.
func ends(r *certificatesv1.CertificateSigningRequest) time.Time {
	var first time.Time
	at := func(t time.Time, stays time.Duration) {
		if !t.IsZero() && (first.IsZero() || t.Add(stays).Before(first)) {
			first = t.Add(stays)
		}
	}
	issued := len(r.Status.Certificate) > 0
	if len(r.Status.Conditions) == 0 {
		at(r.CreationTimestamp.Time, pendingStays)
	}
	for _, cond := range r.Status.Conditions {
		switch {
		case cond.Type == certificatesv1.CertificateDenied, cond.Type == certificatesv1.CertificateFailed:
			at(cond.LastUpdateTime.Time, decidedStays)
		case cond.Type == certificatesv1.CertificateApproved && issued:
			at(cond.LastUpdateTime.Time, decidedStays)
			at(expiry(r.Status.Certificate), 0)
		case cond.Type == certificatesv1.CertificateApproved:
			at(cond.LastUpdateTime.Time, pendingStays)
		}
	}
	return first
}

// expiry is when a certificate ends; zero when it cannot be read.
func expiry(data []byte) time.Time {
	block, _ := pem.Decode(data)
	if block == nil {
		return time.Time{}
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return time.Time{}
	}
	return cert.NotAfter
}
