package certificates

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proa-dev/proa/api/certificates"
	"github.com/proa-dev/proa/controllers/internal/loop"
)

// minLife is the shortest life of a certificate.
const minLife = 10 * time.Minute

type signer struct {
	env loop.Env
	cfg Config
}

func newSigner(env loop.Env, cfg Config) (loop.Loop, error) {
	s := &signer{env, cfg}
	return loop.New(env, "csrsigning", 5, s.reconcile, loop.Self(env.Cluster, &certificatesv1.CertificateSigningRequest{}))
}

func (s *signer) reconcile(ctx context.Context, key types.NamespacedName) (time.Duration, error) {
	c := &certificatesv1.CertificateSigningRequest{}
	if err := s.env.Cluster.Client().Get(ctx, key, c); err != nil {
		return 0, client.IgnoreNotFound(err)
	}
	_, approved := condition(c, certificatesv1.CertificateApproved)
	_, denied := condition(c, certificatesv1.CertificateDenied)
	_, failed := condition(c, certificatesv1.CertificateFailed)
	if !approved || denied || failed || len(c.Status.Certificate) > 0 || !ours(c.Spec.SignerName) {
		return 0, nil
	}
	request, err := certificates.ParseRequest(c.Spec.Request)
	if err != nil {
		return 0, fmt.Errorf("unable to parse csr %q: %w", c.Name, err)
	}
	c = c.DeepCopy()
	if err := acceptable(c.Spec.SignerName, request, c.Spec.Usages); err != nil {
		c.Status.Conditions = append(c.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{
			Type: certificatesv1.CertificateFailed, Status: corev1.ConditionTrue,
			Reason: "SignerValidationFailure", Message: err.Error(), LastUpdateTime: metav1.NewTime(s.env.Clock.Now()),
		})
	} else if c.Status.Certificate, err = s.cfg.Issuer.Issue(request, c.Spec.Usages, life(c.Spec.ExpirationSeconds, s.cfg.Life)); err != nil {
		return 0, fmt.Errorf("error auto signing csr: %w", err)
	}
	return 0, client.IgnoreNotFound(s.env.Cluster.Client().Status().Update(ctx, c))
}

// ours says whether a signer is one of those that the cluster itself is.
func ours(signer string) bool {
	switch signer {
	case certificatesv1.KubeAPIServerClientSignerName, certificatesv1.KubeAPIServerClientKubeletSignerName,
		certificatesv1.KubeletServingSignerName, certificates.LegacyUnknown:
		return true
	}
	return false
}

// acceptable says what a signer does not sign, whoever approved it.
func acceptable(signer string, r *x509.CertificateRequest, usages []certificatesv1.KeyUsage) error {
	switch signer {
	case certificatesv1.KubeletServingSignerName:
		return nodeServing(r, usages)
	case certificatesv1.KubeAPIServerClientKubeletSignerName:
		return nodeClient(r, usages)
	case certificatesv1.KubeAPIServerClientSignerName:
		return clientUsages(usages)
	}
	return nil // legacy-unknown signs what is approved
}

func clientUsages(usages []certificatesv1.KeyUsage) error {
	client := false
	for _, u := range usages {
		switch u {
		case certificatesv1.UsageDigitalSignature, certificatesv1.UsageKeyEncipherment:
		case certificatesv1.UsageClientAuth:
			client = true
		default:
			return fmt.Errorf("invalid usage for client certificate: %s", u)
		}
	}
	if !client {
		return errors.New("missing required usage for client certificate: client auth")
	}
	return nil
}

// life is what a request asks for, within limits.
func life(seconds *int32, most time.Duration) time.Duration {
	if seconds == nil {
		return most
	}
	return min(max(time.Duration(*seconds)*time.Second, minLife), most)
}
