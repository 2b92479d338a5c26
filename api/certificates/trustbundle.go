package certificates

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"maps"
	"slices"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/api/validate"
)

type bundle = certificatesv1.ClusterTrustBundle

// maxBundle bounds a trust bundle, in bytes.
const maxBundle = 1 << 20

// ClusterTrustBundle is the kind of trust bundles.
func ClusterTrustBundle() *api.Kind {
	return &api.Kind{
		GVK:         certificatesv1.SchemeGroupVersion.WithKind("ClusterTrustBundle"),
		Resource:    "clustertrustbundles",
		New:         api.Maker[bundle](),
		NewList:     api.ListMaker[certificatesv1.ClusterTrustBundleList](),
		StoragePath: "clustertrustbundles",
		Validate:    api.Check(func(b *bundle) field.ErrorList { return validateBundle(b, true) }),
		ValidateUpdate: api.CheckUpdate(func(b, old *bundle) field.ErrorList {
			// What was accepted once is not parsed again: parsers grow stricter.
			errs := validateBundle(b, b.Spec.TrustBundle != old.Spec.TrustBundle)
			return append(errs, validate.Unchanged(field.NewPath("spec", "signerName"), b.Spec.SignerName, old.Spec.SignerName)...)
		}),
		ValidateName: func(string, bool) []string { return nil }, // it depends on the signer: see validateBundle
		Columns: []api.Column{api.Col("SignerName", "string", "The signer that the bundle is of.", func(b *bundle) any {
			if b.Spec.SignerName == "" {
				return "<none>"
			}
			return b.Spec.SignerName
		})},
		Fields:                 api.FieldsOf(func(b *bundle) fields.Set { return fields.Set{"spec.signerName": b.Spec.SignerName} }),
		FieldNames:             []string{"spec.signerName"},
		RequireVersionOnUpdate: true,
	}
}

// SignerPrefix begins the names of a signer's bundles.
func SignerPrefix(signer string) string { return strings.ReplaceAll(signer, "/", ":") + ":" }

func validateBundle(b *bundle, parse bool) field.ErrorList {
	var errs field.ErrorList
	for _, message := range bundleName(b.Name, b.Spec.SignerName) {
		errs = append(errs, field.Invalid(field.NewPath("metadata", "name"), b.Name, message))
	}
	if b.Spec.SignerName != "" {
		errs = append(errs, validate.SignerName(field.NewPath("spec", "signerName"), b.Spec.SignerName)...)
	}
	if parse {
		errs = append(errs, anchors(field.NewPath("spec", "trustBundle"), b.Spec.TrustBundle)...)
	}
	return errs
}

func bundleName(name, signer string) []string {
	if signer == "" {
		if strings.Contains(name, ":") {
			return []string{`ClusterTrustBundle without signer name must not have ":" in its name`}
		}
		return validation.NameIsDNSSubdomain(name, false)
	}
	rest, ok := strings.CutPrefix(name, SignerPrefix(signer))
	if !ok {
		return []string{fmt.Sprintf("ClusterTrustBundle for signerName %s must be named with prefix %s", signer, SignerPrefix(signer))}
	}
	return validation.NameIsDNSSubdomain(rest, false)
}

// anchors wants PEM certificates of authorities, one at least and none twice.
func anchors(path *field.Path, text string) field.ErrorList {
	if len(text) > maxBundle {
		return field.ErrorList{field.TooLong(path, "", maxBundle)}
	}
	var errs field.ErrorList
	wrong := func(format string, args ...any) {
		errs = append(errs, field.Invalid(path, "<value omitted>", fmt.Sprintf(format, args...)))
	}
	seen := map[string][]int{}
	rest := []byte(text)
	for i := 0; ; i++ {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			wrong("entry %d has bad block type: %v", i, block.Type)
			continue
		}
		if len(block.Headers) != 0 {
			wrong("entry %d has PEM block headers", i)
			continue
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		switch {
		case err != nil:
			wrong("entry %d does not parse as X.509", i)
		case !cert.IsCA:
			wrong("entry %d does not have the CA bit set", i)
		case !cert.BasicConstraintsValid:
			wrong("entry %d has invalid basic constraints", i)
		default:
			seen[string(block.Bytes)] = append(seen[string(block.Bytes)], i)
		}
	}
	if len(errs) > 0 {
		return errs
	}
	if len(seen) == 0 {
		wrong("at least one trust anchor must be provided")
	}
	for _, raw := range slices.Sorted(maps.Keys(seen)) {
		if at := seen[raw]; len(at) > 1 {
			wrong("duplicate trust anchor (indices %v)", at)
		}
	}
	return errs
}
