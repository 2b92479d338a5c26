// Package certificates answers certificate signing requests: it approves those
// of nodes, signs what is approved for the signers of kubernetes.io, and removes
// old requests. It publishes the API server's authority as a trust bundle.
//
// What is approved without a person:
//
//   - a node's client certificate, when the requester may create
//     certificatesigningrequests/nodeclient (bearers of a bootstrap token may; but not
//     for the name of a node that is alive), or selfnodeclient for itself (a node
//     that renews its own);
//   - a node's serving certificate, when the node itself asks and every name in it
//     is the node's: its own name, and addresses that its Node object has and nobody
//     else. Upstream leaves these to a person, and logs of pods do not work until
//     somebody comes.
package certificates

import (
	"crypto/x509"
	"errors"
	"slices"
	"strings"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/proa-dev/proa/controllers/internal/loop"
	"github.com/proa-dev/proa/internal/certs"
)

// Name is the controllers' name in logs.
const Name = "certificatesigningrequest-controllers"

// Issuer makes certificates of the cluster's authority.
type Issuer interface {
	Issue(request *x509.CertificateRequest, usages []certificatesv1.KeyUsage, life time.Duration) ([]byte, error)
}

// Config is what the controllers cannot read from the cluster.
type Config struct {
	Issuer Issuer
	// CA is the authority's certificate, in PEM.
	CA []byte
	// Reserved are names and addresses that no node may serve under: the API
	// server's.
	Reserved certs.Names
	// Life is how long certificates live at most.
	Life time.Duration
}

// New makes the controllers.
func New(env loop.Env, cfg Config) (loop.Loop, error) {
	if cfg.Issuer == nil || cfg.Life <= 0 || len(cfg.CA) == 0 {
		return loop.Loop{}, errors.New("certificates: no issuer")
	}
	env = env.Named(Name)
	var loops []loop.Loop
	for _, newLoop := range []func() (loop.Loop, error){
		func() (loop.Loop, error) { return newApprover(env, cfg.Reserved) },
		func() (loop.Loop, error) { return newSigner(env, cfg) },
		func() (loop.Loop, error) { return newCleaner(env) },
		func() (loop.Loop, error) { return newPublisher(env, cfg.CA) },
		func() (loop.Loop, error) { return newPodCleaner(env) },
	} {
		l, err := newLoop()
		if err != nil {
			return loop.Loop{}, err
		}
		loops = append(loops, l)
	}
	return loop.Join(Name, loops...), nil
}

// Reasons why a request is not one of a node, as upstream words them.
var (
	errOrganization = errors.New("subject organization is not system:nodes")
	errCommonName   = errors.New("subject common name does not begin with system:node:") //nolint:staticcheck // upstream's words
	errNamesMissing = errors.New("DNS or IP subjectAltName is required")
	errDNS          = errors.New("DNS subjectAltNames are not allowed")
	errEmail        = errors.New("Email subjectAltNames are not allowed") //nolint:staticcheck // upstream's words
	errIP           = errors.New("IP subjectAltNames are not allowed")
	errURI          = errors.New("URI subjectAltNames are not allowed")
	errClientUsages = errors.New("usages did not match [client auth digital signature key encipherment]")
	errServerUsages = errors.New("usages did not match [digital signature key encipherment server auth]")
)

const nodePrefix = "system:node:"

// nodeClient says why a request is not one for a node's client certificate.
func nodeClient(r *x509.CertificateRequest, usages []certificatesv1.KeyUsage) error {
	switch {
	case !slices.Equal(r.Subject.Organization, []string{"system:nodes"}):
		return errOrganization
	case len(r.DNSNames) > 0:
		return errDNS
	case len(r.EmailAddresses) > 0:
		return errEmail
	case len(r.IPAddresses) > 0:
		return errIP
	case len(r.URIs) > 0:
		return errURI
	case !strings.HasPrefix(r.Subject.CommonName, nodePrefix):
		return errCommonName
	case !usagesAre(usages, certificatesv1.UsageClientAuth):
		return errClientUsages
	}
	return nil
}

// nodeServing says why a request is not one for a node's serving certificate.
func nodeServing(r *x509.CertificateRequest, usages []certificatesv1.KeyUsage) error {
	switch {
	case !slices.Equal(r.Subject.Organization, []string{"system:nodes"}):
		return errOrganization
	case len(r.DNSNames) == 0 && len(r.IPAddresses) == 0:
		return errNamesMissing
	case len(r.EmailAddresses) > 0:
		return errEmail
	case len(r.URIs) > 0:
		return errURI
	case !usagesAre(usages, certificatesv1.UsageServerAuth):
		return errServerUsages
	case !strings.HasPrefix(r.Subject.CommonName, nodePrefix):
		return errCommonName
	}
	return nil
}

// usagesAre compares with purpose, a signature, and the encipherment that RSA
// keys alone can do.
func usagesAre(list []certificatesv1.KeyUsage, purpose certificatesv1.KeyUsage) bool {
	has := map[certificatesv1.KeyUsage]bool{}
	for _, u := range list {
		has[u] = true
	}
	if !has[purpose] || !has[certificatesv1.UsageDigitalSignature] {
		return false
	}
	return len(has) == 2 || len(has) == 3 && has[certificatesv1.UsageKeyEncipherment]
}

// condition is that of a type, if it is there and true.
func condition(c *certificatesv1.CertificateSigningRequest, t certificatesv1.RequestConditionType) (certificatesv1.CertificateSigningRequestCondition, bool) {
	for _, cond := range c.Status.Conditions {
		if cond.Type == t && (cond.Status == "" || cond.Status == corev1.ConditionTrue) {
			return cond, true
		}
	}
	return certificatesv1.CertificateSigningRequestCondition{}, false
}
