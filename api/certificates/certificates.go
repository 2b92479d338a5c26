// Package certificates holds the kinds of the group certificates.k8s.io, v1.
package certificates

import (
	"crypto/x509"
	"encoding/pem"
	"errors"

	"github.com/proa-dev/proa/api"
)

// Kinds lists the kinds of the group.
func Kinds() []*api.Kind {
	return []*api.Kind{CertificateSigningRequest(), ClusterTrustBundle(), PodCertificateRequest()}
}

// ParseRequest reads a PEM certificate request; its signature is not checked.
func ParseRequest(data []byte) (*x509.CertificateRequest, error) {
	block, _ := pem.Decode(data)
	if block == nil || block.Type != "CERTIFICATE REQUEST" {
		return nil, errors.New("PEM block type must be CERTIFICATE REQUEST")
	}
	return x509.ParseCertificateRequest(block.Bytes)
}
