package certs

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"fmt"
)

// SigningKey signs service account tokens.
type SigningKey struct {
	Private crypto.Signer
	// Algorithm is JOSE's: RS256, or ES256/384/512 by the key's curve.
	Algorithm string
	// ID is derived from the public key, so that a verifier finds the key in
	// a key set.
	ID string
}

func newSigningKey(key crypto.Signer) (*SigningKey, error) {
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, fmt.Errorf("encode service account key: %w", err)
	}
	sum := sha256.Sum256(der)
	s := &SigningKey{Private: key, ID: base64.RawURLEncoding.EncodeToString(sum[:])}
	switch k := key.(type) {
	case *rsa.PrivateKey:
		s.Algorithm = "RS256"
	case *ecdsa.PrivateKey:
		switch bits := k.Curve.Params().BitSize; bits {
		case 256:
			s.Algorithm = "ES256"
		case 384:
			s.Algorithm = "ES384"
		case 521:
			s.Algorithm = "ES512"
		default:
			return nil, fmt.Errorf("service account key: no algorithm for a curve of %d bits", bits)
		}
	}
	return s, nil
}
