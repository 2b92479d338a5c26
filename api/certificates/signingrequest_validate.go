package certificates

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/diff"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/proa-dev/proa/api/validate"
)

// minSeconds is the shortest life that may be asked for.
const minSeconds = 600

// usages are those that exist, in the order of messages.
func usages() []certificatesv1.KeyUsage {
	list := []certificatesv1.KeyUsage{
		certificatesv1.UsageSigning, certificatesv1.UsageDigitalSignature, certificatesv1.UsageContentCommitment,
		certificatesv1.UsageKeyEncipherment, certificatesv1.UsageKeyAgreement, certificatesv1.UsageDataEncipherment,
		certificatesv1.UsageCertSign, certificatesv1.UsageCRLSign, certificatesv1.UsageEncipherOnly, certificatesv1.UsageDecipherOnly,
		certificatesv1.UsageAny, certificatesv1.UsageServerAuth, certificatesv1.UsageClientAuth, certificatesv1.UsageCodeSigning,
		certificatesv1.UsageEmailProtection, certificatesv1.UsageSMIME, certificatesv1.UsageIPsecEndSystem, certificatesv1.UsageIPsecTunnel,
		certificatesv1.UsageIPsecUser, certificatesv1.UsageTimestamping, certificatesv1.UsageOCSPSigning, certificatesv1.UsageMicrosoftSGC,
		certificatesv1.UsageNetscapeSGC,
	}
	slices.Sort(list)
	return list
}

// decisions are the conditions that are true or absent, and stay.
func decisions() []certificatesv1.RequestConditionType {
	return []certificatesv1.RequestConditionType{certificatesv1.CertificateApproved, certificatesv1.CertificateDenied, certificatesv1.CertificateFailed}
}

// tolerance is what an old object has already and an update may leave so.
type tolerance struct {
	bothDecisions, legacySigner, repeatedConditions, emptyCondition, anyCertificate, unknownUsages, repeatedUsages bool
}

func tolerated(c, old *csr) tolerance {
	if old == nil {
		return tolerance{}
	}
	t := tolerance{
		bothDecisions: len(indices(old, certificatesv1.CertificateApproved)) > 0 && len(indices(old, certificatesv1.CertificateDenied)) > 0,
		legacySigner:  old.Spec.SignerName == LegacyUnknown,
		anyCertificate: bytes.Equal(c.Status.Certificate, old.Status.Certificate) ||
			checkCertificates(old.Status.Certificate) != nil,
	}
	known := usages()
	for i, u := range old.Spec.Usages {
		t.unknownUsages = t.unknownUsages || !slices.Contains(known, u)
		t.repeatedUsages = t.repeatedUsages || slices.Contains(old.Spec.Usages[:i], u)
	}
	seen := map[certificatesv1.RequestConditionType]bool{}
	for _, cond := range old.Status.Conditions {
		t.repeatedConditions = t.repeatedConditions || seen[cond.Type]
		t.emptyCondition = t.emptyCondition || cond.Type == ""
		seen[cond.Type] = true
	}
	return t
}

func validateNew(c *csr) field.ErrorList { return check(c, tolerance{}) }

func check(c *csr, t tolerance) field.ErrorList {
	spec := field.NewPath("spec")
	var errs field.ErrorList
	request, err := ParseRequest(c.Spec.Request)
	if err == nil {
		err = request.CheckSignature()
	}
	if err != nil {
		errs = append(errs, field.Invalid(spec.Child("request"), c.Spec.Request, err.Error()))
	}
	errs = append(errs, checkUsages(spec.Child("usages"), c.Spec.Usages, t)...)
	if !t.legacySigner && c.Spec.SignerName == LegacyUnknown {
		errs = append(errs, field.Invalid(spec.Child("signerName"), c.Spec.SignerName, "the legacy signerName is not allowed via this API version"))
	} else {
		errs = append(errs, validate.SignerName(spec.Child("signerName"), c.Spec.SignerName)...)
	}
	if s := c.Spec.ExpirationSeconds; s != nil && *s < minSeconds {
		errs = append(errs, field.Invalid(spec.Child("expirationSeconds"), *s, "may not specify a duration less than 600 seconds (10 minutes)"))
	}
	errs = append(errs, checkConditions(field.NewPath("status", "conditions"), c.Status.Conditions, t)...)
	if !t.anyCertificate {
		if err := checkCertificates(c.Status.Certificate); err != nil {
			errs = append(errs, field.Invalid(field.NewPath("status", "certificate"), "<certificate data>", err.Error()))
		}
	}
	return errs
}

func checkUsages(path *field.Path, list []certificatesv1.KeyUsage, t tolerance) field.ErrorList {
	var errs field.ErrorList
	if len(list) == 0 {
		errs = append(errs, field.Required(path, ""))
	}
	known := usages()
	for i, u := range list {
		if !t.unknownUsages && !slices.Contains(known, u) {
			errs = append(errs, field.NotSupported(path.Index(i), u, known))
		}
	}
	for i, u := range list {
		if !t.repeatedUsages && slices.Contains(list[:i], u) {
			errs = append(errs, field.Duplicate(path.Index(i), u))
		}
	}
	return errs
}

func checkConditions(path *field.Path, list []certificatesv1.CertificateSigningRequestCondition, t tolerance) field.ErrorList {
	var errs field.ErrorList
	seen := map[certificatesv1.RequestConditionType]bool{}
	for i, c := range list {
		at := path.Index(i)
		if c.Type == "" && !t.emptyCondition {
			errs = append(errs, field.Required(at.Child("type"), ""))
		}
		allowed := []corev1.ConditionStatus{corev1.ConditionFalse, corev1.ConditionTrue, corev1.ConditionUnknown}
		if slices.Contains(decisions(), c.Type) {
			allowed = []corev1.ConditionStatus{corev1.ConditionTrue}
		}
		errs = append(errs, validate.RequiredOneOf(at.Child("status"), c.Status, allowed...)...)
		other := map[certificatesv1.RequestConditionType]certificatesv1.RequestConditionType{
			certificatesv1.CertificateApproved: certificatesv1.CertificateDenied,
			certificatesv1.CertificateDenied:   certificatesv1.CertificateApproved,
		}[c.Type]
		if other != "" && seen[other] && !t.bothDecisions {
			errs = append(errs, field.Invalid(path, c.Type, "Approved and Denied conditions are mutually exclusive"))
		}
		if seen[c.Type] && !t.repeatedConditions {
			errs = append(errs, field.Duplicate(at.Child("type"), c.Type))
		}
		seen[c.Type] = true
	}
	return errs
}

// checkCertificates wants PEM certificates, one at least, or nothing at all.
func checkCertificates(data []byte) error {
	if len(data) == 0 {
		return nil
	}
	for n := 0; ; n++ {
		block, rest := pem.Decode(data)
		if block == nil {
			if n == 0 {
				return errors.New("must contain at least one CERTIFICATE PEM block")
			}
			return nil
		}
		if block.Type != "CERTIFICATE" {
			return fmt.Errorf("only CERTIFICATE PEM blocks are allowed, found %q", block.Type)
		}
		if len(block.Headers) != 0 {
			return errors.New("no PEM block headers are permitted")
		}
		certs, err := x509.ParseCertificates(block.Bytes)
		if err != nil {
			return err
		}
		if len(certs) == 0 {
			return errors.New("found CERTIFICATE PEM block containing 0 certificates")
		}
		data = rest
	}
}

// updateCheck is validation of an update; what it may change depends on the
// way it comes.
type updateCheck struct{ mayApprove, mayIssue bool }

func (u updateCheck) validate(c, old *csr) field.ErrorList {
	errs := check(c, tolerated(c, old))
	path := field.NewPath("status", "conditions")
	for _, t := range decisions() {
		if len(indices(c, t)) < len(indices(old, t)) {
			errs = append(errs, field.Forbidden(path, fmt.Sprintf("updates may not remove a condition of type %q", t)))
		}
	}
	if !u.mayApprove {
		for _, t := range []certificatesv1.RequestConditionType{certificatesv1.CertificateApproved, certificatesv1.CertificateDenied} {
			now, before := conditions(c, t), conditions(old, t)
			switch {
			case len(now) < len(before): // said above
			case len(now) > len(before):
				errs = append(errs, field.Forbidden(path, fmt.Sprintf("updates may not add a condition of type %q", t)))
			case !equality.Semantic.DeepEqual(before, now):
				errs = append(errs, field.Forbidden(path, fmt.Sprintf("updates may not modify a condition of type %q\n%v", t, diff.Diff(before, now))))
			}
		}
	}
	if !bytes.Equal(c.Status.Certificate, old.Status.Certificate) {
		at := field.NewPath("status", "certificate")
		switch {
		case !u.mayIssue:
			errs = append(errs, field.Forbidden(at, "updates may not set certificate content"))
		case len(old.Status.Certificate) > 0:
			errs = append(errs, field.Forbidden(at, "updates may not modify existing certificate content"))
		}
	}
	return errs
}

func conditions(c *csr, t certificatesv1.RequestConditionType) []certificatesv1.CertificateSigningRequestCondition {
	var list []certificatesv1.CertificateSigningRequestCondition
	for _, i := range indices(c, t) {
		list = append(list, c.Status.Conditions[i])
	}
	return list
}
