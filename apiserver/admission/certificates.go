package admission

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/validation/field"
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

// ClusterTrustBundleAttest lets those write a signer's trust bundles who may
// attest for it.
type ClusterTrustBundleAttest struct{ signers }

// NewClusterTrustBundleAttest asks a who may attest; nil lets nobody.
func NewClusterTrustBundleAttest(a authorizer.UnconditionalAuthorizer) *ClusterTrustBundleAttest {
	return &ClusterTrustBundleAttest{signers{a}}
}

// Name implements Plugin.
func (*ClusterTrustBundleAttest) Name() string { return "ClusterTrustBundleAttest" }

// Validate implements Validator.
func (p *ClusterTrustBundleAttest) Validate(ctx context.Context, a *Attributes) error {
	b, ok := a.Object.(*certificatesv1.ClusterTrustBundle)
	if !ok || (a.Operation != Create && a.Operation != Update) || b.Spec.SignerName == "" {
		return nil
	}
	if old, ok := a.OldObject.(*certificatesv1.ClusterTrustBundle); ok && onlyCollected(b, old) {
		return nil
	}
	if !p.allowed(ctx, a.User, "attest", b.Spec.SignerName) {
		return Forbidden(a, fmt.Errorf("user not permitted to attest for signerName %q", b.Spec.SignerName))
	}
	return nil
}

// onlyCollected says whether an update changes no more than garbage collection
// and storage migration do.
func onlyCollected(b, old *certificatesv1.ClusterTrustBundle) bool {
	b = b.DeepCopy()
	b.OwnerReferences, b.Finalizers, b.ManagedFields = old.OwnerReferences, old.Finalizers, old.ManagedFields
	return equality.Semantic.DeepEqual(b, old)
}

// PodCertificateSigning lets those decide on pods' certificate requests who may
// sign for the signer that the request names. Upstream has it among the
// validations of the kind.
type PodCertificateSigning struct{ signers }

// NewPodCertificateSigning asks a who may sign; nil lets nobody.
func NewPodCertificateSigning(a authorizer.UnconditionalAuthorizer) *PodCertificateSigning {
	return &PodCertificateSigning{signers{a}}
}

// Name implements Plugin.
func (*PodCertificateSigning) Name() string { return "PodCertificateSigning" }

// Validate implements Validator.
func (p *PodCertificateSigning) Validate(ctx context.Context, a *Attributes) error {
	old, ok := a.OldObject.(*certificatesv1.PodCertificateRequest)
	if !ok || a.Operation != Update || a.Subresource != "status" {
		return nil
	}
	now, ok := a.Object.(*certificatesv1.PodCertificateRequest)
	if !ok || equality.Semantic.DeepEqual(old.Status, now.Status) || p.allowed(ctx, a.User, "sign", old.Spec.SignerName) {
		return nil
	}
	return apierrors.NewInvalid(a.GVK.GroupKind(), old.Name, field.ErrorList{
		field.Forbidden(field.NewPath("spec", "signerName"), fmt.Sprintf("User %q is not permitted to \"sign\" for signer %q", a.User.GetName(), old.Spec.SignerName)),
	})
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
