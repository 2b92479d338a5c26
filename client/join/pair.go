package join

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"

	certificatesv1 "k8s.io/api/certificates/v1"
)

// A pair is one file, key and certificate, so that they are exchanged together.
const (
	clientFile  = "client.pem"
	servingFile = "serving.pem"
)

// template is what is asked for.
type template struct {
	subject pkix.Name
	dns     []string
	ips     []net.IP
	signer  string
	usages  []certificatesv1.KeyUsage
}

func (n *Node) clientTemplate() template {
	return template{
		subject: pkix.Name{CommonName: n.user(), Organization: []string{"system:nodes"}},
		signer:  certificatesv1.KubeAPIServerClientKubeletSignerName,
		usages:  []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageClientAuth},
	}
}

func (n *Node) servingTemplate() template {
	return template{
		subject: pkix.Name{CommonName: n.user(), Organization: []string{"system:nodes"}},
		dns:     []string{n.cfg.NodeName}, ips: n.cfg.Addresses,
		signer: certificatesv1.KubeletServingSignerName,
		usages: []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageServerAuth},
	}
}

// fits says whether a certificate has the names that are wanted now.
func (t template) fits(c *x509.Certificate) bool {
	if len(c.DNSNames) != len(t.dns) || len(c.IPAddresses) != len(t.ips) || c.Subject.CommonName != t.subject.CommonName {
		return false
	}
	for _, name := range t.dns {
		if c.VerifyHostname(name) != nil {
			return false
		}
	}
	for _, ip := range t.ips {
		if c.VerifyHostname(ip.String()) != nil {
			return false
		}
	}
	return true
}

// make makes a key and the PEM request for it.
func (t template) make() (crypto.Signer, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("make key: %w", err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: t.subject, DNSNames: t.dns, IPAddresses: t.ips}, key)
	if err != nil {
		return nil, nil, fmt.Errorf("make certificate request: %w", err)
	}
	return key, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), nil
}

// pair is a certificate with its key, and both as a file.
type pair struct {
	certificate *tls.Certificate
	file        []byte
}

func newPair(certPEM []byte, key crypto.Signer) (*pair, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("join: encode key: %w", err)
	}
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	c, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, fmt.Errorf("join: the cluster's answer is no certificate for the key: %w", err)
	}
	return &pair{&c, append(certPEM, keyPEM...)}, nil
}

func (p *pair) write(path string) error { return writeFile(path, p.file) }

func readPair(path string) (*tls.Certificate, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("other users can read it (mode %04o)", info.Mode().Perm())
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	c, err := tls.X509KeyPair(data, data)
	return &c, err
}

// writeFile exchanges a file's content, for root's eyes only, as a whole or not
// at all.
func writeFile(path string, data []byte) error {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+".*") // mode 0600
	if err != nil {
		return fmt.Errorf("join: %w", err)
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		if gone := os.Remove(f.Name()); gone != nil && !errors.Is(gone, fs.ErrNotExist) {
			err = errors.Join(err, gone)
		}
		return fmt.Errorf("join: write %s: %w", path, err)
	}
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("join: %w", err)
	}
	return errors.Join(d.Sync(), d.Close())
}
