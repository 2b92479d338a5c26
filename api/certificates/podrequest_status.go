package certificates

import (
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/mail"
	"slices"
	"strconv"
	"strings"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/proa-dev/proa/api"
)

const (
	maxChain = 100 << 10
	// near is how far a certificate's begin may be from now.
	near = 5 * time.Minute
	// refreshMargin keeps the time of renewal from either end of a life.
	refreshMargin = 10 * time.Minute
	minChainLife  = time.Hour
)

// validatePodRequestStatus lets a request be decided once: issued, denied or
// failed, and nothing of its status changes otherwise.
func validatePodRequestStatus(r, old *podRequest) field.ErrorList {
	path := field.NewPath("status")
	if errs := podConditions(r.Status.Conditions); len(errs) > 0 {
		return errs
	}
	same := func(want certificatesv1.PodCertificateRequestStatus, detail string) field.ErrorList {
		if equality.Semantic.DeepEqual(r.Status, want) {
			return nil
		}
		return field.ErrorList{field.Invalid(path, field.OmitValueType{}, detail)}
	}
	switch now := podState(r); {
	case podState(old) != "Pending":
		return same(old.Status, "immutable after PodCertificateRequest is issued, denied, or failed")
	case now == certificatesv1.PodCertificateRequestConditionTypeIssued:
		return validateIssued(r, old)
	case now != "Pending":
		return same(certificatesv1.PodCertificateRequestStatus{Conditions: r.Status.Conditions},
			"non-condition status fields must be empty when denying or failing the PodCertificateRequest")
	}
	return same(old.Status, `status is immutable unless transitioning to "Issued", "Denied", or "Failed"`)
}

func podConditions(list []metav1.Condition) field.ErrorList {
	var errs field.ErrorList
	decided := 0
	for i, c := range list {
		at := "[" + strconv.Itoa(i) + "]"
		if !slices.Contains(podDecisions(), c.Type) {
			errs = append(errs, field.NotSupported(field.NewPath("status", "conditions", at, "type"), c.Type, podDecisions()))
			continue
		}
		if decided++; decided > 1 {
			errs = append(errs, field.Invalid(field.NewPath("status", "conditions", at, "type"), c.Type, `There may be at most one condition with type "Issued", "Denied", or "Failed"`))
		}
		if c.Status != metav1.ConditionTrue {
			errs = append(errs, field.NotSupported(field.NewPath("status", "conditions", at, "status"), c.Status, []metav1.ConditionStatus{metav1.ConditionTrue}))
		}
	}
	return append(errs, metavalidation.ValidateConditions(list, field.NewPath("status", "conditions"))...)
}

// validateIssued wants a certificate for the requested key, and times that fit it.
func validateIssued(r, old *podRequest) field.ErrorList {
	path := field.NewPath("status", "certificateChain")
	text := r.Status.CertificateChain
	if len(text) > maxChain {
		return field.ErrorList{field.TooLong(path, text, maxChain)}
	}
	wrong := func(value any, detail string) field.ErrorList {
		return field.ErrorList{field.Invalid(path, value, detail)}
	}
	block, rest := pem.Decode([]byte(text))
	switch {
	case block == nil:
		return wrong(text, "issued certificate chain must contain at least one certificate")
	case block.Type != "CERTIFICATE":
		return wrong(text, "issued certificate chain must consist entirely of CERTIFICATE PEM blocks")
	}
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return wrong(text, "leaf certificate does not parse as valid X.509")
	}
	errs := leafNames(path, leaf)
	request, err := x509.ParseCertificateRequest(old.Spec.StubPKCS10Request)
	if err != nil {
		return append(errs, field.Invalid(field.NewPath("spec", "stubPKCS10Request"), field.OmitValueType{}, "must be a valid PKCS#10 CSR"))
	}
	if k, ok := request.PublicKey.(interface{ Equal(crypto.PublicKey) bool }); !ok || !k.Equal(leaf.PublicKey) {
		return append(errs, wrong(text, "leaf certificate was not issued to the requested public key")...)
	}
	if errs = append(errs, issuedTimes(r, leaf)...); len(errs) > 0 {
		return errs
	}
	for block, rest = pem.Decode(rest); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			return wrong(text, "issued certificate chain must consist entirely of CERTFICATE PEM blocks")
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			return wrong(text, "intermediate certificate does not parse as valid X.509")
		}
	}
	return nil
}

func leafNames(path *field.Path, leaf *x509.Certificate) field.ErrorList {
	var errs field.ErrorList
	for _, name := range leaf.DNSNames {
		if name == "" {
			errs = append(errs, field.Invalid(path, name, "leaf certificate should not contain empty DNSName"))
		}
		if strings.Contains(name, "..") {
			errs = append(errs, field.Invalid(path, name, "leaf certificate's DNSName should not contain '..'"))
		}
		if strings.HasPrefix(name, ".") || strings.HasSuffix(name, ".") {
			errs = append(errs, field.Invalid(path, name, "leaf certificate's DNSName should not start or end with '.'"))
		}
	}
	for _, address := range leaf.EmailAddresses {
		if _, err := mail.ParseAddress(address); err != nil {
			errs = append(errs, field.Invalid(path, address, "leaf certificate should not contain invalid EmailAddress"))
		}
	}
	return errs
}

func issuedTimes(r *podRequest, leaf *x509.Certificate) field.ErrorList {
	s := &r.Status
	status := field.NewPath("status")
	begin, end, refresh := status.Child("notBefore"), status.Child("notAfter"), status.Child("beginRefreshAt")
	var errs field.ErrorList
	if s.NotBefore == nil {
		errs = append(errs, field.Required(begin, "must be present and consistent with the issued certificate"))
	}
	if s.NotAfter == nil {
		errs = append(errs, field.Required(end, "must be present and consistent with the issued certificate"))
	}
	if s.BeginRefreshAt == nil {
		errs = append(errs, field.Required(refresh, "must be present and in the range [notbefore+10min, notafter-10min]"))
	}
	if len(errs) > 0 {
		return errs
	}
	one := func(path *field.Path, value any, detail string) field.ErrorList {
		return field.ErrorList{field.Invalid(path, value, detail)}
	}
	chain, life := status.Child("certificateChain"), leaf.NotAfter.Sub(leaf.NotBefore)
	most := r.Spec.MaxExpirationSeconds
	switch {
	case !s.NotBefore.Time.Equal(leaf.NotBefore):
		return one(begin, s.NotBefore.Time, "must be set to the NotBefore time encoded in the leaf certificate")
	case api.Now().Sub(s.NotBefore.Time).Abs() >= near:
		return one(begin, s.NotBefore.Time, "must be set to within 5 minutes of kube-apiserver's current time")
	case !s.NotAfter.Time.Equal(leaf.NotAfter):
		return one(end, s.NotAfter.Time, "must be set to the NotAfter time encoded in the leaf certificate")
	case life < minChainLife:
		return one(chain, life, "leaf certificate lifetime must be >= 1 hour")
	case most != nil && life > time.Duration(*most)*time.Second:
		return one(chain, life, fmt.Sprintf("leaf certificate lifetime must be <= spec.maxExpirationSeconds (%v)", *most))
	case s.BeginRefreshAt.Time.Before(s.NotBefore.Add(refreshMargin)):
		return one(refresh, s.BeginRefreshAt.Time, "must be at least 10 minutes after status.notBefore")
	case s.BeginRefreshAt.Time.After(s.NotAfter.Add(-refreshMargin)):
		return one(refresh, s.BeginRefreshAt.Time, "must be at least 10 minutes before status.notAfter")
	}
	return nil
}
