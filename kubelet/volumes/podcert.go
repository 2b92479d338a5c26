package volumes

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"sync"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Certificates asks the cluster's signers for pods' certificates.
type Certificates interface {
	// Request creates the request, with the identities of node and service
	// account filled in.
	Request(ctx context.Context, request *certificatesv1.PodCertificateRequest) (*certificatesv1.PodCertificateRequest, error)
	// Await returns the request once a signer has decided on it, or when ctx ends.
	Await(ctx context.Context, request *certificatesv1.PodCertificateRequest) (*certificatesv1.PodCertificateRequest, error)
}

// awaitSigner is how long one SetUp waits for a signer. The next goes on with
// the same request.
const awaitSigner = 20 * time.Second

type certKey struct {
	pod    types.UID
	volume string
	source int
}

// certificate is a key of which the chain may still be pending.
type certificate struct {
	key     []byte // PEM
	chain   []byte // PEM
	refresh time.Time
	expires time.Time
	pending *certificatesv1.PodCertificateRequest
	nextKey []byte // of the pending request
	denied  error
}

// certCache keeps pods' certificates in memory only: a key never outlives the
// kubelet but in its pod's volume.
type certCache struct {
	source Certificates
	now    func() time.Time

	mu    sync.Mutex
	certs map[certKey]*certificate
}

func (c *certCache) forget(pod types.UID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for k := range c.certs {
		if k.pod == pod {
			delete(c.certs, k)
		}
	}
}

// get returns the certificate of one projection. Calls for one pod do not
// overlap, so that the entry is this call's alone.
func (c *certCache) get(ctx context.Context, req Request, index int, s *corev1.PodCertificateProjection) (*certificate, error) {
	key := certKey{req.Pod.UID, req.Volume.Name, index}
	c.mu.Lock()
	have := c.certs[key]
	if have == nil {
		have = &certificate{}
		c.certs[key] = have
	}
	c.mu.Unlock()
	now := c.now()
	if have.denied != nil {
		return nil, have.denied
	}
	if have.chain != nil && now.Before(have.refresh) {
		return have, nil
	}
	err := c.renew(ctx, have, req.Pod, s)
	if err != nil && have.chain != nil && now.Before(have.expires) {
		have.refresh = now.Add(time.Minute)
		return have, nil
	}
	return have, err
}

func (c *certCache) renew(ctx context.Context, have *certificate, pod *corev1.Pod, s *corev1.PodCertificateProjection) error {
	if have.pending == nil {
		key, csr, err := newKey(s.KeyType)
		if err != nil {
			return err
		}
		request := &certificatesv1.PodCertificateRequest{
			ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, GenerateName: "req-"},
			Spec: certificatesv1.PodCertificateRequestSpec{
				SignerName: s.SignerName, PodName: pod.Name, PodUID: pod.UID, ServiceAccountName: pod.Spec.ServiceAccountName,
				NodeName: types.NodeName(pod.Spec.NodeName), MaxExpirationSeconds: s.MaxExpirationSeconds,
				StubPKCS10Request: csr, UnverifiedUserAnnotations: s.UserAnnotations,
			},
		}
		request.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID}}
		if have.pending, err = c.source.Request(ctx, request); err != nil {
			have.pending = nil
			return fmt.Errorf("while creating PodCertificateRequest: %w", err)
		}
		have.nextKey = key
	}
	waitCtx, cancel := context.WithTimeout(ctx, awaitSigner)
	defer cancel()
	done, err := c.source.Await(waitCtx, have.pending)
	if err != nil {
		if ctx.Err() == nil && waitCtx.Err() != nil {
			return fmt.Errorf("PodCertificateRequest %s/%s has not been decided on yet", have.pending.Namespace, have.pending.Name)
		}
		have.pending = nil // it may be gone: begin anew
		return err
	}
	have.pending = nil
	for _, cond := range done.Status.Conditions {
		switch cond.Type {
		case certificatesv1.PodCertificateRequestConditionTypeDenied, certificatesv1.PodCertificateRequestConditionTypeFailed:
			err := fmt.Errorf("PodCertificateRequest %s/%s was %s by its signer: %s: %s", done.Namespace, done.Name, cond.Type, cond.Reason, cond.Message)
			if have.chain == nil {
				have.denied = err
			}
			return err
		}
	}
	if done.Status.NotAfter == nil || done.Status.BeginRefreshAt == nil {
		return fmt.Errorf("PodCertificateRequest %s/%s was issued without times", done.Namespace, done.Name)
	}
	have.key, have.chain = have.nextKey, plainPEM(done.Status.CertificateChain)
	have.refresh, have.expires = done.Status.BeginRefreshAt.Time, done.Status.NotAfter.Time
	return nil
}

// plainPEM drops what stands between and inside the blocks' headers.
func plainPEM(chain string) []byte {
	var out bytes.Buffer
	rest := []byte(chain)
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return out.Bytes()
		}
		_, _ = out.Write(pem.EncodeToMemory(&pem.Block{Type: block.Type, Bytes: block.Bytes})) // a buffer never fails
	}
}

// newKey makes a key of the type, and an empty certificate signing request.
func newKey(kind string) (keyPEM, csr []byte, err error) {
	var key crypto.Signer
	switch kind {
	case "RSA3072":
		key, err = rsa.GenerateKey(rand.Reader, 3072)
	case "RSA4096":
		key, err = rsa.GenerateKey(rand.Reader, 4096)
	case "ECDSAP256":
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "ECDSAP384":
		key, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case "ECDSAP521":
		key, err = ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	case "ED25519":
		_, key, err = ed25519.GenerateKey(rand.Reader)
	default:
		err = fmt.Errorf("unknown key type %q", kind)
	}
	if err != nil {
		return nil, nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, nil, err
	}
	csr, err = x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), csr, err
}

func (p *payloads) addCertificate(ctx context.Context, out *payload, req Request, index int, s *corev1.PodCertificateProjection, mode int32) error {
	cert, err := p.certs.get(ctx, req, index, s)
	if err != nil {
		return err
	}
	user := commonUser(req.Pod)
	if user != nil || fsGroup(req.Pod) != nil {
		mode = 0o600
	}
	for path, data := range map[string][]byte{
		s.CredentialBundlePath: append(append([]byte{}, cert.key...), cert.chain...),
		s.KeyPath:              cert.key,
		s.CertificateChainPath: cert.chain,
	} {
		if path != "" {
			out.files[path] = file{data: data, mode: mode, uid: user}
		}
	}
	out.refresh = soonest(out.refresh, cert.refresh)
	return nil
}
