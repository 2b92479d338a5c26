package podspec

import (
	"cmp"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/proa-dev/proa/api/validate"
)

// validateVolumes also fills c.volumes with those that are valid: a mount of
// another one is not found.
func (c *checker) validateVolumes(path *field.Path) field.ErrorList {
	created := sets.New[string]() // claims that ephemeral volumes will make
	if c.pod != nil && c.pod.Name != "" {
		for _, v := range c.spec.Volumes {
			if v.Ephemeral != nil {
				created.Insert(c.pod.Name + "-" + v.Name)
			}
		}
	}
	var all field.ErrorList
	for i := range c.spec.Volumes {
		v, at := &c.spec.Volumes[i], path.Index(i)
		errs := c.validateVolumeSource(at, v)
		if v.Name == "" {
			errs = append(errs, field.Required(at.Child("name"), ""))
		} else {
			errs = append(errs, validate.Label(at.Child("name"), v.Name)...)
		}
		if _, ok := c.volumes[v.Name]; ok {
			errs = append(errs, field.Duplicate(at.Child("name"), v.Name))
		}
		if len(errs) == 0 {
			c.volumes[v.Name] = v.VolumeSource
		}
		all = append(all, errs...)
		if p := v.PersistentVolumeClaim; p != nil && created.Has(p.ClaimName) {
			all = append(all, field.Invalid(at.Child("persistentVolumeClaim", "claimName"), p.ClaimName,
				"must not reference a PVC that gets created for an ephemeral volume"))
		}
	}
	return all
}

// aVolume is a volume of a pod at its path.
type aVolume struct {
	*checker
	*corev1.Volume
	path *field.Path
}

// sourceCheck validates one field of the source of a volume V. where is the
// name that errors inside the source go by, if it is not the field's.
type sourceCheck[V any] struct {
	name  string
	set   bool
	check func(v V, path *field.Path) field.ErrorList
	where string
}

// oneSource runs the checks of the sources that are set, and refuses more than
// one, or none.
func oneSource[V any](path *field.Path, v V, checks ...[]sourceCheck[V]) field.ErrorList {
	var errs field.ErrorList
	n := 0
	for _, list := range checks {
		for i := range list {
			s := &list[i]
			if !s.set {
				continue
			}
			if n++; n > 1 {
				errs = append(errs, field.Forbidden(path.Child(s.name), "may not specify more than 1 volume type"))
				continue
			}
			errs = append(errs, s.check(v, path.Child(cmp.Or(s.where, s.name)))...)
		}
	}
	if n == 0 {
		errs = append(errs, field.Required(path, "must specify a volume type"))
	}
	return errs
}

func (c *checker) validateVolumeSource(path *field.Path, v *corev1.Volume) field.ErrorList {
	checks := []sourceCheck[aVolume]{
		{name: "emptyDir", set: v.EmptyDir != nil, check: func(v aVolume, path *field.Path) field.ErrorList {
			if l := v.EmptyDir.SizeLimit; l != nil && l.Sign() < 0 {
				return field.ErrorList{field.Forbidden(path.Child("sizeLimit"), "SizeLimit field must be a valid resource quantity")}
			}
			return nil
		}},
		{name: "hostPath", set: v.HostPath != nil, check: func(v aVolume, path *field.Path) field.ErrorList {
			return validateHostPath(path, v.HostPath)
		}},
		{name: "secret", set: v.Secret != nil, check: func(v aVolume, path *field.Path) field.ErrorList {
			errs := validate.Required(path.Child("secretName"), v.Secret.SecretName)
			return append(errs, validateItems(path, v.Secret.DefaultMode, v.Secret.Items)...)
		}},
		{name: "persistentVolumeClaim", set: v.PersistentVolumeClaim != nil, check: func(v aVolume, path *field.Path) field.ErrorList {
			return validate.Required(path.Child("claimName"), v.PersistentVolumeClaim.ClaimName)
		}},
		{name: "downwardAPI", set: v.DownwardAPI != nil, check: func(v aVolume, path *field.Path) field.ErrorList {
			errs := validate.FileMode(path.Child("defaultMode"), v.DownwardAPI.DefaultMode)
			for _, f := range v.DownwardAPI.Items {
				errs = append(errs, validateDownwardFile(path, &f)...)
			}
			return errs
		}},
		{name: "configMap", set: v.ConfigMap != nil, check: func(v aVolume, path *field.Path) field.ErrorList {
			errs := validate.Required(path.Child("name"), v.ConfigMap.Name)
			return append(errs, validateItems(path, v.ConfigMap.DefaultMode, v.ConfigMap.Items)...)
		}},
		{name: "projected", set: v.Projected != nil, check: func(v aVolume, path *field.Path) field.ErrorList {
			return v.validateProjected(path, v.Projected)
		}},
		{name: "csi", set: v.CSI != nil, check: func(v aVolume, path *field.Path) field.ErrorList {
			errs := ValidateCSIDriverName(path.Child("driver"), v.CSI.Driver)
			if r := v.CSI.NodePublishSecretRef; r != nil {
				if r.Name == "" {
					return append(errs, field.Required(path.Child("nodePublishSecretRef", "name"), ""))
				}
				errs = append(errs, validate.Subdomain(path.Child("name"), r.Name)...)
			}
			return errs
		}},
		{name: "ephemeral", set: v.Ephemeral != nil, check: func(v aVolume, path *field.Path) field.ErrorList {
			return v.validateEphemeralVolume(v.path, path, v.Volume)
		}},
		{name: "image", set: v.Image != nil, check: func(v aVolume, path *field.Path) field.ErrorList {
			var errs field.ErrorList
			if v.pod != nil {
				errs = validate.Required(path.Child("reference"), v.Image.Reference)
			}
			return append(errs, validatePullPolicy(path.Child("pullPolicy"), v.Image.PullPolicy)...)
		}},
	}
	if !hasDisk(v.VolumeSource) {
		return oneSource(path, aVolume{c, v, path}, checks)
	}
	return oneSource(path, aVolume{c, v, path}, checks, diskChecks(v))
}

// hasDisk says that a source is set which validateVolumeSource leaves to
// diskChecks.
func hasDisk(s corev1.VolumeSource) bool {
	s.EmptyDir, s.HostPath, s.Secret, s.PersistentVolumeClaim, s.DownwardAPI = nil, nil, nil, nil, nil
	s.ConfigMap, s.Projected, s.CSI, s.Ephemeral, s.Image = nil, nil, nil, nil, nil
	return s != (corev1.VolumeSource{})
}

// validateHostPath validates a path on the node.
func validateHostPath(path *field.Path, h *corev1.HostPathVolumeSource) field.ErrorList {
	if h.Path == "" {
		return field.ErrorList{field.Required(path.Child("path"), "")}
	}
	errs := validate.NoBacksteps(path.Child("path"), h.Path)
	if h.Type != nil {
		errs = append(errs, validate.OneOf(path.Child("type"), *h.Type,
			corev1.HostPathUnset, corev1.HostPathDirectoryOrCreate, corev1.HostPathDirectory, corev1.HostPathFileOrCreate,
			corev1.HostPathFile, corev1.HostPathSocket, corev1.HostPathCharDev, corev1.HostPathBlockDev)...)
	}
	return errs
}

// ValidateCSIDriverName wants a subdomain of at most 63 characters, in any case.
func ValidateCSIDriverName(path *field.Path, name string) field.ErrorList {
	errs := validate.Required(path, name)
	if len(name) > 63 {
		errs = append(errs, field.TooLong(path, name, 63))
	}
	return append(errs, validate.Messages(path, name, validation.IsDNS1123Subdomain(strings.ToLower(name)))...)
}

func validateItems(path *field.Path, mode *int32, items []corev1.KeyToPath) field.ErrorList {
	errs := validate.FileMode(path.Child("defaultMode"), mode)
	for i := range items {
		errs = append(errs, validateItem(path.Child("items").Index(i), &items[i])...)
	}
	return errs
}

func validateItem(path *field.Path, item *corev1.KeyToPath) field.ErrorList {
	errs := validate.Required(path.Child("key"), item.Key)
	errs = append(errs, validate.Required(path.Child("path"), item.Path)...)
	errs = append(errs, validate.FilePath(path.Child("path"), item.Path)...)
	return append(errs, validate.FileMode(path.Child("mode"), item.Mode)...)
}

func validateDownwardFile(path *field.Path, f *corev1.DownwardAPIVolumeFile) field.ErrorList {
	errs := validate.Required(path.Child("path"), f.Path)
	errs = append(errs, validate.FilePath(path.Child("path"), f.Path)...)
	switch {
	case f.FieldRef != nil:
		errs = append(errs, validateFieldRef(path.Child("fieldRef"), f.FieldRef, volumeFields)...)
		if f.ResourceFieldRef != nil {
			errs = append(errs, field.Invalid(path, "resource", "fieldRef and resourceFieldRef can not be specified simultaneously"))
		}
	case f.ResourceFieldRef != nil:
		errs = append(errs, validateResourceFieldRef(path.Child("resourceFieldRef"), f.ResourceFieldRef, true)...)
	default:
		errs = append(errs, field.Required(path, "one of fieldRef and resourceFieldRef is required"))
	}
	return append(errs, validate.FileMode(path.Child("mode"), f.Mode)...)
}

func (c *checker) validateEphemeralVolume(volume, path *field.Path, v *corev1.Volume) field.ErrorList {
	t := v.Ephemeral.VolumeClaimTemplate
	if t == nil {
		return field.ErrorList{field.Required(path.Child("volumeClaimTemplate"), "")}
	}
	errs := validateClaimTemplate(path.Child("volumeClaimTemplate"), t)
	if c.pod != nil && c.pod.Name != "" && v.Name != "" {
		claim := c.pod.Name + "-" + v.Name
		for _, msg := range apivalidation.NameIsDNSSubdomain(claim, false) {
			errs = append(errs, field.Invalid(volume.Child("name"), v.Name, fmt.Sprintf("PVC name %q: %v", claim, msg)))
		}
	}
	return errs
}

// projection collects the paths of a projected volume's files.
type projection struct {
	path  *field.Path
	paths sets.Set[string]
}

// add notes a file; value is what a conflict is reported with.
func (p *projection) add(file, value string) field.ErrorList {
	if file == "" {
		return nil
	}
	if p.paths.Has(file) {
		return field.ErrorList{field.Invalid(p.path, value, "conflicting duplicate paths")}
	}
	p.paths.Insert(file)
	return nil
}

func (p *projection) items(path *field.Path, name string, items []corev1.KeyToPath) field.ErrorList {
	errs := validate.Required(path.Child("name"), name)
	for i := range items {
		errs = append(errs, validateItem(path.Child("items").Index(i), &items[i])...)
		errs = append(errs, p.add(items[i].Path, name)...)
	}
	return errs
}

func (c *checker) validateProjected(path *field.Path, v *corev1.ProjectedVolumeSource) field.ErrorList {
	errs := validate.FileMode(path.Child("defaultMode"), v.DefaultMode)
	p := &projection{path: path, paths: sets.New[string]()}
	for i := range v.Sources {
		s, at := &v.Sources[i], path.Child("sources").Index(i)
		n := 0
		if s.Secret != nil {
			n++
			errs = append(errs, p.items(at.Child("secret"), s.Secret.Name, s.Secret.Items)...)
		}
		if s.ConfigMap != nil {
			n++
			errs = append(errs, p.items(at.Child("configMap"), s.ConfigMap.Name, s.ConfigMap.Items)...)
		}
		if s.DownwardAPI != nil {
			n++
			for _, f := range s.DownwardAPI.Items {
				errs = append(errs, validateDownwardFile(at.Child("downwardAPI"), &f)...)
				errs = append(errs, p.add(f.Path, f.Path)...)
			}
		}
		if s.ServiceAccountToken != nil {
			n++
			errs = append(errs, c.validateToken(path, at.Child("serviceAccountToken"), s.ServiceAccountToken)...)
		}
		if s.ClusterTrustBundle != nil {
			n++
			errs = append(errs, p.trustBundle(at.Child("clusterTrustBundle"), s.ClusterTrustBundle)...)
		}
		if s.PodCertificate != nil {
			n++
			errs = append(errs, p.podCertificate(at.Child("podCertificate"), s.PodCertificate)...)
		}
		if n > 1 {
			errs = append(errs, field.Forbidden(at, "may not specify more than 1 volume type per source"))
		}
	}
	return errs
}

func (c *checker) validateToken(volume, path *field.Path, t *corev1.ServiceAccountTokenProjection) field.ErrorList {
	var errs field.ErrorList
	if s := t.ExpirationSeconds; s != nil {
		if *s < 10*60 {
			errs = append(errs, field.Invalid(path.Child("expirationSeconds"), *s, "may not specify a duration less than 10 minutes"))
		}
		if *s > 1<<32 {
			errs = append(errs, field.Invalid(path.Child("expirationSeconds"), *s, "may not specify a duration larger than 2^32 seconds"))
		}
	}
	if t.Path == "" {
		errs = append(errs, field.Required(volume.Child("path"), ""))
	} else if !c.tokenPaths {
		errs = append(errs, validate.FilePath(volume.Child("path"), t.Path)...)
	}
	return errs
}

func (p *projection) trustBundle(path *field.Path, b *corev1.ClusterTrustBundleProjection) field.ErrorList {
	var errs field.ErrorList
	switch {
	case b.Name != nil && b.SignerName != nil:
		errs = append(errs, field.Invalid(path, b, "only one of name and signerName may be used"))
	case b.Name != nil:
		if *b.Name == "" {
			errs = append(errs, field.Required(path.Child("name"), "must be a valid object name"))
		}
		// The colons of signer:domain:name part what are subdomains.
		for _, msg := range apivalidation.NameIsDNSSubdomain(strings.ReplaceAll(*b.Name, ":", "."), false) {
			errs = append(errs, field.Invalid(path.Child("name"), *b.Name, "not a valid clustertrustbundlename: "+msg))
		}
		if b.LabelSelector != nil {
			errs = append(errs, field.Invalid(path.Child("labelSelector"), b.LabelSelector, "labelSelector must be unset if name is specified"))
		}
	case b.SignerName != nil:
		if *b.SignerName == "" {
			errs = append(errs, field.Required(path.Child("signerName"), "must be a valid signer name"))
		}
		errs = append(errs, validate.SignerName(path.Child("signerName"), *b.SignerName)...)
		errs = append(errs, validate.Selector(path.Child("labelSelector"), b.LabelSelector, false)...)
	default:
		errs = append(errs, field.Required(path, "either name or signerName must be specified"))
	}
	errs = append(errs, validate.Required(path.Child("path"), b.Path)...)
	errs = append(errs, validate.FilePath(path.Child("path"), b.Path)...)
	return append(errs, p.add(b.Path, b.Path)...)
}

func (p *projection) podCertificate(path *field.Path, c *corev1.PodCertificateProjection) field.ErrorList {
	errs := validate.SignerName(path.Child("signerName"), c.SignerName)
	errs = append(errs, validate.OneOf(path.Child("keyType"), c.KeyType,
		"RSA3072", "RSA4096", "ECDSAP256", "ECDSAP384", "ECDSAP521", "ED25519")...)
	if s := c.MaxExpirationSeconds; s != nil {
		const day = 24 * 60 * 60
		if *s < 3600 {
			errs = append(errs, field.Invalid(path.Child("maxExpirationSeconds"), *s, "if provided, maxExpirationSeconds must be >= 3600"))
		}
		if limit := int32(91 * day); *s > limit {
			errs = append(errs, field.Invalid(path.Child("maxExpirationSeconds"), *s, fmt.Sprintf("if provided, maxExpirationSeconds must be <= %d", limit)))
		}
	}
	n := 0
	for _, f := range []struct{ name, file string }{
		{"credentialBundlePath", c.CredentialBundlePath}, {"keyPath", c.KeyPath}, {"certificateChainPath", c.CertificateChainPath},
	} {
		if f.file != "" {
			n++
			errs = append(errs, validate.FilePath(path.Child(f.name), f.file)...)
			errs = append(errs, p.add(f.file, f.file)...)
		}
	}
	if n == 0 {
		errs = append(errs, field.Required(path, "specify at least one of credentialBundlePath, keyPath, and certificateChainPath"))
	}
	return errs
}
