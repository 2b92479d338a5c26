package certificates

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/api/validation"
	k8svalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/proa-dev/proa/api/validate"
)

// Limits of a pod's request: sizes in bytes, lives in seconds.
const (
	maxKey            = 10 << 10
	minPodSeconds     = 60 * 60
	maxPodSeconds     = 91 * 24 * 60 * 60
	maxClusterSeconds = 24 * 60 * 60 // for the signers of Kubernetes itself
	maxUID            = 128
)

func validatePodRequest(r *podRequest) field.ErrorList {
	s, path := &r.Spec, field.NewPath("spec")
	errs := validate.SignerName(path.Child("signerName"), s.SignerName)
	for k := range s.UnverifiedUserAnnotations {
		errs = append(errs, k8svalidation.IsDomainPrefixedKey(path.Child("unverifiedUserAnnotations"), strings.ToLower(k))...)
	}
	if validation.ValidateAnnotationsSize(s.UnverifiedUserAnnotations) != nil {
		errs = append(errs, field.TooLong(path.Child("unverifiedUserAnnotations"), "", validation.TotalAnnotationSizeLimitB))
	}
	for _, ref := range []struct{ field, name, uid string }{
		{"pod", s.PodName, string(s.PodUID)}, {"serviceAccount", s.ServiceAccountName, string(s.ServiceAccountUID)}, {"node", string(s.NodeName), string(s.NodeUID)},
	} {
		errs = append(errs, validate.Subdomain(path.Child(ref.field+"Name"), ref.name)...)
		at := path.Child(ref.field + "UID")
		if ref.uid == "" {
			errs = append(errs, field.Invalid(at, ref.uid, "must not be empty"))
		}
		if len(ref.uid) > maxUID {
			errs = append(errs, field.TooLong(at, ref.uid, maxUID))
		}
	}
	at := path.Child("maxExpirationSeconds")
	if s.MaxExpirationSeconds == nil {
		return append(errs, field.Required(at, "must be set"))
	}
	most := int32(maxPodSeconds)
	if domain, _, _ := strings.Cut(s.SignerName, "/"); domain == "kubernetes.io" || strings.HasSuffix(domain, ".kubernetes.io") {
		most = maxClusterSeconds
	}
	if *s.MaxExpirationSeconds < minPodSeconds || *s.MaxExpirationSeconds > most {
		errs = append(errs, field.Invalid(at, s.MaxExpirationSeconds, fmt.Sprintf("must be in the range [%d, %d]", minPodSeconds, most)))
	}
	return append(errs, validateStub(s.StubPKCS10Request)...)
}

// badKey says why a key is of no use.
func badKey(path *field.Path, key any) *field.Error {
	switch k := key.(type) {
	case ed25519.PublicKey:
		return nil
	case *ecdsa.PublicKey:
		if k.Curve != elliptic.P256() && k.Curve != elliptic.P384() && k.Curve != elliptic.P521() {
			return field.Invalid(path, "curve "+k.Curve.Params().Name, "elliptic public keys must use curve P256, P384, or P521")
		}
		return nil
	case *rsa.PublicKey:
		if bits := k.Size() * 8; bits != 3072 && bits != 4096 {
			return field.Invalid(path, fmt.Sprintf("%d-bit modulus", bits), "RSA keys must have modulus size 3072 or 4096")
		}
		return nil
	}
	return field.Invalid(path, field.OmitValueType{}, "unknown public key type; supported types are Ed25519, ECDSA, and RSA")
}

// validateStub wants proof that the requester has the key: a request that it signed.
func validateStub(der []byte) field.ErrorList {
	path := field.NewPath("spec", "stubPKCS10Request")
	if len(der) == 0 {
		return field.ErrorList{field.Invalid(field.NewPath("spec"), field.OmitValueType{}, "exactly one of (stubPKCS10Request) or (pkixPublicKey, proofOfPossession) must be set")}
	}
	if len(der) > maxKey {
		return field.ErrorList{field.TooLong(path, der, maxKey)}
	}
	request, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return field.ErrorList{field.Invalid(path, field.OmitValueType{}, "must be a valid PKCS#10 CSR")}
	}
	if bad := badKey(path, request.PublicKey); bad != nil {
		return field.ErrorList{bad}
	}
	if request.CheckSignature() != nil {
		return field.ErrorList{field.Invalid(path, field.OmitValueType{}, "invalid signature")}
	}
	return nil
}
