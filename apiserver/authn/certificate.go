package authn

import (
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"time"

	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
)

// certUser is a verified certificate: the user, for as long as every
// certificate of its chain is valid.
type certUser struct {
	resp        *authenticator.Response
	from, until time.Time
}

// certificate authenticates by the TLS client certificate. The handshake only
// asks for one (tls.RequestClientCert): a foreign certificate is a 401 here,
// not a broken connection.
func (a *Authenticator) certificate(req *http.Request) (*authenticator.Response, error) {
	if req.TLS == nil || len(req.TLS.PeerCertificates) == 0 {
		return nil, nil
	}
	peers := req.TLS.PeerCertificates
	now := a.cfg.Clock.Now()
	key := chainKey(peers)
	if known, ok := a.certs.get(key); ok && !now.Before(known.from) && !now.After(known.until) {
		return known.resp, nil
	}
	chain, err := verifyClient(peers, a.cfg.ClientCAs, now)
	if err != nil {
		return nil, fmt.Errorf("verifying certificate SN=%s, SKID=%X, AKID=%X failed: %w", peers[0].SerialNumber, peers[0].SubjectKeyId, peers[0].AuthorityKeyId, err)
	}
	subject := chain[0].Subject
	if subject.CommonName == "" {
		return nil, nil
	}
	found := &certUser{
		resp: a.response(&user.DefaultInfo{
			Name:   subject.CommonName,
			Groups: subject.Organization,
			Extra:  map[string][]string{user.CredentialIDKey: {credentialID(chain[0])}},
		}),
		from: chain[0].NotBefore, until: chain[0].NotAfter,
	}
	for _, c := range chain[1:] {
		if c.NotBefore.After(found.from) {
			found.from = c.NotBefore
		}
		if c.NotAfter.Before(found.until) {
			found.until = c.NotAfter
		}
	}
	a.certs.put(key, found)
	return found.resp, nil
}

// credentialID is upstream's name of a certificate in audit logs.
func credentialID(c *x509.Certificate) string {
	return fmt.Sprintf("X509SHA256=%x", sha256.Sum256(c.Raw))
}

// verifyClient returns a chain from the client's certificate to one of roots.
func verifyClient(peers []*x509.Certificate, roots *x509.CertPool, now time.Time) ([]*x509.Certificate, error) {
	if roots == nil {
		return nil, errors.New("no certificate authority to verify it")
	}
	opts := x509.VerifyOptions{
		Roots:       roots,
		CurrentTime: now,
		KeyUsages:   []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	if len(peers) > 1 {
		opts.Intermediates = x509.NewCertPool()
		for _, c := range peers[1:] {
			opts.Intermediates.AddCert(c)
		}
	}
	chains, err := peers[0].Verify(opts)
	if err != nil {
		return nil, err
	}
	return chains[0], nil
}

// chainKey is the chain itself: to compare it is less work than to hash it
// well.
func chainKey(peers []*x509.Certificate) []byte {
	if len(peers) == 1 {
		return peers[0].Raw
	}
	var key []byte
	for _, c := range peers {
		key = append(key, c.Raw...)
	}
	return key
}
