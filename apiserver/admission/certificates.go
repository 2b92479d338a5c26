package admission

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

// signers asks whether a user may act for a signer, or for all of its domain.
type signers struct {
	authorizer authorizer.UnconditionalAuthorizer
}

func (s signers) allowed(ctx context.Context, u user.Info, verb, signer string) bool {
	if s.authorizer == nil {
		return false
	}
	domain, _, _ := strings.Cut(signer, "/")
	for _, name := range []string{signer, domain + "/*"} {
		decision, _, err := s.authorizer.Authorize(ctx, authorizer.AttributesRecord{
			User: u, Verb: verb, Name: name, APIGroup: "certificates.k8s.io", APIVersion: "*", Resource: "signers", ResourceRequest: true,
		})
		if err == nil && decision == authorizer.DecisionAllow {
			return true
		}
	}
	return false
}

// CertificateApproval lets approve requests for a signer who may do so.
type CertificateApproval struct{ signers signers }

var _ Validator = (*CertificateApproval)(nil)

// NewCertificateApproval returns the plugin.
func NewCertificateApproval(a authorizer.UnconditionalAuthorizer) *CertificateApproval {
	return &CertificateApproval{signers{a}}
}

// Name implements Plugin.
func (*CertificateApproval) Name() string { return "CertificateApproval" }

// Validate implements Validator. The old request tells the signer: the new one
// may name another.
func (p *CertificateApproval) Validate(ctx context.Context, a *Attributes) error {
	csr, ok := a.OldObject.(*certificatesv1.CertificateSigningRequest)
	if !ok || a.Operation != Update || a.Subresource != "approval" || p.signers.allowed(ctx, a.User, "approve", csr.Spec.SignerName) {
		return nil
	}
	return Forbidden(a, fmt.Errorf("user not permitted to approve requests with signerName %q", csr.Spec.SignerName))
}

// CertificateSigning lets sign requests for a signer who may do so.
type CertificateSigning struct{ signers signers }

var _ Validator = (*CertificateSigning)(nil)

// NewCertificateSigning returns the plugin.
func NewCertificateSigning(a authorizer.UnconditionalAuthorizer) *CertificateSigning {
	return &CertificateSigning{signers{a}}
}

// Name implements Plugin.
func (*CertificateSigning) Name() string { return "CertificateSigning" }

// Validate implements Validator.
func (p *CertificateSigning) Validate(ctx context.Context, a *Attributes) error {
	old, ok := a.OldObject.(*certificatesv1.CertificateSigningRequest)
	csr, is := a.Object.(*certificatesv1.CertificateSigningRequest)
	if !ok || !is || a.Operation != Update || a.Subresource != "status" {
		return nil
	}
	if bytes.Equal(old.Status.Certificate, csr.Status.Certificate) && equality.Semantic.DeepEqual(old.Status.Conditions, csr.Status.Conditions) {
		return nil
	}
	if p.signers.allowed(ctx, a.User, "sign", old.Spec.SignerName) {
		return nil
	}
	return Forbidden(a, fmt.Errorf("user not permitted to sign requests with signerName %q", old.Spec.SignerName))
}

// CertificateSubjectRestriction keeps client certificates of the group that
// may do everything from being asked for.
type CertificateSubjectRestriction struct{}

var _ Validator = (*CertificateSubjectRestriction)(nil)

// NewCertificateSubjectRestriction returns the plugin.
func NewCertificateSubjectRestriction() *CertificateSubjectRestriction {
	return &CertificateSubjectRestriction{}
}

// Name implements Plugin.
func (*CertificateSubjectRestriction) Name() string { return "CertificateSubjectRestriction" }

// Validate implements Validator.
func (*CertificateSubjectRestriction) Validate(_ context.Context, a *Attributes) error {
	csr, ok := a.Object.(*certificatesv1.CertificateSigningRequest)
	if !ok || a.Operation != Create || a.Subresource != "" || csr.Spec.SignerName != certificatesv1.KubeAPIServerClientSignerName {
		return nil
	}
	block, _ := pem.Decode(csr.Spec.Request)
	if block == nil || block.Type != "CERTIFICATE REQUEST" {
		return Forbidden(a, errors.New("failed to parse CSR: PEM block type must be CERTIFICATE REQUEST"))
	}
	parsed, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return Forbidden(a, fmt.Errorf("failed to parse CSR: %w", err))
	}
	if slices.Contains(parsed.Subject.Organization, user.SystemPrivilegedGroup) {
		return Forbidden(a, fmt.Errorf("use of %s signer with %s group is not allowed", certificatesv1.KubeAPIServerClientSignerName, user.SystemPrivilegedGroup))
	}
	return nil
}
