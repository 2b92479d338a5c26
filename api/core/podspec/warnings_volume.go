package podspec

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// ClaimWarnings says what of a claim for a volume is likely a mistake.
func ClaimWarnings(path *field.Path, s *corev1.PersistentVolumeClaimSpec) []string {
	w := &warner{}
	for _, l := range []struct {
		name string
		list corev1.ResourceList
	}{{"requests", s.Resources.Requests}, {"limits", s.Resources.Limits}} {
		if q, ok := l.list[corev1.ResourceStorage]; ok && q.MilliValue()%1000 != 0 {
			w.add(path.Child("resources", l.name).Key(string(corev1.ResourceStorage)), "fractional byte value %q is invalid, must be an integer", q.String())
		}
	}
	return w.texts
}

// source is a file that a volume shows, and what it is made of.
type source struct{ path, of string }

func (s source) String() string {
	if s.of == "" {
		return fmt.Sprintf("%q", s.path)
	}
	return fmt.Sprintf("%q (%s)", s.path, s.of)
}

// overlaps warns of volumes that show two things at one path, or one below the
// other.
func (w *warner) overlaps(volumes []corev1.Volume) {
	for i := range volumes {
		v := &volumes[i]
		switch {
		case v.ConfigMap != nil:
			w.collisions(v.Name, fmt.Sprintf("ConfigMap %q", v.ConfigMap.Name), keySources(v.ConfigMap.Items, ""))
		case v.Secret != nil:
			w.collisions(v.Name, fmt.Sprintf("Secret %q", v.Secret.SecretName), keySources(v.Secret.Items, ""))
		case v.DownwardAPI != nil:
			w.collisions(v.Name, "DownwardAPI", fieldSources(v.DownwardAPI.Items, ""))
		case v.Projected != nil:
			var all []source
			for j := range v.Projected.Sources {
				p := &v.Projected.Sources[j]
				if *p == (corev1.VolumeProjection{}) {
					w.texts = append(w.texts, fmt.Sprintf("volume %q (Projected) has no sources provided", v.Name))
				}
				all = append(all, projectedSources(p)...)
			}
			w.collisions(v.Name, "Projected", all)
		}
	}
}

func (w *warner) collisions(volume, kind string, files []source) {
	for i := range files {
		f := &files[i]
		if f.path = strings.TrimRight(f.path, "/"); f.path == "" {
			continue
		}
		for _, o := range files[:i] {
			if o.path != "" && (strings.HasPrefix(o.path+"/", f.path+"/") || strings.HasPrefix(f.path+"/", o.path+"/")) {
				w.texts = append(w.texts, fmt.Sprintf("volume %q (%s): overlapping paths: %s with %s", volume, kind, f, o))
			}
		}
	}
}

func keySources(items []corev1.KeyToPath, of string) []source {
	var out []source
	for _, i := range items {
		out = append(out, source{i.Path, of})
	}
	return out
}

func fieldSources(items []corev1.DownwardAPIVolumeFile, of string) []source {
	var out []source
	for _, i := range items {
		out = append(out, source{i.Path, of})
	}
	return out
}

func projectedSources(p *corev1.VolumeProjection) []source {
	switch {
	case p.ConfigMap != nil:
		return keySources(p.ConfigMap.Items, fmt.Sprintf("ConfigMap %q", p.ConfigMap.Name))
	case p.Secret != nil:
		return keySources(p.Secret.Items, fmt.Sprintf("Secret %q", p.Secret.Name))
	case p.DownwardAPI != nil:
		return fieldSources(p.DownwardAPI.Items, "DownwardAPI")
	case p.ServiceAccountToken != nil:
		return []source{{p.ServiceAccountToken.Path, "ServiceAccountToken"}}
	case p.ClusterTrustBundle != nil:
		b, name := p.ClusterTrustBundle, ""
		if b.Name != nil {
			name = *b.Name
		} else if b.SignerName != nil {
			name = *b.SignerName
		}
		return []source{{b.Path, fmt.Sprintf("ClusterTrustBundle %q", name)}}
	case p.PodCertificate != nil:
		return []source{
			{p.PodCertificate.CertificateChainPath, "PodCertificate chain"},
			{p.PodCertificate.KeyPath, "PodCertificate key"},
			{p.PodCertificate.CredentialBundlePath, "PodCertificate credential bundle"},
		}
	}
	return nil
}
