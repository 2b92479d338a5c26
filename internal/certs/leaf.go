package certs

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net"
	"sync/atomic"
	"time"
)

// Names is what a certificate vouches for.
type Names struct {
	CommonName    string
	Organizations []string
	DNS           []string
	IPs           []net.IP
}

// APIServerNames are the names under which the API server is reached: from
// pods (serviceIP and its DNS names), from this host, and by extra names or
// addresses of the user's. domain is the cluster's, e.g. cluster.local.
func APIServerNames(domain string, serviceIP net.IP, hostName string, hostIPs []net.IP, extra []string) Names {
	n := Names{CommonName: "kube-apiserver", DNS: []string{
		"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc." + domain, "localhost",
	}}
	n.IPs = append(n.IPs, net.IPv4(127, 0, 0, 1), net.IPv6loopback)
	if serviceIP != nil {
		n.IPs = append(n.IPs, serviceIP)
	}
	n.IPs = append(n.IPs, hostIPs...)
	if hostName != "" {
		n.DNS = append(n.DNS, hostName)
	}
	for _, e := range extra {
		if ip := net.ParseIP(e); ip != nil {
			n.IPs = append(n.IPs, ip)
		} else if e != "" {
			n.DNS = append(n.DNS, e)
		}
	}
	return n
}

// Leaf is the certificate of one server or client. It always holds a valid
// one: Run of the Authority exchanges it in time, and each handshake takes
// the one that is current.
type Leaf struct {
	issuer  *issuer
	names   Names
	usage   x509.ExtKeyUsage
	current atomic.Pointer[tls.Certificate]
}

// Certificate is the current certificate with its key; never mutate it.
func (l *Leaf) Certificate() *tls.Certificate { return l.current.Load() }

// GetCertificate is for tls.Config of a server.
func (l *Leaf) GetCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	return l.current.Load(), nil
}

// GetClientCertificate is for tls.Config of a client.
func (l *Leaf) GetClientCertificate(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
	return l.current.Load(), nil
}

// PEM returns the current certificate and its key.
func (l *Leaf) PEM() (cert, key []byte, err error) { return certPEM(l.current.Load()) }

func certPEM(c *tls.Certificate) (cert, key []byte, err error) {
	der, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		return nil, nil, fmt.Errorf("encode key of %q: %w", c.Leaf.Subject.CommonName, err)
	}
	return encodeCert(c.Leaf.Raw), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

func (l *Leaf) expires() time.Time { return l.current.Load().Leaf.NotAfter }

// due is when a third of the current certificate's life is left.
func (l *Leaf) due() time.Time {
	c := l.current.Load().Leaf
	return c.NotAfter.Add(-c.NotAfter.Sub(c.NotBefore) / 3)
}

func (l *Leaf) renew(now time.Time) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("make key of %q: %w", l.names.CommonName, err)
	}
	cert, err := l.issuer.sign(l.names, l.usage, key.Public(), now)
	if err != nil {
		return err
	}
	l.current.Store(&tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key, Leaf: cert})
	return nil
}

func samePublicKey(a, b crypto.PublicKey) bool {
	k, ok := a.(interface{ Equal(crypto.PublicKey) bool })
	return ok && k.Equal(b)
}
