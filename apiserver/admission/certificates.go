package admission

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"github.com/proa-dev/proa/api/certificates"
)

// CertificateApproval lets those approve certificate requests who may do so
// for the signer that the request names.
type CertificateApproval struct{ signers }

// NewCertificateApproval asks a who may approve; nil lets nobody.
func NewCertificateApproval(a authorizer.UnconditionalAuthorizer) *CertificateApproval {
	return &CertificateApproval{signers{a}}
}

// Name implements Plugin.
func (*CertificateApproval) Name() string { return "CertificateApproval" }

// Validate implements Validator.
func (p *CertificateApproval) Validate(ctx context.Context, a *Attributes) error {
	old, ok := a.OldObject.(*certificatesv1.CertificateSigningRequest)
	if !ok || a.Operation != Update || a.Subresource != "approval" {
		return nil
	}
	if !p.allowed(ctx, a.User, "approve", old.Spec.SignerName) {
		return Forbidden(a, fmt.Errorf("user not permitted to approve requests with signerName %q", old.Spec.SignerName))
	}
	return nil
}

// CertificateSigning lets those issue certificates who may do so for the
// signer that the request names.
type CertificateSigning struct{ signers }

// NewCertificateSigning asks a who may sign; nil lets nobody.
func NewCertificateSigning(a authorizer.UnconditionalAuthorizer) *CertificateSigning {
	return &CertificateSigning{signers{a}}
}

// Name implements Plugin.
func (*CertificateSigning) Name() string { return "CertificateSigning" }

// Validate implements Validator.
func (p *CertificateSigning) Validate(ctx context.Context, a *Attributes) error {
	old, ok := a.OldObject.(*certificatesv1.CertificateSigningRequest)
	if !ok || a.Operation != Update || a.Subresource != "status" {
		return nil
	}
	now, ok := a.Object.(*certificatesv1.CertificateSigningRequest)
	if !ok {
		return Forbidden(a, fmt.Errorf("expected type CertificateSigningRequest, got: %T", a.Object))
	}
	if bytes.Equal(old.Status.Certificate, now.Status.Certificate) && equality.Semantic.DeepEqual(old.Status.Conditions, now.Status.Conditions) {
		return nil
	}
	if !p.allowed(ctx, a.User, "sign", old.Spec.SignerName) {
		return Forbidden(a, fmt.Errorf("user not permitted to sign requests with signerName %q", old.Spec.SignerName))
	}
	return nil
}

// CertificateSubjectRestriction keeps requests from making masters: the group
// system:masters passes every authorization.
type CertificateSubjectRestriction struct{}

// NewCertificateSubjectRestriction makes the plugin.
func NewCertificateSubjectRestriction() *CertificateSubjectRestriction {
	return &CertificateSubjectRestriction{}
}

// Name implements Plugin.
func (*CertificateSubjectRestriction) Name() string { return "CertificateSubjectRestriction" }

// Validate implements Validator.
func (*CertificateSubjectRestriction) Validate(_ context.Context, a *Attributes) error {
	c, ok := a.Object.(*certificatesv1.CertificateSigningRequest)
	if !ok || a.Operation != Create || a.Subresource != "" || c.Spec.SignerName != certificatesv1.KubeAPIServerClientSignerName {
		return nil
	}
	request, err := certificates.ParseRequest(c.Spec.Request)
	if err != nil {
		return Forbidden(a, fmt.Errorf("failed to parse CSR: %w", err))
	}
	if slices.Contains(request.Subject.Organization, user.SystemPrivilegedGroup) {
		return Forbidden(a, fmt.Errorf("use of %s signer with system:masters group is not allowed", certificatesv1.KubeAPIServerClientSignerName))
	}
	return nil
}

// signers asks who may do what in the name of a signer. Such a right is one on
// the resource signers, under the signer's name or that of its domain: domain/*.
type signers struct {
	authorizer authorizer.UnconditionalAuthorizer
}

func (s signers) allowed(ctx context.Context, who user.Info, verb, signer string) bool {
	if s.authorizer == nil {
		return false
	}
	domain, _, _ := strings.Cut(signer, "/")
	for _, name := range []string{signer, domain + "/*"} {
		decision, _, err := s.authorizer.Authorize(ctx, authorizer.AttributesRecord{
			User: who, Verb: verb, Name: name, APIGroup: certificatesv1.GroupName, APIVersion: "*", Resource: "signers", ResourceRequest: true,
		})
		if err == nil && decision == authorizer.DecisionAllow {
			return true
		}
	}
	return false
}
