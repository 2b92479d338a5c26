package certs

import (
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"time"
)

// issuer is one certificate authority: its key and self-signed certificate.
type issuer struct {
	path string // of the certificate, for errors
	key  crypto.Signer
	cert *x509.Certificate
	pem  []byte
	pool *x509.CertPool
}

// openIssuer reads <dir>/<base>.key and .crt. A missing certificate is made
// anew from the key (what the old one signed stays valid); a certificate whose
// key is gone is an error, since a new key would orphan the cluster.
func openIssuer(dir, base, commonName string, now time.Time) (*issuer, error) {
	certPath, keyPath := filepath.Join(dir, base+".crt"), filepath.Join(dir, base+".key")
	_, keyErr := os.Lstat(keyPath)
	_, certErr := os.Lstat(certPath)
	if errors.Is(keyErr, fs.ErrNotExist) && certErr == nil {
		return nil, fmt.Errorf("%s exists but its key %s does not: put the key back, or remove %s to found a new authority (every certificate and kubeconfig of this cluster then has to be made again)",
			certPath, keyPath, certPath)
	}
	key, err := openKey(keyPath)
	if err != nil {
		return nil, err
	}
	if errors.Is(certErr, fs.ErrNotExist) {
		der, err := selfSign(key, commonName, now)
		if err != nil {
			return nil, fmt.Errorf("make %s: %w", certPath, err)
		}
		if err := createFile(certPath, encodeCert(der)); err != nil {
			return nil, err
		}
	}
	return readIssuer(certPath, keyPath, key, now)
}

func readIssuer(certPath, keyPath string, key crypto.Signer, now time.Time) (*issuer, error) {
	data, err := os.ReadFile(certPath)
	if err != nil {
		return nil, fmt.Errorf("read certificate authority: %w", err)
	}
	cert, err := decodeCert(data)
	if err != nil {
		return nil, fmt.Errorf("%s is damaged (%w): restore it from a backup, or remove it to have it made again from %s", certPath, err, keyPath)
	}
	if !cert.IsCA || cert.KeyUsage&x509.KeyUsageCertSign == 0 {
		return nil, fmt.Errorf("%s is not a certificate authority: put the cluster's own back, or remove it to have it made again from %s", certPath, keyPath)
	}
	if !samePublicKey(cert.PublicKey, key.Public()) {
		return nil, fmt.Errorf("%s does not belong to the key %s: restore the pair from one backup, or remove the certificate to have it made again from the key", certPath, keyPath)
	}
	if now.After(cert.NotAfter) {
		return nil, fmt.Errorf("%s expired on %s: remove it to have it made again from %s, then hand it to every client", certPath, cert.NotAfter.Format(time.DateOnly), keyPath)
	}
	if now.Before(cert.NotBefore) {
		return nil, fmt.Errorf("%s is not valid before %s, and it is %s: set this machine's clock", certPath, cert.NotBefore.Format(time.DateTime), now.Format(time.DateTime))
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return &issuer{path: certPath, key: key, cert: cert, pem: encodeCert(cert.Raw), pool: pool}, nil
}

func selfSign(key crypto.Signer, commonName string, now time.Time) ([]byte, error) {
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(public)
	tmpl := &x509.Certificate{
		SerialNumber: serial,
		// Issuers are looked up by name: it follows from the key, so that it
		// differs between clusters and stays when the certificate is made anew.
		Subject:               pkix.Name{CommonName: fmt.Sprintf("%s@%x", commonName, sum[:8])},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(authorityLife),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
	}
	return x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
}

// sign issues a certificate for pub, never valid longer than its issuer.
func (i *issuer) sign(names Names, usage x509.ExtKeyUsage, pub crypto.PublicKey, now time.Time) (*x509.Certificate, error) {
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	notAfter := now.Add(leafLife)
	if notAfter.After(i.cert.NotAfter) {
		notAfter = i.cert.NotAfter
	}
	if !notAfter.After(now) {
		return nil, fmt.Errorf("%s has expired", i.path)
	}
	tmpl := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: names.CommonName, Organization: names.Organizations},
		DNSNames:     names.DNS,
		IPAddresses:  names.IPs,
		NotBefore:    now.Add(-backdate),
		NotAfter:     notAfter,
		KeyUsage:     x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
		ExtKeyUsage:  []x509.ExtKeyUsage{usage},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, i.cert, pub, i.key)
	if err != nil {
		return nil, fmt.Errorf("sign certificate of %q: %w", names.CommonName, err)
	}
	return x509.ParseCertificate(der)
}

func newSerial() (*big.Int, error) {
	return rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
}
